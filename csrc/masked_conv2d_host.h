// masked_conv2d, the part that CPU and CUDA share: crop the weight to its live taps, let torch convolve, run our
// epilogue.
#pragma once

#include <array>
#include <optional>

#include "masked_conv2d.h"
#include "tensor_utils.h"

namespace fastgen {

struct MaskedConv2dOptions {
  TapMask taps;
  Activation activation;

  MaskedConv2dOptions(const Tensor& weight, const std::string& mask, const std::string& name, int64_t color_groups,
                      const std::string& groups_order)
      : taps{weight.size(0), weight.size(1),  weight.size(2), weight.size(3),
             mask == "B",    name == "gated", color_groups,   groups_order == "interleaved"},
        activation(name == "relu"         ? Activation::kRelu
                   : name == "elu"        ? Activation::kElu
                   : name == "concat_elu" ? Activation::kConcatElu
                   : name == "gated"      ? Activation::kGated
                                          : Activation::kNone) {}
};

// ---- torch's convolution, through the dispatcher

inline std::vector<Tensor> call_aten(const char* name, StableIValue* stack, size_t results) {
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack, TORCH_ABI_VERSION));
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < results; ++i) tensors.push_back(torch::stable::detail::to<Tensor>(stack[i]));
  return tensors;
}

inline Tensor convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  using torch::stable::detail::from;
  const std::vector<int64_t> one = {1, 1}, zero = {0, 0};
  StableIValue stack[] = {from(x),   from(weight), from(bias), from(one),       from(zero),
                          from(one), from(false),  from(zero), from(int64_t(1))};
  return call_aten("aten::convolution", stack, 1)[0];
}

// Gradients of x, weight and bias; those that `wanted` leaves out are undefined.
inline std::vector<Tensor> convolve_backward(const Tensor& grad_pre, const Tensor& x, const Tensor& weight,
                                             const std::vector<bool>& wanted) {
  using torch::stable::detail::from;
  const std::vector<int64_t> one = {1, 1}, zero = {0, 0};
  const std::optional<std::vector<int64_t>> bias_sizes = std::vector<int64_t>{weight.size(0)};
  const std::array<bool, 3> mask = {wanted[0], wanted[1], wanted[2]};
  StableIValue stack[] = {from(grad_pre),
                          from(x),
                          from(weight),
                          from(bias_sizes),
                          from(one),
                          from(zero),
                          from(one),
                          from(false),
                          from(zero),
                          from(int64_t(1)),
                          from(torch::headeronly::HeaderOnlyArrayRef<bool>(mask.data(), mask.size()))};
  return call_aten("aten::convolution_backward", stack, 3);
}

// ---- memory

inline bool is_channels_last(const Tensor& x) {  // and not contiguous as well: the layout contract of the op
  if (x.is_contiguous()) return false;
  int64_t expected = 1;
  for (int dim : {1, 3, 2, 0}) {
    if (x.size(dim) == 1) continue;
    if (x.stride(dim) != expected) return false;
    expected *= x.size(dim);
  }
  return true;
}

inline torch::headeronly::MemoryFormat memory_format(bool channels_last) {
  return channels_last ? torch::headeronly::MemoryFormat::ChannelsLast : torch::headeronly::MemoryFormat::Contiguous;
}

inline Tensor in_layout(const Tensor& tensor, bool channels_last) {
  return torch::stable::contiguous(tensor, memory_format(channels_last));
}

inline Tensor empty_in_layout(const Tensor& like, const std::vector<int64_t>& sizes, bool channels_last) {
  return empty(like, sizes, like.scalar_type(), channels_last);
}

inline Tensor nothing(const Tensor& like) { return empty(like, {0}); }  // stands for a result that was not asked for

// The image with zeros above, left and right, so that no convolution has to pad.
inline Tensor pad_image(const Tensor& x, const Crop& crop) {
  if (crop.top + crop.left + crop.right == 0) return x;
  const std::vector<int64_t> padding = {crop.left, crop.right, crop.top, 0};
  return torch::stable::pad(x, padding, "constant", 0.0);
}

// ---- the op; Kernels has crop_weight, uncrop_weight, epilogue and epilogue_backward for one device

template <class Kernels>
std::tuple<Tensor, Tensor> masked_conv2d_on(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                                            const std::optional<Tensor>& residual, const MaskedConv2dOptions& options,
                                            bool save_preactivation) {
  STD_TORCH_CHECK(x.dim() == 4 && weight.dim() == 4 && x.size(1) == options.taps.I, "x: expected (N, I, H, W)");
  STD_TORCH_CHECK(x.scalar_type() == weight.scalar_type(), "weight: expected the dtype of x");
  const bool channels_last = is_channels_last(x);
  const bool plain = options.activation == Activation::kNone;
  const int64_t N = x.size(0), O = options.taps.O, H = x.size(2), W = x.size(3);
  const std::vector<int64_t> sizes = {N, result_channels(options.activation, O), H, W};
  STD_TORCH_CHECK(!residual || shape_of(*residual) == sizes, "residual: expected the shape of the result");
  if (N * O * H * W == 0) {
    Tensor pre = save_preactivation && !plain ? empty_in_layout(x, {N, O, H, W}, channels_last) : nothing(x);
    return {empty_in_layout(x, sizes, channels_last), pre};
  }
  const Crop crop(options.taps);
  const Tensor cropped = Kernels::crop_weight(as_contiguous(weight), options.taps, crop);
  const bool conv_adds_bias = Kernels::kConvolutionAddsBias || (plain && !residual);
  Tensor conv = in_layout(convolve(pad_image(x, crop), cropped, conv_adds_bias ? bias : std::nullopt), channels_last);
  if (plain && !residual) return {conv, nothing(x)};

  Tensor y = empty_in_layout(x, sizes, channels_last);
  const bool keep_pre = save_preactivation && !plain;
  std::optional<Tensor> rest, late_bias;
  if (residual) rest = in_layout(*residual, channels_last);
  if (bias && !conv_adds_bias) late_bias = as_contiguous(*bias);
  Kernels::epilogue(conv, keep_pre, late_bias, rest, options.activation, channels_last, y);
  return {y, keep_pre ? conv : nothing(x)};
}

template <class Kernels>
std::tuple<Tensor, Tensor, Tensor> masked_conv2d_backward_on(const Tensor& grad_y_any, const Tensor& preactivation,
                                                             const Tensor& x, const Tensor& weight,
                                                             const MaskedConv2dOptions& options,
                                                             const std::vector<bool>& wanted) {
  const bool channels_last = is_channels_last(x);
  const int64_t N = x.size(0), O = options.taps.O, I = options.taps.I, H = x.size(2), W = x.size(3);
  const std::vector<int64_t> sizes = {N, result_channels(options.activation, O), H, W}, pre_sizes = {N, O, H, W};
  STD_TORCH_CHECK(shape_of(grad_y_any) == sizes, "grad_y: expected the shape of the result");
  Tensor grad_x = nothing(x), grad_weight = nothing(x), grad_bias = nothing(x);
  if (N * O * I * H * W == 0) {
    const std::vector<int64_t> bias_sizes = {O};
    if (wanted[0]) torch::stable::zero_(grad_x = empty_in_layout(x, shape_of(x), channels_last));
    if (wanted[1]) grad_weight = torch::stable::new_zeros(weight, shape_of(weight));
    if (wanted[2]) grad_bias = torch::stable::new_zeros(weight, bias_sizes);
    return {grad_x, grad_weight, grad_bias};
  }
  Tensor grad_pre = in_layout(grad_y_any, channels_last);
  if (options.activation != Activation::kNone) {
    STD_TORCH_CHECK(shape_of(preactivation) == pre_sizes, "preactivation: expected shape (N, O, H, W)");
    const Tensor grad_y = grad_pre;
    grad_pre = empty_in_layout(x, pre_sizes, channels_last);
    Kernels::epilogue_backward(grad_y, in_layout(preactivation, channels_last), options.activation, channels_last,
                               grad_pre);
  }
  const Crop crop(options.taps);
  const Tensor cropped = Kernels::crop_weight(as_contiguous(weight), options.taps, crop);
  const std::vector<Tensor> grads = convolve_backward(grad_pre, pad_image(x, crop), cropped, wanted);
  if (wanted[0]) {
    Tensor inner = torch::stable::narrow(const_cast<Tensor&>(grads[0]), 2, crop.top, H);
    grad_x = in_layout(torch::stable::narrow(inner, 3, crop.left, W), channels_last);
  }
  if (wanted[1]) grad_weight = Kernels::uncrop_weight(as_contiguous(grads[1]), options.taps, crop);
  if (wanted[2]) grad_bias = grads[2];
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace fastgen
