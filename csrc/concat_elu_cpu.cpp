// concat_elu on the CPU: a thread takes rows.
#include "concat_elu_cpu.h"

#include "tensor_utils.h"

namespace fastgen {
namespace {

Border checked_border(const std::vector<int64_t>& padding) {
  STD_TORCH_CHECK(padding.size() == 4, "padding: expected left, right, top, bottom");
  for (const int64_t each : padding)
    STD_TORCH_CHECK(each >= 0 && each <= (int64_t(1) << 30), "padding: expected numbers from 0 to 2³⁰, got ", each);
  return {padding[0], padding[1], padding[2], padding[3]};
}

// body(T()), T as the numbers of x lie in memory
template <typename F>
void with_numbers(const Tensor& x, const char* name, const F& body) {
  const ScalarType dtype = x.scalar_type();
  const bool known = dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16;
  STD_TORCH_CHECK(known, name, ": expected float32, float64 or bfloat16");
  dtype == ScalarType::Double ? body(double()) : dtype == ScalarType::Float ? body(float()) : body(bfloat16());
}

template <typename T>
void forward(const ConcatEluShape& shape, const T* x, T* y) {
  const int64_t rows = shape.height(), grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, shape.width()));
  torch::stable::parallel_for(0, shape.images() * rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) concat_elu_row_of<T>(shape, i / rows, i % rows, x, y);
  });
}

template <typename T>
void backward(const ConcatEluShape& shape, const T* grad_y, const T* y, T* grad_x) {
  const int64_t rows = shape.H, grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, shape.W));
  torch::stable::parallel_for(0, shape.images() * rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / rows, h = i % rows;
      const int64_t at = shape.y_row(image, h + shape.border.top) + shape.border.left * shape.numbers();
      concat_elu_backward_row<T>(shape.runs(), shape.run(), shape.between(), grad_y + at, y + at,
                                 grad_x + shape.x_row(image, h));
    }
  });
}

Tensor concat_elu_cpu(const Tensor& x_any, std::vector<int64_t> padding) {
  STD_TORCH_CHECK(x_any.dim() == 4, "x: expected shape (N, C, H, W)");
  const bool channels_last = is_channels_last(x_any);
  const Tensor x = in_layout(x_any, channels_last);
  const ConcatEluShape shape{x.size(0), x.size(1), x.size(2), x.size(3), checked_border(padding), channels_last};
  const std::vector<int64_t> sizes = {shape.N, checked_multiply(2, shape.C), shape.height(), shape.width()};
  product(sizes);  // none wraps
  Tensor y = empty(x, sizes, x.scalar_type(), channels_last);
  with_numbers(x, "x", [&](auto number) {
    using T = decltype(number);
    forward(shape, data<T>(x), mutable_data<T>(y));
  });
  return y;
}

Tensor concat_elu_backward_cpu(const Tensor& grad_y_any, const Tensor& y_any, std::vector<int64_t> padding) {
  const Border border = checked_border(padding);
  STD_TORCH_CHECK(y_any.dim() == 4 && y_any.size(1) % 2 == 0, "y: expected shape (N, 2C, H, W)");
  check_same(grad_y_any, "grad_y", y_any);
  const int64_t H = y_any.size(2) - border.top - border.bottom, W = y_any.size(3) - border.left - border.right;
  STD_TORCH_CHECK(H >= 0 && W >= 0, "y: expected an image within its padding");
  const bool channels_last = is_channels_last(y_any);
  const Tensor grad_y = in_layout(grad_y_any, channels_last), y = in_layout(y_any, channels_last);
  const ConcatEluShape shape{y.size(0), y.size(1) / 2, H, W, border, channels_last};
  Tensor grad_x = empty(y, {shape.N, shape.C, H, W}, y.scalar_type(), channels_last);
  with_numbers(y, "y", [&](auto number) {
    using T = decltype(number);
    backward(shape, data<T>(grad_y), data<T>(y), mutable_data<T>(grad_x));
  });
  return grad_x;
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("concat_elu", TORCH_BOX(&concat_elu_cpu));
  m.impl("concat_elu_backward", TORCH_BOX(&concat_elu_backward_cpu));
}

}  // namespace fastgen
