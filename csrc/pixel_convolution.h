// A convolution as products of pixels, on the side of tensors: of what lies in float32 and channels_last.
#pragma once

#include <optional>

#include "masked_conv2d_products_cpu.h"
#include "tensor_utils.h"

namespace fastgen {

inline Tensor nothing(const Tensor& like) { return empty(like, {0}); }  // stands for a result that was not asked for

inline void multiply(const PixelConvolution& shape, const TapsProduct& product, const Tensor& x,
                     const std::optional<Tensor>& residual, Tensor& y) {
  const float* rest = residual ? data<float>(*residual) : nullptr;
  torch::stable::parallel_for(0, shape.pixels(), 8 * kGemmBlock, [&](int64_t begin, int64_t end) {
    product.run(begin, end, data<float>(x) + begin * product.inputs(),
                rest ? rest + begin * product.outputs() : nullptr, mutable_data<float>(y) + begin * product.outputs());
  });
}

inline Tensor convolve(const PixelConvolution& shape, const Tensor& x, const Tensor& cropped,
                       const std::optional<Tensor>& bias, const std::optional<Tensor>& residual) {
  Tensor y = empty(x, {shape.N, shape.O, shape.H, shape.W}, x.scalar_type(), true);
  const Tensor row = bias ? as_contiguous(*bias) : nothing(x);
  const TapsProduct product(shape, false, data<float>(cropped), bias ? data<float>(row) : nullptr);
  multiply(shape, product, x, residual, y);
  return y;
}

// Gradients of x, weight and bias; those that `wanted` leaves out are empty.
inline std::vector<Tensor> convolve_backward(const PixelConvolution& shape, const Tensor& grad_pre, const Tensor& x,
                                             const Tensor& cropped, const std::vector<bool>& wanted) {
  Tensor grad_x = nothing(x), grad_weight = nothing(x), grad_bias = nothing(x);
  std::optional<TapsProduct> product;
  if (wanted[0]) product.emplace(shape, true, data<float>(cropped), nullptr);
  if (wanted[0]) grad_x = empty(x, shape_of(x), x.scalar_type(), true);
  if (wanted[1]) grad_weight = empty(x, shape_of(cropped));
  if (wanted[2]) grad_bias = empty(x, {shape.O});
  TapsGradient gradient(shape);
  // Few parts cannot be spread over threads as finely as pixels.
  const bool together = wanted[0] && (wanted[1] || wanted[2]) && gradient.parts() >= 8;
  if (wanted[0] && !together) multiply(shape, *product, grad_pre, std::nullopt, grad_x);
  if (wanted[1] || wanted[2]) {
    float* pixels = wanted[0] ? mutable_data<float>(grad_x) : nullptr;
    torch::stable::parallel_for(0, gradient.parts(), 1, [&](int64_t begin, int64_t end) {
      gradient.add(begin, end, data<float>(x), data<float>(grad_pre), wanted[1], wanted[2],
                   together ? &*product : nullptr, pixels);
    });
    gradient.finish(wanted[1] ? mutable_data<float>(grad_weight) : nullptr,
                    wanted[2] ? mutable_data<float>(grad_bias) : nullptr);
  }
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace fastgen
