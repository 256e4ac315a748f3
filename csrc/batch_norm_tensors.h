// What ops of batch norms share on the side of tensors.
#pragma once

#include <vector>

#include "tensor_utils.h"

namespace fastgen {

struct Image {
  int64_t N, C, pixels;  // of one image

  explicit Image(const Tensor& y, const char* name = "y") {
    check_floating(y, name);
    STD_TORCH_CHECK(y.dim() == 4, name, ": expected shape (N, C, H, W)");
    N = y.size(0), C = y.size(1), pixels = y.size(2) * y.size(3);
  }
  int64_t numel() const { return N * C * pixels; }
};

template <typename S, typename A>
std::vector<A> read(const Tensor& vector) {
  const storage_t<S>* from = data<S>(vector);
  std::vector<A> result(size_t(vector.numel()));
  for (size_t c = 0; c < result.size(); ++c) result[c] = A(Storage<S>::load(from[c]));
  return result;
}

// A number per channel of y, an image or itself such a vector, of any floating dtype, in what is computed in.
template <typename A>
std::vector<A> checked_vector(const Tensor& y, const Tensor& any, const char* name) {
  check_floating(any, name);
  check_tensor(any, name, std::vector<int64_t>{y.size(y.dim() == 1 ? 0 : 1)}, any.scalar_type(), y);
  const Tensor vector = as_contiguous(any);
  std::vector<A> result;
  FG_DISPATCH_FLOATING(vector, "batch_norm", (result = read<scalar_t, A>(vector)));
  return result;
}

}  // namespace fastgen
