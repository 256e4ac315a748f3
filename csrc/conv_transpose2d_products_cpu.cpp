// conv_transpose2d_products, _image and _weight on the CPU: from tensors to what their headers compute.
#include "conv_transpose2d_products_cpu.h"

#include "conv_transpose2d_image_cpu.h"
#include "conv_transpose2d_weight_cpu.h"
#include "pixel_convolution.h"

namespace fastgen {
namespace {

constexpr int64_t kMostTaps = 4096;    // lists of them are made at each call
constexpr int64_t kMostColumns = 256;  // their weights are gathered at each call
constexpr int64_t kRowsOfBlocks = 4;   // worth a thread's while

// The sizes of a convolution, none of which overflows; of a weight and a bias in this dtype.
TransposedConvolution checked_shape(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                                    const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                    const std::vector<int64_t>& output_padding, ScalarType dtype) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.numel() > 0, "weight: expected shape (I, O, KH, KW), none of them 0");
  check_tensor(weight, "weight", weight.sizes(), dtype, x);
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) == weight.size(0), "x: expected shape (N, ", weight.size(0), ", H, W)");
  check_pair(stride, "stride", 1);
  check_pair(padding, "padding", 0);
  check_pair(output_padding, "output_padding", 0);
  TransposedConvolution shape{
      x.size(0), x.size(1), x.size(2), x.size(3), weight.size(1), weight.size(2), weight.size(3), {}, {}, {}, {}};
  if (bias) check_tensor(*bias, "bias", std::vector<int64_t>{shape.O}, dtype, x);
  STD_TORCH_CHECK(checked_multiply(stride[0], stride[1]) <= kMostTaps, "stride: expected a product of at most ",
                  kMostTaps);
  STD_TORCH_CHECK(checked_multiply(weight.size(2), weight.size(3)) <= kMostTaps, "weight: expected at most ", kMostTaps,
                  " taps");
  for (int i = 0; i < 2; ++i) {
    const size_t d = size_t(i);
    const int64_t size = x.size(2 + i), kernel = weight.size(2 + i);
    STD_TORCH_CHECK(size > 0 && size < kMost && kernel < kMost, "x: expected an image of at least one pixel");
    STD_TORCH_CHECK(output_padding[d] < stride[d], "output_padding: expected less than stride, got ",
                    output_padding[d]);
    shape.stride[i] = stride[d];
    shape.padding[i] = padding[d];
    shape.result[i] = (size - 1) * stride[d] - 2 * padding[d] + kernel + output_padding[d];
    STD_TORCH_CHECK(shape.result[i] > 0, "padding: expected a result of at least one pixel, got ", padding[d]);
  }
  for (int i = 0; i < 4; ++i) shape.strides[i] = weight.stride(i);
  return shape;
}

Tensor conv_transpose2d_weight_cpu(const Tensor& weight_any) {
  check_floating(weight_any, "weight");
  STD_TORCH_CHECK(weight_any.dim() == 4, "weight: expected shape (I, O, KH, KW)");
  const Tensor weight = as_contiguous(weight_any);
  Tensor to = empty(weight, shape_of(weight), weight.scalar_type(), true);
  const int64_t I = weight.size(0), O = weight.size(1), taps = weight.size(2) * weight.size(3);
  FG_DISPATCH_FLOATING(weight, "conv_transpose2d_weight", {
    torch::stable::parallel_for(0, I, ceil_div(kGrain, std::max<int64_t>(1, O * taps)),
                                [&](int64_t first, int64_t last) {
                                  taps_first(first, last, O, taps, data<scalar_t>(weight), mutable_data<scalar_t>(to));
                                });
  });
  return to;
}

template <typename T, typename W>
void to_products(const TransposedConvolution& shape, const Tensor& x, const Tensor& weight, const Tensor* bias,
                 Tensor& y) {
  std::vector<T> row;  // the bias as the sums' results
  for (int64_t o = 0; bias && o < shape.O; ++o) row.push_back(from_float<T>(to_float(data<W>(*bias)[o])));
  const TransposedProducts<T, W> products(shape);
  torch::stable::parallel_for(0, products.items(), 1, [&](int64_t first, int64_t last) {
    products.run(first, last, data<T>(x), data<W>(weight), bias ? row.data() : nullptr, mutable_data<T>(y));
  });
}

Tensor conv_transpose2d_products_cpu(const Tensor& x_any, const Tensor& weight, std::optional<Tensor> bias,
                                     std::vector<int64_t> stride, std::vector<int64_t> padding,
                                     std::vector<int64_t> output_padding) {
  check_numbers(x_any, "x");
  const bool pairs = x_any.scalar_type() == ScalarType::BFloat16;
  const bool rounds = pairs && weight.scalar_type() == ScalarType::Float;
  const TransposedConvolution shape =
      checked_shape(x_any, weight, bias, stride, padding, output_padding, weight.scalar_type());
  STD_TORCH_CHECK(rounds || weight.scalar_type() == x_any.scalar_type(), "weight: expected the dtype of x, or float32");
  STD_TORCH_CHECK(!pairs || shape.I % 2 == 0, "x: expected an even number of channels in bfloat16, got ", shape.I);
  Tensor y = empty(x_any, {shape.N, shape.O, shape.result[0], shape.result[1]}, x_any.scalar_type(), true);
  if (shape.N == 0) return y;
  const Tensor x = in_layout(x_any, true), row = bias ? as_contiguous(*bias) : x;
  const Tensor* const added = bias ? &row : nullptr;
  if (rounds)
    to_products<bfloat16, float>(shape, x, weight, added, y);
  else
    with_numbers(x, [&](auto number) { to_products<decltype(number), decltype(number)>(shape, x, weight, added, y); });
  return y;
}

template <typename T>
void to_image(const TransposedConvolution& shape, const Tensor& x, const Tensor& weight, const Tensor* bias,
              Pointwise activation, float slope, Tensor& y) {
  const TransposedImage<Storage<T>> image(shape, data<T>(weight), bias ? data<T>(*bias) : nullptr, activation, slope);
  torch::stable::parallel_for(0, image.items(), kRowsOfBlocks, [&](int64_t first, int64_t last) {
    image.run(first, last, data<T>(x), mutable_data<T>(y));
  });
}

Tensor conv_transpose2d_image_cpu(const Tensor& x_any, const Tensor& weight, std::optional<Tensor> bias,
                                  std::vector<int64_t> stride, std::vector<int64_t> padding,
                                  std::vector<int64_t> output_padding, Text activation_name, double slope) {
  check_floating(x_any, "x");
  STD_TORCH_CHECK(x_any.scalar_type() != ScalarType::Double, "x: expected float32, float16 or bfloat16");
  const TransposedConvolution shape =
      checked_shape(x_any, weight, bias, stride, padding, output_padding, x_any.scalar_type());
  STD_TORCH_CHECK(checked_multiply(shape.phases(), shape.O) <= kMostColumns, "stride: expected at most ", kMostColumns,
                  " numbers of a block");
  const Pointwise activation = checked_pointwise(activation_name);
  Tensor y = empty(x_any, {shape.N, shape.O, shape.result[0], shape.result[1]});
  if (shape.N == 0) return y;
  const Tensor x = in_layout(x_any, true);
  const Tensor row = bias ? as_contiguous(*bias) : x;
  FG_DISPATCH_FLOATING(x, "conv_transpose2d_image",
                       to_image<scalar_t>(shape, x, weight, bias ? &row : nullptr, activation, float(slope), y));
  return y;
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("conv_transpose2d_image", TORCH_BOX(&conv_transpose2d_image_cpu));
  m.impl("conv_transpose2d_weight", TORCH_BOX(&conv_transpose2d_weight_cpu));
  m.impl("conv_transpose2d_products", TORCH_BOX(&conv_transpose2d_products_cpu));
}

}  // namespace fastgen
