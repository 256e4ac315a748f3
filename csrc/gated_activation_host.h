// gated_activation, the part that CPU and CUDA share: what is checked, and how the memory lies.
#pragma once

#include "tensor_utils.h"

namespace fastgen {

// x[n] is a run of C·S values a, then a run of C·S values b; y[n] is one such run. Both are contiguous.
struct GateShape {
  int64_t N, run;

  explicit GateShape(const Tensor& x) {
    STD_TORCH_CHECK(x.dim() >= 2 && x.size(1) % 2 == 0, "x: expected shape (N, 2C, *)");
    check_floating(x, "x");
    N = x.size(0);
    run = product(shape_of(x), 1) / 2;
  }
};

inline std::vector<int64_t> result_sizes(const Tensor& x) {
  std::vector<int64_t> sizes = shape_of(x);
  sizes[1] /= 2;
  return sizes;
}

inline void check_grad(const Tensor& grad_y, const Tensor& x) {
  check_tensor(grad_y, "grad_y", result_sizes(x), x.scalar_type(), x);
}

}  // namespace fastgen
