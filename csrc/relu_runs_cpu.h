// ReLUs between products of pixels, as vector loops. No torch headers.
#pragma once

#include "masked_conv2d.h"

namespace fastgen {

// Of a bfloat16's bits: neither zero nor NaN, and with a sign.
FG_HD bool is_below_zero(bfloat16 bits) { return bits > 0x8000 && bits <= 0xff80; }

FG_VECTOR_CLONES inline void relu_run(int64_t count, const float* x, float* y) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = Relu::forward(x[i]);
}
FG_VECTOR_CLONES inline void relu_run(int64_t count, const bfloat16* x, bfloat16* y) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = is_below_zero(x[i]) ? bfloat16(0) : x[i];
}

// y: what the ReLU has given, or read, which is the same to its gradient
FG_VECTOR_CLONES inline void relu_backward_run(int64_t count, const float* __restrict y, float* __restrict grads) {
  for (int64_t i = 0; i < count; ++i) grads[i] = Relu::backward(grads[i], y[i]);
}
FG_VECTOR_CLONES inline void relu_backward_run(int64_t count, const bfloat16* __restrict y,
                                               bfloat16* __restrict grads) {
  for (int64_t i = 0; i < count; ++i) grads[i] = is_below_zero(y[i]) || !(y[i] << 1 & 0xffff) ? bfloat16(0) : grads[i];
}

}  // namespace fastgen
