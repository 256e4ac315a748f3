// masked_conv2d on the CPU: the cropped kernel by oneDNN or as products of pixels; what follows is one vector loop.
#include <optional>
#include <utility>

#include "gated_activation_cpu.h"
#include "pixel_convolution.h"
#include "torch_convolution.h"

namespace fastgen {
namespace {

struct MaskedConv2dOptions {
  TapMask taps;
  Activation activation;

  MaskedConv2dOptions(const Tensor& weight, const std::string& mask, const std::string& name, int64_t color_groups,
                      const std::string& groups_order)
      : taps{weight.size(0), weight.size(1),  weight.size(2), weight.size(3),
             mask == "B",    name == "gated", color_groups,   groups_order == "interleaved"},
        activation(activation_of(name)) {
    STD_TORCH_CHECK(mask == "A" || mask == "B", "mask: expected 'A' or 'B', got ", mask);
    STD_TORCH_CHECK(groups_order == "contiguous" || groups_order == "interleaved",
                    "groups_order: expected 'contiguous' or 'interleaved', got ", groups_order);
    const int64_t half = taps.halves ? taps.O / 2 : taps.O;
    STD_TORCH_CHECK(taps.O > 0 && taps.I > 0, "weight: expected channels on both sides");
    STD_TORCH_CHECK(taps.KH % 2 == 1 && taps.KW % 2 == 1, "weight: expected odd kernel sizes");
    STD_TORCH_CHECK(!taps.halves || taps.O % 2 == 0, "weight: expected an even number of output channels for a gate");
    STD_TORCH_CHECK(color_groups > 0 && taps.I % color_groups == 0 && half % color_groups == 0,
                    "color_groups: expected a divisor of the channels on both sides, got ", color_groups);
  }

  static Activation activation_of(const std::string& name) {
    if (name == "none") return Activation::kNone;
    if (name == "relu") return Activation::kRelu;
    if (name == "elu") return Activation::kElu;
    if (name == "concat_elu") return Activation::kConcatElu;
    STD_TORCH_CHECK(name == "gated", "activation: expected none, relu, elu, concat_elu or gated, got ", name);
    return Activation::kGated;
  }

  // Sizes of the convolution's result, and of that of the op.
  std::vector<int64_t> pre_sizes(const Tensor& x) const { return {x.size(0), taps.O, x.size(2), x.size(3)}; }
  std::vector<int64_t> sizes(const Tensor& x) const {
    return {x.size(0), result_channels(activation, taps.O), x.size(2), x.size(3)};
  }
};

// x (N, I, H, W) and weight (O, I, KH, KW), which the options read before they check it.
void check_inputs(const Tensor& x, const Tensor& weight) {
  STD_TORCH_CHECK(weight.dim() == 4, "weight: expected shape (O, I, KH, KW)");
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) == weight.size(1), "x: expected shape (N, ", weight.size(1), ", H, W)");
  check_floating(x, "x");
  check_tensor(weight, "weight", weight.sizes(), x.scalar_type(), x);
}

// ---- memory

Tensor empty_in_layout(const Tensor& like, const std::vector<int64_t>& sizes, bool channels_last) {
  return empty(like, sizes, like.scalar_type(), channels_last);
}

// The image with zeros above, left and right, so that no convolution has to pad.
Tensor pad_image(const Tensor& x, const Crop& crop) {
  if (crop.top + crop.left + crop.right == 0) return x;
  const std::vector<int64_t> padding = {crop.left, crop.right, crop.top, 0};
  return torch::stable::pad(x, padding, "constant", 0.0);
}

// ---- vector loops; `residual` may be null

template <class F, typename T>
FG_VECTOR_CLONES void activate_run(int64_t count, const storage_t<T>* __restrict pre,
                                   const storage_t<T>* __restrict residual, storage_t<T>* __restrict y) {
  using S = Storage<T>;
  if (residual)
    for (int64_t i = 0; i < count; ++i) y[i] = S::store(F::forward(S::load(pre[i])) + S::load(residual[i]));
  else
    for (int64_t i = 0; i < count; ++i) y[i] = S::store(F::forward(S::load(pre[i])));
}

template <typename T>
FG_VECTOR_CLONES void relu_in_place(int64_t count, storage_t<T>* y) {
  using S = Storage<T>;
  for (int64_t i = 0; i < count; ++i) y[i] = S::store(Relu::forward(S::load(y[i])));
}

template <class F, typename T>
FG_VECTOR_CLONES void activate_backward_run(int64_t count, const storage_t<T>* __restrict grad_y,
                                            const storage_t<T>* __restrict pre, storage_t<T>* __restrict grad_pre) {
  using S = Storage<T>;
  for (int64_t i = 0; i < count; ++i) grad_pre[i] = S::store(F::backward(S::load(grad_y[i]), S::load(pre[i])));
}

template <typename T>
FG_VECTOR_CLONES void negated_elu_run(int64_t count, const storage_t<T>* __restrict pre,
                                      const storage_t<T>* __restrict residual, storage_t<T>* __restrict y) {
  using S = Storage<T>;
  if (residual)
    for (int64_t i = 0; i < count; ++i) y[i] = S::store(Elu::forward(-S::load(pre[i])) + S::load(residual[i]));
  else
    for (int64_t i = 0; i < count; ++i) y[i] = S::store(Elu::forward(-S::load(pre[i])));
}

template <typename T>
FG_VECTOR_CLONES void concat_elu_backward_run(int64_t count, const storage_t<T>* __restrict grad_plus,
                                              const storage_t<T>* __restrict grad_minus,
                                              const storage_t<T>* __restrict pre, storage_t<T>* __restrict grad_pre) {
  using S = Storage<T>;
  for (int64_t i = 0; i < count; ++i)
    grad_pre[i] = S::store(concat_elu_backward(S::load(grad_plus[i]), S::load(grad_minus[i]), S::load(pre[i])));
}

// ---- rows and runs: contiguous, a row is an image and its run C·H·W elements; channels_last, a pixel and C elements.
// The gate has two runs a row in `pre`, concat_elu has two in y; everywhere else it is one.

struct Rows {
  int64_t count, run;  // run: elements of the side that has one run a row

  Rows(const Tensor& single, bool channels_last)
      : count(channels_last ? single.numel() / single.size(1) : single.size(0)), run(single.numel() / count) {}
};

template <typename T>
void epilogue(Activation activation, Rows rows, const storage_t<T>* pre, const storage_t<T>* residual,
              storage_t<T>* y) {
  parallel_over_runs(rows.count, rows.run, [&](int64_t row, int64_t first, int64_t count) {
    const int64_t one = row * rows.run + first, two = one + row * rows.run;  // `two`: where a row has two runs
    const auto rest = [&](int64_t at) { return residual ? residual + at : nullptr; };
    switch (activation) {
      case Activation::kNone:
        return activate_run<Identity, T>(count, pre + one, rest(one), y + one);
      case Activation::kRelu:
        return activate_run<Relu, T>(count, pre + one, rest(one), y + one);
      case Activation::kElu:
        return activate_run<Elu, T>(count, pre + one, rest(one), y + one);
      case Activation::kConcatElu:
        activate_run<Elu, T>(count, pre + one, rest(two), y + two);
        return negated_elu_run<T>(count, pre + one, rest(two + rows.run), y + two + rows.run);
      case Activation::kGated:
        return gate_run<T>(count, pre + two, pre + two + rows.run, rest(one), y + one);
    }
  });
}

template <typename T>
void epilogue_backward(Activation activation, Rows rows, const storage_t<T>* grad_y, const storage_t<T>* pre,
                       storage_t<T>* grad_pre) {
  parallel_over_runs(rows.count, rows.run, [&](int64_t row, int64_t first, int64_t count) {
    const int64_t one = row * rows.run + first, two = one + row * rows.run;
    switch (activation) {
      case Activation::kNone:
        return;  // the gradient passes as it is
      case Activation::kRelu:
        return activate_backward_run<Relu, T>(count, grad_y + one, pre + one, grad_pre + one);
      case Activation::kElu:
        return activate_backward_run<Elu, T>(count, grad_y + one, pre + one, grad_pre + one);
      case Activation::kConcatElu:
        return concat_elu_backward_run<T>(count, grad_y + two, grad_y + two + rows.run, pre + one, grad_pre + one);
      case Activation::kGated:
        return gate_backward_run<T>(count, grad_y + one, pre + two, pre + two + rows.run, grad_pre + two,
                                    grad_pre + two + rows.run);
    }
  });
}

// ---- the same on tensors

Tensor crop_weight(const Tensor& weight, const TapMask& taps, const Crop& crop) {
  const std::vector<int64_t> sizes = {taps.O, taps.I, crop.KH, crop.KW};
  Tensor cropped = empty(weight, sizes);
  FG_DISPATCH_FLOATING(weight, "masked_conv2d",
                       fastgen::crop_weight(taps, crop, data<scalar_t>(weight), mutable_data<scalar_t>(cropped)));
  return cropped;
}

Tensor uncrop_weight(const Tensor& cropped, const TapMask& taps, const Crop& crop) {
  const std::vector<int64_t> sizes = {taps.O, taps.I, taps.KH, taps.KW};
  Tensor weight = empty(cropped, sizes);
  FG_DISPATCH_FLOATING(cropped, "masked_conv2d_backward",
                       fastgen::uncrop_weight(taps, crop, data<scalar_t>(cropped), mutable_data<scalar_t>(weight)));
  return weight;
}

void epilogue(const Tensor& pre, const std::optional<Tensor>& residual, Activation activation, bool channels_last,
              Tensor& y) {
  const Rows rows(activation == Activation::kGated ? y : pre, channels_last);
  FG_DISPATCH_FLOATING(
      pre, "masked_conv2d",
      fastgen::epilogue<scalar_t>(activation, rows, data<scalar_t>(pre), residual ? data<scalar_t>(*residual) : nullptr,
                                  mutable_data<scalar_t>(y)));
}

void epilogue_backward(const Tensor& grad_y, const Tensor& pre, Activation activation, bool channels_last,
                       Tensor& grad_pre) {
  const Rows rows(activation == Activation::kGated ? grad_y : pre, channels_last);
  FG_DISPATCH_FLOATING(pre, "masked_conv2d_backward",
                       fastgen::epilogue_backward<scalar_t>(activation, rows, data<scalar_t>(grad_y),
                                                            data<scalar_t>(pre), mutable_data<scalar_t>(grad_pre)));
}

// ---- as products of pixels

std::optional<PixelConvolution> as_products(const Tensor& x, const TapMask& taps, const Crop& crop) {
  const PixelConvolution shape{x.size(0), x.size(2), x.size(3), taps.I, taps.O, crop};
  const bool fits = x.scalar_type() == ScalarType::Float && is_channels_last(x) && shape.pays();
  return fits ? std::optional(shape) : std::nullopt;
}

// A first layer's gradients: nobody asks for those of the image, whose one channel lies in both layouts at once.
std::optional<PixelConvolution> gradient_as_products(const Tensor& grad_pre, const Tensor& x, const TapMask& taps,
                                                     const Crop& crop, const std::vector<bool>& wanted) {
  const PixelConvolution shape{x.size(0), x.size(2), x.size(3), taps.I, taps.O, crop};
  const bool together = is_channels_last(x) || (taps.I == 1 && x.is_contiguous());
  const bool fits = x.scalar_type() == ScalarType::Float && together && is_channels_last(grad_pre) && !wanted[0];
  return fits && shape.gradient_pays() ? std::optional(shape) : std::nullopt;
}

std::tuple<Tensor, Tensor> masked_conv2d_cpu(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                             std::optional<Tensor> residual, Text mask, Text activation,
                                             int64_t color_groups, Text groups_order, bool save_preactivation) {
  check_inputs(x, weight);
  const MaskedConv2dOptions options(weight, mask, activation, color_groups, groups_order);
  const bool channels_last = is_channels_last(x);
  const bool plain = options.activation == Activation::kNone;
  const int64_t N = x.size(0), O = options.taps.O, H = x.size(2), W = x.size(3);
  const std::vector<int64_t> sizes = options.sizes(x);
  if (bias) check_tensor(*bias, "bias", std::vector<int64_t>{O}, x.scalar_type(), x);
  if (residual) check_tensor(*residual, "residual", sizes, x.scalar_type(), x);
  if (x.numel() == 0) {
    Tensor pre = save_preactivation && !plain ? empty_in_layout(x, {N, O, H, W}, channels_last) : nothing(x);
    return {empty_in_layout(x, sizes, channels_last), pre};
  }
  const Crop crop(options.taps);
  const Tensor cropped = crop_weight(as_contiguous(weight), options.taps, crop);
  std::optional<Tensor> rest;
  if (residual) rest = in_layout(*residual, channels_last);
  const std::optional<PixelConvolution> products = as_products(x, options.taps, crop);
  Tensor conv = products
                    ? convolve<float>(*products, x, cropped, bias, plain ? rest : std::nullopt)
                    : in_layout(torch_convolution(pad_image(x, crop), cropped, bias), channels_last);  // with the bias
  if (plain && (!residual || products)) return {conv, nothing(x)};

  const bool keep_pre = save_preactivation && !plain;
  if (options.activation == Activation::kRelu && !keep_pre && !residual) {
    FG_DISPATCH_FLOATING(conv, "masked_conv2d",
                         parallel_over_runs(1, conv.numel(), [&](int64_t, int64_t first, int64_t count) {
                           relu_in_place<scalar_t>(count, mutable_data<scalar_t>(conv) + first);
                         }));
    return {conv, nothing(x)};
  }
  Tensor y = empty_in_layout(x, sizes, channels_last);
  epilogue(conv, rest, options.activation, channels_last, y);
  return {y, keep_pre ? conv : nothing(x)};
}

std::tuple<Tensor, Tensor, Tensor> masked_conv2d_backward_cpu(const Tensor& grad_y_any, const Tensor& preactivation,
                                                              const Tensor& x, const Tensor& weight, Text mask,
                                                              Text activation, int64_t color_groups, Text groups_order,
                                                              std::vector<bool> wanted) {
  check_inputs(x, weight);
  const MaskedConv2dOptions options(weight, mask, activation, color_groups, groups_order);
  const bool channels_last = is_channels_last(x), plain = options.activation == Activation::kNone;
  const int64_t O = options.taps.O, H = x.size(2), W = x.size(3);
  const std::vector<int64_t> pre_sizes = options.pre_sizes(x);
  STD_TORCH_CHECK(wanted.size() == 3, "output_mask: expected three values, got ", wanted.size());
  check_tensor(grad_y_any, "grad_y", options.sizes(x), x.scalar_type(), x);
  if (!plain) check_tensor(preactivation, "preactivation", pre_sizes, x.scalar_type(), x);
  Tensor grad_x = nothing(x), grad_weight = nothing(x), grad_bias = nothing(x);
  if (x.numel() == 0) {
    const std::vector<int64_t> bias_sizes = {O};
    if (wanted[0]) torch::stable::zero_(grad_x = empty_in_layout(x, shape_of(x), channels_last));
    if (wanted[1]) grad_weight = torch::stable::new_zeros(weight, shape_of(weight));
    if (wanted[2]) grad_bias = torch::stable::new_zeros(weight, bias_sizes);
    return {grad_x, grad_weight, grad_bias};
  }
  const Crop crop(options.taps);
  std::optional<PixelConvolution> products = as_products(x, options.taps, crop);
  if (!products && plain) products = gradient_as_products(grad_y_any, x, options.taps, crop, wanted);
  Tensor grad_pre = in_layout(grad_y_any, channels_last || products);
  if (!plain) {
    const Tensor grad_y = std::exchange(grad_pre, empty_in_layout(x, pre_sizes, channels_last));
    epilogue_backward(grad_y, in_layout(preactivation, channels_last), options.activation, channels_last, grad_pre);
  }
  const Tensor cropped = crop_weight(as_contiguous(weight), options.taps, crop);
  const std::vector<Tensor> grads = products
                                        ? convolve_backward<float>(*products, grad_pre, x, cropped, wanted)
                                        : torch_convolution_backward(grad_pre, pad_image(x, crop), cropped, wanted);
  if (products) grad_x = grads[0];
  if (wanted[0] && !products) {
    Tensor inner = torch::stable::narrow(const_cast<Tensor&>(grads[0]), 2, crop.top, H);
    grad_x = in_layout(torch::stable::narrow(inner, 3, crop.left, W), channels_last);
  }
  if (wanted[1]) grad_weight = uncrop_weight(as_contiguous(grads[1]), options.taps, crop);
  if (wanted[2]) grad_bias = grads[2];
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("masked_conv2d", TORCH_BOX(&masked_conv2d_cpu));
  m.impl("masked_conv2d_backward", TORCH_BOX(&masked_conv2d_backward_cpu));
}

}  // namespace fastgen
