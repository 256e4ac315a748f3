// masked_conv2d: launches. cuDNN convolves the cropped kernel; one kernel does bias, activation and residual.
#include "cuda_utils.cuh"
#include "masked_conv2d_cuda.cuh"
#include "masked_conv2d_host.h"

namespace fastgen {
namespace {

template <Activation kind, typename T>
void launch_epilogue(cudaStream_t stream, EpilogueShape shape, bool keep_pre, const T* bias, const T* residual, T* pre,
                     T* y) {
  epilogue_kernel<kind, T><<<grid_of(ceil_div(shape.total, kEpilogueThreads)), kEpilogueThreads, 0, stream>>>(
      shape, keep_pre, bias, residual, pre, y);
}

template <typename T>
void epilogue(Activation activation, cudaStream_t stream, EpilogueShape shape, bool keep_pre, const T* bias,
              const T* residual, T* pre, T* y) {
  const auto launch = [&](auto kind) {
    launch_epilogue<decltype(kind)::value, T>(stream, shape, keep_pre, bias, residual, pre, y);
  };
  switch (activation) {
    case Activation::kNone:
      return launch(std::integral_constant<Activation, Activation::kNone>());
    case Activation::kRelu:
      return launch(std::integral_constant<Activation, Activation::kRelu>());
    case Activation::kElu:
      return launch(std::integral_constant<Activation, Activation::kElu>());
    case Activation::kConcatElu:
      return launch(std::integral_constant<Activation, Activation::kConcatElu>());
    case Activation::kGated:
      return launch(std::integral_constant<Activation, Activation::kGated>());
  }
}

template <Activation kind, typename T>
void launch_epilogue_backward(cudaStream_t stream, EpilogueShape shape, const T* grad_y, const T* pre, T* grad_pre) {
  epilogue_backward_kernel<kind, T>
      <<<grid_of(ceil_div(shape.total, kEpilogueThreads)), kEpilogueThreads, 0, stream>>>(shape, grad_y, pre, grad_pre);
}

template <typename T>
void epilogue_backward(Activation activation, cudaStream_t stream, EpilogueShape shape, const T* grad_y, const T* pre,
                       T* grad_pre) {
  const auto launch = [&](auto kind) {
    launch_epilogue_backward<decltype(kind)::value, T>(stream, shape, grad_y, pre, grad_pre);
  };
  switch (activation) {
    case Activation::kNone:
      return;  // the gradient passes as it is
    case Activation::kRelu:
      return launch(std::integral_constant<Activation, Activation::kRelu>());
    case Activation::kElu:
      return launch(std::integral_constant<Activation, Activation::kElu>());
    case Activation::kConcatElu:
      return launch(std::integral_constant<Activation, Activation::kConcatElu>());
    case Activation::kGated:
      return launch(std::integral_constant<Activation, Activation::kGated>());
  }
}

EpilogueShape epilogue_shape(const Tensor& single, bool channels_last) {
  const int64_t C = single.size(1), S = single.size(2) * single.size(3);
  return channels_last ? EpilogueShape{single.numel(), C, 1} : EpilogueShape{single.numel(), C * S, S};
}

template <typename T>
void crop(cudaStream_t stream, const TapMask& taps, const Crop& crop, const T* weight, T* cropped) {
  const int64_t count = taps.O * taps.I * crop.KH * crop.KW;
  crop_weight_kernel<T>
      <<<grid_of(ceil_div(count, kEpilogueThreads)), kEpilogueThreads, 0, stream>>>(taps, crop, weight, cropped);
}

template <typename T>
void uncrop(cudaStream_t stream, const TapMask& taps, const Crop& crop, const T* cropped, T* weight) {
  const int64_t count = taps.O * taps.I * taps.KH * taps.KW;
  uncrop_weight_kernel<T>
      <<<grid_of(ceil_div(count, kEpilogueThreads)), kEpilogueThreads, 0, stream>>>(taps, crop, cropped, weight);
}

struct CudaKernels {
  static constexpr bool kConvolutionAddsBias = false;  // cuDNN's would be a pass of its own

  static Tensor crop_weight(const Tensor& weight, const TapMask& taps, const Crop& crop) {
    const CudaScope scope(weight);
    const std::vector<int64_t> sizes = {taps.O, taps.I, crop.KH, crop.KW};
    Tensor cropped = empty(weight, sizes);
    FG_DISPATCH_FLOATING_CUDA(
        weight, "masked_conv2d",
        fastgen::crop(scope.stream, taps, crop, data<cuda_t>(weight), mutable_data<cuda_t>(cropped)));
    check_launch("crop_weight_kernel");
    return cropped;
  }

  static Tensor uncrop_weight(const Tensor& cropped, const TapMask& taps, const Crop& crop) {
    const CudaScope scope(cropped);
    const std::vector<int64_t> sizes = {taps.O, taps.I, taps.KH, taps.KW};
    Tensor weight = empty(cropped, sizes);
    FG_DISPATCH_FLOATING_CUDA(
        cropped, "masked_conv2d_backward",
        fastgen::uncrop(scope.stream, taps, crop, data<cuda_t>(cropped), mutable_data<cuda_t>(weight)));
    check_launch("uncrop_weight_kernel");
    return weight;
  }

  static void epilogue(Tensor& pre, bool keep_pre, const std::optional<Tensor>& bias,
                       const std::optional<Tensor>& residual, Activation activation, bool channels_last, Tensor& y) {
    const CudaScope scope(pre);
    const EpilogueShape shape = epilogue_shape(activation == Activation::kGated ? y : pre, channels_last);
    FG_DISPATCH_FLOATING_CUDA(
        pre, "masked_conv2d",
        fastgen::epilogue(activation, scope.stream, shape, keep_pre, bias ? data<cuda_t>(*bias) : nullptr,
                          residual ? data<cuda_t>(*residual) : nullptr, mutable_data<cuda_t>(pre),
                          mutable_data<cuda_t>(y)));
    check_launch("epilogue_kernel");
  }

  static void epilogue_backward(const Tensor& grad_y, const Tensor& pre, Activation activation, bool channels_last,
                                Tensor& grad_pre) {
    const CudaScope scope(pre);
    const EpilogueShape shape = epilogue_shape(activation == Activation::kGated ? grad_y : pre, channels_last);
    FG_DISPATCH_FLOATING_CUDA(pre, "masked_conv2d_backward",
                              fastgen::epilogue_backward(activation, scope.stream, shape, data<cuda_t>(grad_y),
                                                         data<cuda_t>(pre), mutable_data<cuda_t>(grad_pre)));
    check_launch("epilogue_backward_kernel");
  }
};

std::tuple<Tensor, Tensor> masked_conv2d_cuda(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                              std::optional<Tensor> residual, std::string mask, std::string activation,
                                              int64_t color_groups, std::string groups_order, bool save_preactivation) {
  const MaskedConv2dOptions options(weight, mask, activation, color_groups, groups_order);
  return masked_conv2d_on<CudaKernels>(x, weight, bias, residual, options, save_preactivation);
}

std::tuple<Tensor, Tensor, Tensor> masked_conv2d_backward_cuda(const Tensor& grad_y, const Tensor& preactivation,
                                                               const Tensor& x, const Tensor& weight, std::string mask,
                                                               std::string activation, int64_t color_groups,
                                                               std::string groups_order,
                                                               std::vector<bool> output_mask) {
  const MaskedConv2dOptions options(weight, mask, activation, color_groups, groups_order);
  return masked_conv2d_backward_on<CudaKernels>(grad_y, preactivation, x, weight, options, output_mask);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgen, CUDA, m) {
  m.impl("masked_conv2d", TORCH_BOX(&masked_conv2d_cuda));
  m.impl("masked_conv2d_backward", TORCH_BOX(&masked_conv2d_backward_cuda));
}

}  // namespace fastgen
