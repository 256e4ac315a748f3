// masked_conv2d on the CPU as products of pixels, for kernels of which a few taps are alive, and the weight's gradient
// of those that read a few numbers in all. Pixels lie in memory with their channels together (channels_last); what they
// read is read where it lies. No torch headers.
#pragma once

#include "masked_conv2d.h"
#include "pixel_products_cpu.h"

namespace fastgen {

FG_VECTOR_CLONES inline void add_runs(int64_t count, const float* __restrict a, const float* __restrict b,
                                      float* __restrict y) {
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

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

// y[pixel] = Σ over taps of x[pixel ± tap] @ W + bias + residual
class TapsProduct {
 public:
  // Backward it is the gradients of y that are read, by whom a pixel has been read; w (O, I, taps); bias may be null.
  TapsProduct(const PixelConvolution& shape, bool backward, const float* w, const float* bias)
      : shape_(shape),
        K_(backward ? shape.O : shape.I),
        N_(backward ? shape.I : shape.O),
        layout_(isa_, shape.taps() * K_ + (bias ? 1 : 0), N_, false),
        packed_(size_t(layout_.size())),
        zeros_(size_t(K_), 0.0f),
        lengths_(size_t(shape.taps()), K_) {
    const int64_t T = shape.taps(), I = shape.I, O = shape.O, sign = backward ? -1 : 1;
    for (int64_t t = 0; t < T; ++t) {
      const int64_t row = sign * shape.row(t), column = sign * shape.column(t);
      taps_.push_back({row, column, (row * shape.W + column) * K_});
    }
    std::vector<float> matrix(size_t(T * K_ * N_));
    for (int64_t o = 0; o < O; ++o)
      for (int64_t i = 0; i < I; ++i)
        for (int64_t t = 0; t < T; ++t)
          matrix[size_t(backward ? (t * O + o) * I + i : (t * I + i) * O + o)] = w[shape.at(o, i, t)];
    if (bias) {  // the weight of a one
      matrix.insert(matrix.end(), bias, bias + N_);
      lengths_.push_back(1);
    }
    layout_.pack(matrix.data(), packed_.data());
  }

  int64_t inputs() const { return K_; }  // numbers of a pixel that is read, and
  int64_t outputs() const { return N_; }

  // Numbers that others read or write soon.
  struct Ahead {
    const float *first, *second;
    int64_t count;  // of both
  };

  // Pixels [first, last), x, residual and y from the first on; residual and more may be null.
  void run(int64_t first, int64_t last, const float* x, const float* residual, float* y,
           const Ahead* more = nullptr) const {
    const int64_t all = last - first, runs = int64_t(lengths_.size()), columns = ceil_div(N_, isa_.lanes) * isa_.lanes;
    const bool direct = columns == N_ && !residual;
    std::vector<const float*> read(size_t(runs * kGemmBlock));
    std::vector<float> sums(size_t(direct ? 0 : kGemmBlock * columns));
    const int64_t share = more ? ceil_div(more->count, layout_.panels() * ceil_div(all, isa_.rows)) : 0;
    int64_t done = 0;
    for (int64_t block = 0; block < all; block += kGemmBlock) {
      const int64_t pixels = std::min(kGemmBlock, all - block);
      point(first + block, pixels, x + block * K_, read.data());
      float* found = direct ? y + block * N_ : sums.data();
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
                                                 found + m * columns + layout_.first(p), columns);
        }
      if (!direct) finish(pixels, columns, found, residual ? residual + block * N_ : nullptr, y + block * N_);
    }
  }

 private:
  // (tile, run, row of the tile); x from the first pixel on
  void point(int64_t first, int64_t pixels, const float* x, const float** read) const {
    static constexpr float kOne = 1.0f;
    const int64_t runs = int64_t(lengths_.size()), T = shape_.taps(), H = shape_.H, W = shape_.W;
    int64_t r = first / W % H, c = first % W;
    for (int64_t m = 0; m < pixels; ++m) {
      const int64_t tile = m / isa_.rows * isa_.rows, rows = std::min<int64_t>(isa_.rows, pixels - tile);
      const float **at = read + runs * tile + (m - tile), *here = x + m * K_;
      for (int64_t t = 0; t < T; ++t, at += rows) {
        const Tap& tap = taps_[size_t(t)];
        const bool inside = uint64_t(r + tap.row) < uint64_t(H) && uint64_t(c + tap.column) < uint64_t(W);
        *at = inside ? here + tap.ahead : zeros_.data();
      }
      if (runs > T) *at = &kOne;
      if (++c == W) {
        c = 0;
        if (++r == H) r = 0;
      }
    }
  }

  // What a tile of the next block reads and writes.
  void ahead(int64_t first, int64_t last, int64_t panel, const float* x, const float* residual, float* y) const {
    for (int64_t pixel = first; pixel < last; ++pixel) {
      const int64_t at = pixel * N_ + layout_.first(panel), count = layout_.count(panel);
      prefetch(y + at, count);
      if (residual) prefetch(residual + at, count);
      if (panel == 0) prefetch(x + pixel * K_, K_);
    }
  }

  void finish(int64_t pixels, int64_t columns, const float* sums, const float* residual, float* y) const {
    if (columns == N_) return add_runs(pixels * N_, sums, residual, y);
    for (int64_t m = 0; m < pixels; ++m)
      residual ? add_runs(N_, sums + m * columns, residual + m * N_, y + m * N_)
               : void(std::copy_n(sums + m * columns, N_, y + m * N_));
  }

  struct Tap {
    int64_t row, column, ahead;  // ahead: of a pixel's numbers, those that it reads
  };

  const GemmIsa& isa_ = gemm_isas().back();
  PixelConvolution shape_;
  int64_t K_, N_;
  GemmLayout layout_;
  std::vector<Tap> taps_;
  std::vector<float> packed_, zeros_;
  std::vector<int64_t> lengths_;
};

FG_VECTOR_CLONES inline void add_pixels(int64_t pixels, int64_t O, const float* __restrict x, float* __restrict y) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t o = 0; o < O; ++o) y[o] += x[pixel * O + o];
}

// Gradients: of pixels, and of weight and bias in parts that are added in their order, whoever has computed them.
class TapsGradient {
 public:
  explicit TapsGradient(const PixelConvolution& shape)
      : shape_(shape),
        K_(shape.taps() * shape.I),
        columns_(OuterProducts<float>(0, shape.O).columns()),
        images_(std::max<int64_t>(1, ceil_div(shape.N, kMostParts))),
        parts_(size_t(parts() * part()), 0.0f) {
    const Crop& crop = shape.crop;
    const int64_t row = (crop.left + shape.W + crop.right) * shape.I;
    for (int64_t t = 0; t < shape.taps(); ++t)
      for (int64_t i = 0; i < shape.I; ++i) read_.push_back(shape.row(t) * row + shape.column(t) * shape.I + i);
  }

  int64_t parts() const { return ceil_div(shape_.N, images_); }

  // Parts [first, last); `pixels`, which may be null, makes grad_x of the same rows while their gradients are near.
  void add(int64_t first, int64_t last, const float* x, const float* grads, bool weight, bool bias,
           const TapsProduct* pixels, float* grad_x) {
    const int64_t image = shape_.H * shape_.W;
    Scratch scratch(shape_);
    for (int64_t n = first * images_; n < std::min(last * images_, shape_.N); ++n)
      add_image(n, x + n * image * shape_.I, grads + n * image * shape_.O, weight, bias, pixels,
                pixels ? grad_x + n * image * shape_.I : nullptr, &scratch);
  }

  int64_t images() const { return images_; }  // of a part

  // What a thread needs for itself.
  struct Scratch {
    Frame<float> frame;
    OuterProducts<float> product;
    std::vector<float> sum;

    explicit Scratch(const PixelConvolution& shape)
        : frame(shape.looks_around() ? shape.H : 0, shape.W, shape.I, shape.crop.top, shape.crop.left,
                shape.crop.right),
          product(shape.W, shape.O),
          sum(size_t(shape.O)) {}
  };

  // Of image n, whose pixels, gradients and grad_x these are.
  void add_image(int64_t n, const float* x, const float* grads, bool weight, bool bias, const TapsProduct* pixels,
                 float* grad_x, Scratch* scratch) {
    const int64_t H = shape_.H, W = shape_.W, O = shape_.O;
    float* y = &parts_[size_t(n / images_ * part())];
    const bool framed = shape_.looks_around();
    if (framed && weight) scratch->frame.fill(x);
    const Plane<float> plane = framed ? scratch->frame.plane() : Plane<float>{x, W * shape_.I, shape_.I};
    const int64_t rows = scratch->product.rows();
    for (int64_t r = 0; r < H; r += rows) {
      const int64_t end = std::min(r + rows, H), from = r * W * O;
      if (pixels) pixels->run((n * H + r) * W, (n * H + end) * W, grads + from, nullptr, grad_x + r * W * shape_.I);
      if (weight) scratch->product.add(plane.below(r), end - r, read_, grads + from, y);
      for (int64_t row = r; bias && row < end; ++row) {
        std::fill(scratch->sum.begin(), scratch->sum.end(), 0.0f);
        add_pixels(W, O, grads + row * W * O, scratch->sum.data());
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
  std::vector<int64_t> read_;
};

}  // namespace fastgen
