// residual_block on the CPU, float32 or bfloat16 in channels_last, weights in float32: by images where there are as
// many as threads, else by pixels.
#include "residual_block_cpu.h"

#include "masked_tensors.h"

namespace fastgen {
namespace {

struct Weights {
  ResidualBlockTaps taps;
  Tensor down, around, up;  // cropped
  std::optional<Tensor> bias_down, bias_around, bias_up;

  ResidualBlockWeights pointers() const {
    return {data<float>(down),    numbers(bias_down), data<float>(around),
            numbers(bias_around), data<float>(up),    numbers(bias_up)};
  }
};

ResidualBlockTaps checked_taps(const Tensor& x, const Tensor& down, const Tensor& weight, const Tensor& up,
                               int64_t color_groups, const std::string& groups_order) {
  check_numbers(x, "x");
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) % 2 == 1 && weight.size(3) % 2 == 1,
                  "weight: expected shape (M, M, KH, KW), KH and KW odd");
  const bool interleaved = checked_order(groups_order);
  const int64_t C = x.size(1), M = weight.size(0);
  STD_TORCH_CHECK(C > 0 && M > 0, "weight: expected channels on both sides");
  STD_TORCH_CHECK(color_groups > 0 && C % color_groups == 0 && M % color_groups == 0,
                  "color_groups: expected a divisor of the channels on both sides, got ", color_groups);
  const std::vector<int64_t> in = {M, C, 1, 1}, between = {M, M, weight.size(2), weight.size(3)}, out = {C, M, 1, 1};
  check_tensor(down, "down", in, ScalarType::Float, x);
  check_tensor(weight, "weight", between, ScalarType::Float, x);
  check_tensor(up, "up", out, ScalarType::Float, x);
  return {C, M, weight.size(2), weight.size(3), color_groups, interleaved};
}

template <typename T>
void run(const ResidualBlockProducts<T>& block, int64_t N, int64_t image, const T* x, T* below, T* around, T* y) {
  if (N >= int64_t(torch::stable::get_num_threads())) {
    return torch::stable::parallel_for(0, N, 1, [&](int64_t first, int64_t last) {
      for (int64_t n = first; n < last; ++n) block.run(n, x, below, around, y);
    });
  }
  const int64_t pixels = N * image, grain = 8 * kGemmBlock;
  torch::stable::parallel_for(0, pixels, grain, [&](int64_t at, int64_t end) { block.run_down(at, end, x, below); });
  torch::stable::parallel_for(0, pixels, grain,
                              [&](int64_t at, int64_t end) { block.run_around(at, end, below, around); });
  torch::stable::parallel_for(0, pixels, grain, [&](int64_t at, int64_t end) { block.run_up(at, end, around, x, y); });
}

std::tuple<Tensor, Tensor, Tensor> residual_block_cpu(const Tensor& x_any, const Tensor& down,
                                                      std::optional<Tensor> bias_down, const Tensor& weight,
                                                      std::optional<Tensor> bias, const Tensor& up,
                                                      std::optional<Tensor> bias_up, int64_t color_groups,
                                                      Text groups_order) {
  const ResidualBlockTaps taps = checked_taps(x_any, down, weight, up, color_groups, groups_order);
  const int64_t N = x_any.size(0), C = taps.down.I, M = taps.down.O, H = x_any.size(2), W = x_any.size(3);
  const Tensor x = in_layout(x_any, true);
  Tensor y = empty(x, {N, C, H, W}, x.scalar_type(), true), below = empty(x, {N, M, H, W}, x.scalar_type(), true),
         around = empty(x, {N, M, H, W}, x.scalar_type(), true);
  const Weights weights{taps,
                        cropped(down, taps.down),
                        cropped(weight, taps.around),
                        cropped(up, taps.up),
                        checked_bias(bias_down, "bias_down", M, x),
                        checked_bias(bias, "bias", M, x),
                        checked_bias(bias_up, "bias_up", C, x)};
  if (x.numel() == 0) return {y, below, around};
  with_numbers(x, [&](auto number) {
    using T = decltype(number);
    run(ResidualBlockProducts<T>(ResidualBlockShapes(N, H, W, taps), weights.pointers()), N, H * W, data<T>(x),
        mutable_data<T>(below), mutable_data<T>(around), mutable_data<T>(y));
  });
  return {y, below, around};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> residual_block_backward_cpu(
    const Tensor& grad_y_any, const Tensor& x_any, const Tensor& below_any, const Tensor& around_any,
    const Tensor& down, const Tensor& weight, const Tensor& up, int64_t color_groups, Text groups_order) {
  const ResidualBlockTaps taps = checked_taps(x_any, down, weight, up, color_groups, groups_order);
  const int64_t N = x_any.size(0), C = taps.down.I, M = taps.down.O, H = x_any.size(2), W = x_any.size(3);
  const std::vector<int64_t> between = {N, M, H, W};
  check_same(grad_y_any, "grad_y", x_any);
  check_tensor(below_any, "below", between, x_any.scalar_type(), x_any);
  check_tensor(around_any, "around", between, x_any.scalar_type(), x_any);
  const Tensor x = in_layout(x_any, true), grad_y = in_layout(grad_y_any, true), below = in_layout(below_any, true),
               around = in_layout(around_any, true);
  const Weights weights{taps, cropped(down, taps.down), cropped(weight, taps.around), cropped(up, taps.up), {}, {}, {}};
  Tensor grad_x = empty(x, {N, C, H, W}, x.scalar_type(), true), grad_bias_down = empty(down, {M}),
         grad_bias = empty(down, {M}), grad_bias_up = empty(down, {C}), grad_down = empty(down, shape_of(weights.down)),
         grad_weight = empty(down, shape_of(weights.around)), grad_up = empty(down, shape_of(weights.up));
  with_numbers(x, [&](auto number) {
    using T = decltype(number);
    ResidualBlockGradients<T> gradients(ResidualBlockShapes(N, H, W, taps), weights.pointers());
    torch::stable::parallel_for(0, x.numel() ? gradients.parts() : 0, 1, [&](int64_t first, int64_t last) {
      gradients.add(first, last, data<T>(grad_y), data<T>(x), data<T>(below), data<T>(around), mutable_data<T>(grad_x));
    });
    gradients.down.finish(mutable_data<float>(grad_down), mutable_data<float>(grad_bias_down));
    gradients.around.finish(mutable_data<float>(grad_weight), mutable_data<float>(grad_bias));
    gradients.up.finish(mutable_data<float>(grad_up), mutable_data<float>(grad_bias_up));
  });
  return {grad_x,    uncropped(grad_down, taps.down), grad_bias_down, uncropped(grad_weight, taps.around),
          grad_bias, uncropped(grad_up, taps.up),     grad_bias_up};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("residual_block", TORCH_BOX(&residual_block_cpu));
  m.impl("residual_block_backward", TORCH_BOX(&residual_block_backward_cpu));
}

}  // namespace fastgen
