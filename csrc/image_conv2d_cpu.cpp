// image_conv2d on the CPU.
#include "image_conv2d_cpu.h"

#include "masked_tensors.h"

namespace fastgen {
namespace {

Tensor image_conv2d_cpu(const Tensor& x_any, const Tensor& weight, std::optional<Tensor> bias, Text mask,
                        int64_t color_groups, Text groups_order) {
  STD_TORCH_CHECK(x_any.dim() == 4 && x_any.scalar_type() == ScalarType::Float, "x: expected (N, I, H, W) in float32");
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) % 2 == 1 && weight.size(3) % 2 == 1,
                  "weight: expected shape (O, I, KH, KW), KH and KW odd");
  STD_TORCH_CHECK(mask == "A" || mask == "B", "mask: expected A or B, got ", mask);
  const bool interleaved = checked_order(groups_order);
  const TapMask taps{weight.size(0), weight.size(1), weight.size(2), weight.size(3),
                     mask == "B",    false,          color_groups,   interleaved};
  STD_TORCH_CHECK(taps.O > 0 && taps.I > 0, "weight: expected a channel on either side");
  STD_TORCH_CHECK(color_groups > 0 && taps.I % color_groups == 0 && taps.O % color_groups == 0,
                  "color_groups: expected a divisor of both channels, got ", color_groups);
  const int64_t N = x_any.size(0), H = x_any.size(2), W = x_any.size(3);
  const std::vector<int64_t> sizes = {N, taps.I, H, W};
  check_tensor(x_any, "x", sizes, ScalarType::Float, x_any);
  check_tensor(weight, "weight", shape_of(weight), ScalarType::Float, x_any);
  const std::optional<Tensor> row = checked_bias(bias, "bias", taps.O, x_any);
  const Tensor x = as_contiguous(x_any), live = cropped(weight, taps);
  Tensor y = empty(x, {N, taps.O, H, W}, ScalarType::Float, true);
  if (y.numel() == 0) return y;
  const ImageConv2dProduct product(ImageConv2dRuns(taps), H, W, data<float>(live), numbers(row));
  const int64_t grain = std::max<int64_t>(1, kGrain / (W * taps.O));
  torch::stable::parallel_for(0, N * H, grain, [&](int64_t first, int64_t last) {
    product.run(first, last, data<float>(x), mutable_data<float>(y));
  });
  return y;
}

}  // namespace

FG_KERNELS(CPU, m) { m.impl("image_conv2d", TORCH_BOX(&image_conv2d_cpu)); }

}  // namespace fastgen
