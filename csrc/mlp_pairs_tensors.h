// A layer of a perceptron in bfloat16, of many rows, and its gradients: products of pairs
// Shapes   as LinearLayer's; rows in bfloat16, weights, biases and their gradients in float; all contiguous
// Traffic  a row is an image of one pixel: a panel of the weight is rounded where it is packed, and stays in caches;
//          the gradient to the weight is of two rows at a time
// Numerics sums in float, rounded once; gradients to weights and biases are not rounded
// Odd      what a product is summed along is copied with zeros behind
#pragma once

#include "conv2d_products_tensors.h"
#include "mlp.h"

namespace fastgen {

// from (rows, columns) → (all_rows, pitch), zeros behind
template <typename T>
Tensor with_zeros(const T* from, int64_t rows, int64_t columns, int64_t all_rows, int64_t pitch, const Tensor& like) {
  constexpr ScalarType kDtype = std::is_same_v<T, float> ? ScalarType::Float : ScalarType::BFloat16;
  Tensor found = empty(like, {all_rows, pitch}, kDtype);
  T* const to = mutable_data<T>(found);
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(from + row * columns, columns, to + row * pitch);
    std::fill_n(to + row * pitch + columns, pitch - columns, T(0));
  }
  std::fill_n(to + rows * pitch, (all_rows - rows) * pitch, T(0));
  return found;
}

class PairedLayer {
 public:
  // like: of the device
  PairedLayer(int64_t M, int64_t K, int64_t N, const Tensor& like) : M_(M), K_(K), N_(N), like_(like) {}

  // y (M, N) of x (M, K) and w (N, K)
  void run(const bfloat16* x, const float* w, const float* bias, LayerActivation activation, bfloat16* y) const {
    multiply(x, w, {1, 1, 1, K_ + K_ % 2, 0, 0}, K_, N_, {N_, K_, N_, K_ + K_ % 2}, bias, activation, y);
  }

  // grad_x (M, K); before: the activation that made x
  void to_input(const bfloat16* grad_y, const float* w, const bfloat16* x, LayerActivation before,
                bfloat16* grad_x) const {
    multiply(grad_y, w, {1, 1, K_, 1, 0, 0}, N_, K_, {N_, K_, N_ + N_ % 2, K_}, nullptr, {}, grad_x);
    if (before.kind == Pointwise::kNone) return;
    parallel_over_runs(1, M_ * K_, [&](int64_t, int64_t first, int64_t count) {
      FG_DISPATCH_POINTWISE(before.kind,
                            activation_gradient<kind>(1, count, count, x + first, before.slope, count, grad_x + first));
    });
  }

  // grad_w (N, K), grad_bias (N,); either may be null
  void to_weight(const bfloat16* grad_y, const bfloat16* x, float* grad_w, float* grad_bias) const {
    if (grad_w) add_weight_products(rows(N_, K_), true, grad_y, x, like_, grad_w);  // (N, K)
    if (!grad_bias) return;
    torch::stable::parallel_for(0, N_, std::max<int64_t>(1, kGrain / M_), [&](int64_t first, int64_t last) {
      std::fill(grad_bias + first, grad_bias + last, 0.0f);
      add_rows(M_, last - first, N_, grad_y + first, grad_bias + first);
    });
  }

 private:
  struct Sizes {
    int64_t rows, columns, even_rows, even_columns;
  };

  ImageConvolution rows(int64_t inputs, int64_t results) const {
    return {M_, inputs, 1, 1, results, 1, 1, {1, 1}, {0, 0}, 1, 1};
  }

  // y (M, results) of x (M, inputs); the weight as it is, and as it is with zeros behind
  void multiply(const bfloat16* x, const float* w, const KernelLayout& layout, int64_t inputs, int64_t results,
                const Sizes& weight, const float* bias, LayerActivation activation, bfloat16* y) const {
    if (inputs % 2 == 0) {
      convolve_pixels(rows(inputs, results), layout, x, w, bias, activation, y);
      return;
    }
    const Tensor even_x = with_zeros(x, M_, inputs, M_, inputs + 1, like_);
    const Tensor even_w = with_zeros(w, weight.rows, weight.columns, weight.even_rows, weight.even_columns, like_);
    convolve_pixels(rows(inputs + 1, results), layout, data<bfloat16>(even_x), data<float>(even_w), bias, activation,
                    y);
  }

  int64_t M_, K_, N_;
  const Tensor& like_;
};

}  // namespace fastgen
