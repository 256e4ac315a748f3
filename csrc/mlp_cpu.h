// A layer of a perceptron on the CPU: y = x @ wᵀ + b, and its gradients, of weights as torch.nn.Linear has them
// Shapes   x (M, K); w (N, K); y (M, N); all contiguous, float
// Traffic  nothing is packed: w is read where it lies, by rows for y, whose vectors lie along k, by columns for x's
//          gradient; a thread has its share of w, of x's columns or of w's gradient, and reads the rest
// Numerics float sums in an order that neither the number of threads nor M changes
// Ragged   K beside whole vectors: plain sums for y, copies with zeros behind for gradients
// No torch headers.
#pragma once

#include <algorithm>
#include <vector>

#include "checked.h"
#include "mlp.h"
#include "tile_sets_cpu.h"

namespace fastgen {

class LinearLayer {
 public:
  LinearLayer(int64_t M, int64_t K, int64_t N, const GemmIsa& isa = gemm_isas().back())
      : isa_(isa), M_(M), K_(K), N_(N), whole_(K / isa.lanes * isa.lanes) {}

  // What threads share out: columns of y, rows of w's gradient, and vectors of columns of x's gradient.
  int64_t columns() const { return ceil_div(N_, isa_.vectors); }
  int64_t rows() const { return ceil_div(N_, isa_.rows); }
  int64_t vectors() const { return ceil_div(K_, isa_.lanes); }
  // A vector's first column.
  int64_t column(int64_t vector) const { return std::min(K_, vector * isa_.lanes); }
  // So many are worth a thread's while.
  int64_t grain_of_columns() const { return grain(K_ * isa_.vectors); }
  int64_t grain_of_rows() const { return grain(K_ * isa_.rows); }
  int64_t grain_of_vectors() const { return grain(N_ * isa_.lanes); }

  void run(int64_t first_item, int64_t last_item, const float* x, const float* w, const float* bias,
           LayerActivation activation, float* y) const {
    const int64_t last = std::min(N_, last_item * isa_.vectors);
    for (int64_t first = first_item * isa_.vectors; first < last; first += block()) {
      const int64_t end = std::min(last, first + block());
      for (int64_t m = 0; m < M_; m += isa_.rows)
        for (int64_t n = first; n < end; n += isa_.vectors)
          isa_.dot[std::min<int64_t>(isa_.rows, M_ - m)][std::min<int64_t>(isa_.vectors, end - n)](
              K_, x + m * K_, K_, w + n * K_, K_, y + m * N_ + n, N_);
      const float* const offsets = bias ? bias + first : nullptr;
      FG_DISPATCH_POINTWISE(activation.kind,
                            finish_layer<kind>(M_, end - first, N_, offsets, activation.slope, y + first));
    }
  }

  // Columns of grad_x (M, K), the first of them at grad_x, rows `pitch` apart; before: the activation that made x
  void to_input(int64_t first_item, int64_t last_item, const float* grad_y, const float* w, const float* x,
                LayerActivation before, float* grad_x, int64_t pitch) const {
    const int64_t first = first_item * isa_.lanes, end = std::min(whole_, last_item * isa_.lanes);
    for (int64_t k = first; k < end; k += isa_.panel())
      add_input_panel(int(std::min<int64_t>(isa_.vectors, (end - k) / isa_.lanes)), grad_y, w + k, K_,
                      grad_x + k - first, pitch);
    const int64_t last = std::min(K_, last_item * isa_.lanes), rest = last - std::max(first, end);
    if (rest > 0 && last > whole_) {
      const std::vector<float> padded = padded_rest(w, N_);
      std::vector<float> sums(size_t(M_ * isa_.lanes));
      add_input_panel(1, grad_y, padded.data(), isa_.lanes, sums.data(), isa_.lanes);
      for (int64_t m = 0; m < M_; ++m)
        std::copy_n(&sums[size_t(m * isa_.lanes)], K_ - whole_, grad_x + m * pitch + whole_ - first);
    }
    if (before.kind == Pointwise::kNone || last <= first) return;
    FG_DISPATCH_POINTWISE(before.kind,
                          activation_gradient<kind>(M_, last - first, K_, x + first, before.slope, pitch, grad_x));
  }

  // grad_w (N, K), grad_bias (N,); either may be null
  void to_weight(int64_t first_item, int64_t last_item, const float* grad_y, const float* x, float* grad_w,
                 float* grad_bias) const {
    const int64_t first = first_item * isa_.rows, last = std::min(N_, last_item * isa_.rows);
    if (grad_bias) {
      std::fill(grad_bias + first, grad_bias + last, 0.0f);
      add_rows(M_, last - first, N_, grad_y + first, grad_bias + first);
    }
    if (!grad_w) return;
    for (int64_t k = 0; k < whole_; k += isa_.panel()) {
      const int vectors = int(std::min<int64_t>(isa_.vectors, (whole_ - k) / isa_.lanes));
      for (int64_t n = first; n < last; n += isa_.rows)
        add_weight_tile(int(std::min<int64_t>(isa_.rows, last - n)), vectors, grad_y + n, x + k, K_,
                        grad_w + n * K_ + k, K_);
    }
    if (whole_ == K_) return;
    const std::vector<float> padded = padded_rest(x, M_);
    float sums[kGemmRows * kMostLanes];
    for (int64_t n = first; n < last; n += isa_.rows) {
      const int rows = int(std::min<int64_t>(isa_.rows, last - n));
      add_weight_tile(rows, 1, grad_y + n, padded.data(), isa_.lanes, sums, isa_.lanes);
      for (int r = 0; r < rows; ++r) std::copy_n(sums + r * isa_.lanes, K_ - whole_, grad_w + (n + r) * K_ + whole_);
    }
  }

 private:
  static constexpr int kMostLanes = 16;
  static constexpr int64_t kWork = int64_t(1) << 16;    // products
  static constexpr int64_t kCached = int64_t(1) << 16;  // numbers of w that stay in the second-level cache
  static constexpr int64_t kRows = 96;                  // of w's, a panel wide, that stay in the first

  int64_t grain(int64_t products_of_row) const {
    return std::max<int64_t>(1, kWork / std::max<int64_t>(1, M_ * products_of_row));
  }
  int64_t block() const {  // columns of y
    return std::max<int64_t>(isa_.vectors, kCached / std::max<int64_t>(1, K_) / isa_.vectors * isa_.vectors);
  }

  // y[m] = Σ_n grad_y[m, n]·w[n], whole vectors of rows `pitch` apart
  void add_input_panel(int vectors, const float* grad_y, const float* w, int64_t pitch, float* y,
                       int64_t columns) const {
    const float* at[kGemmRows];
    for (int64_t m = 0; m < M_; ++m) std::fill_n(y + m * columns, vectors * isa_.lanes, 0.0f);
    for (int64_t n = 0; n < N_; n += kRows)
      for (int64_t m = 0; m < M_; m += isa_.rows) {
        const int rows = int(std::min<int64_t>(isa_.rows, M_ - m));
        for (int r = 0; r < rows; ++r) at[r] = grad_y + (m + r) * N_ + n;
        isa_.outer[rows][vectors](1, std::min(kRows, N_ - n), at, 0, 1, w + n * pitch, pitch, y + m * columns, columns);
      }
  }

  // y[r] = Σ_m grad_y[m, r]·x[m]
  void add_weight_tile(int rows, int vectors, const float* grad_y, const float* x, int64_t pitch, float* y,
                       int64_t columns) const {
    const float* at[kGemmRows];
    for (int r = 0; r < rows; ++r) {
      at[r] = grad_y + r;
      std::fill_n(y + r * columns, vectors * isa_.lanes, 0.0f);
    }
    isa_.outer[rows][vectors](1, M_, at, 0, N_, x, pitch, y, columns);
  }

  // The numbers of rows behind whole vectors, with zeros behind.
  std::vector<float> padded_rest(const float* from, int64_t rows) const {
    std::vector<float> found(size_t(rows * isa_.lanes), 0.0f);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(from + r * K_ + whole_, K_ - whole_, &found[size_t(r * isa_.lanes)]);
    return found;
  }

  const GemmIsa& isa_;
  int64_t M_, K_, N_, whole_;  // whole: numbers of K in whole vectors
};

}  // namespace fastgen
