// batch_norm_train: a batch norm by the statistics of the batch, n numbers a channel, and the activation behind it
//   forward   mean = Σ x / n;  M2 = Σ (x − mean)²;  scale = weight / √(M2 / n + eps)
//             z = activation((x − mean) · scale + bias)
//   backward  g = grad_z · activation'(z);  grad_x = g · scale + lift + tilt · (x − mean)
//             lift = (grad_mean − scale · Σ g) / n;  tilt = 2 · grad_M2 − scale · Σ g · (x − mean) / (M2 + n · eps)
//             grad_weight = Σ g · (x − mean) / √(M2 / n + eps);  grad_bias = Σ g
// No torch headers.
#pragma once

#include "batch_norm.h"

namespace fastgen {

template <typename A>
FG_HD A batch_norm_train_backward(A g, A x, Affine<A> of, A lift, A tilt) {
  return g * of.scale + (lift + tilt * (x - of.center));
}

}  // namespace fastgen
