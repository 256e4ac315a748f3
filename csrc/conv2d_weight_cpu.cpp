// conv2d_weight and conv2d_bfloat16 on the CPU: from tensors to what the header computes, and to torch's convolution.
#include "conv2d_weight_cpu.h"

#include "conv2d_tensors.h"
#include "torch_convolution.h"

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

template <Pointwise kind>
FG_VECTOR_CLONES void activate_halves(int64_t count, float slope, bfloat16* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = float_to_bfloat16(activate<kind>(bfloat16_to_float(y[i]), slope));
}

void activate(LayerActivation activation, Tensor& y) {
  if (activation.kind == Pointwise::kNone) return;
  bfloat16* const numbers = mutable_data<bfloat16>(y);
  torch::stable::parallel_for(0, y.numel(), kGrain, [&](int64_t first, int64_t last) {
    FG_DISPATCH_POINTWISE(activation.kind, activate_halves<kind>(last - first, activation.slope, numbers + first));
  });
}

Tensor conv2d_bfloat16_cpu(const Tensor& image, const Tensor& weight, const Tensor& rounded, std::optional<Tensor> bias,
                           std::vector<int64_t> stride, std::vector<int64_t> padding, Text activation, double slope) {
  check_pixels(image);
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == image.size(1), "weight: expected (O, ", image.size(1),
                  ", KH, KW)");
  const int64_t O = weight.size(0);
  const ImageConvolution shape = checked_convolution(image, O, {weight.size(2), weight.size(3)}, stride, padding);
  check_tensor(rounded, "rounded", weight.sizes(), ScalarType::BFloat16, image);
  if (bias) check_tensor(*bias, "bias", std::vector<int64_t>{O}, bias->scalar_type(), image);
  if (bias) check_floating(*bias, "bias");
  const LayerActivation follows = checked_layer(activation, slope);
  if (shape.N == 0) return empty(image, {0, O, shape.h, shape.w}, ScalarType::BFloat16, true);
  const std::optional<Tensor> row = bias ? std::optional(torch::stable::to(*bias, ScalarType::BFloat16)) : std::nullopt;
  const bool pixels = !rounded.is_contiguous();  // planes, where the weight is most of what is read
  Tensor y = in_layout(torch_convolution(in_layout(image, pixels), rounded, row, stride, padding), true);
  activate(follows, y);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgen, CPU, m) {
  m.impl("conv2d_weight", TORCH_BOX(&conv2d_weight_cpu));
  m.impl("conv2d_bfloat16", TORCH_BOX(&conv2d_bfloat16_cpu));
}

}  // namespace fastgen
