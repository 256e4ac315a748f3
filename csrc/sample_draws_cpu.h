// Draws of a sampling plan's values from its parameters, as in fastgen/distributions: the same uniforms, the same
// values. No torch headers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "discretized_logistic_mixture.h"

namespace fastgen {

inline int64_t draw_bernoulli(float logit, double uniform, float temperature) {
  return uniform < double(sigmoid(logit / temperature));
}

template <typename T>
FG_VECTOR_CLONES void softmax_numerators(int64_t levels, const T* __restrict logits, T temperature, T highest,
                                         T* __restrict numerators) {
  for (int64_t l = 0; l < levels; ++l) {
    const T x = logits[l] / temperature - highest;
    numerators[l] = x < T(-104) ? T(0) : exp(x);  // so small is zero in float: never drawn, even with u = 0
  }
}

inline int64_t draw_categorical(int64_t levels, const float* logits, double uniform, float temperature,
                                float* numerators) {
  const float highest = *std::max_element(logits, logits + levels) / temperature;
  softmax_numerators<float>(levels, logits, temperature, highest, numerators);
  double total = 0, below = 0;
  for (int64_t l = 0; l < levels; ++l) total += numerators[l];
  const float scale = float(total);
  for (int64_t l = 0; l < levels - 1; ++l) {
    below += numerators[l] / scale;
    if (double(float(below)) > uniform) return l;
  }
  return levels - 1;
}

// Which of K components, in double: of a few, and their order is nothing that a value may hang on.
inline int64_t draw_component(int64_t K, const float* logits, double uniform, double temperature) {
  const double highest = *std::max_element(logits, logits + K) / temperature;
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
inline int64_t draw_mixture(int64_t K, int64_t C, int64_t k, int64_t levels, const float* params,
                            const double* uniforms, int64_t stride, const int64_t* values, double temperature) {
  const int64_t parts = C == 3 ? 3 : 2;
  const int64_t component = draw_component(K, params, uniforms[0], temperature);
  const auto parameter = [&](int64_t color, int64_t part) {
    return double(params[K + (color * parts + part) * K + component]);
  };
  const double last = double(levels - 1), u = uniforms[(2 * k + 1) * stride];
  double mean = parameter(k, 0);
  for (int64_t earlier = 0; earlier < k; ++earlier)
    mean += ::tanh(parameter(earlier + k - 1, 2)) * (2 * double(values[earlier * stride]) / last - 1);
  const double scale = exp(std::max(parameter(k, 1), kLogScaleMin)) * temperature;
  const double x = mean + scale * log(u / (1 - u));
  const double bin = ::floor((x + 1) * last / 2 + 0.5);
  return bin > 0 ? int64_t(std::min(bin, last)) : 0;  // what is no number is 0, as in torch
}

// What all chunks of a batch share. Tensors are contiguous.
struct SampleBatch {
  std::vector<const float*> given;  // of each given buffer (N, rows, columns, channels)
  const double* uniforms;           // (N, C·m, H, W): m = 2 of each value for a mixture, else 1
  const float* table;               // (C, levels, inputs): what the model reads for a value
  int64_t levels;
  const int64_t* known;  // (N, C, H, W), or null
  const bool* keep;      // (N, C, H, W), or null: where `known` is kept
  double temperature;
  int64_t* values;  // (N, C, H, W)
  float* params;    // (N, P, H, W), or null: the parameters that were drawn from, before the temperature
  int64_t components =
      0;  // of a mixture of logistics, which couples colours: each reads all P; 0: a law of its own each
};

}  // namespace fastgen
