// masked_conv2d on the CPU as products of pixels, for kernels of which a few taps are alive. Pixels lie in memory with
// their channels together (channels_last); what they read is read where it lies. In float, or in bfloat16 with sums in
// float and results that are rounded once; weights and biases are float in both. No torch headers.
#pragma once

#include "masked_conv2d.h"
#include "pixel_products_cpu.h"
#include "relu_runs_cpu.h"

namespace fastgen {

// Taps in rows from `top` above the pixel to its own, and in columns from its left to its right. Only the live ones
// are multiplied: of a raster order that is what comes first.
struct PixelConvolution {
  int64_t N, H, W, I, O;
  Crop crop;

  int64_t pixels() const { return N * H * W; }
  int64_t taps() const { return crop.live; }
  int64_t row(int64_t tap) const { return tap / crop.KW - crop.top; }
  int64_t column(int64_t tap) const { return tap % crop.KW - crop.left; }
  int64_t at(int64_t o, int64_t i, int64_t tap) const { return (o * I + i) * crop.KH * crop.KW + tap; }  // in a weight

  // Else runs are short, or the weights leave the cache between one block of pixels and the next.
  bool pays() const { return taps() > 0 && I >= 8 && taps() * I * O <= 65536; }
  bool gradient_pays() const { return taps() > 0 && taps() * I <= 256; }  // of the weight alone

  // Whether some tap is beside the pixel, and may be outside of the image.
  bool looks_around() const { return taps() > 1 || (taps() > 0 && (row(0) != 0 || column(0) != 0)); }
};

// y[pixel] = Σ over taps of x[pixel ± tap] @ W + bias + residual. Of an odd number of bfloat16 the last stands alone:
// it is read beside a zero, from a copy, not beside the next pixel's first, which may be NaN.
template <typename T>
class TapsProduct {
 public:
  // Backward it is the gradients of y that are read, by whom a pixel has been read; w (O, I, taps); bias may be null.
  TapsProduct(const PixelConvolution& shape, bool backward, const float* w, const float* bias)
      : shape_(shape),
        K_(backward ? shape.O : shape.I),
        N_(backward ? shape.I : shape.O),
        read_(count_words<T>(K_)),
        layout_(isa_, shape.taps() * read_ + (bias ? 1 : 0), N_, false),
        packed_(size_t(layout_.size())),
        zeros_(size_t(read_ * kNumbers), T(0)),
        has_bias_(bias != nullptr) {
    const int64_t taps = shape.taps(), I = shape.I, O = shape.O, sign = backward ? -1 : 1;
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t row = sign * shape.row(t), column = sign * shape.column(t);
      const int64_t ahead = row * shape.W + column;
      taps_.push_back({row, column, ahead});
      low_ = std::min(low_, ahead), high_ = std::max(high_, ahead);
      lengths_.push_back(K_ / kNumbers);
      if (has_lone()) lengths_.push_back(1);
    }
    std::vector<float> matrix(size_t((taps * read_ + (bias ? 1 : 0)) * kNumbers * N_), 0.0f);
    for (int64_t o = 0; o < O; ++o)
      for (int64_t i = 0; i < I; ++i)
        for (int64_t t = 0; t < taps; ++t) {
          const int64_t from = backward ? o : i, to = backward ? i : o;
          matrix[size_t((t * read_ * kNumbers + from) * N_ + to)] = w[shape.at(o, i, t)];
        }
    if (bias) {  // the weight of a one
      pack_bias(bias, &matrix[size_t(taps * read_ * kNumbers * N_)]);
      lengths_.push_back(1);
    }
    pack_words<T>(layout_, matrix.data(), packed_.data());
  }

  int64_t inputs() const { return K_; }  // numbers of a pixel that is read, and
  int64_t outputs() const { return N_; }

  // Numbers that others read or write soon.
  struct Ahead {
    const T *first, *second;
    int64_t count;  // of both
  };

  // Pixels [first, last), x, residual and y from the first on; residual and more may be null. relu: of the result.
  void run(int64_t first, int64_t last, const T* x, const T* residual, T* y, bool relu = false,
           const Ahead* more = nullptr) const {
    const int64_t all = last - first, runs = int64_t(lengths_.size()), columns = ceil_div(N_, isa_.lanes) * isa_.lanes;
    const bool direct = std::is_same_v<T, float> && columns == N_ && !residual;
    const auto read = unwritten<const T*>(runs * kGemmBlock);
    const auto sums = unwritten<float>(direct ? 0 : kGemmBlock * columns);
    std::vector<T> lone(size_t(has_lone() ? 2 * (high_ - low_ + kGemmBlock) : 0), T(0));
    const int64_t share = more ? ceil_div(more->count, layout_.panels() * ceil_div(all, isa_.rows)) : 0;
    int64_t done = 0;
    for (int64_t block = 0; block < all; block += kGemmBlock) {
      const int64_t pixels = std::min(kGemmBlock, all - block);
      const T* here = has_lone() ? copy_lone(first + block, pixels, x + block * K_, lone.data()) : nullptr;
      point(first + block, pixels, x + block * K_, here, read.get());
      float* found = sums.get();
      if constexpr (std::is_same_v<T, float>) found = direct ? y + block * N_ : found;
      for (int64_t p = 0; p < layout_.panels(); ++p)
        for (int64_t m = 0; m < pixels; m += isa_.rows) {
          const int rows = int(std::min<int64_t>(isa_.rows, pixels - m));
          if (more) {
            const int64_t count = std::min(share, more->count - done);
            prefetch(more->first + done, count);
            prefetch(more->second + done, count);
            done += count;
          }
          ahead(block + kGemmBlock + m, std::min(block + kGemmBlock + m + rows, all), p, x, residual, y);
          isa_.tile[rows][layout_.vectors_of(p)](runs, lengths_.data(), &read[size_t(runs * m)],
                                                 packed_.data() + layout_.offset(p),
                                                 found + m * columns + layout_.first(p), columns, 0);
        }
      if (direct && relu) relu_run(pixels * N_, y + block * N_, y + block * N_);
      if (!direct) finish(pixels, columns, found, residual ? residual + block * N_ : nullptr, relu, y + block * N_);
    }
  }

 private:
  static constexpr int64_t kNumbers = Word<T>::kNumbers;

  // The bias (N), or as much as a bfloat16 has of it, and below that what is left.
  void pack_bias(const float* bias, float* rows) const {
    for (int64_t n = 0; n < N_; ++n) {
      rows[n] = to_float(from_float<T>(bias[n]));
      if (kNumbers == 2 && std::isfinite(rows[n])) rows[N_ + n] = bias[n] - rows[n];
    }
  }

  static const T* ones() {
    static const T found[2] = {from_float<T>(1.0f), from_float<T>(1.0f)};
    return found;
  }

  bool has_lone() const { return K_ % kNumbers != 0; }

  // The last numbers of the pixels that these read, each before a zero. Where the first one's own is.
  const T* copy_lone(int64_t first, int64_t pixels, const T* x, T* lone) const {
    const int64_t image = shape_.H * shape_.W, begin = std::max(first + low_, first / image * image);
    const int64_t end = std::min(first + pixels + high_, ceil_div(first + pixels, image) * image);
    for (int64_t pixel = begin; pixel < end; ++pixel) lone[2 * (pixel - begin)] = x[(pixel - first) * K_ + K_ - 1];
    return lone + 2 * (first - begin);
  }

  // (tile, run, row of the tile); x and lone from the first pixel on
  void point(int64_t first, int64_t pixels, const T* x, const T* lone, const T** read) const {
    const int64_t runs = int64_t(lengths_.size()), taps = shape_.taps(), H = shape_.H, W = shape_.W;
    int64_t r = first / W % H, c = first % W;
    for (int64_t m = 0; m < pixels; ++m) {
      const int64_t tile = m / isa_.rows * isa_.rows, rows = std::min<int64_t>(isa_.rows, pixels - tile);
      const T** at = read + runs * tile + (m - tile);
      for (int64_t t = 0; t < taps; ++t, at += rows) {
        const Tap& tap = taps_[size_t(t)];
        const bool inside = uint64_t(r + tap.row) < uint64_t(H) && uint64_t(c + tap.column) < uint64_t(W);
        *at = inside ? x + (m + tap.ahead) * K_ : zeros_.data();
        if (lone) *(at += rows) = inside ? lone + 2 * (m + tap.ahead) : zeros_.data();
      }
      if (has_bias_) *at = ones();
      if (++c == W) {
        c = 0;
        if (++r == H) r = 0;
      }
    }
  }

  // What a tile of the next block reads and writes.
  void ahead(int64_t first, int64_t last, int64_t panel, const T* x, const T* residual, T* y) const {
    for (int64_t pixel = first; pixel < last; ++pixel) {
      const int64_t at = pixel * N_ + layout_.first(panel), count = layout_.count(panel);
      prefetch(y + at, count);
      if (residual) prefetch(residual + at, count);
      if (panel == 0) prefetch(x + pixel * K_, K_);
    }
  }

  void finish(int64_t pixels, int64_t columns, const float* sums, const T* residual, bool relu, T* y) const {
    if (columns == N_) return isa_.finish(pixels * N_, sums, residual, relu, y);
    for (int64_t m = 0; m < pixels; ++m)
      isa_.finish(N_, sums + m * columns, residual ? residual + m * N_ : nullptr, relu, y + m * N_);
  }

  struct Tap {
    int64_t row, column, ahead;  // ahead: pixels to the one that is read
  };

  const TileSet<T>& isa_ = tile_sets<T>().back();
  PixelConvolution shape_;
  int64_t K_, N_, read_;        // read_: words of a pixel
  int64_t low_ = 0, high_ = 0;  // the least and the most pixels ahead
  GemmLayout layout_;
  std::vector<Tap> taps_;
  std::vector<word_t<T>> packed_;
  std::vector<T> zeros_;
  bool has_bias_;
  std::vector<int64_t> lengths_;
};

}  // namespace fastgen
