// gated_activation on the CPU: one vector loop over contiguous halves.
#include "gated_activation_cpu.h"

namespace fastgen {
namespace {

// x[n] is a run of C·S values a, then a run of C·S values b; y[n] is one such run. Both are contiguous.
struct Shape {
  int64_t N, run;
};

Shape check_gate(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() >= 2 && x.size(1) % 2 == 0, "x: expected shape (N, 2C, *), got ", x.size(1), " channels");
  return {x.size(0), product(shape_of(x), 1) / 2};
}

template <typename T>
void forward(Shape shape, const storage_t<T>* x, storage_t<T>* y) {
  parallel_over_runs(shape.N, shape.run, [&](int64_t n, int64_t first, int64_t count) {
    const storage_t<T>* a = x + 2 * n * shape.run + first;
    gate_run<T>(count, a, a + shape.run, nullptr, y + n * shape.run + first);
  });
}

template <typename T>
void backward(Shape shape, const storage_t<T>* grad_y, const storage_t<T>* x, storage_t<T>* grad_x) {
  parallel_over_runs(shape.N, shape.run, [&](int64_t n, int64_t first, int64_t count) {
    const int64_t a = 2 * n * shape.run + first, b = a + shape.run;
    gate_backward_run<T>(count, grad_y + n * shape.run + first, x + a, x + b, grad_x + a, grad_x + b);
  });
}

Tensor gated_activation_cpu(const Tensor& x_any) {
  const Shape shape = check_gate(x_any);
  const Tensor x = as_contiguous(x_any);
  std::vector<int64_t> sizes = shape_of(x);
  sizes[1] /= 2;
  Tensor y = empty(x, sizes);
  FG_DISPATCH_FLOATING(x, "gated_activation", forward<scalar_t>(shape, data<scalar_t>(x), mutable_data<scalar_t>(y)));
  return y;
}

Tensor gated_activation_backward_cpu(const Tensor& grad_y_any, const Tensor& x_any) {
  const Shape shape = check_gate(x_any);
  const Tensor x = as_contiguous(x_any), grad_y = as_contiguous(grad_y_any);
  STD_TORCH_CHECK(grad_y.numel() == shape.N * shape.run && grad_y.scalar_type() == x.scalar_type(),
                  "grad_y: expected the shape and dtype of the result");
  Tensor grad_x = empty(x, shape_of(x));
  FG_DISPATCH_FLOATING(
      x, "gated_activation_backward",
      backward<scalar_t>(shape, data<scalar_t>(grad_y), data<scalar_t>(x), mutable_data<scalar_t>(grad_x)));
  return grad_x;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgen, CPU, m) {
  m.impl("gated_activation", TORCH_BOX(&gated_activation_cpu));
  m.impl("gated_activation_backward", TORCH_BOX(&gated_activation_backward_cpu));
}

}  // namespace fastgen
