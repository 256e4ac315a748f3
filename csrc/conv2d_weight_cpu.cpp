// conv2d_weight and conv2d_bfloat16 on the CPU: from tensors to what their headers compute.
#include "conv2d_weight_cpu.h"

#include "conv2d_products_cpu.h"
#include "conv2d_tensors.h"

namespace fastgen {
namespace {

constexpr int64_t kMostTaps = 4096;
constexpr int64_t kRowsOfThread = 4;  // worth a thread's while

void check_pixels(const Tensor& image) {
  STD_TORCH_CHECK(image.dim() == 4 && image.scalar_type() == ScalarType::BFloat16,
                  "image: expected (N, I, H, W) in bfloat16");
}

void add_products(const ImageConvolution& shape, const Tensor& image, const Tensor& grad, Tensor& weight) {
  const ConvolutionWeight product(shape);
  const auto words = [&](int64_t count) { return empty(image, {count}, ScalarType::Float); };  // of 32 bits
  Tensor x = words(product.image_size()), y = words(product.grad_size()), kept = words(product.sums_size());
  uint32_t* const pixels = static_cast<uint32_t*>(x.mutable_data_ptr());
  uint32_t* const grads = static_cast<uint32_t*>(y.mutable_data_ptr());
  float *const sums = mutable_data<float>(kept), *const result = mutable_data<float>(weight);
  for (int64_t block = 0; block < product.blocks(); ++block) {
    torch::stable::parallel_for(0, product.packed_rows(), kRowsOfThread, [&](int64_t first, int64_t last) {
      product.pack(block, first, last, data<bfloat16>(image), data<bfloat16>(grad), pixels, grads);
    });
    torch::stable::parallel_for(0, product.items(), 1, [&](int64_t first, int64_t last) {
      const auto own = unwritten<float>(product.sums_size() ? 0 : product.item_size());
      product.add(block, first, last, pixels, grads, product.sums_size() ? sums : own.get(), result);
    });
  }
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
  if (shape.N == 0)
    std::fill_n(mutable_data<float>(weight), weight.numel(), 0.0f);
  else
    add_products(shape, in_layout(image_any, true), in_layout(grad_any, true), weight);
  return weight;
}

template <typename W>
void convolve(const ImageConvolution& shape, const Tensor& image, const Tensor& weight, const float* bias,
              LayerActivation activation, Tensor& y) {
  const KernelLayout kernel{shape.KH, shape.KW, weight.stride(1), weight.stride(0), weight.stride(2), weight.stride(3)};
  const ConvolvedPixels<W> product(shape, kernel, bias, activation);
  const int64_t threads = std::max<int64_t>(1, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, product.items(), ceil_div(product.items(), threads), [&](int64_t first, int64_t last) {
    product.run(first, last, data<bfloat16>(image), data<W>(weight), mutable_data<bfloat16>(y));
  });
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
  rounds ? convolve<float>(shape, image, read, numbers(row), follows, y)
         : convolve<bfloat16>(shape, image, read, numbers(row), follows, y);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgen, CPU, m) {
  m.impl("conv2d_weight", TORCH_BOX(&conv2d_weight_cpu));
  m.impl("conv2d_bfloat16", TORCH_BOX(&conv2d_bfloat16_cpu));
}

}  // namespace fastgen
