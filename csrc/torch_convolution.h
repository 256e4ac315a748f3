// torch's convolutions, through the dispatcher: oneDNN's on a CPU.
#pragma once

#include <array>
#include <optional>

#include "tensor_utils.h"

namespace fastgen {

// Of stride 1, without padding.
inline Tensor torch_convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  using torch::stable::detail::from;
  const std::vector<int64_t> one = {1, 1}, zero = {0, 0};
  StableIValue stack[] = {from(x),   from(weight), from(bias), from(one),       from(zero),
                          from(one), from(false),  from(zero), from(int64_t(1))};
  return call_aten("aten::convolution", "", stack, 1)[0];
}

// Gradients of x, weight and bias, of stride 1 without padding; those that `wanted` leaves out are undefined.
inline std::vector<Tensor> torch_convolution_backward(const Tensor& grad_pre, const Tensor& x, const Tensor& weight,
                                                      const std::vector<bool>& wanted) {
  using torch::stable::detail::from;
  const std::vector<int64_t> one = {1, 1}, zero = {0, 0};
  const std::optional<std::vector<int64_t>> bias_sizes = std::vector<int64_t>{weight.size(0)};
  const std::array<bool, 3> mask = {wanted[0], wanted[1], wanted[2]};
  StableIValue stack[] = {from(grad_pre),
                          from(x),
                          from(weight),
                          from(bias_sizes),
                          from(one),
                          from(zero),
                          from(one),
                          from(false),
                          from(zero),
                          from(int64_t(1)),
                          from(torch::headeronly::HeaderOnlyArrayRef<bool>(mask.data(), mask.size()))};
  return call_aten("aten::convolution_backward", "", stack, 3);
}

}  // namespace fastgen
