// residual_gate on the CPU: a thread takes pixels, each of C numbers in x and y, and 2C in h, one behind the other.
// Traffic  3C reads and C writes a pixel; backward the same the other way round: 3C and 2C
#include "residual_gate.h"
#include "tensor_utils.h"

namespace fastgen {
namespace {

template <typename T>
FG_VECTOR_CLONES void gate_pixels(int64_t pixels, int64_t C, const storage_t<T>* __restrict x,
                                  const storage_t<T>* __restrict h, storage_t<T>* __restrict y) {
  using S = Storage<T>;
  for (int64_t p = 0; p < pixels; ++p, x += C, h += 2 * C, y += C)
    for (int64_t c = 0; c < C; ++c) y[c] = S::store(residual_gate(S::load(x[c]), S::load(h[c]), S::load(h[C + c])));
}

template <typename T>
FG_VECTOR_CLONES void gate_backward_pixels(int64_t pixels, int64_t C, const storage_t<T>* __restrict grad_y,
                                           const storage_t<T>* __restrict h, storage_t<T>* __restrict grad_h) {
  using S = Storage<T>;
  for (int64_t p = 0; p < pixels; ++p, grad_y += C, h += 2 * C, grad_h += 2 * C)
    for (int64_t c = 0; c < C; ++c) {
      accumulation_t<T> a, b;
      residual_gate_backward(S::load(grad_y[c]), S::load(h[c]), S::load(h[C + c]), &a, &b);
      grad_h[c] = S::store(a);
      grad_h[C + c] = S::store(b);
    }
}

// body(first, count) for the pixels of each thread.
template <typename F>
void parallel_over_pixels(const Tensor& x, const F& body) {
  const int64_t pixels = x.size(0) * x.size(2) * x.size(3);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, x.size(1)));
  torch::stable::parallel_for(0, pixels, grain, [&](int64_t begin, int64_t end) { body(begin, end - begin); });
}

template <typename T>
void forward(const Tensor& x, const Tensor& h, Tensor& y) {
  const int64_t C = x.size(1);
  const storage_t<T>*const from = data<T>(x), *const gates = data<T>(h);
  storage_t<T>* const to = mutable_data<T>(y);
  parallel_over_pixels(x, [&](int64_t first, int64_t count) {
    gate_pixels<T>(count, C, from + first * C, gates + 2 * first * C, to + first * C);
  });
}

template <typename T>
void backward(const Tensor& grad_y, const Tensor& h, Tensor& grad_h) {
  const int64_t C = grad_y.size(1);
  const storage_t<T>*const from = data<T>(grad_y), *const gates = data<T>(h);
  storage_t<T>* const to = mutable_data<T>(grad_h);
  parallel_over_pixels(grad_y, [&](int64_t first, int64_t count) {
    gate_backward_pixels<T>(count, C, from + first * C, gates + 2 * first * C, to + 2 * first * C);
  });
}

// Of x or of its gradient, like which h has twice the channels.
void check_image(const Tensor& image, const char* name, const Tensor& h) {
  STD_TORCH_CHECK(image.dim() == 4, name, ": expected shape (N, C, H, W)");
  check_floating(image, name);
  const std::vector<int64_t> sizes = {image.size(0), checked_multiply(2, image.size(1)), image.size(2), image.size(3)};
  check_tensor(h, "h", sizes, image.scalar_type(), image);
}

Tensor residual_gate_cpu(const Tensor& x_any, const Tensor& h_any) {
  check_image(x_any, "x", h_any);
  const Tensor x = in_layout(x_any, true), h = in_layout(h_any, true);
  Tensor y = empty(x, shape_of(x), x.scalar_type(), true);
  FG_DISPATCH_FLOATING(x, "residual_gate", forward<scalar_t>(x, h, y));
  return y;
}

Tensor residual_gate_backward_cpu(const Tensor& grad_y_any, const Tensor& h_any) {
  check_image(grad_y_any, "grad_y", h_any);
  const Tensor grad_y = in_layout(grad_y_any, true), h = in_layout(h_any, true);
  Tensor grad_h = empty(h, shape_of(h), h.scalar_type(), true);
  FG_DISPATCH_FLOATING(h, "residual_gate_backward", backward<scalar_t>(grad_y, h, grad_h));
  return grad_h;
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("residual_gate", TORCH_BOX(&residual_gate_cpu));
  m.impl("residual_gate_backward", TORCH_BOX(&residual_gate_backward_cpu));
}

}  // namespace fastgen
