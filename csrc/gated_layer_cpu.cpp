// gated_layer on the CPU, float32 or bfloat16 in channels_last, weights in float32: forward by pixels, backward by
// images.
#include "gated_layer_cpu.h"

#include "masked_tensors.h"

namespace fastgen {
namespace {

struct Weights {
  GatedLayerTaps taps;
  Tensor vertical, link, horizontal, out;  // cropped
  std::optional<Tensor> bias_vertical, bias_link, bias_horizontal, bias_out, class_above, class_here;

  GatedLayerWeights pointers() const {
    return {data<float>(vertical),   numbers(bias_vertical),   data<float>(link), numbers(bias_link),
            data<float>(horizontal), numbers(bias_horizontal), data<float>(out),  numbers(bias_out),
            numbers(class_above),    numbers(class_here)};
  }
};

// Of the four convolutions, checked against h.
Weights checked_weights(const Tensor& h, const Tensor& vertical, const Tensor& link, const Tensor& horizontal,
                        const Tensor& out, int64_t color_groups, const std::string& groups_order) {
  check_numbers(h, "h");
  STD_TORCH_CHECK(vertical.dim() == 4 && vertical.size(2) > 0 && vertical.size(3) % 2 == 1,
                  "vertical: expected shape (2p, p, R, K), K odd");
  const int64_t p = h.size(1), rows = vertical.size(2), K = vertical.size(3);
  const bool interleaved = checked_order(groups_order);
  STD_TORCH_CHECK(p > 0, "h: expected channels");
  STD_TORCH_CHECK(color_groups > 0 && p % color_groups == 0, "color_groups: expected a divisor of the channels, got ",
                  color_groups);
  const std::vector<int64_t> of_vertical = {2 * p, p, rows, K}, of_link = {2 * p, 2 * p, 1, 1},
                             of_horizontal = {2 * p, p, 1, K}, of_out = {p, p, 1, 1};
  check_tensor(vertical, "vertical", of_vertical, ScalarType::Float, h);
  check_tensor(link, "link", of_link, ScalarType::Float, h);
  check_tensor(horizontal, "horizontal", of_horizontal, ScalarType::Float, h);
  check_tensor(out, "out", of_out, ScalarType::Float, h);
  const GatedLayerTaps taps(p, rows, K, color_groups, interleaved);
  return {taps,
          as_contiguous(vertical),
          as_contiguous(link),
          cropped(horizontal, taps.horizontal),
          cropped(out, taps.out),
          {},
          {},
          {},
          {},
          {},
          {}};
}

std::optional<Tensor> checked_class(const std::optional<Tensor>& numbers, const char* name, const Tensor& h) {
  if (!numbers) return std::nullopt;
  check_tensor(*numbers, name, std::vector<int64_t>{h.size(0), 2 * h.size(1)}, ScalarType::Float, h);
  return as_contiguous(*numbers);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gated_layer_cpu(
    const Tensor& v_any, const Tensor& h_any, const Tensor& vertical, std::optional<Tensor> bias_vertical,
    const Tensor& link, std::optional<Tensor> bias_link, const Tensor& horizontal,
    std::optional<Tensor> bias_horizontal, const Tensor& out, std::optional<Tensor> bias_out,
    std::optional<Tensor> class_above, std::optional<Tensor> class_here, int64_t color_groups, Text groups_order,
    bool save) {
  Weights weights = checked_weights(h_any, vertical, link, horizontal, out, color_groups, groups_order);
  check_same(v_any, "v", h_any);
  const Tensor v = in_layout(v_any, true), h = in_layout(h_any, true);
  const int64_t N = h.size(0), p = h.size(1), H = h.size(2), W = h.size(3);
  weights.bias_vertical = checked_bias(bias_vertical, "bias_vertical", 2 * p, h);
  weights.bias_link = checked_bias(bias_link, "bias_link", 2 * p, h);
  weights.bias_horizontal = checked_bias(bias_horizontal, "bias_horizontal", 2 * p, h);
  weights.bias_out = checked_bias(bias_out, "bias_out", p, h);
  weights.class_above = checked_class(class_above, "class_above", h);
  weights.class_here = checked_class(class_here, "class_here", h);
  const std::vector<int64_t> narrow = {N, p, H, W}, wide = {N, 2 * p, H, W};
  const auto image = [&](const std::vector<int64_t>& sizes) { return empty(h, sizes, h.scalar_type(), true); };
  Tensor next_v = image(narrow), next_h = image(narrow), above = save ? image(wide) : empty(h, {0}),
         factors = save ? image(wide) : empty(h, {0});
  if (h.numel() == 0) return {next_v, next_h, above, factors};
  with_numbers(h, [&](auto number) {
    using T = decltype(number);
    const GatedLayerProducts<T> layer(GatedLayerShapes(N, H, W, weights.taps), weights.pointers());
    torch::stable::parallel_for(0, N * H * W, 8 * kGemmBlock, [&](int64_t first, int64_t last) {
      layer.run(first, last, data<T>(v), data<T>(h), mutable_data<T>(next_v), mutable_data<T>(next_h),
                save ? mutable_data<T>(above) : nullptr, save ? mutable_data<T>(factors) : nullptr);
    });
  });
  return {next_v, next_h, above, factors};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
gated_layer_backward_cpu(std::optional<Tensor> grad_v_any, const Tensor& grad_h_any, const Tensor& v_any,
                         const Tensor& h_any, const Tensor& above_any, const Tensor& factors_any,
                         const Tensor& vertical, const Tensor& link, const Tensor& horizontal, const Tensor& out,
                         int64_t color_groups, Text groups_order) {
  const Weights weights = checked_weights(h_any, vertical, link, horizontal, out, color_groups, groups_order);
  const GatedLayerTaps& taps = weights.taps;
  const int64_t N = h_any.size(0), p = h_any.size(1), H = h_any.size(2), W = h_any.size(3);
  const std::vector<int64_t> wide = {N, 2 * p, H, W};
  if (grad_v_any) check_same(*grad_v_any, "grad_v", h_any);
  check_same(grad_h_any, "grad_h", h_any);
  check_same(v_any, "v", h_any);
  check_tensor(above_any, "above", wide, h_any.scalar_type(), h_any);
  check_tensor(factors_any, "factors", wide, h_any.scalar_type(), h_any);
  const Tensor v = in_layout(v_any, true), h = in_layout(h_any, true), above = in_layout(above_any, true),
               factors = in_layout(factors_any, true), grad_h = in_layout(grad_h_any, true);
  const Tensor grad_v = grad_v_any ? in_layout(*grad_v_any, true) : h;
  Tensor found_v = empty(h, {N, p, H, W}, h.scalar_type(), true),
         found_h = empty(h, {N, p, H, W}, h.scalar_type(), true), class_above = empty(out, {N, 2 * p}),
         class_here = empty(out, {N, 2 * p}), grad_vertical = empty(out, shape_of(weights.vertical)),
         grad_link = empty(out, shape_of(weights.link)), grad_horizontal = empty(out, shape_of(weights.horizontal)),
         grad_out = empty(out, shape_of(weights.out)), bias_vertical = empty(out, {2 * p}),
         bias_link = empty(out, {2 * p}), bias_horizontal = empty(out, {2 * p}), bias_out = empty(out, {p});
  if (h.numel() == 0) torch::stable::zero_(class_above), torch::stable::zero_(class_here);  // images without pixels
  with_numbers(h, [&](auto number) {
    using T = decltype(number);
    GatedLayerGradients<T> gradients(GatedLayerShapes(N, H, W, taps), weights.pointers());
    const GatedLayerKept<T> kept{grad_v_any ? data<T>(grad_v) : nullptr,
                                 data<T>(grad_h),
                                 data<T>(v),
                                 data<T>(h),
                                 data<T>(above),
                                 data<T>(factors)};
    const GatedLayerFound<T> found{mutable_data<T>(found_v), mutable_data<T>(found_h), mutable_data<float>(class_above),
                                   mutable_data<float>(class_here)};
    torch::stable::parallel_for(0, h.numel() ? gradients.parts() : 0, 1,
                                [&](int64_t first, int64_t last) { gradients.add(first, last, kept, found); });
    gradients.vertical.finish(mutable_data<float>(grad_vertical), mutable_data<float>(bias_vertical));
    gradients.link.finish(mutable_data<float>(grad_link), mutable_data<float>(bias_link));
    gradients.horizontal.finish(mutable_data<float>(grad_horizontal), mutable_data<float>(bias_horizontal));
    gradients.out.finish(mutable_data<float>(grad_out), mutable_data<float>(bias_out));
  });
  return {found_v,
          found_h,
          grad_vertical,
          bias_vertical,
          grad_link,
          bias_link,
          uncropped(grad_horizontal, taps.horizontal),
          bias_horizontal,
          uncropped(grad_out, taps.out),
          bias_out,
          class_above,
          class_here};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("gated_layer", TORCH_BOX(&gated_layer_cpu));
  m.impl("gated_layer_backward", TORCH_BOX(&gated_layer_backward_cpu));
}

}  // namespace fastgen
