// Products of images' pixels on the CPU, whose channels lie together: y = Σ over taps of x[pixel + tap] @ W, and the
// gradient of such a W. In float by the tiles of the sampler, in double by loops. No torch headers.
#pragma once

#include "checked.h"
#include "sample_gemm_cpu.h"

namespace fastgen {

constexpr int kRows = kGemmRows;  // pixels of a product

// Lines of memory that are read or written soon; rows are too far apart for the machine to foresee.
template <typename T>
FG_HD void prefetch(const T* at, int64_t count) {
#if defined(__GNUC__)
  for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(at + i);
#endif
}

// Addresses of pages whose lines are prefetched soon: a machine may drop a prefetch that would have to look one up, as
// AMD's Zen 4 does, but not a read, and several reads look up theirs at once. Of what is there to be read.
template <typename T>
FG_HD void look_up_pages(const T* at, int64_t count) {
  constexpr int64_t kPage = 4096 / int64_t(sizeof(T));
  const volatile T* numbers = at;
  for (int64_t i = 0; i < count; i += kPage) (void)numbers[i];
  if (count > 0) (void)numbers[count - 1];
}

template <typename T>
FG_VECTOR_CLONES void add_scaled(int64_t count, T scale, const T* __restrict w, T* __restrict y) {
  for (int64_t j = 0; j < count; ++j) y[j] += scale * w[j];
}

// ---- y[m] = Σ over runs of x[run, m] @ W, for up to kRows rows that lie anywhere

template <typename T>
class RunsProduct {
 public:
  // w (runs·length, N), contiguous
  RunsProduct(int64_t runs, int64_t length, int64_t N, std::vector<T> w)
      : runs_(runs), length_(length), N_(N), w_(std::move(w)) {}

  int rows() const { return kRows; }
  int64_t columns() const { return N_; }  // from a row of y to the next

  // x[run·rows + m]; y (rows, columns)
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
  int64_t columns() const { return ceil_div(layout_.N, isa_.lanes) * isa_.lanes; }

  void multiply(int rows, const float* const* x, float* y) const {
    for (int64_t p = 0; p < layout_.panels(); ++p)
      isa_.tile[rows][layout_.vectors_of(p)](int64_t(lengths_.size()), lengths_.data(), x,
                                             packed_.data() + layout_.offset(p), y + layout_.first(p), columns(), 0);
  }

 private:
  const GemmIsa& isa_;
  GemmLayout layout_;
  std::vector<int64_t> lengths_;
  std::vector<float> packed_;
};

// ---- y (K, columns) += Σ over pixels of x[pixel] ⊗ grads[pixel]; K channels of x, each moved by the tap it belongs to

// Pixels of an image: channels of (r, c) from at + r·row + c·pixel on.
template <typename T>
struct Plane {
  const T* at;
  int64_t row, pixel;

  Plane below(int64_t rows) const { return {at + rows * row, row, pixel}; }
};

// An image with what is read outside of it: top + H rows of left + W + right pixels.
template <typename T>
struct Frame {
  int64_t H, W, width, top, left, row;
  std::vector<T> pixels;  // zeros until they are filled

  Frame(int64_t H, int64_t W, int64_t width, int64_t top, int64_t left, int64_t right)
      : H(H),
        W(W),
        width(width),
        top(top),
        left(left),
        row((left + W + right) * width),
        pixels(size_t((top + H) * row), T(0)) {}

  T* at(int64_t r, int64_t c) { return &pixels[size_t((r + top) * row + (c + left) * width)]; }
  Plane<T> plane() { return {at(0, 0), row, width}; }

  void fill(const T* image) {
    for (int64_t r = 0; r < H; ++r) std::copy_n(image + r * W * width, W * width, at(r, 0));
  }
};

// Words of pixels that are read: `length` in each of `runs`, the first at `at`.
template <typename T>
struct Reads {
  const T* at;
  int64_t runs, length, run, step;  // run, step: words from one to the next
};

// y[k] += Σ over words of x[k] behind those of `reads` ⊗ grads (words, columns). next: what is most likely added next;
// never read here.
template <typename T>
void add_outer_tiles(const TileSet<T>& isa, const Reads<T>& reads, const std::vector<int64_t>& x,
                     const word_t<T>* grads, int64_t columns, const T* next, int64_t ahead, float* y) {
  const int64_t K = int64_t(x.size()), tiles = ceil_div(columns, isa.panel()) * ceil_div(K, isa.rows);
  const int64_t share = ceil_div(ahead, tiles * isa.lanes) * isa.lanes;
  const T* const end = next + ahead;
  const T* at[kRows];
  for (int64_t first = 0; first < columns; first += isa.panel()) {
    const int vectors = int(std::min<int64_t>(isa.vectors, (columns - first) / isa.lanes));
    for (int64_t k = 0; k < K; k += isa.rows) {
      const int channels = int(std::min<int64_t>(isa.rows, K - k));
      for (int m = 0; m < channels; ++m) at[m] = reads.at + x[size_t(k + m)] * Word<T>::kNumbers;
      prefetch(next, std::min(share, end - next));
      next += std::min(share, end - next);
      isa.outer[channels][vectors](reads.runs, reads.length, at, reads.run, reads.step, grads + first, columns,
                                   y + k * columns + first, columns);
    }
  }
}

template <typename T>
class OuterProducts {
 public:
  OuterProducts(int64_t W, int64_t O) : W_(W), O_(O) {}

  int64_t outputs() const { return O_; }
  int64_t columns() const { return O_; }
  int64_t rows() const { return 1; }  // of an image, the most that are added at a time

  // Rows of the plane, and their gradients. x[k]: from the plane's channels at (0, 0) to what y's row k is of
  void add(const Plane<T>& plane, int64_t rows, const std::vector<int64_t>& x, const T* grads, T* y) const {
    for (size_t k = 0; k < x.size(); ++k)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < W_; ++c)
          add_scaled(O_, plane.at[x[k] + r * plane.row + c * plane.pixel], grads + (r * W_ + c) * O_,
                     y + int64_t(k) * O_);
  }

 private:
  int64_t W_, O_;
};

template <>
class OuterProducts<float> {
 public:
  OuterProducts(int64_t W, int64_t O)
      : isa_(gemm_isas().back()), W_(W), O_(O), columns_(ceil_div(O, isa_.lanes) * isa_.lanes) {
    if (columns_ != O) padded_.assign(size_t(rows() * W * columns_), 0.0f);
  }

  int64_t outputs() const { return O_; }
  int64_t columns() const { return columns_; }
  int64_t rows() const { return std::max<int64_t>(1, kPixels / std::max<int64_t>(1, W_)); }

  void add(const Plane<float>& plane, int64_t rows, const std::vector<int64_t>& x, const float* grads, float* y) {
    const int64_t count = rows * W_ * O_;
    const float* next = grads + count;
    if (columns_ != O_) {
      for (int64_t pixel = 0; pixel < rows * W_; ++pixel)
        std::copy_n(grads + pixel * O_, O_, &padded_[size_t(pixel * columns_)]);
      grads = padded_.data();
    }
    add_outer_tiles<float>(isa_, {plane.at, rows, W_, plane.row, plane.pixel}, x, grads, columns_, next, count, y);
  }

 private:
  static constexpr int64_t kPixels = 96;  // their gradients stay in the first cache

  const GemmIsa& isa_;
  int64_t W_, O_, columns_;
  std::vector<float> padded_;  // zeros where a tile would read the next pixel's gradients
};

}  // namespace fastgen
