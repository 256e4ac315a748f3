// shifted_conv2d on the CPU, float32 or bfloat16 in channels_last: a convolution of pixels whose taps are all alive.
#include "pixel_convolution.h"
#include "shifted_conv2d.h"

namespace fastgen {
namespace {

// Of x (N, I, H, W) and weight (O, I, KH, KW), whose last row is the pixel's own, and column `left` its own.
PixelConvolution checked_shape(const Tensor& x, const Tensor& weight, int64_t left) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.numel() > 0, "weight: expected shape (O, I, KH, KW), none of them 0");
  const int64_t O = weight.size(0), I = weight.size(1), KH = weight.size(2), KW = weight.size(3);
  check_numbers(x, "x");
  STD_TORCH_CHECK(x.size(1) == I, "x: expected (N, ", I, ", H, W)");
  check_tensor(weight, "weight", weight.sizes(), ScalarType::Float, x);
  STD_TORCH_CHECK(left >= 0 && left < KW, "left: expected a column of the kernel, from 0 to ", KW - 1, ", got ", left);
  return shifted_convolution(x.size(0), x.size(2), x.size(3), I, O, KH, KW, left);
}

Tensor shifted_conv2d_cpu(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                          std::optional<Tensor> residual, int64_t left) {
  const PixelConvolution shape = checked_shape(x, weight, left);
  const std::vector<int64_t> sizes = {shape.N, shape.O, shape.H, shape.W}, row = {shape.O};
  if (bias) check_tensor(*bias, "bias", row, ScalarType::Float, x);
  if (residual) check_tensor(*residual, "residual", sizes, x.scalar_type(), x);
  if (shape.pixels() == 0) return empty(x, sizes, x.scalar_type(), true);
  std::optional<Tensor> rest;
  if (residual) rest = in_layout(*residual, true);
  return with_numbers(x, [&](auto number) {
    return convolve<decltype(number)>(shape, in_layout(x, true), as_contiguous(weight), bias, rest);
  });
}

std::tuple<Tensor, Tensor, Tensor> shifted_conv2d_backward_cpu(const Tensor& grad_y, const Tensor& x,
                                                               const Tensor& weight, int64_t left,
                                                               std::vector<bool> wanted) {
  const PixelConvolution shape = checked_shape(x, weight, left);
  const std::vector<int64_t> sizes = {shape.N, shape.O, shape.H, shape.W};
  check_tensor(grad_y, "grad_y", sizes, x.scalar_type(), x);
  STD_TORCH_CHECK(wanted.size() == 3, "output_mask: expected three values, got ", wanted.size());
  const std::vector<Tensor> grads = with_numbers(x, [&](auto number) {
    return convolve_backward<decltype(number)>(shape, in_layout(grad_y, true), in_layout(x, true),
                                               as_contiguous(weight), wanted);
  });
  return {grads[0], grads[1], grads[2]};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("shifted_conv2d", TORCH_BOX(&shifted_conv2d_cpu));
  m.impl("shifted_conv2d_backward", TORCH_BOX(&shifted_conv2d_backward_cpu));
}

}  // namespace fastgen
