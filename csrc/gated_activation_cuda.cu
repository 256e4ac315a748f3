// gated_activation: launches.
#include "cuda_utils.cuh"
#include "gated_activation_cuda.cuh"
#include "gated_activation_host.h"

namespace fastgen {
namespace {

template <typename T>
void forward(cudaStream_t stream, GateShape shape, const T* x, T* y) {
  constexpr int V = kPackOf16Bytes<T>;
  const int64_t total = shape.N * shape.run;
  if (shape.run % V == 0 && aligned_for<V>(x, y))
    gated_activation_kernel<T, V>
        <<<grid_of(ceil_div(total, kGateThreads * V)), kGateThreads, 0, stream>>>(total, shape.run, x, y);
  else
    gated_activation_kernel<T, 1>
        <<<grid_of(ceil_div(total, kGateThreads)), kGateThreads, 0, stream>>>(total, shape.run, x, y);
}

template <typename T>
void backward(cudaStream_t stream, GateShape shape, const T* grad_y, const T* x, T* grad_x) {
  constexpr int V = kPackOf16Bytes<T>;
  const int64_t total = shape.N * shape.run;
  if (shape.run % V == 0 && aligned_for<V>(grad_y, x, grad_x))
    gated_activation_backward_kernel<T, V>
        <<<grid_of(ceil_div(total, kGateThreads * V)), kGateThreads, 0, stream>>>(total, shape.run, grad_y, x, grad_x);
  else
    gated_activation_backward_kernel<T, 1>
        <<<grid_of(ceil_div(total, kGateThreads)), kGateThreads, 0, stream>>>(total, shape.run, grad_y, x, grad_x);
}

Tensor gated_activation_cuda(const Tensor& x_any) {
  const GateShape shape(x_any);
  const CudaScope scope(x_any);
  const Tensor x = as_contiguous(x_any);
  Tensor y = empty_result(x);
  if (y.numel() == 0) return y;
  FG_DISPATCH_FLOATING_CUDA(x, "gated_activation",
                            forward(scope.stream, shape, data<cuda_t>(x), mutable_data<cuda_t>(y)));
  check_launch("gated_activation_kernel");
  return y;
}

Tensor gated_activation_backward_cuda(const Tensor& grad_y_any, const Tensor& x_any) {
  const GateShape shape(x_any);
  const CudaScope scope(x_any);
  const Tensor x = as_contiguous(x_any), grad_y = as_contiguous(grad_y_any);
  shape.check_grad(grad_y, x);
  Tensor grad_x = empty(x, shape_of(x));
  if (grad_x.numel() == 0) return grad_x;
  FG_DISPATCH_FLOATING_CUDA(
      x, "gated_activation_backward",
      backward(scope.stream, shape, data<cuda_t>(grad_y), data<cuda_t>(x), mutable_data<cuda_t>(grad_x)));
  check_launch("gated_activation_backward_kernel");
  return grad_x;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgen, CUDA, m) {
  m.impl("gated_activation", TORCH_BOX(&gated_activation_cuda));
  m.impl("gated_activation_backward", TORCH_BOX(&gated_activation_backward_cuda));
}

}  // namespace fastgen
