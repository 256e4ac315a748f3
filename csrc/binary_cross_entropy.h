// binary_cross_entropy: −t·log σ(l) − (1 − t)·log σ(−l) = l·([l > 0] − t) + log1p(exp(−|l|)), and its gradient, σ(l) −
// t Shapes   l of R rows, t of R or a divisor of it: row r of l belongs to row r mod T of t Traffic  forward reads l
// and t once, backward reads both and writes the gradient; nothing of that size is kept Numerics in float, or double;
// the exponential's argument is never positive, so that nothing overflows The formulas. No torch headers.
#pragma once

#include "math.h"

namespace fastgen {

template <typename T>
FG_HD T binary_cross_entropy(T logit, T target) {
  const bool positive = logit > T(0);
  const T share = (positive ? T(1) : T(0)) - target;
  return logit * share + log1p_of_unit(exp(positive ? -logit : logit));
}

template <typename T>
FG_HD T binary_cross_entropy_backward(T logit, T target) {
  const bool positive = logit > T(0);
  const T e = exp(positive ? -logit : logit), larger = T(1) / (T(1) + e);  // σ(|l|)
  return (positive ? larger : e * larger) - target;
}

}  // namespace fastgen
