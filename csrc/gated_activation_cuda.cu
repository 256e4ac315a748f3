// gated_activation: from tensors to launches.
#include "cuda_utils.cuh"
#include "gated_activation_cuda.cuh"
#include "gated_activation_host.h"

namespace fastgen {
namespace {

Tensor gated_activation_cuda(const Tensor& x_any) {
  const GateShape shape(x_any);
  const CudaScope scope(x_any);
  const Tensor x = as_contiguous(x_any);
  Tensor y = empty(x, result_sizes(x));
  FG_DISPATCH_FLOATING_CUDA(x, "gated_activation",
                            gated_activation_launch(scope.launcher("gated_activation"), shape.N, shape.run,
                                                    data<cuda_t>(x), mutable_data<cuda_t>(y)));
  return y;
}

Tensor gated_activation_backward_cuda(const Tensor& grad_y_any, const Tensor& x_any) {
  const GateShape shape(x_any);
  check_grad(grad_y_any, x_any);
  const CudaScope scope(x_any);
  const Tensor x = as_contiguous(x_any), grad_y = as_contiguous(grad_y_any);
  Tensor grad_x = empty(x, shape_of(x));
  FG_DISPATCH_FLOATING_CUDA(
      x, "gated_activation_backward",
      gated_activation_backward_launch(scope.launcher("gated_activation_backward"), shape.N, shape.run,
                                       data<cuda_t>(grad_y), data<cuda_t>(x), mutable_data<cuda_t>(grad_x)));
  return grad_x;
}

}  // namespace

FG_KERNELS(CUDA, m) {
  m.impl("gated_activation", TORCH_BOX(&gated_activation_cuda));
  m.impl("gated_activation_backward", TORCH_BOX(&gated_activation_backward_cuda));
}

}  // namespace fastgen
