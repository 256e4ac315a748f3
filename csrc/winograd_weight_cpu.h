// winograd_to_weight on the CPU: the gradient of a convolution or its transpose to the weight, see winograd_cpu.h.
// Components of many tiles are outer products, added in the order of tiles. No torch headers.
#pragma once

#include "winograd_cpu.h"

namespace fastgen {

// Of a block of the large image's channels after the other, so that their sums stay in the caches.
class WinogradToWeight {
 public:
  explicit WinogradToWeight(const Halving& shape, const GemmIsa& isa = gemm_isas().back())
      : isa_(isa), shape_(shape), pixels_(shape) {}

  int64_t block() const {  // channels
    const int64_t fit = kSums / (kPhases * kComponents * shape_.S) / kChannels * kChannels;
    return std::min(shape_.L, std::max(fit, kChannels));
  }
  // Tiles of a part, one after the other: as many as have about as many numbers as the sums that they are added to.
  int64_t part() const {
    const int64_t rows = kPhases * block(), even = rows * shape_.S / (rows + shape_.S);
    return std::min(shape_.tiles(), std::max(even, kTiles / 2));
  }
  int64_t sums_size() const { return kComponents * kPhases * block() * shape_.S; }
  int64_t large_size() const { return large(part(), block()).size(); }
  int64_t small_size() const { return small(part()).size(); }

  // Of tiles `begin` and so on of both images, those from `first` to `last`, as so many of x and y; of `channels` of
  // the large image's that begin at `channel`.
  void transform(int64_t begin, int64_t tiles, int64_t first, int64_t last, int64_t channel, int64_t channels,
                 const float* large_image, const float* small_image, float* x, float* y) const {
    for (int64_t m = first; m < last; ++m) {
      pixels_.large(large_image, begin + m, m, large(tiles, channels), x, channel);
      pixels_.small(small_image, begin + m, m, small(tiles), y);
    }
  }

  // What can be added apart: rows of components.
  int64_t items(int64_t channels) const { return kComponents * ceil_div(kPhases * channels, kRows); }
  // sums (components, phases·channels, S) += Σ tiles x·yᵀ
  void add(int64_t tiles, int64_t channels, int64_t first, int64_t last, const float* x, const float* y,
           float* sums) const {
    const TileNumbers rows = large(tiles, channels), columns = small(tiles);
    const int64_t blocks = items(channels) / kComponents;
    std::array<const float*, kGemmRows> from;
    for (int64_t item = first; item < last; ++item) {
      const int64_t k = item / blocks, begin = item % blocks * kRows, end = std::min(begin + kRows, rows.channels);
      for (int64_t column = 0; column < shape_.S; column += isa_.panel()) {
        const int64_t vectors = std::min<int64_t>(isa_.vectors, (shape_.S - column) / isa_.lanes);
        for (int64_t row = begin; row < end; row += isa_.rows) {
          const int64_t count = std::min<int64_t>(isa_.rows, end - row);
          for (int64_t r = 0; r < count; ++r) from[size_t(r)] = x + k * rows.apart() + rows.at(0, row + r);
          isa_.outer[count][vectors](1, tiles, from.data(), 0, kChannels,
                                     y + k * columns.apart() + columns.at(0, column), columns.width(column),
                                     sums + (k * rows.channels + row) * shape_.S + column, shape_.S);
        }
      }
    }
  }

  // Of channels [first, last) of those that begin at `channel`; weight (S, L, 4, 4).
  void finish(int64_t first, int64_t last, int64_t channel, int64_t channels, const float* sums, float* weight) const {
    const int64_t S = shape_.S, L = shape_.L;
    for (int64_t l = first; l < last; ++l)
      for (int64_t s = 0; s < S; s += kChannels)
        finish_taps(sums + l * S + s, kPhases * channels * S, channels * S,
                    weight + (s * L + channel + l) * kKernelTaps, L * kKernelTaps);
  }

 private:
  static constexpr int64_t kRows = 48, kSums = int64_t(1) << 19;

  TileNumbers large(int64_t tiles, int64_t channels) const { return {tiles, kPhases * channels, kChannels}; }
  TileNumbers small(int64_t tiles) const { return {tiles, shape_.S, std::max<int64_t>(isa_.panel(), kChannels)}; }

  const GemmIsa& isa_;
  Halving shape_;
  WinogradPixels pixels_;
};

}  // namespace fastgen
