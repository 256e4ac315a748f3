// residual_gate: y = x + a·σ(b), h = [a, b]                                                 arXiv:1701.05517, its code
// The formula. No torch headers.
#pragma once

#include "math.h"

namespace fastgen {

template <typename T>
FG_HD T residual_gate(T x, T a, T b) {
  return x + a * sigmoid(b);
}

// The gradient of x is grad_y itself.
template <typename T>
FG_HD void residual_gate_backward(T grad_y, T a, T b, T* grad_a, T* grad_b) {
  const T s = sigmoid(b);
  *grad_a = grad_y * s;
  *grad_b = grad_y * a * s * (T(1) - s);
}

}  // namespace fastgen
