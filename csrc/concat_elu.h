// concat_elu: y = [elu(x), elu(−x)], within a border of zeros                               arXiv:1603.05201, eq. 2
// The formula. No torch headers.
#pragma once

#include "math.h"

namespace fastgen {

// One of both is linear: a single exponential.
template <typename T>
FG_HD void concat_elu(T x, T* plus, T* minus) {
  const T below = expm1(x > T(0) ? -x : x);
  *plus = x > T(0) ? x : below;
  *minus = x < T(0) ? -x : below;
}

// From the results: elu' = elu + 1 where it is not positive.
template <typename T>
FG_HD T concat_elu_backward(T grad_plus, T grad_minus, T plus, T minus) {
  const T first = plus > T(0) ? grad_plus : grad_plus * (plus + T(1));
  return first - (minus > T(0) ? grad_minus : grad_minus * (minus + T(1)));
}

}  // namespace fastgen
