// Draws of a sampling plan's values from its parameters, as in fastgen/distributions: the same uniforms, the same
// values; for CPU and CUDA. No torch headers.
#pragma once

#include <cmath>
#include <cstdint>

#include "discretized_logistic_mixture.h"

namespace fastgen {

FG_HD int64_t draw_bernoulli(float logit, double uniform, float temperature) {
  return uniform < double(sigmoid(logit / temperature));
}

// Which of K components, in double: of a few, and their order is nothing that a value may hang on.
FG_HD int64_t draw_component(int64_t K, const float* logits, double uniform, double temperature) {
  double highest = logits[0];
  for (int64_t j = 1; j < K; ++j) highest = logits[j] > highest ? logits[j] : highest;
  highest /= temperature;
  double total = 0, below = 0;
  for (int64_t j = 0; j < K; ++j) total += exp(logits[j] / temperature - highest);
  for (int64_t j = 0; j < K - 1; ++j) {
    below += exp(logits[j] / temperature - highest) / total;
    if (below > uniform) return j;
  }
  return K - 1;
}

// Colour k of a pixel of C colours, of a mixture of K discretised logistics: the bin that a draw of the logistic lies
// in. Colours lie `stride` apart in `values`, and 2·stride in `uniforms`, each followed by its second one.
// arXiv:1701.05517 eq. 2-3
FG_HD int64_t draw_mixture(int64_t K, int64_t C, int64_t k, int64_t levels, const float* params, const double* uniforms,
                           int64_t stride, const int64_t* values, double temperature) {
  const int64_t parts = C == 3 ? 3 : 2;
  const int64_t component = draw_component(K, params, uniforms[0], temperature);
  const auto parameter = [&](int64_t color, int64_t part) {
    return double(params[K + (color * parts + part) * K + component]);
  };
  const double last = double(levels - 1), u = uniforms[(2 * k + 1) * stride];
  double mean = parameter(k, 0);
  for (int64_t earlier = 0; earlier < k; ++earlier)
    mean += ::tanh(parameter(earlier + k - 1, 2)) * (2 * double(values[earlier * stride]) / last - 1);
  const double log_scale = parameter(k, 1);
  const double scale = exp(log_scale < kLogScaleMin ? kLogScaleMin : log_scale) * temperature;
  const double x = mean + scale * log(u / (1 - u));
  const double bin = ::floor((x + 1) * last / 2 + 0.5);
  return bin > 0 ? int64_t(bin < last ? bin : last) : 0;  // what is no number is 0, as in torch
}

}  // namespace fastgen
