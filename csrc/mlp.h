// mlp: y = activation(x @ wᵀ + b) @ w_outᵀ + b_out; what becomes of a layer's sums and of gradients, row by row. No
// torch headers.
#pragma once

#include "activation.h"
#include "half.h"

namespace fastgen {

// grad[m] ← the gradient before the activation, which gave y; T: float, or bfloat16, which is rounded
template <Pointwise kind, typename T>
FG_VECTOR_CLONES void activation_gradient(int64_t M, int64_t count, int64_t y_pitch, const T* __restrict y, float slope,
                                          int64_t pitch, T* __restrict grad) {
  for (int64_t m = 0; m < M; ++m, y += y_pitch, grad += pitch)
    for (int64_t j = 0; j < count; ++j)
      grad[j] = from_float<T>(activate_backward<kind>(to_float(grad[j]), to_float(y[j]), slope));
}

template <typename T>
FG_VECTOR_CLONES void add_rows(int64_t M, int64_t count, int64_t pitch, const T* __restrict x, float* __restrict sums) {
  for (int64_t m = 0; m < M; ++m, x += pitch)
    for (int64_t j = 0; j < count; ++j) sums[j] += to_float(x[j]);
}

}  // namespace fastgen
