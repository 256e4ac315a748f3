// masked_conv2d on the CPU as products of pixels, for kernels of which a few taps of one row are alive. Pixels lie in
// memory with their channels together (channels_last); what they read is read where it lies. No torch headers.
#pragma once

#include "masked_conv2d.h"
#include "pixel_products_cpu.h"

namespace fastgen {

struct PixelConvolution {
  int64_t N, H, W, I, O;
  Crop crop;

  int64_t pixels() const { return N * H * W; }
  int64_t taps() const { return crop.KH * crop.KW; }
  int64_t row(int64_t tap) const { return tap / crop.KW - crop.top; }
  int64_t column(int64_t tap) const { return tap % crop.KW - crop.left; }
  bool moves() const { return crop.top + crop.left + crop.right > 0; }

  // Whether products are worth it: few channels are read from a long way off, and many weights leave the cache.
  bool pays() const { return crop.KH == 1 && I >= 8 && taps() * I * O <= kMostWeights; }

  static constexpr int64_t kMostWeights = 65536;
};

// y[pixel] = Σ over taps of x[pixel ± tap] @ W + bias + residual
class TapsProduct {
 public:
  // sign: 1 reads what a tap reads, −1 who has read a pixel along it; w (taps·K, N)
  TapsProduct(const PixelConvolution& shape, int64_t sign, int64_t K, int64_t N, const std::vector<float>& w)
      : shape_(shape), sign_(sign), K_(K), N_(N), layout_(isa_, shape.taps() * K, N, false), zeros_(size_t(K), 0.0f) {
    packed_.resize(size_t(layout_.size()));
    layout_.pack(w.data(), packed_.data());
  }

  // Pixels [first, last); bias and residual may be null.
  void run(int64_t first, int64_t last, const float* x, const float* bias, const float* residual, float* y) const {
    GemmBlock block;
    const int64_t runs = shape_.taps();
    block.lengths.assign(size_t(runs), K_);
    block.x.resize(size_t(runs * kGemmBlock));
    block.has_residual = residual != nullptr;
    for (; first < last; first += block.rows) {
      block.rows = std::min(kGemmBlock, last - first);
      for (int64_t m = 0; m < block.rows; m += isa_.rows) {
        const int64_t rows = std::min<int64_t>(isa_.rows, block.rows - m);
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t pixel = first + m + i;
          for (int64_t t = 0; t < runs; ++t) block.x[size_t(runs * m + t * rows + i)] = read(x, pixel, t);
          block.y[size_t(m + i)] = y + pixel * N_;
          if (residual) block.residual[size_t(m + i)] = residual + pixel * N_;
        }
      }
      sample_gemm(isa_, layout_, packed_.data(), bias, SampleActivation::kNone, block);
    }
  }

 private:
  const float* read(const float* x, int64_t pixel, int64_t tap) const {
    if (!shape_.moves()) return x + pixel * K_;
    const int64_t down = sign_ * shape_.row(tap), across = sign_ * shape_.column(tap);
    const int64_t r = pixel / shape_.W % shape_.H + down, c = pixel % shape_.W + across;
    const bool inside = r >= 0 && r < shape_.H && c >= 0 && c < shape_.W;
    return inside ? x + (pixel + down * shape_.W + across) * K_ : zeros_.data();
  }

  const GemmIsa& isa_ = gemm_isas().back();
  PixelConvolution shape_;
  int64_t sign_, K_, N_;
  GemmLayout layout_;
  std::vector<float> packed_, zeros_;
};

// w (O, I, KH, KW) → (taps·I, O), and transposed (taps·O, I)
inline std::vector<float> weights_by_tap(const PixelConvolution& shape, const float* w, bool transposed) {
  const int64_t T = shape.taps(), I = shape.I, O = shape.O;
  std::vector<float> found(size_t(T * I * O));
  for (int64_t o = 0; o < O; ++o)
    for (int64_t i = 0; i < I; ++i)
      for (int64_t t = 0; t < T; ++t)
        found[size_t(transposed ? (t * O + o) * I + i : (t * I + i) * O + o)] = w[(o * I + i) * T + t];
  return found;
}

FG_VECTOR_CLONES inline void add_pixels(int64_t pixels, int64_t O, const float* __restrict x, float* __restrict y) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t o = 0; o < O; ++o) y[o] += x[pixel * O + o];
}

// Gradients of weight and bias, in parts that are added in their order, whoever has computed them.
class TapsGradient {
 public:
  explicit TapsGradient(const PixelConvolution& shape)
      : shape_(shape),
        K_(shape.taps() * shape.I),
        columns_(OuterProducts<float>(0, 0, shape.O).columns()),
        images_(ceil_div(shape.N, kMostParts)),
        parts_(size_t(parts() * part()), 0.0f) {
    const int64_t row = plane(nullptr).row;
    for (int64_t t = 0; t < shape.taps(); ++t)
      for (int64_t i = 0; i < shape.I; ++i) read_.push_back(shape.row(t) * row + shape.column(t) * shape.I + i);
  }

  int64_t parts() const { return ceil_div(shape_.N, images_); }

  // Parts [first, last)
  void add(int64_t first, int64_t last, const float* x, const float* grads, bool weight, bool bias) {
    const int64_t H = shape_.H, W = shape_.W, O = shape_.O;
    Frame<float> frame(shape_.moves() ? H : 0, W, shape_.I, shape_.crop.top, shape_.crop.left, shape_.crop.right);
    OuterProducts<float> product(H, W, O);
    std::vector<float> row(size_t(O), 0.0f);
    for (int64_t n = first * images_; n < std::min(last * images_, shape_.N); ++n) {
      const float *image = x + n * H * W * shape_.I, *grad = grads + n * H * W * O;
      float* y = &parts_[size_t(n / images_ * part())];
      if (weight && shape_.moves()) frame.fill(image);
      if (weight) product.add(shape_.moves() ? frame.plane() : plane(image), read_, grad, y);
      for (int64_t r = 0; bias && r < H; ++r) {
        std::fill(row.begin(), row.end(), 0.0f);
        add_pixels(W, O, grad + r * W * O, row.data());
        add_run(O, row.data(), y + K_ * columns_);
      }
    }
  }

  // weight (O, I, taps), bias (O); either may be null.
  void finish(float* weight, float* bias) const {
    std::vector<float> sum(size_t(part()), 0.0f);
    for (int64_t p = 0; p < parts(); ++p) add_run(part(), &parts_[size_t(p * part())], sum.data());
    for (int64_t o = 0; weight && o < shape_.O; ++o)
      for (int64_t k = 0; k < K_; ++k)
        weight[(o * shape_.I + k % shape_.I) * shape_.taps() + k / shape_.I] = sum[size_t(k * columns_ + o)];
    if (bias) std::copy_n(&sum[size_t(K_ * columns_)], shape_.O, bias);
  }

 private:
  static constexpr int64_t kMostParts = 16;

  int64_t part() const { return (K_ + 1) * columns_; }  // the last row is the bias'
  Plane<float> plane(const float* image) const {        // of a frame, where one is needed
    const int64_t row = shape_.crop.left + shape_.W + shape_.crop.right;
    return {image, row * shape_.I, shape_.I};
  }

  PixelConvolution shape_;
  int64_t K_, columns_, images_;
  std::vector<float> parts_;
  std::vector<int64_t> read_;
};

}  // namespace fastgen
