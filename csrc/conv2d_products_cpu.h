// A convolution in bfloat16 as products of pixels, the forward of conv2d_bfloat16 on the CPU
// Runs     a row of the kernel is one run of x, of all its taps and channels
// Border   taps beside the image are left out, not multiplied by zeros: of 8×8 pixels, by kernel 4, stride 2 and
//          padding 1, they are 1 − (15/16)² of the work, of 4×4 1 − (7/8)²
// Traffic  weights once from memory, into a panel of a thread's own, where float is rounded; images so many at a time
//          that their pixels stay in the second cache
// Numerics sums in f32, by pairs of channels, which then are even, activated and rounded once; taps and channels in one
//          order, so that an image's bits do not depend on the images beside it
// x and y are channels_last, the weight has any strides. No torch headers.
#pragma once

#include <array>

#include "activation.h"
#include "checked.h"
#include "conv2d_image.h"
#include "packed_taps_cpu.h"
#include "sample_gemm_cpu.h"

namespace fastgen {

// Positions [first, last) of a result along one axis see the taps [low, high) inside the image.
struct TapSegment {
  int64_t first, last, low, high;
};

inline std::vector<TapSegment> tap_segments(const ImageConvolution& shape, int dim) {
  const int64_t size = dim ? shape.W : shape.H, taps = dim ? shape.KW : shape.KH;
  std::vector<TapSegment> found;
  for (int64_t j = 0; j < (dim ? shape.w : shape.h); ++j) {
    const int64_t before = shape.padding[dim] - j * shape.stride[dim];  // of the image's first pixel
    int64_t low = std::max<int64_t>(0, before), high = std::min(taps, size + before);
    if (low >= high) low = high = 0;
    if (found.empty() || found.back().low != low || found.back().high != high) found.push_back({j, j, low, high});
    ++found.back().last;
  }
  return found;
}

// W: bfloat16 or float
template <typename W>
class ConvolvedPixels {
 public:
  using T = bfloat16;

  // bias: O numbers, or null
  ConvolvedPixels(const ImageConvolution& shape, const KernelLayout& kernel, const float* bias,
                  LayerActivation activation)
      : shape_(shape),
        kernel_(kernel),
        bias_(bias),
        activation_(activation),
        columns_(ceil_div(shape.O, isa_.lanes) * isa_.lanes),
        words_(shape.I / Word<T>::kNumbers),
        rows_(tap_segments(shape, 0)),
        across_(tap_segments(shape, 1)) {
    for (int64_t tap = 0; tap < kernel.taps(); ++tap) order_.push_back(tap);
    checked_multiply(checked_multiply(kernel.taps(), shape.I), isa_.panel());
  }

  // What can be computed apart: an image in the columns of a panel, panel by panel.
  int64_t items() const { return checked_multiply(ceil_div(columns_, isa_.panel()), shape_.N); }

  // Items [first, last) of y.
  void run(int64_t first, int64_t last, const T* x, const W* w, T* y) const {
    const auto packed = unwritten<word_t<T>>(kernel_.taps() * words_ * isa_.panel());
    const int64_t together = std::max<int64_t>(1, kImages / (shape_.H * shape_.W * shape_.I));
    while (first < last) {
      const int64_t panel = first / shape_.N, begin = first % shape_.N, end = std::min(shape_.N, begin + last - first);
      const int64_t column = panel * isa_.panel(), wide = std::min<int64_t>(isa_.panel(), columns_ - column);
      pack_taps<T>(kernel_, order_, words_, std::min(wide, shape_.O - column), wide, w + column * kernel_.result,
                   packed.get());
      for (int64_t n = begin; n < end; n += together)
        for (const TapSegment& rows : rows_)
          for (const TapSegment& across : across_)
            multiply({n, std::min(together, end - n)}, rows, across, {column, wide}, x, packed.get(), y);
      first += end - begin;
    }
  }

 private:
  static constexpr int64_t kImages = int64_t(1) << 17;  // numbers of x that stay in the second cache

  struct Range {
    int64_t first, count;
  };

  // What these pixels of some images see, in the columns of a panel.
  void multiply(Range images, const TapSegment& rows, const TapSegment& across, Range columns, const T* x,
                const word_t<T>* packed, T* y) const {
    const int64_t wide = columns.count, count = std::min(wide, shape_.O - columns.first);
    const int64_t runs = rows.high - rows.low, taps = across.high - across.low, I = shape_.I;
    const int64_t height = rows.last - rows.first, width = across.last - across.first;
    const int64_t total = images.count * height * width;
    const word_t<T>* const weights = packed + (rows.low * shape_.KW + across.low) * words_ * wide;
    const std::vector<int64_t> lengths(size_t(runs), taps * words_);
    std::vector<const T*> read(size_t(runs * isa_.rows));
    std::array<T*, kGemmRows> written;
    alignas(64) std::array<float, kGemmRows * kTileColumns> sums;
    for (int64_t m = 0; m < total; m += isa_.rows) {
      const int64_t tile = std::min<int64_t>(isa_.rows, total - m);
      for (int64_t r = 0; r < tile; ++r) {
        const int64_t at = m + r, k = across.first + at % width, j = rows.first + at / width % height;
        const int64_t n = images.first + at / (height * width);
        const int64_t row = j * shape_.stride[0] - shape_.padding[0] + rows.low;
        const int64_t column = k * shape_.stride[1] - shape_.padding[1] + across.low;
        for (int64_t run = 0; run < runs; ++run)
          read[size_t(run * tile + r)] = x + ((n * shape_.H + row + run) * shape_.W + column) * I;
        written[size_t(r)] = y + ((n * shape_.h + j) * shape_.w + k) * shape_.O + columns.first;
      }
      isa_.tile[tile][wide / isa_.lanes](runs, lengths.data(), read.data(), weights, sums.data(), wide,
                                         (shape_.KW - taps) * words_ * wide);
      const float* const bias = bias_ ? bias_ + columns.first : nullptr;
      FG_DISPATCH_POINTWISE(activation_.kind,
                            finish_layer<kind>(tile, count, wide, bias, activation_.slope, sums.data()));
      for (int64_t r = 0; r < tile; ++r)
        isa_.finish(count, &sums[size_t(r * wide)], nullptr, false, written[size_t(r)]);
    }
  }

  const TileSet<T>& isa_ = tile_sets<T>().back();
  ImageConvolution shape_;
  KernelLayout kernel_;
  const float* bias_;
  LayerActivation activation_;
  int64_t columns_, words_;  // columns: O, padded to whole vectors; words: of a pixel
  std::vector<TapSegment> rows_, across_;
  std::vector<int64_t> order_;
};

}  // namespace fastgen
