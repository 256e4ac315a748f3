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
#include "packed_taps_cpu.h"
#include "sample_gemm_cpu.h"

namespace fastgen {

// T: of the image; W: of the weight, T or float
template <typename T, typename W>
class TransposedProducts {
 public:
  explicit TransposedProducts(const TransposedConvolution& shape)
      : shape_(shape),
        columns_(ceil_div(shape.O, isa_.lanes) * isa_.lanes),
        panels_(ceil_div(columns_, isa_.panel())),
        zeros_(size_t(shape.I), T(0)) {
    for (int64_t p = 0; p < shape.phases(); ++p)
      phases_.emplace_back(shape.axis(0, p / shape.stride[1]), shape.axis(1, p % shape.stride[1]));
    checked_multiply(checked_multiply(shape.KH * shape.KW, shape.I), isa_.panel());
  }

  // What can be computed apart: panels of the weight's columns, and the phases of each.
  int64_t items() const { return panels_ * shape_.phases(); }

  // Items [first, last) of y; bias may be null.
  void run(int64_t first, int64_t last, const T* x, const W* w, const T* bias, T* y) const {
    const int64_t P = shape_.phases(), image = shape_.H * shape_.W * shape_.I;
    const int64_t images = std::max<int64_t>(1, kImages / std::max<int64_t>(1, image));
    std::unique_ptr<word_t<T>[]> packed;
    while (first < last) {
      const int64_t panel = first / P, low = first % P, high = std::min(P, low + last - first);
      if (!packed) packed = unwritten<word_t<T>>(shape_.KH * shape_.KW * words() * isa_.panel());
      pack(panel, low, high, w, packed.get());
      for (int64_t n = 0; n < shape_.N; n += images) {
        const word_t<T>* weights = packed.get();
        for (int64_t p = low; p < high; ++p) {
          multiply(panel, phases_[size_t(p)], n, std::min(images, shape_.N - n), x, bias, weights, y);
          weights += int64_t(phases_[size_t(p)].order.size()) * words() * width(panel);
        }
      }
      first += high - low;
    }
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

  // Phases [first, last) of a panel, one behind the other: (tap, words, width), zeros beyond O.
  void pack(int64_t panel, int64_t first, int64_t last, const W* w, word_t<T>* packed) const {
    const int64_t wide = width(panel), column = first_column(panel), *strides = shape_.strides;
    const KernelLayout kernel{shape_.KH, shape_.KW, strides[0], strides[1], strides[2], strides[3]};
    std::vector<int64_t> order;  // of the taps
    for (int64_t p = first; p < last; ++p)
      for (const Tap& tap : phases_[size_t(p)].order)
        order.push_back((phases_[size_t(p)].rows.phase + tap.row * shape_.stride[0]) * shape_.KW +
                        phases_[size_t(p)].columns.phase + tap.column * shape_.stride[1]);
    pack_taps<T>(kernel, order, words(), std::min(wide, shape_.O - column), wide, w + column * strides[1], packed);
  }

  // Images [n, n + images) of one phase, in the columns of one panel.
  void multiply(int64_t panel, const Phase& phase, int64_t n, int64_t images, const T* x, const T* bias,
                const word_t<T>* packed, T* y) const {
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
                                             packed + std::min(low, taps) * words() * wide, sums.data(), wide, 0);
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
