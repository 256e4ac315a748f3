// A convolution as products of pixels, on the side of tensors: of what lies in float32 or bfloat16 and channels_last,
// by weights in float32.
#pragma once

#include <optional>

#include "masked_conv2d_gradient_cpu.h"
#include "tensor_utils.h"

namespace fastgen {

inline Tensor nothing(const Tensor& like) { return empty(like, {0}); }  // stands for a result that was not asked for

// body(T()), T as the numbers of x lie in memory
template <typename F>
auto with_numbers(const Tensor& x, const F& body) {
  return x.scalar_type() == ScalarType::BFloat16 ? body(bfloat16()) : body(float());
}

inline void check_numbers(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4, name, ": expected four dimensions");
  const bool known = x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(known, name, ": expected float32 or bfloat16");
}

template <typename T>
void multiply(const PixelConvolution& shape, const TapsProduct<T>& product, const Tensor& x,
              const std::optional<Tensor>& residual, Tensor& y) {
  const T* rest = residual ? data<T>(*residual) : nullptr;
  torch::stable::parallel_for(0, shape.pixels(), 8 * kGemmBlock, [&](int64_t begin, int64_t end) {
    product.run(begin, end, data<T>(x) + begin * product.inputs(), rest ? rest + begin * product.outputs() : nullptr,
                mutable_data<T>(y) + begin * product.outputs());
  });
}

template <typename T>
Tensor convolve(const PixelConvolution& shape, const Tensor& x, const Tensor& cropped,
                const std::optional<Tensor>& bias, const std::optional<Tensor>& residual) {
  Tensor y = empty(x, {shape.N, shape.O, shape.H, shape.W}, x.scalar_type(), true);
  const Tensor row = bias ? as_contiguous(*bias) : nothing(x);
  const TapsProduct<T> product(shape, false, data<float>(cropped), bias ? data<float>(row) : nullptr);
  multiply(shape, product, x, residual, y);
  return y;
}

// Gradients of x, weight and bias; those that `wanted` leaves out are empty.
template <typename T>
std::vector<Tensor> convolve_backward(const PixelConvolution& shape, const Tensor& grad_pre, const Tensor& x,
                                      const Tensor& cropped, const std::vector<bool>& wanted) {
  Tensor grad_x = nothing(x), grad_weight = nothing(cropped), grad_bias = nothing(cropped);
  std::optional<TapsProduct<T>> product;
  if (wanted[0]) product.emplace(shape, true, data<float>(cropped), nullptr);
  if (wanted[0]) grad_x = empty(x, shape_of(x), x.scalar_type(), true);
  if (wanted[1]) grad_weight = empty(x, shape_of(cropped), ScalarType::Float);
  if (wanted[2]) grad_bias = empty(x, {shape.O}, ScalarType::Float);
  TapsGradient<T> gradient(shape);
  // Few parts cannot be spread over threads as finely as pixels.
  const bool together = wanted[0] && (wanted[1] || wanted[2]) && gradient.parts() >= 8;
  if (wanted[0] && !together) multiply(shape, *product, grad_pre, std::nullopt, grad_x);
  if (wanted[1] || wanted[2]) {
    T* pixels = wanted[0] ? mutable_data<T>(grad_x) : nullptr;
    torch::stable::parallel_for(0, gradient.parts(), 1, [&](int64_t begin, int64_t end) {
      gradient.add(begin, end, data<T>(x), data<T>(grad_pre), wanted[1], wanted[2], together ? &*product : nullptr,
                   pixels);
    });
    gradient.finish(wanted[1] ? mutable_data<float>(grad_weight) : nullptr,
                    wanted[2] ? mutable_data<float>(grad_bias) : nullptr);
  }
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace fastgen
