// binary_cross_entropy: −t·log σ(l) − (1 − t)·log σ(−l) = l·([l > 0] − t) + log1p(exp(−|l|)); its gradient: σ(l) − t
//
// The exponential's argument is never positive: nothing overflows, and what is left of a logit that is sure and right
// is not rounded away. Logits (*S, N, *D) and targets (N, *D), summed over D, are read once forward and once backward,
// and nothing of their size is kept. The formulas. No torch headers.
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
