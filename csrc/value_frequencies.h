// value_frequencies: how often a range coder takes each value to be, integers fᵥ ≥ 1, Σᵥ fᵥ = 2²⁴
// Math     Fᵥ = v + ⌊cdf(v)·(2²⁴ − L)⌋, fᵥ = Fᵥ₊₁ − Fᵥ: v costs at most log₂(2²⁴ / (2²⁴ − L)) bits over −log₂ P(v)
// Numerics double, of +, −, ·, / and ⌊⌋ alone, in the reference's order: the same integers on every processor, as long
//          as no compiler joins a product and a sum (-ffp-contract=off in CMakeLists.txt)
// No torch headers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "discretized_logistic_mixture.h"

namespace fastgen {

constexpr int64_t kFrequencyTotal = int64_t(1) << 24;
constexpr double kWeightOne = 4294967296.0;    // 2³²: weights of categories are whole parts of it
constexpr double kExpLowest = -700;            // still a normal number
constexpr double kShift = 6755399441055744.0;  // 1.5·2⁵²: adding it rounds to an integer
constexpr double kNarrowWidth = 1.0 / 1024;    // below it 1 − exp(−width) is a polynomial
constexpr double kSmallestWidth = 1e-30;

// exp(x) for −700 ≤ x ≤ 700; below as at −700, NaN too. x = n·ln 2 + r, and Taylor's polynomial of r.
FG_HD double plain_exp(double x) {
  x = x > kExpLowest ? x : kExpLowest;
  const double shifted = x * 1.4426950408889634 + kShift;
  const double n = shifted - kShift;
  const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  uint64_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 1023) << 52;  // 2ⁿ
  double scale;
  memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

FG_HD double plain_sigmoid(double x) {
  const double e = plain_exp(x < 0 ? x : -x), part = 1 / (1 + e);
  return x < 0 ? e * part : part;
}

FG_HD double plain_tanh(double x) {
  const double e = plain_exp(x < 0 ? 2 * x : -2 * x), magnitude = (1 - e) / (1 + e);
  return x < 0 ? -magnitude : magnitude;
}

// ⌊part·room⌋ in [0, room]; of what is no number 0.
FG_HD int64_t whole_part(double part, int64_t room) {
  const double whole = ::floor(part * double(room));
  return whole > 0 ? std::min(int64_t(whole < double(room) ? whole : double(room)), room) : 0;
}

// The largest of `count` numbers, one or more; NaN where one of them is, as torch has it.
template <typename T>
T highest_of(const T* numbers, int64_t count) {
  T highest = numbers[0];
  for (int64_t j = 1; j < count; ++j) highest = numbers[j] > highest || numbers[j] != numbers[j] ? numbers[j] : highest;
  return highest;
}

inline void bernoulli_frequencies(float logit, int32_t* frequencies) {
  const int64_t zero = 1 + whole_part(plain_sigmoid(-double(logit)), kFrequencyTotal - 2);
  frequencies[0] = int32_t(zero);
  frequencies[1] = int32_t(kFrequencyTotal - zero);
}

FG_VECTOR_CLONES inline void categorical_weights(int64_t levels, const float* __restrict logits, double highest,
                                                 double* __restrict weights) {
  for (int64_t l = 0; l < levels; ++l) weights[l] = ::floor(plain_exp(double(logits[l]) - highest) * kWeightOne);
}

// `weights`, `levels` numbers, is scratch. Weights are integers, so their sums are the same in any order.
inline void categorical_frequencies(int64_t levels, const float* logits, double* weights, int32_t* frequencies) {
  categorical_weights(levels, logits, double(highest_of(logits, levels)), weights);
  double total = 0, below = 0;
  for (int64_t l = 0; l < levels; ++l) total += weights[l];
  int64_t before = 0;
  for (int64_t l = 0; l < levels; ++l) {
    below += weights[l];
    const int64_t until =
        l + 1 < levels ? whole_part(below / total, kFrequencyTotal - levels) : kFrequencyTotal - levels;
    frequencies[l] = int32_t(until - before + 1);
    before = until;
  }
}

// ---- a mixture of discretised logistics                                                    arXiv:1701.05517 eq. 2-3

// One component of a colour: where its logistic lies, given the values before it in the pixel.
struct Logistic {
  double mean, inverse_scale;
};

// log P(v) less the logarithm of `factor`, which P is multiplied by.
FG_HD double logistic_exponent(const Logistic& at, double value, double last, double* factor) {
  const double x = (2 * value - last) / last, half = at.inverse_scale * (1 / last),
               centered = at.inverse_scale * (x - at.mean);
  const double a = half + centered, b = half - centered, exp_a = plain_exp(a < 0 ? a : -a),
               exp_b = plain_exp(b < 0 ? b : -b);
  const bool upper = value != last, lower = value != 0;
  const double wide = half + half, width = wide > kSmallestWidth ? wide : kSmallestWidth;
  const double fraction = width < kNarrowWidth ? width * (1 - width * (0.5 - width / 6)) : 1 - plain_exp(-width);
  *factor = *factor * ((upper && lower ? fraction : 1) / ((1 + (upper ? exp_a : 0)) * (1 + (lower ? exp_b : 0))));
  return (upper && a < 0 ? a : 0) + (lower && b < 0 ? b : 0);
}

FG_VECTOR_CLONES inline void add_below_edges(int64_t levels, Logistic at, double weight, double* __restrict below) {
  const double last = double(levels - 1);
  for (int64_t l = 0; l < levels - 1; ++l) {
    const double edge = (double(2 * l + 1) - last) / last;
    below[l] += weight * plain_sigmoid(at.inverse_scale * (edge - at.mean));
  }
}

struct MixtureShape {
  int64_t components, colors, color, levels;

  int64_t parts() const { return colors == 3 ? 3 : 2; }
};

FG_HD Logistic logistic_of(const MixtureShape& shape, const float* params, const int64_t* values, int64_t color,
                           int64_t component) {
  const int64_t K = shape.components;
  const double last = double(shape.levels - 1);
  const auto parameter = [&](int64_t of, int64_t part) {
    return double(params[K + (of * shape.parts() + part) * K + component]);
  };
  double mean = parameter(color, 0);
  for (int64_t earlier = 0; earlier < color; ++earlier)
    mean = mean + plain_tanh(parameter(earlier + color - 1, 2)) * ((2 * double(values[earlier]) - last) / last);
  const double log_scale = parameter(color, 1);
  return {mean, plain_exp(-(log_scale > kLogScaleMin ? log_scale : kLogScaleMin))};
}

// Of colour `shape.color`, given the colours before it in `values`. `scratch`: 2·components + levels numbers.
inline void mixture_frequencies(const MixtureShape& shape, const float* params, const int64_t* values, double* scratch,
                                int32_t* frequencies) {
  const int64_t K = shape.components, levels = shape.levels, room = kFrequencyTotal - levels;
  double *exponents = scratch, *factors = scratch + K, *below = scratch + 2 * K;
  for (int64_t j = 0; j < K; ++j) {  // how likely each component is, now that the colours before are known
    exponents[j] = double(params[j]);
    factors[j] = 1;
    for (int64_t c = 0; c < shape.color; ++c)
      exponents[j] = exponents[j] + logistic_exponent(logistic_of(shape, params, values, c, j), double(values[c]),
                                                      double(levels - 1), &factors[j]);
  }
  const double highest = highest_of(exponents, K);
  double total = 0;
  std::fill_n(below, levels, 0.0);
  for (int64_t j = 0; j < K; ++j) {
    const double weight = plain_exp(exponents[j] - highest) * factors[j];
    total += weight;
    add_below_edges(levels, logistic_of(shape, params, values, shape.color, j), weight, below);
  }
  int64_t before = 0;
  for (int64_t l = 0; l < levels; ++l) {
    const int64_t until = l + 1 < levels ? std::max(before, whole_part(below[l] / total, room)) : room;
    frequencies[l] = int32_t(until - before + 1);
    before = until;
  }
}

}  // namespace fastgen
