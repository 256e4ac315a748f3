// ReLUs between products of pixels, as vector loops. No torch headers.
#pragma once

#include "masked_conv2d.h"

namespace fastgen {

FG_VECTOR_CLONES inline void relu_run(int64_t count, const float* x, float* y) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = Relu::forward(x[i]);
}

// y: what the ReLU has given, or read, which is the same to its gradient
FG_VECTOR_CLONES inline void relu_backward_run(int64_t count, const float* __restrict y, float* __restrict grads) {
  for (int64_t i = 0; i < count; ++i) grads[i] = Relu::backward(grads[i], y[i]);
}

}  // namespace fastgen
