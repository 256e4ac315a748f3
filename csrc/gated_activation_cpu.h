// The gate as vector loops over runs, for gated_activation and for the gated epilogue of masked_conv2d.
#pragma once

#include "gated_activation.h"
#include "tensor_utils.h"

namespace fastgen {

// y = tanh(a)·σ(b) + residual; `residual` may be null
template <typename T>
FG_VECTOR_CLONES void gate_run(int64_t count, const storage_t<T>* __restrict a, const storage_t<T>* __restrict b,
                               const storage_t<T>* __restrict residual, storage_t<T>* __restrict y) {
  using S = Storage<T>;
  if (residual)
    for (int64_t i = 0; i < count; ++i)
      y[i] = S::store(gated_activation(S::load(a[i]), S::load(b[i])) + S::load(residual[i]));
  else
    for (int64_t i = 0; i < count; ++i) y[i] = S::store(gated_activation(S::load(a[i]), S::load(b[i])));
}

template <typename T>
FG_VECTOR_CLONES void gate_backward_run(int64_t count, const storage_t<T>* __restrict grad_y,
                                        const storage_t<T>* __restrict a, const storage_t<T>* __restrict b,
                                        storage_t<T>* __restrict grad_a, storage_t<T>* __restrict grad_b) {
  using S = Storage<T>;
  for (int64_t i = 0; i < count; ++i) {
    accumulation_t<T> da, db;
    gated_activation_backward(S::load(grad_y[i]), S::load(a[i]), S::load(b[i]), &da, &db);
    grad_a[i] = S::store(da);
    grad_b[i] = S::store(db);
  }
}

}  // namespace fastgen
