// concat_elu: y = [elu(x), elu(−x)], within a border of zeros                               arXiv:1603.05201, eq. 2
// The formula. No torch headers.
#pragma once

#include "half.h"

namespace fastgen {

// One of both is linear: a single exponential.
template <typename T>
FG_HD void concat_elu(T x, T* plus, T* minus) {
  const T below = expm1(x > T(0) ? -x : x);
  *plus = x > T(0) ? x : below;
  *minus = x < T(0) ? -x : below;
}

// From the results: elu' = elu + 1 where it is not positive, which needs all the digits of elu.
template <typename T>
FG_HD T concat_elu_backward(T grad_plus, T grad_minus, T plus, T minus) {
  const T first = plus > T(0) ? grad_plus : grad_plus * (plus + T(1));
  return first - (minus > T(0) ? grad_minus : grad_minus * (minus + T(1)));
}

// ---- of bfloat16, to 2e-5 of the result: a hundredth of what it is rounded by

// exp(x) = scale·(1 + expm1), x ≤ 0; NaN stays NaN.
FG_HD void short_exp(float x, float* scale, float* expm1) {
  x = x < detail::kExpLow ? detail::kExpLow : x;
  const float shifted = x * 1.44269504f + detail::kRoundToInt;
  const float r = x - (shifted - detail::kRoundToInt) * 0.69314718f;
  *scale = bits_to_float((float_to_bits(shifted) + 127u) << 23);
  *expm1 = ((0.0395f * r + 0.1675f) * r + 0.50025f) * r * r + r;
}

// The one that is linear is x itself, or −x.
FG_HD void concat_elu(bfloat16 x, bfloat16* plus, bfloat16* minus) {
  float scale, expm1;
  short_exp(bits_to_float(uint32_t(x | 0x8000u) << 16), &scale, &expm1);
  const uint32_t bits = float_to_bits((scale - 1.0f) + scale * expm1);
  const bfloat16 below = bfloat16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // a NaN has zeros there, as x has
  *plus = uint16_t(x - 1) < 0x7f80 ? x : below;
  *minus = uint16_t(x - 0x8001) < 0x7f80 ? bfloat16(x ^ 0x8000u) : below;
}

// From the one that is linear: elu'(x) = exp(x) = exp(−elu(−x)), x below zero, for which elu itself has too few digits.
FG_HD bfloat16 concat_elu_backward(bfloat16 grad_plus, bfloat16 grad_minus, bfloat16 plus, bfloat16 minus) {
  const float p = to_float(plus), m = to_float(minus), first = to_float(grad_plus), second = to_float(grad_minus);
  float scale, expm1;
  short_exp(p > 0.0f ? -p : -m, &scale, &expm1);
  const float slope = scale + scale * expm1;
  return float_to_bfloat16((p > 0.0f ? first : first * slope) - (m > 0.0f ? second : second * slope));
}

}  // namespace fastgen
