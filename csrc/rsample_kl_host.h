// rsample_kl, the part that CPU and CUDA share: what is checked.
#pragma once

#include "tensor_utils.h"

namespace fastgen {

// mu and logvar (N, *), rows of R elements.
struct RsampleShape {
  int64_t N, R;

  RsampleShape(const Tensor& mu, const Tensor& logvar, const Tensor& seed) {
    STD_TORCH_CHECK(mu.dim() >= 1, "mu: expected shape (N, *), got a scalar");
    check_floating(mu, "mu");
    check_same(logvar, "logvar", mu);
    STD_TORCH_CHECK(seed.numel() == 1, "seed: expected one element");
    check_tensor(seed, "seed", seed.sizes(), ScalarType::Long, mu);
    N = mu.size(0);
    R = product(shape_of(mu), 1);
  }

  void check_grads(const Tensor& grad_z, const Tensor& grad_kl, const Tensor& mu) const {
    check_same(grad_z, "grad_z", mu);
    check_tensor(grad_kl, "grad_kl", std::vector<int64_t>{N}, accumulation_dtype(mu.scalar_type()), mu);
  }
};

}  // namespace fastgen
