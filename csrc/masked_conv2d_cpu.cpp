// masked_conv2d on the CPU: oneDNN convolves the cropped kernel; activation, gate and residual are one vector loop.
#include "gated_activation_cpu.h"
#include "masked_conv2d_host.h"

namespace fastgen {
namespace {

template <typename T>
void crop_weight(const TapMask& taps, const Crop& crop, const storage_t<T>* weight, storage_t<T>* cropped) {
  for (int64_t o = 0; o < taps.O; ++o)
    for (int64_t i = 0; i < taps.I; ++i)
      for (int64_t kh = 0; kh < crop.KH; ++kh)
        for (int64_t kw = 0; kw < crop.KW; ++kw)
          *cropped++ = taps.live(o, i, kh, kw) ? weight[((o * taps.I + i) * taps.KH + kh) * taps.KW + kw] : 0;
}

template <typename T>
void uncrop_weight(const TapMask& taps, const Crop& crop, const storage_t<T>* cropped, storage_t<T>* weight) {
  for (int64_t o = 0; o < taps.O; ++o)
    for (int64_t i = 0; i < taps.I; ++i)
      for (int64_t kh = 0; kh < taps.KH; ++kh)
        for (int64_t kw = 0; kw < taps.KW; ++kw)
          *weight++ = taps.live(o, i, kh, kw) ? cropped[((o * taps.I + i) * crop.KH + kh) * crop.KW + kw] : 0;
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

// ---- what masked_conv2d_on asks of a device

struct CpuKernels {
  static constexpr bool kConvolutionAddsBias = true;  // oneDNN adds it while the result is in registers

  static Tensor crop_weight(const Tensor& weight, const TapMask& taps, const Crop& crop) {
    const std::vector<int64_t> sizes = {taps.O, taps.I, crop.KH, crop.KW};
    Tensor cropped = empty(weight, sizes);
    FG_DISPATCH_FLOATING(
        weight, "masked_conv2d",
        fastgen::crop_weight<scalar_t>(taps, crop, data<scalar_t>(weight), mutable_data<scalar_t>(cropped)));
    return cropped;
  }

  static Tensor uncrop_weight(const Tensor& cropped, const TapMask& taps, const Crop& crop) {
    const std::vector<int64_t> sizes = {taps.O, taps.I, taps.KH, taps.KW};
    Tensor weight = empty(cropped, sizes);
    FG_DISPATCH_FLOATING(
        cropped, "masked_conv2d_backward",
        fastgen::uncrop_weight<scalar_t>(taps, crop, data<scalar_t>(cropped), mutable_data<scalar_t>(weight)));
    return weight;
  }

  static void epilogue(const Tensor& pre, bool, const std::optional<Tensor>&, const std::optional<Tensor>& residual,
                       Activation activation, bool channels_last, Tensor& y) {
    const Rows rows(activation == Activation::kGated ? y : pre, channels_last);
    FG_DISPATCH_FLOATING(
        pre, "masked_conv2d",
        fastgen::epilogue<scalar_t>(activation, rows, data<scalar_t>(pre),
                                    residual ? data<scalar_t>(*residual) : nullptr, mutable_data<scalar_t>(y)));
  }

  static void epilogue_backward(const Tensor& grad_y, const Tensor& pre, Activation activation, bool channels_last,
                                Tensor& grad_pre) {
    const Rows rows(activation == Activation::kGated ? grad_y : pre, channels_last);
    FG_DISPATCH_FLOATING(pre, "masked_conv2d_backward",
                         fastgen::epilogue_backward<scalar_t>(activation, rows, data<scalar_t>(grad_y),
                                                              data<scalar_t>(pre), mutable_data<scalar_t>(grad_pre)));
  }
};

std::tuple<Tensor, Tensor> masked_conv2d_cpu(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                             std::optional<Tensor> residual, std::string mask, std::string activation,
                                             int64_t color_groups, std::string groups_order, bool save_preactivation) {
  const MaskedConv2dOptions options(weight, mask, activation, color_groups, groups_order);
  return masked_conv2d_on<CpuKernels>(x, weight, bias, residual, options, save_preactivation);
}

std::tuple<Tensor, Tensor, Tensor> masked_conv2d_backward_cpu(const Tensor& grad_y, const Tensor& preactivation,
                                                              const Tensor& x, const Tensor& weight, std::string mask,
                                                              std::string activation, int64_t color_groups,
                                                              std::string groups_order, std::vector<bool> output_mask) {
  const MaskedConv2dOptions options(weight, mask, activation, color_groups, groups_order);
  return masked_conv2d_backward_on<CpuKernels>(grad_y, preactivation, x, weight, options, output_mask);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgen, CPU, m) {
  m.impl("masked_conv2d", TORCH_BOX(&masked_conv2d_cpu));
  m.impl("masked_conv2d_backward", TORCH_BOX(&masked_conv2d_backward_cpu));
}

}  // namespace fastgen
