// gated_activation: launches.
#include "cuda_utils.cuh"
#include "gated_activation_cuda.cuh"

namespace fastgen {
namespace {

struct Shape {
  int64_t N, run;
};

Shape check_gate(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() >= 2 && x.size(1) % 2 == 0, "x: expected shape (N, 2C, *), got ", x.size(1), " channels");
  return {x.size(0), product(shape_of(x), 1) / 2};
}

template <typename T>
void forward(cudaStream_t stream, Shape shape, const T* x, T* y) {
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
void backward(cudaStream_t stream, Shape shape, const T* grad_y, const T* x, T* grad_x) {
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
  const Shape shape = check_gate(x_any);
  const CudaScope scope(x_any);
  const Tensor x = as_contiguous(x_any);
  std::vector<int64_t> sizes = shape_of(x);
  sizes[1] /= 2;
  Tensor y = empty(x, sizes);
  if (y.numel() == 0) return y;
  FG_DISPATCH_FLOATING_CUDA(x, "gated_activation",
                            forward(scope.stream, shape, data<cuda_t>(x), mutable_data<cuda_t>(y)));
  check_launch("gated_activation_kernel");
  return y;
}

Tensor gated_activation_backward_cuda(const Tensor& grad_y_any, const Tensor& x_any) {
  const Shape shape = check_gate(x_any);
  const CudaScope scope(x_any);
  const Tensor x = as_contiguous(x_any), grad_y = as_contiguous(grad_y_any);
  STD_TORCH_CHECK(grad_y.numel() == shape.N * shape.run && grad_y.scalar_type() == x.scalar_type(),
                  "grad_y: expected the shape and dtype of the result");
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
