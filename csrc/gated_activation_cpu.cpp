// gated_activation on the CPU: one vector loop over contiguous halves.
#include "gated_activation_cpu.h"

#include "gated_activation_host.h"

namespace fastgen {
namespace {

template <typename T>
void forward(GateShape shape, const storage_t<T>* x, storage_t<T>* y) {
  parallel_over_runs(shape.N, shape.run, [&](int64_t n, int64_t first, int64_t count) {
    const storage_t<T>* a = x + 2 * n * shape.run + first;
    gate_run<T>(count, a, a + shape.run, nullptr, y + n * shape.run + first);
  });
}

template <typename T>
void backward(GateShape shape, const storage_t<T>* grad_y, const storage_t<T>* x, storage_t<T>* grad_x) {
  parallel_over_runs(shape.N, shape.run, [&](int64_t n, int64_t first, int64_t count) {
    const int64_t a = 2 * n * shape.run + first, b = a + shape.run;
    gate_backward_run<T>(count, grad_y + n * shape.run + first, x + a, x + b, grad_x + a, grad_x + b);
  });
}

Tensor gated_activation_cpu(const Tensor& x_any) {
  const GateShape shape(x_any);
  const Tensor x = as_contiguous(x_any);
  Tensor y = empty(x, result_sizes(x));
  FG_DISPATCH_FLOATING(x, "gated_activation", forward<scalar_t>(shape, data<scalar_t>(x), mutable_data<scalar_t>(y)));
  return y;
}

Tensor gated_activation_backward_cpu(const Tensor& grad_y_any, const Tensor& x_any) {
  const GateShape shape(x_any);
  check_grad(grad_y_any, x_any);
  const Tensor x = as_contiguous(x_any), grad_y = as_contiguous(grad_y_any);
  Tensor grad_x = empty(x, shape_of(x));
  FG_DISPATCH_FLOATING(
      x, "gated_activation_backward",
      backward<scalar_t>(shape, data<scalar_t>(grad_y), data<scalar_t>(x), mutable_data<scalar_t>(grad_x)));
  return grad_x;
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("gated_activation", TORCH_BOX(&gated_activation_cpu));
  m.impl("gated_activation_backward", TORCH_BOX(&gated_activation_backward_cpu));
}

}  // namespace fastgen
