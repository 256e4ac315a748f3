// conv2d_weight on the CPU: outer products of pixels, which are added in registers. No torch headers.
#pragma once

#include "checked.h"
#include "conv2d_weight.h"
#include "conv_transpose2d_weight_cpu.h"
#include "tile_sets_cpu.h"

namespace fastgen {

// from (rows, columns), `pitch` apart → to (columns, rows)
FG_VECTOR_CLONES inline void rows_to_columns(int64_t rows, int64_t columns, const float* from, int64_t pitch, float* to,
                                             int64_t to_pitch) {
  constexpr int64_t kLine = 64;
  alignas(64) float lines[4][kLine];  // of four columns: written as they are whole
  for (int64_t row = 0; row < rows; row += kLine) {
    const int64_t count = std::min(kLine, rows - row), whole = count / 4 * 4;
    for (int64_t column = 0; column < columns; column += 4) {
      const int64_t width = std::min<int64_t>(4, columns - column);
      const float* const at = from + row * pitch + column;
      if (width == 4)
        for (int64_t r = 0; r < whole; r += 4) transpose_square(at + r * pitch, pitch, lines[0] + r, kLine);
      for (int64_t r = width == 4 ? whole : 0; r < count; ++r)
        for (int64_t c = 0; c < width; ++c) lines[c][r] = at[r * pitch + c];
      for (int64_t c = 0; c < width; ++c) std::copy_n(lines[c], count, to + (column + c) * to_pitch + row);
    }
  }
}

// Images are laid out with their borders, and what no tap reads is left out; gradients in panels, as wide as tiles. Of
// results with many pixels a block is some of their rows, of others all images that make as many. An item of the sums
// is a panel of a few channels and all their taps.
class ConvolutionWeight {
 public:
  // as_added: the answer is not (O, I, KH, KW), but (I, KH, KW, O), as the sums are
  explicit ConvolutionWeight(const ImageConvolution& shape, bool as_added = false,
                             const TileSet<bfloat16>& isa = tile_sets<bfloat16>().back())
      : isa_(isa),
        shape_(shape),
        as_added_(as_added),
        groups_(ceil_div(shape.N, kImages)),
        rows_(even(shape.h, std::max<int64_t>(1, kPixels / shape.w))),
        together_(rows_ < shape.h ? 1 : even(groups_, std::max<int64_t>(1, kPixels / (shape.h * shape.w)))),
        frame_rows_((rows_ - 1) * shape.stride[0] + shape.KH),
        row_(checked_multiply((shape.w - 1) * shape.stride[1] + shape.KW, shape.I)),
        columns_(ceil_div(shape.O, isa.lanes) * isa.lanes),
        channels_(std::max<int64_t>(1, kRows / (shape.KH * shape.KW))) {
    const int64_t taps = shape.KH * shape.KW;
    for (int64_t row = 0; row < channels_ * taps; ++row)
      reads_.push_back(row % taps / shape.KW * row_ + row % taps % shape.KW * shape.I + row / taps);
  }

  int64_t blocks() const { return ceil_div(groups_, together_) * ceil_div(shape_.h, rows_); }
  // Words of a block.
  int64_t image_size() const { return checked_multiply(checked_multiply(together_, frame_rows_), row_); }
  int64_t grad_size() const { return checked_multiply(together_ * rows_ * shape_.w, columns_); }
  int64_t items() const { return panels() * ceil_div(shape_.I, channels_); }  // what can be added apart
  int64_t item_size() const { return channels_ * shape_.KH * shape_.KW * isa_.panel(); }
  int64_t sums_size() const {
    return blocks() > 1 ? checked_multiply(items(), item_size()) : 0;
  }  // numbers, kept between blocks

  // Rows that can be laid out apart: of the images' frames, then of gradients.
  int64_t packed_rows() const { return together_ * (frame_rows_ + rows_); }

  // Of a block the rows [first, last) of those; image (N, H, W, I), grad (N, h, w, O).
  void pack(int64_t block, int64_t first, int64_t last, const bfloat16* image, const bfloat16* grad, uint32_t* x,
            uint32_t* y) const {
    const Block at(*this, block);
    for (int64_t r = first; r < last; ++r) {
      const int64_t frames = together_ * frame_rows_, row = r - frames;
      if (r < frames && r / frame_rows_ < at.groups)
        pack_frame(at, r / frame_rows_, r % frame_rows_, image, x + r * row_);
      else if (r >= frames && row / rows_ < at.groups && row % rows_ < at.rows)
        pack_grad(at, row / rows_, row % rows_, grad, y);
    }
  }

  // Adds what was laid out to the items [first, last). begins: to none before; weight: where the answer goes, behind
  // the last block. sums: of all items, or of one where there is one block.
  void add(int64_t block, int64_t first, int64_t last, const uint32_t* x, const uint32_t* y, bool begins, float* sums,
           float* weight) const {
    const Block at(*this, block);
    const int64_t taps = shape_.KH * shape_.KW, parts = ceil_div(shape_.I, channels_);
    const bfloat16* from[kGemmRows];
    for (int64_t item = first; item < last; ++item) {
      const int64_t panel = item / parts, channel = item % parts * channels_;
      const int64_t channels = std::min(channels_, shape_.I - channel), rows = channels * taps, width = wide(panel);
      const int vectors = int(width / isa_.lanes);
      float* const added = blocks() > 1 ? sums + item * item_size() : sums;
      if (begins) std::fill_n(added, rows * width, 0.0f);
      for (int64_t slow = 0; slow < at.slow.count; ++slow)
        for (int64_t fast = 0; fast < at.fast.count; fast += at.runs) {
          const int64_t runs = std::min(at.runs, at.fast.count - fast);
          const bfloat16* const base = as_numbers(x + slow * at.slow.apart + fast * at.fast.apart + channel);
          const uint32_t* const grads =
              y + panel * isa_.panel() * at.pixels() + (slow * at.fast.count + fast) * shape_.w * width;
          for (int64_t row = 0; row < rows; row += isa_.rows) {
            const int count = int(std::min<int64_t>(isa_.rows, rows - row));
            for (int m = 0; m < count; ++m) from[m] = base + reads_[size_t(row + m)] * kImages;
            if (shape_.w == 1)  // runs of one word are one run
              isa_.outer[count][vectors](1, runs, from, 0, at.fast.apart, grads, width, added + row * width, width);
            else
              isa_.outer[count][vectors](runs, shape_.w, from, at.fast.apart, shape_.stride[1] * shape_.I, grads, width,
                                         added + row * width, width);
          }
        }
      if (weight) finish(panel, channel, channels, added, weight);
    }
  }

  // Of the sums of all items.
  void answer(const float* sums, float* weight) const {
    const int64_t parts = ceil_div(shape_.I, channels_);
    for (int64_t item = 0; item < items(); ++item) {
      const int64_t channel = item % parts * channels_;
      finish(item / parts, channel, std::min(channels_, shape_.I - channel), sums + item * item_size(), weight);
    }
  }

 private:
  static constexpr int64_t kImages = 2;
  static constexpr int64_t kPixels = 512;  // of a block: many for each time that its sums are loaded
  static constexpr int64_t kChunk = 64;    // pixels whose gradients stay in the first cache
  static constexpr int64_t kRows = 48;     // of sums that stay there

  struct Axis {
    int64_t count, apart;  // words
  };
  // What is added at once: images from `group` on, rows of their results from `row` on. Runs are of the axis that is
  // longer, so many at a time.
  struct Block {
    int64_t group, groups, row, rows, runs;
    Axis slow, fast;
    int64_t w;

    Block(const ConvolutionWeight& all, int64_t block) : w(all.shape_.w) {
      const int64_t parts = ceil_div(all.shape_.h, all.rows_);
      group = block / parts * all.together_, row = block % parts * all.rows_;
      groups = std::min(all.together_, all.groups_ - group), rows = std::min(all.rows_, all.shape_.h - row);
      slow = {groups, all.frame_rows_ * all.row_}, fast = {rows, all.shape_.stride[0] * all.row_};
      if (groups > rows) std::swap(slow, fast);
      runs = std::max<int64_t>(1, kChunk / w);
    }
    int64_t pixels() const { return groups * rows * w; }
    int64_t place(int64_t g, int64_t r) const { return groups > rows ? r * groups + g : g * rows + r; }  // of a row
  };

  // The least parts of about the same size, none larger than `most`.
  static int64_t even(int64_t count, int64_t most) {
    return ceil_div(std::max<int64_t>(count, 1), ceil_div(std::max<int64_t>(count, 1), most));
  }
  static const bfloat16* as_numbers(const uint32_t* words) { return reinterpret_cast<const bfloat16*>(words); }

  int64_t panels() const { return ceil_div(columns_, isa_.panel()); }
  int64_t wide(int64_t panel) const { return std::min<int64_t>(isa_.panel(), columns_ - panel * isa_.panel()); }

  void pack_frame(const Block& at, int64_t g, int64_t r, const bfloat16* image, uint32_t* to) const {
    const int64_t I = shape_.I, row = (at.row * shape_.stride[0]) + r - shape_.padding[0], across = row_ / I;
    const int64_t left = std::min(shape_.padding[1], across);
    const int64_t inside = std::min(shape_.W, across - left), n = (at.group + g) * kImages;
    if (row < 0 || row >= shape_.H) {
      std::fill_n(to, row_, uint32_t(0));
      return;
    }
    const bfloat16* const from = image + (n * shape_.H + row) * shape_.W * I;
    std::fill_n(to, left * I, uint32_t(0));
    pair_runs(inside * I, from, n + 1 < shape_.N ? from + shape_.H * shape_.W * I : nullptr, to + left * I);
    std::fill_n(to + (left + inside) * I, row_ - (left + inside) * I, uint32_t(0));
  }

  void pack_grad(const Block& at, int64_t g, int64_t r, const bfloat16* grad, uint32_t* y) const {
    const int64_t O = shape_.O, n = (at.group + g) * kImages, image = shape_.h * shape_.w * O;
    const bfloat16* from = grad + n * image + (at.row + r) * shape_.w * O;
    for (int64_t c = 0; c < shape_.w; ++c, from += O)
      for (int64_t panel = 0; panel < panels(); ++panel) {
        const int64_t first = panel * isa_.panel(), width = wide(panel), count = std::min(width, O - first);
        uint32_t* const to = y + first * at.pixels() + (at.place(g, r) * shape_.w + c) * width;
        pair_runs(count, from + first, n + 1 < shape_.N ? from + image + first : nullptr, to);
        std::fill_n(to + count, width - count, uint32_t(0));
      }
  }

  void finish(int64_t panel, int64_t channel, int64_t channels, const float* sums, float* weight) const {
    const int64_t taps = shape_.KH * shape_.KW, first = panel * isa_.panel(), pitch = shape_.I * taps;
    const int64_t rows = channels * taps, count = std::min(wide(panel), shape_.O - first);
    if (!as_added_) {
      rows_to_columns(rows, count, sums, wide(panel), weight + first * pitch + channel * taps, pitch);
      return;
    }
    for (int64_t row = 0; row < rows; ++row)
      std::copy_n(sums + row * wide(panel), count, weight + (channel * taps + row) * shape_.O + first);
  }

  const TileSet<bfloat16>& isa_;
  ImageConvolution shape_;
  bool as_added_;
  int64_t groups_, rows_, together_, frame_rows_, row_, columns_, channels_;
  std::vector<int64_t> reads_;  // where the rows of an item's sums begin to read: channels, and of each all taps
};

}  // namespace fastgen
