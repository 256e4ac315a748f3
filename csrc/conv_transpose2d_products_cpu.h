// conv_transpose2d_products on the CPU: a transposed convolution as one product of pixels for each phase of the result
// Phase     pixels (p + s·j, q + s·k) of the result see the same taps, and of each tap one pixel of x: a row
// Border    taps that would read outside of the image are left out, not multiplied by zeros: of 4×4 pixels, by kernel
//           4, stride 2 and padding 1, they are 1 − (7/8)² of the work
// Traffic   weights once from memory into panels; panels once for images whose pixels stay in the second cache
// Numerics  sums in f32, of float or of bfloat16 by pairs of channels, which then are even; taps and channels in one
//           order, so that an image's bits do not depend on the images beside it
// x and y are channels_last, the weight has any strides. No torch headers.
#pragma once

#include <array>
#include <utility>

#include "conv_transpose2d_products.h"
#include "sample_gemm_cpu.h"

namespace fastgen {

template <typename T>
class TransposedProducts {
 public:
  explicit TransposedProducts(const TransposedConvolution& shape)
      : shape_(shape),
        columns_(ceil_div(shape.O, isa_.lanes) * isa_.lanes),
        panels_(ceil_div(columns_, isa_.panel())),
        zeros_(size_t(shape.I), T(0)) {
    int64_t before = 0;
    for (int64_t p = 0; p < shape.phases(); ++p) {
      phases_.emplace_back(shape.axis(0, p / shape.stride[1]), shape.axis(1, p % shape.stride[1]));
      phases_.back().before = before;
      before += int64_t(phases_.back().order.size());
    }
  }

  // What can be computed apart: panels of the weight's columns, and the phases of each.
  int64_t items() const { return panels_ * shape_.phases(); }
  int64_t packed_size() const { return checked_multiply(checked_multiply(shape_.KH * shape_.KW, shape_.I), columns_); }

  // Items [first, last) of y; packed: packed_size() numbers, which all may share; bias may be null.
  void run(int64_t first, int64_t last, const T* x, const T* w, const T* bias, word_t<T>* packed, T* y) const {
    const int64_t P = shape_.phases(), image = shape_.H * shape_.W * shape_.I;
    for (int64_t item = first; item < last;) {
      const int64_t panel = item / P, end = std::min(last, (panel + 1) * P);
      pack(panel, item % P, item % P + end - item, w, packed);
      item = end;
    }
    const int64_t images = std::max<int64_t>(1, kImages / std::max<int64_t>(1, image));
    for (int64_t n = 0; n < shape_.N; n += images)
      for (int64_t item = first; item < last; ++item)
        multiply(item / P, phases_[size_t(item % P)], n, std::min(images, shape_.N - n), x, bias, packed, y);
  }

 private:
  static constexpr int64_t kImages = int64_t(1) << 17;  // numbers of x that stay in the second cache

  struct Tap {
    int64_t row, column;
  };

  // Taps in an order in which those of a border stand together: row by row, there and back.
  struct Phase {
    PhaseAxis rows, columns;
    std::vector<Tap> order;
    int64_t before = 0;  // taps of the phases before

    Phase(PhaseAxis r, PhaseAxis c) : rows(std::move(r)), columns(std::move(c)) {
      const bool first_column = columns.base == 0;  // the border that loses all taps but the first is on the left
      for (int64_t t = 0; t < rows.taps * columns.taps; ++t) {
        const int64_t row = t / columns.taps, column = t % columns.taps;
        order.push_back({row, (row % 2 == 0) == first_column ? columns.taps - 1 - column : column});
      }
    }
  };

  int64_t first_column(int64_t panel) const { return panel * isa_.panel(); }
  int64_t width(int64_t panel) const { return std::min<int64_t>(isa_.panel(), columns_ - first_column(panel)); }
  int64_t words() const { return shape_.I / Word<T>::kNumbers; }  // of a pixel
  word_t<T>* packed_at(int64_t panel, int64_t tap, word_t<T>* packed) const {
    return packed + words() * (shape_.KH * shape_.KW * first_column(panel) + tap * width(panel));
  }

  // Phases [first, last) of a panel: (tap, words, width), zeros beyond O.
  void pack(int64_t panel, int64_t first, int64_t last, const T* w, word_t<T>* packed) const {
    constexpr int64_t kNumbers = Word<T>::kNumbers;
    const int64_t wide = width(panel), column = first_column(panel), count = std::min(wide, shape_.O - column);
    const int64_t *strides = shape_.strides, O = strides[1];
    std::vector<int64_t> offsets;  // of the taps in the weight
    for (int64_t p = first; p < last; ++p)
      for (const Tap& tap : phases_[size_t(p)].order)
        offsets.push_back((phases_[size_t(p)].rows.phase + tap.row * shape_.stride[0]) * strides[2] +
                          (phases_[size_t(p)].columns.phase + tap.column * shape_.stride[1]) * strides[3]);
    const int64_t taps = int64_t(offsets.size());
    word_t<T>* to = packed_at(panel, phases_[size_t(first)].before, packed);
    if (O == 1) {
      for (int64_t t = 0; t < taps; ++t)
        for (int64_t i = 0; i < shape_.I; i += kNumbers, to += wide)
          copy_row(count, wide, w + i * strides[0] + column + offsets[size_t(t)], strides[0], to);
      return;
    }
    std::vector<T> block(size_t(kNumbers * taps * wide), T(0));  // of a word, so that each line is read once
    for (int64_t i = 0; i < words(); ++i) {
      for (int64_t k = 0; k < kNumbers; ++k) {
        const T* from = w + (i * kNumbers + k) * strides[0] + column * O;
        for (int64_t o = 0; o < count; ++o)
          for (int64_t t = 0; t < taps; ++t)
            block[size_t((k * taps + t) * wide + o)] = from[o * O + offsets[size_t(t)]];
      }
      for (int64_t t = 0; t < taps; ++t)
        copy_row(wide, wide, &block[size_t(t * wide)], taps * wide, to + (t * words() + i) * wide);
    }
  }

  // Words whose numbers are `apart` in `from`.
  static void copy_row(int64_t count, int64_t wide, const T* from, int64_t apart, word_t<T>* to) {
    if constexpr (std::is_same_v<T, float>) {
      if (count == 16 && wide == 16) {  // so that it is a few vectors, and no call
        for (int64_t j = 0; j < 16; ++j) to[j] = from[j];
        return;
      }
      for (int64_t j = 0; j < wide; ++j) to[j] = j < count ? from[j] : 0.0f;
    } else {
      pair_runs(count, from, from + apart, to);
      std::fill(to + count, to + wide, 0u);
    }
  }

  // Images [n, n + images) of one phase, in the columns of one panel.
  void multiply(int64_t panel, const Phase& phase, int64_t n, int64_t images, const T* x, const T* bias,
                word_t<T>* packed, T* y) const {
    const int64_t wide = width(panel), column = first_column(panel), count = std::min(wide, shape_.O - column);
    const int64_t taps = int64_t(phase.order.size());
    std::vector<int64_t> lengths(size_t(taps), words()), offsets(size_t(taps), 0);
    std::vector<char> inside(size_t(taps), 0);
    std::vector<const T*> read(size_t(taps * isa_.rows));
    std::array<T*, kGemmRows> written;
    alignas(64) std::array<float, kGemmRows * kTileColumns> sums;
    for (const PhaseSegment& rows : phase.rows.segments)
      for (const PhaseSegment& columns : phase.columns.segments) {
        int64_t low = taps, high = 0;  // between them are all that this segment sees
        for (int64_t t = 0; t < taps; ++t) {
          const Tap& tap = phase.order[size_t(t)];
          inside[size_t(t)] =
              rows.low <= tap.row && tap.row < rows.high && columns.low <= tap.column && tap.column < columns.high;
          offsets[size_t(t)] = -(tap.row * shape_.W + tap.column) * shape_.I;
          if (inside[size_t(t)]) low = std::min(low, t), high = t + 1;
        }
        const int64_t runs = std::max<int64_t>(0, high - low);
        const int64_t height = rows.last - rows.first, across = columns.last - columns.first;
        const int64_t total = images * height * across;
        for (int64_t m = 0; m < total; m += isa_.rows) {
          const int64_t tile = std::min<int64_t>(isa_.rows, total - m);
          for (int64_t r = 0; r < tile; ++r) {
            const int64_t at = m + r, k = columns.first + at % across, image = n + at / (height * across);
            const int64_t j = rows.first + at / across % height;
            const int64_t origin = ((image * shape_.H + phase.rows.base + j) * shape_.W + phase.columns.base + k);
            for (int64_t t = 0; t < runs; ++t)
              read[size_t(t * tile + r)] =
                  inside[size_t(low + t)] ? x + origin * shape_.I + offsets[size_t(low + t)] : zeros_.data();
            written[size_t(r)] =
                y +
                ((image * shape_.result[0] + phase.rows.start + j * shape_.stride[0]) * shape_.result[1] +
                 phase.columns.start + k * shape_.stride[1]) *
                    shape_.O +
                column;
          }
          isa_.tile[tile][wide / isa_.lanes](runs, lengths.data(), read.data(),
                                             packed_at(panel, phase.before + std::min(low, taps), packed), sums.data(),
                                             wide);
          for (int64_t r = 0; r < tile; ++r)
            isa_.finish(count, &sums[size_t(r * wide)], bias ? bias + column : nullptr, false, written[size_t(r)]);
        }
      }
  }

  const TileSet<T>& isa_ = tile_sets<T>().back();
  TransposedConvolution shape_;
  int64_t columns_, panels_;  // columns: O, padded to whole vectors
  std::vector<T> zeros_;
  std::vector<Phase> phases_;
};

}  // namespace fastgen
