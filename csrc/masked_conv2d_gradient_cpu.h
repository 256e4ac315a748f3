// The gradients of a convolution of pixels on the CPU: of its weight and bias, and of pixels beside them, row by row
// while their own gradients are near. No torch headers.
#pragma once

#include "masked_conv2d_products_cpu.h"

namespace fastgen {

// ---- y (live taps · I, columns) += Σ over pixels of what they read ⊗ their gradients, an image at a time

template <typename T>
class TapsOuter;

template <>
class TapsOuter<float> {
 public:
  explicit TapsOuter(const PixelConvolution& shape)
      : shape_(shape),
        frame_(shape.looks_around() ? shape.H : 0, shape.W, shape.I, shape.crop.top, shape.crop.left, shape.crop.right),
        product_(shape.W, shape.O) {
    for (int64_t t = 0; t < shape.taps(); ++t)
      for (int64_t i = 0; i < shape.I; ++i) read_.push_back(shape.row(t) * frame_.row + shape.column(t) * shape.I + i);
  }

  int64_t rows() const { return product_.rows(); }  // of an image, the most that are added at a time

  void begin(const float* x) {  // an image, which stays where it is
    if (shape_.looks_around()) frame_.fill(x);
    plane_ = shape_.looks_around() ? frame_.plane() : Plane<float>{x, shape_.W * shape_.I, shape_.I};
  }
  void add(int64_t row, int64_t rows, const float* grads, float* y) {
    product_.add(plane_.below(row), rows, read_, grads, y);
  }

 private:
  PixelConvolution shape_;
  Frame<float> frame_;
  OuterProducts<float> product_;
  Plane<float> plane_{};
  std::vector<int64_t> read_;
};

// A pair is of two pixels beside each other in a row, from the first on. What they read is a pair, too, of a row that
// is kept twice: in pairs from its first column on, and from its second. Where a pixel reads itself alone, rows are
// one. Beside the last gradient of an odd row is a zero, and what is there times zero is NaN of an infinity; the sums
// of other taps, which read it, are then infinite or NaN in any arithmetic.
template <>
class TapsOuter<bfloat16> {
 public:
  explicit TapsOuter(const PixelConvolution& shape)
      : shape_(shape),
        columns_(ceil_div(shape.O, isa_.lanes) * isa_.lanes),
        pairs_(ceil_div(shape.W, 2)),
        row_((pairs_ + (shape.crop.left + shape.crop.right) / 2) * shape.I),
        zeros_(size_t(shape.I), 0),
        grads_(size_t(rows() * pairs_ * columns_), 0) {
    const bool around = shape.looks_around();
    const int64_t top = shape.crop.top, left = shape.crop.left;
    if (around) shifted_ = (top + shape.H) * row_;
    x_.assign(size_t(around ? 2 * shifted_ : rows() * pairs_ * shape.I), 0);
    for (int64_t t = 0; t < shape.taps(); ++t) {
      const int64_t column = left + shape.column(t);
      for (int64_t i = 0; i < shape.I; ++i)
        read_.push_back(around ? column % 2 * shifted_ + (top + shape.row(t)) * row_ + column / 2 * shape.I + i : i);
    }
  }

  int64_t rows() const { return std::max<int64_t>(1, kPixels / std::max<int64_t>(1, shape_.W)); }

  void begin(const bfloat16* x) {
    image_ = x;
    if (!shape_.looks_around()) return;
    const int64_t I = shape_.I, across = row_ / std::max<int64_t>(1, I);
    for (int64_t r = 0; r < shape_.H; ++r)
      for (int64_t odd = 0; odd < 2; ++odd) {
        uint32_t* to = &x_[size_t(odd * shifted_ + (shape_.crop.top + r) * row_)];
        for (int64_t q = 0; q < across; ++q, to += I) {
          const int64_t c = 2 * q + odd - shape_.crop.left;
          pair_runs(I, pixel(r, c), pixel(r, c + 1), to);
        }
      }
  }

  void add(int64_t row, int64_t rows, const bfloat16* grads, float* y) {
    const int64_t W = shape_.W, I = shape_.I, O = shape_.O, pixels = rows * W;
    const auto pair = [&](int64_t at, bool whole, uint32_t* to) {
      pair_runs(O, grads + at * O, whole ? grads + (at + 1) * O : nullptr, to);
    };
    Reads<bfloat16> reads{};
    if (shape_.looks_around()) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < pairs_; ++j)
          pair(r * W + 2 * j, 2 * j + 1 < W, &grads_[size_t((r * pairs_ + j) * columns_)]);
      reads = {as_numbers(x_.data() + row * row_), rows, pairs_, row_, I};
    } else {
      const bfloat16* from = image_ + row * W * I;
      for (int64_t at = 0; at < pixels; at += 2) {
        const bool whole = at + 1 < pixels;
        pair(at, whole, &grads_[size_t(at / 2 * columns_)]);
        pair_runs(I, from + at * I, whole ? from + (at + 1) * I : nullptr, &x_[size_t(at / 2 * I)]);
      }
      reads = {as_numbers(x_.data()), 1, ceil_div(pixels, 2), 0, I};
    }
    const int64_t count = pixels * O;
    add_outer_tiles<bfloat16>(isa_, reads, read_, grads_.data(), columns_, grads + count, count, y);
  }

 private:
  static constexpr int64_t kPixels = 96;  // their gradients stay in the first cache

  static const bfloat16* as_numbers(const uint32_t* pairs) { return reinterpret_cast<const bfloat16*>(pairs); }

  const bfloat16* pixel(int64_t r, int64_t c) const {
    return uint64_t(c) < uint64_t(shape_.W) ? image_ + (r * shape_.W + c) * shape_.I : zeros_.data();
  }

  const TileSet<bfloat16>& isa_ = tile_sets<bfloat16>().back();
  PixelConvolution shape_;
  int64_t columns_, pairs_, row_, shifted_ = 0;  // pairs_: of a row's gradients; row_: pairs of numbers in a row of x_
  const bfloat16* image_ = nullptr;
  std::vector<bfloat16> zeros_;
  std::vector<uint32_t> x_, grads_;
  std::vector<int64_t> read_;
};

// ---- gradients: of pixels, and of weight and bias in parts that are added in their order, whoever has computed them

template <typename T>
FG_VECTOR_CLONES void add_pixels(int64_t pixels, int64_t O, const T* __restrict x, float* __restrict y) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t o = 0; o < O; ++o) y[o] += to_float(x[pixel * O + o]);
}

template <typename T>
class TapsGradient {
 public:
  explicit TapsGradient(const PixelConvolution& shape)
      : shape_(shape),
        K_(shape.taps() * shape.I),
        columns_(ceil_div(shape.O, tile_sets<T>().back().lanes) * tile_sets<T>().back().lanes),
        images_(std::max<int64_t>(1, ceil_div(shape.N, kMostParts))),
        parts_(size_t(parts() * part()), 0.0f) {}

  int64_t parts() const { return ceil_div(shape_.N, images_); }

  // Parts [first, last); `pixels`, which may be null, makes grad_x of the same rows while their gradients are near.
  void add(int64_t first, int64_t last, const T* x, const T* grads, bool weight, bool bias,
           const TapsProduct<T>* pixels, T* grad_x) {
    const int64_t image = shape_.H * shape_.W;
    Scratch scratch(shape_);
    for (int64_t n = first * images_; n < std::min(last * images_, shape_.N); ++n)
      add_image(n, x + n * image * shape_.I, grads + n * image * shape_.O, weight, bias, pixels,
                pixels ? grad_x + n * image * shape_.I : nullptr, &scratch);
  }

  int64_t images() const { return images_; }  // of a part

  // What a thread needs for itself.
  struct Scratch {
    TapsOuter<T> outer;
    std::vector<float> sum;

    explicit Scratch(const PixelConvolution& shape) : outer(shape), sum(size_t(shape.O)) {}
  };

  // Of image n, whose pixels, gradients and grad_x these are.
  void add_image(int64_t n, const T* x, const T* grads, bool weight, bool bias, const TapsProduct<T>* pixels, T* grad_x,
                 Scratch* scratch) {
    const int64_t H = shape_.H, W = shape_.W, O = shape_.O;
    float* y = &parts_[size_t(n / images_ * part())];
    if (weight) scratch->outer.begin(x);
    const int64_t rows = scratch->outer.rows();
    for (int64_t r = 0; r < H; r += rows) {
      const int64_t end = std::min(r + rows, H), from = r * W * O;
      if (pixels) pixels->run((n * H + r) * W, (n * H + end) * W, grads + from, nullptr, grad_x + r * W * shape_.I);
      if (weight) scratch->outer.add(r, end - r, grads + from, y);
      for (int64_t row = r; bias && row < end; ++row) {
        std::fill(scratch->sum.begin(), scratch->sum.end(), 0.0f);
        add_pixels<T>(W, O, grads + row * W * O, scratch->sum.data());
        add_run(O, scratch->sum.data(), y + K_ * columns_);
      }
    }
  }

  // weight (O, I, taps), bias (O); either may be null.
  void finish(float* weight, float* bias) const {
    std::vector<float> sum(size_t(part()), 0.0f);
    for (int64_t p = 0; p < parts(); ++p) add_run(part(), &parts_[size_t(p * part())], sum.data());
    for (int64_t o = 0; weight && o < shape_.O; ++o)
      for (int64_t k = 0; k < K_; ++k) weight[shape_.at(o, k % shape_.I, k / shape_.I)] = sum[size_t(k * columns_ + o)];
    if (bias) std::copy_n(&sum[size_t(K_ * columns_)], shape_.O, bias);
  }

 private:
  static constexpr int64_t kMostParts = 16;

  int64_t part() const { return (K_ + 1) * columns_; }  // the last row is the bias'

  PixelConvolution shape_;
  int64_t K_, columns_, images_;
  std::vector<float> parts_;
};

}  // namespace fastgen
