// conv_transpose2d_image on the CPU: a transposed convolution to few channels as one product, whose columns are phases
// Block    stride × stride pixels of the result, of every phase one, see the same window of x: ceil(kernel / stride)
//          pixels each way
// Columns  a block's numbers: of 3 channels and stride 2 they are 12, of one vector's 16; a product for each phase
//          would pad 3 to 16 four times
// Border   pixels of zeros around x
// Traffic  x once, into rows of float in the first cache; y once, activated
// Numerics f32; pixels and channels in one order, so that an image's bits do not depend on the images beside it
// x is channels_last, y contiguous, the weight has any strides. No torch headers.
#pragma once

#include "activation.h"
#include "conv_transpose2d_products.h"
#include "pixel_products_cpu.h"

namespace fastgen {

// rows (count, columns) → activation(rows + bias)
template <Pointwise kind>
FG_VECTOR_CLONES void activate_blocks(int64_t count, int64_t columns, const float* __restrict bias, float slope,
                                      float* __restrict rows) {
  for (int64_t b = 0; b < count; ++b, rows += columns)
    for (int64_t j = 0; j < columns; ++j) rows[j] = activate<kind>(rows[j] + bias[j], slope);
}

template <typename Store>
FG_VECTOR_CLONES void to_float(int64_t count, const typename Store::type* __restrict from, float* __restrict to) {
  for (int64_t j = 0; j < count; ++j) to[j] = Store::load(from[j]);
}

// Store: how numbers lie in memory, with `type`, `load` and `store`.
template <typename Store>
class TransposedImage {
 public:
  using T = typename Store::type;

  // w: the weight, `shape.strides` apart; bias may be null. slope: of a leaky relu
  TransposedImage(const TransposedConvolution& shape, const T* w, const T* bias, Pointwise activation, float slope)
      : shape_(shape),
        rows_(shape, 0),
        columns_(shape, 1),
        activation_(activation),
        slope_(slope),
        product_(rows_.window, columns_.window * shape.I, shape.phases() * shape.O, gathered(w)),
        bias_(size_t(product_.columns()), 0.0f) {
    for (int64_t column = 0; bias && column < shape.phases() * shape.O; ++column)
      bias_[size_t(column)] = Store::load(bias[column % shape.O]);
  }

  // What can be computed apart: rows of blocks, image by image.
  int64_t items() const { return shape_.N * rows_.blocks; }

  void run(int64_t first, int64_t last, const T* x, T* y) const {
    const int64_t width = (columns_.blocks + columns_.window - 1) * shape_.I;  // of a row with its border
    std::vector<float> rows(size_t(rows_.window * width), 0.0f), results(size_t(columns_.blocks * product_.columns()));
    std::vector<const float*> read(size_t(rows_.window * product_.rows()));
    const auto row_at = [&](int64_t row) { return &rows[size_t((row + rows_.window) % rows_.window * width)]; };
    for (int64_t item = first; item < last; ++item) {
      const int64_t n = item / rows_.blocks, block = item % rows_.blocks;
      const int64_t row = rows_.first + block, oldest = row - rows_.window + 1;  // the window's last and first
      for (int64_t r = item == first || block == 0 ? oldest : row; r <= row; ++r) load(x, n, r, row_at(r));
      for (int64_t b = 0; b < columns_.blocks; b += product_.rows()) {
        const int64_t tile = std::min<int64_t>(product_.rows(), columns_.blocks - b);
        for (int64_t r = 0; r < rows_.window; ++r)
          for (int64_t m = 0; m < tile; ++m) read[size_t(r * tile + m)] = row_at(oldest + r) + (b + m) * shape_.I;
        product_.multiply(int(tile), read.data(), &results[size_t(b * product_.columns())]);
      }
      FG_DISPATCH_POINTWISE(activation_, activate_blocks<kind>(columns_.blocks, product_.columns(), bias_.data(),
                                                               slope_, results.data()));
      for (int64_t p = 0; p < shape_.stride[0]; ++p) {
        const int64_t to = row * shape_.stride[0] + p - shape_.padding[0];
        if (to >= 0 && to < shape_.result[0]) store(n, to, results.data() + p * shape_.stride[1] * shape_.O, y);
      }
    }
  }

 private:
  // Blocks along one axis: the i-th begins at (first + i)·stride − padding of the result, and its window ends at pixel
  // first + i of x.
  struct Axis {
    int64_t window, first, blocks;

    Axis(const TransposedConvolution& shape, int dim)
        : window(ceil_div(dim ? shape.KW : shape.KH, shape.stride[dim])),
          first(shape.padding[dim] / shape.stride[dim]),
          blocks((shape.padding[dim] + shape.result[dim] - 1) / shape.stride[dim] - first + 1) {}
  };

  // (window, window, I, phases·O): what a pixel of the window has to do with a pixel of the block
  std::vector<float> gathered(const T* w) const {
    std::vector<float> result;
    for (int64_t r = 0; r < rows_.window; ++r)
      for (int64_t c = 0; c < columns_.window; ++c)
        for (int64_t i = 0; i < shape_.I; ++i)
          for (int64_t p = 0; p < shape_.phases(); ++p) {
            const int64_t row = p / shape_.stride[1] + shape_.stride[0] * (rows_.window - 1 - r);
            const int64_t column = p % shape_.stride[1] + shape_.stride[1] * (columns_.window - 1 - c);
            const T* from = w + i * shape_.strides[0] + row * shape_.strides[2] + column * shape_.strides[3];
            const bool inside = row < shape_.KH && column < shape_.KW;
            for (int64_t o = 0; o < shape_.O; ++o)
              result.push_back(inside ? Store::load(from[o * shape_.strides[1]]) : 0.0f);
          }
    return result;
  }

  // A row of x between its borders, zeros where there is none.
  void load(const T* x, int64_t n, int64_t row, float* to) const {
    const int64_t begin = columns_.first - columns_.window + 1, end = columns_.first + columns_.blocks;  // of x
    const int64_t low = std::max<int64_t>(0, begin), high = std::max(low, std::min(shape_.W, end)), I = shape_.I;
    if (row < 0 || row >= shape_.H || low == high) {
      std::fill_n(to, (end - begin) * I, 0.0f);
      return;
    }
    to_float<Store>((high - low) * I, x + ((n * shape_.H + row) * shape_.W + low) * I, to + (low - begin) * I);
  }

  // Row `to` of image n, in every channel, from the numbers of its phase in each block.
  void store(int64_t n, int64_t to, const float* results, T* y) const {
    const int64_t stride = shape_.stride[1], width = shape_.result[1];
    for (int64_t q = 0; q < stride; ++q) {
      const int64_t start = columns_.first * stride + q - shape_.padding[1];  // of the first block; may be outside
      const int64_t low = start < 0 ? 1 : 0,
                    high = std::min(columns_.blocks, ceil_div(std::max<int64_t>(0, width - start), stride));
      for (int64_t o = 0; o < shape_.O; ++o) {
        T* line = y + ((n * shape_.O + o) * shape_.result[0] + to) * width + start;
        const float* from = results + q * shape_.O + o;
        for (int64_t b = low; b < high; ++b) line[b * stride] = Store::store(from[b * product_.columns()]);
      }
    }
  }

  TransposedConvolution shape_;
  Axis rows_, columns_;
  Pointwise activation_;
  float slope_;
  RunsProduct<float> product_;
  std::vector<float> bias_;  // of every column
};

}  // namespace fastgen
