// rsample_kl, the part that CPU and CUDA share: what is checked.
#pragma once

#include "tensor_utils.h"

namespace fastgen {

// mu and logvar (N, *), rows of R elements.
struct RsampleShape {
  int64_t N, R;
  std::vector<int64_t> sizes;

  RsampleShape(const Tensor& mu, const Tensor& logvar, const Tensor& seed) {
    STD_TORCH_CHECK(mu.dim() >= 1, "mu: expected shape (N, *), got a scalar");
    check_floating(mu, "mu");
    check_same(logvar, "logvar", mu);
    check_seed(seed, mu);
    sizes = shape_of(mu);
    N = mu.size(0);
    R = product(sizes, 1);
  }

  // Of h (N, 2D, *): mu and logvar (N, D, *) are the halves of each row.
  explicit RsampleShape(const Tensor& h) {
    STD_TORCH_CHECK(h.dim() >= 2 && h.size(1) % 2 == 0, "h: expected shape (N, 2D, *)");
    check_floating(h, "h");
    sizes = shape_of(h);
    sizes[1] /= 2;
    N = h.size(0);
    R = product(sizes, 1);
  }

  void check_grads(const Tensor& grad_z, const Tensor& grad_kl, const Tensor& like) const {
    check_tensor(grad_z, "grad_z", sizes, like.scalar_type(), like);
    check_tensor(grad_kl, "grad_kl", std::vector<int64_t>{N}, accumulation_dtype(like.scalar_type()), like);
  }

  static void check_seed(const Tensor& seed, const Tensor& like) {
    STD_TORCH_CHECK(seed.numel() == 1, "seed: expected one element");
    check_tensor(seed, "seed", seed.sizes(), ScalarType::Long, like);
  }
};

}  // namespace fastgen
