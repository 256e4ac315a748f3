// winograd on the CPU: products of tiles' components, in float32
//   to_small    (large, weight) → small: a convolution, and the gradient of its transpose
//   to_large    (small, weight) → large: the transpose, and the gradient of a convolution
//   to_weight   (large, small) → weight: the gradient of both, in winograd_weight_cpu.h
// Traffic   a tile's components, 9/4 of its pixels, are made and read in the caches; the weight's, 9/4 of it, once per
//           kTiles tiles from the last cache that they fit
// Numerics  f32 sums, channels in one order; an image's bits do not depend on the images beside it, a weight's gradient
//           not on the threads
// Images are channels_last, of channels that are a multiple of 16. No torch headers.
#pragma once

#include <array>
#include <vector>

#include "activation.h"
#include "sample_gemm_cpu.h"
#include "winograd_tiles_cpu.h"

namespace fastgen {

// A component of `tiles` tiles: rows of `channels` numbers in panels of `block`, each (tiles, block).
struct TileNumbers {
  int64_t tiles, channels, block;

  int64_t width(int64_t channel) const { return std::min(block, channels - channel / block * block); }
  int64_t at(int64_t tile, int64_t channel) const {
    return channel / block * block * tiles + tile * width(channel) + channel % block;
  }
  // to the next component: no power of two, at which all nine would fall into one set of a cache
  int64_t apart() const { return tiles * channels + 5 * kChannels; }
  int64_t size() const { return kComponents * apart(); }
};

// Rows [first, last) of an image's tiles, and [begin, end), those beside them, which overlap with theirs in the large
// image.
struct Band {
  int64_t image, first, last, begin, end;

  Band(const Halving& shape, int64_t image, int64_t first, int64_t rows)
      : image(image),
        first(first),
        last(std::min(first + rows, shape.tile_rows())),
        begin(std::max<int64_t>(0, first - 1)),
        end(std::min(last + 1, shape.tile_rows())) {}
};

class WinogradPixels {
 public:
  explicit WinogradPixels(const Halving& shape, LayerActivation activation = {})
      : shape_(shape), activation_(activation), zeros_(size_t(std::max(shape.S, shape.L)), 0.0f) {}

  // Of tile `number` the components of the large image, as tile m of `to`: of the channels that begin at `first`.
  void large(const float* image, int64_t number, int64_t m, const TileNumbers& layout, float* to,
             int64_t first = 0) const {
    const TilePlace at(shape_, number);
    const int64_t channels = layout.channels / kPhases;
    const int64_t step = layout.block == kChannels ? layout.tiles * kChannels : kChannels;
    for (int64_t phase = 0; phase < kPhases; ++phase) {
      std::array<const float*, 9> from;
      for (int k = 0; k < 9; ++k)
        from[size_t(k)] = large_pixel(image, at.image, 2 * (at.row + k / 3) - 1 + phase / 2,
                                      2 * (at.column + k % 3) - 1 + phase % 2) +
                          first;
      transform_large(channels, from.data(), to + layout.at(m, phase * channels), step, layout.apart());
    }
  }

  void small(const float* image, int64_t number, int64_t m, const TileNumbers& layout, float* to) const {
    const TilePlace at(shape_, number);
    std::array<const float*, 4> from;
    for (int64_t first = 0; first < shape_.S; first += layout.block) {
      for (int k = 0; k < 4; ++k) {
        const float* pixel = small_pixel(image, at.image, at.row + k / 2, at.column + k % 2);
        from[size_t(k)] = (pixel ? pixel : zeros_.data()) + first;
      }
      transform_small(layout.width(first), from.data(), to + layout.at(m, first), layout.apart());
    }
  }

  // Of tile m of `from`, its pixels of the small image, activated; from holds the channels that begin at `first`.
  void finish(const float* from, int64_t m, const TileNumbers& layout, const float* bias, int64_t number, float* image,
              int64_t first = 0) const {
    const TilePlace at(shape_, number);
    std::array<float*, 4> to;
    for (int k = 0; k < 4; ++k) {
      const float* pixel = small_pixel(image, at.image, at.row + k / 2, at.column + k % 2);
      to[size_t(k)] = pixel ? const_cast<float*>(pixel) + first : nullptr;
    }
    finish_small(layout.channels, from + layout.at(m, 0), layout.apart(), bias ? bias + first : nullptr, to.data());
    for (float* pixel : to)
      if (pixel) activate_rows(activation_, 1, layout.channels, 0, pixel);
  }

  // Of a band, whose tiles are from tile m of `from` on, its rows of the large image, activated; channels as above.
  void finish(const float* from, int64_t m, const TileNumbers& layout, const float* bias, const Band& band,
              float* image, int64_t channel = 0) const {
    const int64_t channels = layout.channels / kPhases;
    std::vector<AxisTerms> columns;
    for (int64_t q = 0; q < 2 * shape_.w; ++q) columns.emplace_back(q, shape_.tile_columns());
    const int64_t first = 4 * band.first, last = std::min(4 * band.last, 2 * shape_.h);
    float* to = image + (band.image * 2 * shape_.h + first) * 2 * shape_.w * shape_.L + channel;
    for (int64_t r = first; r < last; ++r) {
      const AxisTerms rows(r, shape_.tile_rows());
      for (int64_t q = 0; q < 2 * shape_.w; ++q, to += shape_.L) {
        const AxisTerms& column = columns[size_t(q)];
        const int64_t phase = (1 - r % 2) * 2 + 1 - q % 2;
        std::array<const float*, 9> terms;
        std::array<float, 9> signs;
        int count = 0;
        for (int i = 0; i < rows.count; ++i)
          for (int j = 0; j < column.count; ++j, ++count) {
            const int64_t tile = m + (rows.tile[i] - band.begin) * shape_.tile_columns() + column.tile[j];
            terms[size_t(count)] = from + (rows.component[i] * 3 + column.component[j]) * layout.apart() +
                                   layout.at(tile, phase * channels);
            signs[size_t(count)] = rows.sign[i] * column.sign[j];
          }
        finish_large(channels, count, terms.data(), signs.data(), bias ? bias + channel : nullptr, to);
        activate_rows(activation_, 1, channels, 0, to);
      }
    }
  }

 private:
  const float* large_pixel(const float* image, int64_t n, int64_t row, int64_t column) const {
    const int64_t H = 2 * shape_.h, W = 2 * shape_.w;
    const bool inside = 0 <= row && row < H && 0 <= column && column < W;
    return inside ? image + ((n * H + row) * W + column) * shape_.L : zeros_.data();
  }
  const float* small_pixel(const float* image, int64_t n, int64_t row, int64_t column) const {
    return row < shape_.h && column < shape_.w ? image + ((n * shape_.h + row) * shape_.w + column) * shape_.S
                                               : nullptr;
  }

  Halving shape_;
  LayerActivation activation_;
  std::vector<float> zeros_;
};

// Components of a weight as a product's panels, one after the other: (phases·L, S), or transposed (S, phases·L); whose
// S or L channels may be some of a larger weight's, that has `all_large` channels of the large image.
class WinogradWeight {
 public:
  WinogradWeight(const GemmIsa& isa, const Halving& shape, bool transposed, int64_t all_large)
      : isa_(isa),
        shape_(shape),
        all_large_(all_large),
        transposed_(transposed),
        layout_(isa_, transposed ? shape.S : kPhases * shape.L, transposed ? kPhases * shape.L : shape.S, false) {}

  int64_t size() const { return checked_multiply(kComponents, layout_.size()); }
  // What can be packed apart: of each block of columns' channels the rows' channels.
  int64_t items() const { return rows() * ceil_div(columns(), kBlock); }

  // Items [first, last) of weight (S, L, 4, 4).
  void pack(int64_t first, int64_t last, const float* weight, float* packed) const {
    alignas(64) std::array<float, kPhases * kComponents * kChannels> found;
    for (int64_t item = first; item < last; ++item) {
      const int64_t row = item % rows(), begin = item / rows() * kBlock, end = std::min(begin + kBlock, columns());
      for (int64_t column = begin; column < end; column += kChannels) {
        const int64_t s = transposed_ ? row : column, l = transposed_ ? column : row;
        transform_taps(weight + (s * all_large_ + l) * kKernelTaps, (transposed_ ? 1 : all_large_) * kKernelTaps,
                       found.data());
        for (int64_t phase = 0; phase < kPhases; ++phase)
          store(transposed_ ? row : phase * shape_.L + row, transposed_ ? phase * shape_.L + column : column,
                &found[size_t(phase * kComponents * kChannels)], packed);
      }
    }
  }

  // y (rows, N) of one component: x (rows, K)
  void multiply(int64_t component, int64_t rows, const float* x, const float* packed, float* y) const {
    packed += component * layout_.size();
    std::array<const float*, kGemmRows> from;
    for (int64_t p = 0; p < layout_.panels(); ++p)
      for (int64_t m = 0; m < rows; m += isa_.rows) {
        const int64_t tile = std::min<int64_t>(isa_.rows, rows - m);
        for (int64_t r = 0; r < tile; ++r) from[size_t(r)] = x + (m + r) * layout_.K;
        isa_.tile[tile][layout_.vectors_of(p)](1, &layout_.K, from.data(), packed + layout_.offset(p),
                                               y + m * layout_.N + layout_.first(p), layout_.N, 0);
      }
  }

 private:
  static constexpr int64_t kBlock = 4 * kChannels;

  int64_t rows() const { return transposed_ ? shape_.S : shape_.L; }
  int64_t columns() const { return transposed_ ? shape_.L : shape_.S; }

  // 16 columns of all components, from where they lie one component after the other.
  void store(int64_t row, int64_t column, const float* numbers, float* packed) const {
    for (int64_t done = 0; done < kChannels;) {
      const int64_t p = (column + done) / layout_.per_panel(), at = (column + done) % layout_.per_panel();
      const int64_t count = std::min(kChannels - done, layout_.per_panel() - at);
      float* to = packed + layout_.offset(p) + row * layout_.lanes * layout_.vectors_of(p) + at;
      if (count == kChannels)
        for (int64_t k = 0; k < kComponents; ++k, to += layout_.size())
          memcpy(to, numbers + k * kChannels, kChannels * sizeof(float));
      else
        for (int64_t k = 0; k < kComponents; ++k, to += layout_.size())
          std::copy_n(numbers + k * kChannels + done, count, to);
      done += count;
    }
  }

  const GemmIsa& isa_;
  Halving shape_;
  int64_t all_large_;
  bool transposed_;
  GemmLayout layout_;
};

// ---- images

// Tiles that one thread has in the caches at once. Fewer read the weight too often, more fall out of the second cache.
constexpr int64_t kTiles = 96;
// Up to so many tiles, and as long as they take less memory, all of them are multiplied by a block of the result's
// channels at a time, whose weights are transformed in the caches; more tiles by the whole weight, in memory.
constexpr int64_t kFewTiles = 320;

// What both directions are made of.
class WinogradImage {
 public:
  WinogradImage(const GemmIsa& isa, const Halving& shape, bool to_large, LayerActivation activation)
      : isa_(isa),
        shape_(shape),
        pixels_(shape, activation),
        to_large_(to_large),
        weight_(isa, shape, to_large, shape.L) {}

  const WinogradWeight& weight() const { return weight_; }

  bool is_blocked(int64_t threads) const {
    const bool few = shape_.tiles() <= kFewTiles || 2 * inputs(shape_.tiles()).size() <= weight_.size();
    return few && blocks() >= threads;
  }
  int64_t blocks() const { return ceil_div(to_large_ ? shape_.L : shape_.S, block()); }
  TileNumbers inputs(int64_t tiles) const {
    const int64_t channels = to_large_ ? shape_.S : kPhases * shape_.L;
    return {tiles, channels, channels};
  }

  // Tiles [first, last) of an image as tiles from m on of x.
  void transform(int64_t first, int64_t last, const float* image, int64_t m, const TileNumbers& layout,
                 float* x) const {
    for (; first < last; ++first, ++m)
      to_large_ ? pixels_.small(image, first, m, layout, x) : pixels_.large(image, first, m, layout, x);
  }

  // Blocks [first, last) of the result's channels, of all tiles.
  void run_blocks(int64_t first, int64_t last, const float* x, const float* weight, const float* bias,
                  float* result) const {
    const int64_t tiles = shape_.tiles(), all = to_large_ ? shape_.L : shape_.S, parts = to_large_ ? kPhases : 1;
    const TileNumbers inputs = this->inputs(tiles), widest{tiles, parts * block(), parts * block()};
    const auto packed = unwritten<float>(kPhases * kComponents * block() * (to_large_ ? shape_.S : shape_.L));
    const auto y = unwritten<float>(widest.size());
    for (int64_t at = first; at < last; ++at) {
      const int64_t channel = at * block(), count = std::min(block(), all - channel);
      Halving shape = shape_;
      (to_large_ ? shape.L : shape.S) = count;
      const WinogradWeight layout(isa_, shape, to_large_, shape_.L);
      const TileNumbers results{tiles, parts * count, parts * count};
      layout.pack(0, layout.items(), weight + (to_large_ ? channel : channel * shape_.L) * kKernelTaps, packed.get());
      multiply(layout, tiles, inputs, x, packed.get(), results, y.get());
      if (to_large_)
        for (int64_t n = 0; n < shape_.N; ++n)
          pixels_.finish(y.get(), n * shape_.image_tiles(), results, bias, Band(shape_, n, 0, shape_.tile_rows()),
                         result, channel);
      else
        for (int64_t m = 0; m < tiles; ++m) pixels_.finish(y.get(), m, results, bias, m, result, channel);
    }
  }

 protected:
  int64_t block() const { return (to_large_ ? 2 : 4) * kChannels; }  // channels

  static void multiply(const WinogradWeight& weight, int64_t tiles, const TileNumbers& inputs, const float* x,
                       const float* packed, const TileNumbers& results, float* y) {
    for (int64_t k = 0; k < kComponents; ++k)
      weight.multiply(k, tiles, x + k * inputs.apart(), packed, y + k * results.apart());
  }

  const GemmIsa& isa_;
  Halving shape_;
  WinogradPixels pixels_;
  bool to_large_;
  WinogradWeight weight_;
};

class WinogradToSmall : public WinogradImage {
 public:
  WinogradToSmall(const Halving& shape, int64_t, LayerActivation activation = {},
                  const GemmIsa& isa = gemm_isas().back())
      : WinogradImage(isa, shape, false, activation) {}

  // What can be computed apart: tiles of small.
  int64_t items() const { return shape_.tiles(); }

  void run(int64_t first, int64_t last, const float* large, const float* packed, const float* bias,
           float* small) const {
    const int64_t most = std::min(last - first, kTiles);
    const TileNumbers inputs = this->inputs(most), results{most, shape_.S, shape_.S};
    const auto x = unwritten<float>(inputs.size()), y = unwritten<float>(results.size());
    for (; first < last; first += most) {
      const int64_t tiles = std::min(last - first, most);
      transform(first, first + tiles, large, 0, inputs, x.get());
      multiply(weight_, tiles, inputs, x.get(), packed, results, y.get());
      for (int64_t m = 0; m < tiles; ++m) pixels_.finish(y.get(), m, results, bias, first + m, small);
    }
  }
};

class WinogradToLarge : public WinogradImage {
 public:
  // An image is cut into bands where it has more tiles than stay in the caches, or there are fewer images than threads.
  WinogradToLarge(const Halving& shape, int64_t threads, LayerActivation activation = {},
                  const GemmIsa& isa = gemm_isas().back())
      : WinogradImage(isa, shape, true, activation) {
    const int64_t rows = shape.tile_rows();
    rows_ = std::max(kFewestRows, kMostTiles / shape.tile_columns());
    if (shape.N < threads) rows_ = std::min(rows_, std::max(kFewestRows, ceil_div(rows * shape.N, threads)));
    bands_ = ceil_div(rows, rows_);
  }

  // What can be computed apart: bands of large.
  int64_t items() const { return shape_.N * bands_; }

  void run(int64_t first, int64_t last, const float* small, const float* packed, const float* bias,
           float* large) const {
    int64_t all = 0, most = kTiles;
    for (int64_t item = first; item < last; ++item) all += tiles(item), most = std::max(most, tiles(item));
    most = std::min(most, all);
    const TileNumbers inputs = this->inputs(most), results{most, kPhases * shape_.L, kPhases * shape_.L};
    const auto x = unwritten<float>(inputs.size()), y = unwritten<float>(results.size());
    for (int64_t end = first; first < last; first = end) {
      int64_t count = 0, m = 0;
      for (; end < last && count + tiles(end) <= most; count += tiles(end++)) {
        const int64_t begin = (band(end).image * shape_.tile_rows() + band(end).begin) * shape_.tile_columns();
        transform(begin, begin + tiles(end), small, count, inputs, x.get());
      }
      multiply(weight_, count, inputs, x.get(), packed, results, y.get());
      for (int64_t item = first; item < end; m += tiles(item++))
        pixels_.finish(y.get(), m, results, bias, band(item), large);
    }
  }

 private:
  static constexpr int64_t kFewestRows = 4, kMostTiles = 1024;  // of a band

  Band band(int64_t item) const { return {shape_, item / bands_, item % bands_ * rows_, rows_}; }
  int64_t tiles(int64_t item) const { return (band(item).end - band(item).begin) * shape_.tile_columns(); }

  int64_t rows_ = 0, bands_ = 0;
};

}  // namespace fastgen
