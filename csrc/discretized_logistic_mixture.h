// discretized_logistic_mixture: log Σₖ softmax(π)ₖ Π_c P(v_c | μₖ_c, sₖ_c)                  arXiv:1701.05517 eq. 2-3
// The formula of one colour under one component. No torch headers.
#pragma once

#include "math.h"

namespace fastgen {

// As in fastgen/ops/discretized_logistic_mixture.py.
constexpr double kLogScaleMin = -7.0, kTinyWidth = 1e-30;

// A value v of `levels`, scaled to x in [−1, 1], NaN if it is none; and which edges its bin, x ± h, has: 1, or 0 where
// it reaches to infinity.
template <typename T>
struct BinValue {
  T x, has_upper, has_lower;
};
template <typename T>
FG_HD BinValue<T> bin_value(int64_t v, int64_t levels) {
  const int64_t last = levels - 1;
  return {0 <= v && v <= last ? T(2 * v - last) / T(last) : T(NAN), T(v != last), T(v != 0)};
}

// P of a value is exp(exponent) / divisor, times 2h where the bin has both edges: that factor is the same for every
// component, and left out it costs no precision. divisor ≥ 1. The gradients are those of log P.
template <typename T>
struct Likelihood {
  T exponent, divisor, grad_mean, grad_log_scale;
};

// With a = (x + h − μ)/s and b = (μ + h − x)/s, how far the edges of the value's bin lie from μ,
//   P = σ(a) − σ(−b) = σ(a)·σ(b)·(1 − exp(−a − b)),
// less the factors of edges that are not there: products only, so nothing cancels. Each factor is taken apart as
//   σ(a) = exp(min(a, 0)) / (1 + exp(−|a|)).
template <typename T>
FG_HD Likelihood<T> discretized_logistic(BinValue<T> value, T h, T mean, T log_scale) {
  const T clamped = log_scale < T(kLogScaleMin) ? T(kLogScaleMin) : log_scale;
  const T inverse_scale = exp(-clamped), centered = inverse_scale * (value.x - mean), half = inverse_scale * h;
  const T a = half + centered, b = half - centered;
  const T exp_a = value.has_upper * exp(-std::fabs(a)), exp_b = value.has_lower * exp(-std::fabs(b));
  const T denominator = (T(1) + exp_a) * (T(1) + exp_b);
  const T width = half + half < T(kTinyWidth) ? T(kTinyWidth) : half + half;
  const T inverse_fraction = width / -expm1(-width);  // 1 − exp(−width) = 2h / s / inverse_fraction
  const T is_middle = value.has_upper * value.has_lower;

  Likelihood<T> result;
  result.exponent =
      value.has_upper * (a > T(0) ? T(0) : a) + value.has_lower * (b > T(0) ? T(0) : b) - is_middle * clamped;
  result.divisor = denominator * (is_middle > T(0) ? inverse_fraction : T(1));

  const T inverse_denominator = T(1) / denominator;
  const T grad_a = value.has_upper * (a < T(0) ? T(1) : exp_a) * (T(1) + exp_b) * inverse_denominator;  // σ(−a)
  const T grad_b = value.has_lower * (b < T(0) ? T(1) : exp_b) * (T(1) + exp_a) * inverse_denominator;
  const T grad = -(a * grad_a + b * grad_b) - is_middle * (inverse_fraction - width);
  result.grad_mean = inverse_scale * (grad_b - grad_a);
  result.grad_log_scale = log_scale < T(kLogScaleMin) ? T(0) : grad;
  return result;
}

}  // namespace fastgen
