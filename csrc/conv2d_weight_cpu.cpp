// conv2d_weight and conv2d_bfloat16 on the CPU: from tensors to what their headers compute.
#include "conv2d_products_tensors.h"
#include "conv2d_tensors.h"
#include "conv2d_weight.h"

namespace fastgen {
namespace {

constexpr int64_t kMostTaps = 4096;

void check_pixels(const Tensor& image) {
  STD_TORCH_CHECK(image.dim() == 4 && image.scalar_type() == ScalarType::BFloat16,
                  "image: expected (N, I, H, W) in bfloat16");
}

Tensor conv2d_weight_cpu(const Tensor& image_any, const Tensor& grad_any, std::vector<int64_t> kernel,
                         std::vector<int64_t> stride, std::vector<int64_t> padding) {
  check_pixels(image_any);
  STD_TORCH_CHECK(grad_any.dim() == 4, "grad: expected (N, O, h, w)");
  const ImageConvolution shape = checked_convolution(image_any, grad_any.size(1), kernel, stride, padding);
  STD_TORCH_CHECK(checked_multiply(shape.KH, shape.KW) <= kMostTaps, "kernel: expected at most ", kMostTaps, " taps");
  check_tensor(grad_any, "grad", std::vector<int64_t>{shape.N, shape.O, shape.h, shape.w}, ScalarType::BFloat16,
               image_any);
  Tensor weight = empty(image_any, {shape.O, shape.I, shape.KH, shape.KW}, ScalarType::Float);
  if (shape.N == 0) {
    std::fill_n(mutable_data<float>(weight), weight.numel(), 0.0f);
    return weight;
  }
  const Tensor image = in_layout(image_any, true), grad = in_layout(grad_any, true);
  add_weight_products(shape, false, data<bfloat16>(image), data<bfloat16>(grad), image, mutable_data<float>(weight));
  return weight;
}

Tensor conv2d_bfloat16_cpu(const Tensor& image_any, const Tensor& weight, const Tensor& read,
                           std::optional<Tensor> bias, std::vector<int64_t> stride, std::vector<int64_t> padding,
                           Text activation, double slope) {
  check_pixels(image_any);
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == image_any.size(1), "weight: expected (O, ", image_any.size(1),
                  ", KH, KW)");
  const int64_t O = weight.size(0);
  const ImageConvolution shape = checked_convolution(image_any, O, {weight.size(2), weight.size(3)}, stride, padding);
  STD_TORCH_CHECK(checked_multiply(shape.KH, shape.KW) <= kMostTaps, "weight: expected at most ", kMostTaps, " taps");
  STD_TORCH_CHECK(shape.I % 2 == 0, "image: expected an even number of channels, got ", shape.I);
  const bool rounds = read.scalar_type() == ScalarType::Float;
  check_tensor(read, "read", weight.sizes(), rounds ? ScalarType::Float : ScalarType::BFloat16, image_any);
  if (bias) check_tensor(*bias, "bias", std::vector<int64_t>{O}, bias->scalar_type(), image_any);
  if (bias) check_floating(*bias, "bias");
  const LayerActivation follows = checked_layer(activation, slope);
  Tensor y = empty(image_any, {shape.N, O, shape.h, shape.w}, ScalarType::BFloat16, true);
  if (y.numel() == 0) return y;
  const std::optional<Tensor> row =
      bias ? std::optional(as_contiguous(torch::stable::to(*bias, ScalarType::Float))) : std::nullopt;
  const Tensor image = in_layout(image_any, true);
  const KernelLayout kernel{shape.KH, shape.KW, read.stride(1), read.stride(0), read.stride(2), read.stride(3)};
  const bfloat16* const x = data<bfloat16>(image);
  bfloat16* const to = mutable_data<bfloat16>(y);
  rounds ? convolve_pixels(shape, kernel, x, data<float>(read), numbers(row), follows, to)
         : convolve_pixels(shape, kernel, x, data<bfloat16>(read), numbers(row), follows, to);
  return y;
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("conv2d_weight", TORCH_BOX(&conv2d_weight_cpu));
  m.impl("conv2d_bfloat16", TORCH_BOX(&conv2d_bfloat16_cpu));
}

}  // namespace fastgen
