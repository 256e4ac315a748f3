// gated_activation: y = tanh(a)·σ(b)                                                        arXiv:1606.05328 eq. 2
// The formula, for CPU and CUDA. No torch headers.
#pragma once

#include "math.h"

namespace fastgen {

template <typename T>
FG_HD T gated_activation(T a, T b) {
  return tanh(a) * sigmoid(b);
}

template <typename T>
FG_HD void gated_activation_backward(T grad_y, T a, T b, T* grad_a, T* grad_b) {
  const T t = tanh(a), s = sigmoid(b);
  *grad_a = grad_y * s * (T(1) - t * t);
  *grad_b = grad_y * t * s * (T(1) - s);
}

}  // namespace fastgen
