// conv2d_image and conv2d_image_weight on the CPU: from tensors to what their header computes.
#include "conv2d_image_cpu.h"

#include "conv2d_tensors.h"
#include "masked_tensors.h"

namespace fastgen {
namespace {

constexpr int64_t kMostTaps = 4096;  // of all colours: lists of them are made at each call

ImageConvolution checked_shape(const Tensor& image, int64_t O, const std::vector<int64_t>& kernel,
                               const std::vector<int64_t>& stride, const std::vector<int64_t>& padding) {
  STD_TORCH_CHECK(image.dim() == 4, "image: expected (N, I, H, W)");
  const ImageConvolution shape = checked_convolution(image, O, kernel, stride, padding);
  STD_TORCH_CHECK(checked_multiply(shape.I, checked_multiply(shape.KH, shape.KW)) <= kMostTaps,
                  "kernel: expected at most ", kMostTaps, " taps");
  return shape;
}

// Whether an image's channels lie together, its pixels beside each other.
bool is_in_pixels(const Tensor& image) {
  const int64_t C = image.size(1), H = image.size(2), W = image.size(3), strides[] = {H * W * C, 1, W * C, C};
  for (int i = 0; i < 4; ++i)
    if (image.size(i) != 1 && image.stride(i) != strides[i]) return false;
  return true;
}

Tensor conv2d_image_cpu(const Tensor& image_any, const Tensor& weight_any, std::optional<Tensor> bias,
                        std::vector<int64_t> stride, std::vector<int64_t> padding, bool channels_last, Text activation,
                        double slope) {
  STD_TORCH_CHECK(image_any.dim() == 4 && weight_any.dim() == 4 && weight_any.size(1) == image_any.size(1),
                  "weight: expected (O, I, KH, KW) of an image (N, I, H, W)");
  const std::vector<int64_t> kernel = {weight_any.size(2), weight_any.size(3)};
  const ImageConvolution shape = checked_shape(image_any, weight_any.size(0), kernel, stride, padding);
  check_numbers(image_any, "image");
  check_tensor(weight_any, "weight", weight_any.sizes(), ScalarType::Float, image_any);
  const std::optional<Tensor> row = checked_bias(bias, "bias", shape.O, image_any);
  const LayerActivation follows = checked_layer(activation, slope);
  STD_TORCH_CHECK(image_any.scalar_type() == ScalarType::Float || shape.KW % 2 == 0,
                  "weight: expected a kernel of even width in bfloat16, got ", shape.KW);
  Tensor y = empty(image_any, {shape.N, shape.O, shape.h, shape.w}, image_any.scalar_type(), channels_last);
  if (y.numel() == 0) return y;
  const Tensor image = as_contiguous(image_any), weight = as_contiguous(weight_any);
  with_numbers(image, [&](auto number) {
    using T = decltype(number);
    const ConvolvedImage<T> product(shape, data<float>(weight), numbers(row), follows);
    torch::stable::parallel_for(0, product.items(), 1, [&](int64_t first, int64_t last) {
      product.run(first, last, data<T>(image), !channels_last, mutable_data<T>(y));
    });
  });
  return y;
}

std::tuple<Tensor, Tensor> conv2d_image_weight_cpu(const Tensor& image_any, const Tensor& grad_any,
                                                   std::vector<int64_t> kernel, std::vector<int64_t> stride,
                                                   std::vector<int64_t> padding) {
  STD_TORCH_CHECK(grad_any.dim() == 4, "grad: expected (N, O, h, w)");
  const ImageConvolution shape = checked_shape(image_any, grad_any.size(1), kernel, stride, padding);
  check_tensor(image_any, "image", image_any.sizes(), ScalarType::Float, image_any);
  check_tensor(grad_any, "grad", std::vector<int64_t>{shape.N, shape.O, shape.h, shape.w}, ScalarType::Float,
               image_any);
  Tensor weight = empty(image_any, {shape.O, shape.I, shape.KH, shape.KW}), bias = empty(image_any, {shape.O});
  const bool planes = !is_in_pixels(grad_any);
  const Tensor image = as_contiguous(image_any), grad = planes ? as_contiguous(grad_any) : grad_any;
  ConvolvedImageGradient gradient(shape);
  torch::stable::parallel_for(0, gradient.parts(), 1, [&](int64_t first, int64_t last) {
    gradient.add(first, last, data<float>(image), planes, data<float>(grad));
  });
  gradient.finish(mutable_data<float>(weight), mutable_data<float>(bias));
  return {weight, bias};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("conv2d_image", TORCH_BOX(&conv2d_image_cpu));
  m.impl("conv2d_image_weight", TORCH_BOX(&conv2d_image_weight_cpu));
}

}  // namespace fastgen
