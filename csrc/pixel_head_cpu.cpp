// pixel_head on the CPU, float32 or bfloat16 in channels_last, weights in float32: forward by pixels, backward by
// images.
#include "pixel_head_cpu.h"

#include "masked_tensors.h"

namespace fastgen {
namespace {

struct Weights {
  PixelHeadTaps taps;
  Tensor hidden, output;  // cropped
  std::optional<Tensor> bias_hidden, bias_output;

  PixelHeadWeights pointers() const {
    return {data<float>(hidden), numbers(bias_hidden), data<float>(output), numbers(bias_output)};
  }
};

// Of both convolutions, checked against x.
Weights checked_weights(const Tensor& x, const Tensor& hidden, const Tensor& output, int64_t color_groups,
                        const std::string& groups_order) {
  check_numbers(x, "x");
  STD_TORCH_CHECK(hidden.dim() == 4, "hidden: expected shape (M, C, 1, 1)");
  STD_TORCH_CHECK(output.dim() == 4, "output: expected shape (P, M, 1, 1)");
  const int64_t C = x.size(1), M = hidden.size(0), P = output.size(0);
  const bool interleaved = checked_order(groups_order);
  STD_TORCH_CHECK(C > 0 && M > 0 && P > 0, "hidden: expected channels on all sides");
  STD_TORCH_CHECK(color_groups > 0 && C % color_groups == 0 && M % color_groups == 0 && P % color_groups == 0,
                  "color_groups: expected a divisor of the channels on all sides, got ", color_groups);
  const std::vector<int64_t> of_hidden = {M, C, 1, 1}, of_output = {P, M, 1, 1};
  check_tensor(hidden, "hidden", of_hidden, ScalarType::Float, x);
  check_tensor(output, "output", of_output, ScalarType::Float, x);
  const PixelHeadTaps taps(C, M, P, color_groups, interleaved);
  return {taps, cropped(hidden, taps.hidden), cropped(output, taps.output), {}, {}};
}

std::tuple<Tensor, Tensor> pixel_head_cpu(const Tensor& x_any, const Tensor& hidden, std::optional<Tensor> bias_hidden,
                                          const Tensor& output, std::optional<Tensor> bias_output, int64_t color_groups,
                                          Text groups_order, bool save) {
  Weights weights = checked_weights(x_any, hidden, output, color_groups, groups_order);
  const int64_t N = x_any.size(0), H = x_any.size(2), W = x_any.size(3), M = hidden.size(0), P = output.size(0);
  weights.bias_hidden = checked_bias(bias_hidden, "bias_hidden", M, x_any);
  weights.bias_output = checked_bias(bias_output, "bias_output", P, x_any);
  const Tensor x = in_layout(x_any, true);
  Tensor y = empty(x, {N, P, H, W}, x.scalar_type(), true),
         between = save ? empty(x, {N, M, H, W}, x.scalar_type(), true) : empty(x, {0});
  if (x.numel() == 0) return {y, between};
  with_numbers(x, [&](auto number) {
    using T = decltype(number);
    const PixelHeadProducts<T> head(PixelHeadShapes(N, H, W, weights.taps), weights.pointers());
    torch::stable::parallel_for(0, N * H * W, 8 * kGemmBlock, [&](int64_t first, int64_t last) {
      head.run(first, last, data<T>(x), save ? mutable_data<T>(between) : nullptr, mutable_data<T>(y));
    });
  });
  return {y, between};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> pixel_head_backward_cpu(const Tensor& grad_y_any,
                                                                           const Tensor& x_any,
                                                                           const Tensor& between_any,
                                                                           const Tensor& hidden, const Tensor& output,
                                                                           int64_t color_groups, Text groups_order) {
  const Weights weights = checked_weights(x_any, hidden, output, color_groups, groups_order);
  const int64_t N = x_any.size(0), C = x_any.size(1), H = x_any.size(2), W = x_any.size(3), M = hidden.size(0),
                P = output.size(0);
  const std::vector<int64_t> of_y = {N, P, H, W}, of_between = {N, M, H, W};
  check_tensor(grad_y_any, "grad_y", of_y, x_any.scalar_type(), x_any);
  check_tensor(between_any, "between", of_between, x_any.scalar_type(), x_any);
  const bool planes = grad_y_any.is_contiguous() && P > 1;
  const Tensor x = in_layout(x_any, true), grad_y = planes ? grad_y_any : in_layout(grad_y_any, true),
               between = in_layout(between_any, true);
  Tensor grad_x = empty(x, {N, C, H, W}, x.scalar_type(), true), grad_hidden = empty(hidden, shape_of(weights.hidden)),
         grad_bias_hidden = empty(hidden, {M}), grad_output = empty(hidden, shape_of(weights.output)),
         grad_bias_output = empty(hidden, {P});
  with_numbers(x, [&](auto number) {
    using T = decltype(number);
    PixelHeadGradients<T> gradients(PixelHeadShapes(N, H, W, weights.taps), weights.pointers());
    torch::stable::parallel_for(0, x.numel() ? gradients.parts() : 0, 1, [&](int64_t first, int64_t last) {
      gradients.add(first, last, data<T>(grad_y), planes, data<T>(x), data<T>(between), mutable_data<T>(grad_x));
    });
    gradients.hidden.finish(mutable_data<float>(grad_hidden), mutable_data<float>(grad_bias_hidden));
    gradients.output.finish(mutable_data<float>(grad_output), mutable_data<float>(grad_bias_output));
  });
  return {grad_x, uncropped(grad_hidden, weights.taps.hidden), grad_bias_hidden,
          uncropped(grad_output, weights.taps.output), grad_bias_output};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("pixel_head", TORCH_BOX(&pixel_head_cpu));
  m.impl("pixel_head_backward", TORCH_BOX(&pixel_head_backward_cpu));
}

}  // namespace fastgen
