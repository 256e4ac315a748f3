// mlp: y = activation(x @ wᵀ + b) @ w_outᵀ + b_out; what becomes of a layer's sums and of gradients, row by row. No
// torch headers.
#pragma once

#include "activation.h"

namespace fastgen {

// grad[m] ← the gradient before the activation, which gave y
template <Pointwise kind>
FG_VECTOR_CLONES void activation_gradient(int64_t M, int64_t count, int64_t pitch, const float* __restrict y,
                                          float slope, float* __restrict grad) {
  for (int64_t m = 0; m < M; ++m, y += pitch, grad += pitch)
    for (int64_t j = 0; j < count; ++j) grad[j] = activate_backward<kind>(grad[j], y[j], slope);
}

FG_VECTOR_CLONES inline void add_rows(int64_t M, int64_t count, int64_t pitch, const float* __restrict x,
                                      float* __restrict sums) {
  for (int64_t m = 0; m < M; ++m, x += pitch)
    for (int64_t j = 0; j < count; ++j) sums[j] += x[j];
}

}  // namespace fastgen
