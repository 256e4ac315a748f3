// image_lstm on the CPU: its products, of rows that lie anywhere. In float by the tiles of the sampler, in double by
// loops.
#pragma once

#include "image_lstm.h"
#include "sample_gemm_cpu.h"

namespace fastgen {

// ---- y[m] = Σ over runs of x[run, m] @ W, for up to kRows rows that lie anywhere

constexpr int kRows = kGemmRows;

template <typename T>
FG_VECTOR_CLONES void add_scaled(int64_t count, T scale, const T* __restrict w, T* __restrict y) {
  for (int64_t j = 0; j < count; ++j) y[j] += scale * w[j];
}

template <typename T>
class RunsProduct {
 public:
  // w (runs·length, N), contiguous
  RunsProduct(int64_t runs, int64_t length, int64_t N, std::vector<T> w)
      : runs_(runs), length_(length), N_(N), w_(std::move(w)) {}

  int rows() const { return kRows; }

  // x[run·rows + m]; y (rows, N)
  void multiply(int rows, const T* const* x, T* y) const {
    std::fill_n(y, rows * N_, T(0));
    for (int64_t run = 0; run < runs_; ++run)
      for (int m = 0; m < rows; ++m)
        for (int64_t k = 0; k < length_; ++k)
          add_scaled(N_, x[run * rows + m][k], &w_[size_t((run * length_ + k) * N_)], y + m * N_);
  }

 private:
  int64_t runs_, length_, N_;
  std::vector<T> w_;
};

template <>
class RunsProduct<float> {
 public:
  RunsProduct(int64_t runs, int64_t length, int64_t N, const std::vector<float>& w)
      : isa_(gemm_isas().back()), layout_(isa_, runs * length, N, false), lengths_(size_t(runs), length) {
    packed_.resize(size_t(layout_.size()));
    layout_.pack(w.data(), packed_.data());
  }

  int rows() const { return isa_.rows; }

  void multiply(int rows, const float* const* x, float* y) const {
    alignas(64) float sums[kRows * 16 * kGemmVectors];
    for (int64_t p = 0; p < layout_.panels(); ++p) {
      const int vectors = layout_.vectors_of(p);
      isa_.tile[rows][vectors](int64_t(lengths_.size()), lengths_.data(), x, packed_.data() + layout_.offset(p), sums);
      for (int m = 0; m < rows; ++m)
        std::copy_n(sums + m * vectors * isa_.lanes, layout_.count(p), y + m * layout_.N + layout_.first(p));
    }
  }

 private:
  const GemmIsa& isa_;
  GemmLayout layout_;
  std::vector<int64_t> lengths_;
  std::vector<float> packed_;
};

// ---- y (K, O) += Σ over cells of states[cell] ⊗ grads[cell], where the states of a tap are those of cells moved by it

// States of an image with what cells read outside of it: (H + 1, W + 2) cells.
template <typename T>
struct Frame {
  int64_t H, W, width;
  std::vector<T> states;  // (width, H + 1, W + 2)

  Frame(int64_t H, int64_t W, int64_t width)
      : H(H), W(W), width(width), states(size_t(width * (H + 1) * (W + 2)), T(0)) {}

  T* at(int64_t k, int64_t r, int64_t c) { return &states[size_t((k * (H + 1) + r + 1) * (W + 2) + c + 1)]; }

  void fill(const T* h, const T* hidden, bool around) {
    for (int64_t k = 0; k < width; ++k) {
      std::fill_n(at(k, -1, 0), W, hidden[k]);
      for (int64_t r = 0; r < H; ++r) {
        *at(k, r, -1) = *at(k, r, W) = around ? hidden[k] : T(0);
        for (int64_t c = 0; c < W; ++c) *at(k, r, c) = h[(r * W + c) * width + k];
      }
    }
  }
};

template <typename T>
struct OuterProducts {
  explicit OuterProducts(int64_t cells, int64_t O) : O(O) {}

  void add(const ImageLstmScan& scan, Frame<T>& frame, const T* grads, T* y) {
    for (int t = 0; t < scan.taps; ++t)
      for (int64_t k = 0; k < frame.width; ++k)
        for (int64_t r = 0; r < frame.H; ++r)
          for (int64_t c = 0; c < frame.W; ++c)
            add_scaled(O, *frame.at(k, r + scan.row[t], c + scan.column[t]), grads + (r * frame.W + c) * O,
                       y + (t * frame.width + k) * O);
  }

  int64_t O;
};

template <>
struct OuterProducts<float> {
  OuterProducts(int64_t cells, int64_t O) : isa(gemm_isas().back()), layout(isa, cells, O, false) {
    packed.assign(size_t(layout.size()), 0.0f);
  }

  void add(const ImageLstmScan& scan, Frame<float>& frame, const float* grads, float* y) {
    pack(frame.H * frame.W, grads);
    const int64_t K = scan.taps * frame.width;
    const std::vector<int64_t> lengths(size_t(frame.H), frame.W);
    std::vector<const float*> x(size_t(frame.H * isa.rows));
    alignas(64) float sums[kRows * 16 * kGemmVectors];
    for (int64_t first = 0; first < K; first += isa.rows) {
      const int rows = int(std::min<int64_t>(isa.rows, K - first));
      for (int64_t r = 0; r < frame.H; ++r)
        for (int m = 0; m < rows; ++m) {
          const int64_t t = (first + m) / frame.width, k = (first + m) % frame.width;
          x[size_t(r * rows + m)] = frame.at(k, r + scan.row[t], scan.column[t]);
        }
      for (int64_t p = 0; p < layout.panels(); ++p) {
        const int vectors = layout.vectors_of(p);
        isa.tile[rows][vectors](frame.H, lengths.data(), x.data(), packed.data() + layout.offset(p), sums);
        for (int m = 0; m < rows; ++m)
          add_scaled(layout.count(p), 1.0f, sums + m * vectors * isa.lanes,
                     y + (first + m) * layout.N + layout.first(p));
      }
    }
  }

  // As the layout has it, a run of a cell at a time.
  void pack(int64_t cells, const float* grads) {
    for (int64_t p = 0; p < layout.panels(); ++p) {
      const int64_t width = int64_t(layout.vectors_of(p)) * isa.lanes, count = layout.count(p);
      float* panel = packed.data() + layout.offset(p);
      for (int64_t cell = 0; cell < cells; ++cell)
        std::copy_n(grads + cell * layout.N + layout.first(p), count, panel + cell * width);
    }
  }

  const GemmIsa& isa;
  GemmLayout layout;
  std::vector<float> packed;  // zeros beyond the columns
};
}  // namespace fastgen
