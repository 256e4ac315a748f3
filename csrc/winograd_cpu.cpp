// winograd_to_small, _to_large and _to_weight on the CPU: from tensors to what their headers compute.
#include <optional>

#include "tensor_utils.h"
#include "winograd_weight_cpu.h"

namespace fastgen {
namespace {

constexpr int64_t kTilesOfThread = 6;  // worth a thread's while

Halving checked_halving(const Tensor& image, int64_t S, int64_t L, bool is_large) {
  STD_TORCH_CHECK(image.dim() == 4 && image.scalar_type() == ScalarType::Float && image.size(1) == (is_large ? L : S),
                  is_large ? "large" : "small", ": expected (N, ", is_large ? L : S, ", H, W) in float32");
  STD_TORCH_CHECK(S > 0 && L > 0 && S % kChannels == 0 && L % kChannels == 0 && S < kMost && L < kMost,
                  "weight: expected channels that are a multiple of ", kChannels, ", got ", S, " and ", L);
  const int64_t H = image.size(2), W = image.size(3);
  STD_TORCH_CHECK(H > 0 && W > 0 && H < kMost && W < kMost, is_large ? "large" : "small",
                  ": expected an image of at least one pixel");
  if (!is_large) return {image.size(0), S, L, H, W};
  STD_TORCH_CHECK(H % 2 == 0 && W % 2 == 0, "large: expected even height and width, got ", H, " and ", W);
  return {image.size(0), S, L, H / 2, W / 2};
}

Halving checked_halving(const Tensor& image, const Tensor& weight, bool is_large) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 4 && weight.size(3) == 4, "weight: expected (S, L, 4, 4)");
  check_tensor(weight, "weight", weight.sizes(), ScalarType::Float, image);
  return checked_halving(image, weight.size(0), weight.size(1), is_large);
}

Tensor packed(const WinogradWeight& layout, const Tensor& weight_any) {
  const Tensor weight = as_contiguous(weight_any);
  Tensor found = empty(weight, {layout.size()});
  torch::stable::parallel_for(0, layout.items(), 1, [&](int64_t first, int64_t last) {
    layout.pack(first, last, data<float>(weight), mutable_data<float>(found));
  });
  return found;
}

template <typename Product>
void run(const Halving& shape, int64_t grain, const Tensor& image_any, const Tensor& weight_any,
         const std::optional<Tensor>& bias, LayerActivation activation, Tensor& result) {
  if (shape.N == 0) return;
  const int64_t threads = int64_t(torch::stable::get_num_threads());
  const Product product(shape, threads, activation);
  const Tensor image = in_layout(image_any, true), row = bias ? as_contiguous(*bias) : image;
  const float* const offsets = bias ? data<float>(row) : nullptr;
  float* const y = mutable_data<float>(result);
  if (!product.is_blocked(threads)) {
    const Tensor weight = packed(product.weight(), weight_any);
    torch::stable::parallel_for(0, product.items(), grain, [&](int64_t first, int64_t last) {
      product.run(first, last, data<float>(image), data<float>(weight), offsets, y);
    });
    return;
  }
  const TileNumbers inputs = product.inputs(shape.tiles());
  const Tensor weight = as_contiguous(weight_any);
  Tensor x = empty(image, {inputs.size()});
  float* const components = mutable_data<float>(x);
  torch::stable::parallel_for(0, shape.tiles(), kTilesOfThread, [&](int64_t first, int64_t last) {
    product.transform(first, last, data<float>(image), first, inputs, components);
  });
  torch::stable::parallel_for(0, product.blocks(), 1, [&](int64_t first, int64_t last) {
    product.run_blocks(first, last, components, data<float>(weight), offsets, y);
  });
}

Tensor winograd_to_small_cpu(const Tensor& large, const Tensor& weight, std::optional<Tensor> bias, Text activation,
                             double slope) {
  const Halving shape = checked_halving(large, weight, true);
  if (bias) check_tensor(*bias, "bias", std::vector<int64_t>{shape.S}, ScalarType::Float, large);
  Tensor small = empty(large, {shape.N, shape.S, shape.h, shape.w}, ScalarType::Float, true);
  run<WinogradToSmall>(shape, kTilesOfThread, large, weight, bias, checked_layer(activation, slope), small);
  return small;
}

Tensor winograd_to_large_cpu(const Tensor& small, const Tensor& weight, std::optional<Tensor> bias, Text activation,
                             double slope) {
  const Halving shape = checked_halving(small, weight, false);
  if (bias) check_tensor(*bias, "bias", std::vector<int64_t>{shape.L}, ScalarType::Float, small);
  Tensor large = empty(small, {shape.N, shape.L, 2 * shape.h, 2 * shape.w}, ScalarType::Float, true);
  run<WinogradToLarge>(shape, 1, small, weight, bias, checked_layer(activation, slope), large);
  return large;
}

Tensor winograd_to_weight_cpu(const Tensor& large_any, const Tensor& small_any) {
  STD_TORCH_CHECK(small_any.dim() == 4 && large_any.dim() == 4, "small: expected four dimensions of both images");
  const Halving shape = checked_halving(large_any, small_any.size(1), large_any.size(1), true);
  check_tensor(small_any, "small", std::vector<int64_t>{shape.N, shape.S, shape.h, shape.w}, ScalarType::Float,
               large_any);
  Tensor weight = empty(large_any, {shape.S, shape.L, 4, 4});
  const Tensor large = in_layout(large_any, true), small = in_layout(small_any, true);
  const WinogradToWeight product(shape);
  Tensor sums = empty(large, {product.sums_size()}), x = empty(large, {product.large_size()});
  Tensor y = empty(large, {product.small_size()});
  float *const added = mutable_data<float>(sums), *const rows = mutable_data<float>(x);
  float *const columns = mutable_data<float>(y), *const result = mutable_data<float>(weight);
  for (int64_t channel = 0; channel < shape.L; channel += product.block()) {
    const int64_t channels = std::min(product.block(), shape.L - channel);
    torch::stable::parallel_for(0, product.sums_size(), kGrain,
                                [&](int64_t first, int64_t last) { std::fill(added + first, added + last, 0.0f); });
    for (int64_t begin = 0; begin < shape.tiles(); begin += product.part()) {
      const int64_t tiles = std::min(product.part(), shape.tiles() - begin);
      torch::stable::parallel_for(0, tiles, kTilesOfThread, [&](int64_t first, int64_t last) {
        product.transform(begin, tiles, first, last, channel, channels, data<float>(large), data<float>(small), rows,
                          columns);
      });
      torch::stable::parallel_for(0, product.items(channels), 1, [&](int64_t first, int64_t last) {
        product.add(tiles, channels, first, last, rows, columns, added);
      });
    }
    torch::stable::parallel_for(0, channels, 1, [&](int64_t first, int64_t last) {
      product.finish(first, last, channel, channels, added, result);
    });
  }
  return weight;
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("winograd_to_small", TORCH_BOX(&winograd_to_small_cpu));
  m.impl("winograd_to_large", TORCH_BOX(&winograd_to_large_cpu));
  m.impl("winograd_to_weight", TORCH_BOX(&winograd_to_weight_cpu));
}

}  // namespace fastgen
