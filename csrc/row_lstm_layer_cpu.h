// row_lstm_layer on the CPU: a few images go through the layer together, row by row, and back; what a row reads, makes
// and sends to the next one stays in the first caches. Pixels lie in memory with their channels together. No torch
// headers.
#pragma once

#include "image_lstm_cpu.h"
#include "masked_conv2d_products_cpu.h"
#include "places_product_cpu.h"
#include "row_lstm_layer.h"

namespace fastgen {

// y = sums + residual of pixels of which the sums lie `columns` apart
inline void add_residual(int64_t pixels, int64_t width, const float* sums, int64_t columns, const float* residual,
                         float* y) {
  const bool joined = columns == width;
  for (int64_t m = 0; m < (joined ? 1 : pixels); ++m)
    finish_sums<float, true, false>(joined ? pixels * width : width, sums + m * columns, residual + m * width,
                                    y + m * width);
}

struct RowLstmLayerShape {
  int64_t N, H, W, h;
  Crop input;  // of K_is

  int64_t taps() const { return input.live; }  // of K_is, the last at the pixel itself
  int64_t reads() const { return (2 * taps() + kRowTaps) * h; }
  int64_t row(int64_t n, int64_t r) const { return (n * H + r) * W; }  // its first pixel
};

// Cropped weights (O, I, taps), and biases and what is added, which may be null.
struct RowLstmLayerWeights {
  const float *input, *bias, *state, *hidden, *cell, *up, *bias_up, *added;
};

// The states of a few images' row, which the next one reads with zeros on both sides.
struct RowStates : Frame<float> {
  RowStates(int64_t images, const RowLstmLayerShape& shape) : Frame(images, shape.W, shape.h, 0, 1, 1) {}

  float* of(int64_t m) { return at(m / W, m % W); }
  void begin(const float* hidden) {
    for (int64_t m = 0; m < H * W; ++m) std::copy_n(hidden, width, of(m));
  }
};

class RowLstmLayerProducts {
 public:
  static constexpr int64_t kImages = 4;  // together: a row of one would leave tiles half empty

  RowLstmLayerProducts(const RowLstmLayerShape& shape, const RowLstmLayerWeights& w)
      : shape_(shape), w_(w), gates_(lengths(shape), 4 * shape.h, matrix(shape, w)), up_(make_up(shape, w)) {}

  // Images [first, last). c and gates, of all pixels, are null where nobody needs them.
  void run(int64_t first, int64_t last, const float* x, float* y, float* c, float* gates) const {
    const int64_t images = last - first, W = shape_.W, h = shape_.h, T = shape_.taps(), cells = images * W;
    static constexpr float kOne = 1.0f;
    const std::vector<float> zeros(size_t(2 * h), 0.0f);
    RowStates states(images, shape_);
    states.begin(w_.hidden);
    auto read = gates_.places(cells, [&](int64_t run, int64_t m) -> const float* {
      const int64_t column = m % W + run - shape_.input.left;  // of a tap of K_is, which sees no column to the right
      if (run < T) return column < 0 ? zeros.data() : x + (shape_.row(first + m / W, 0) + column) * 2 * h;
      return states.of(m) + (run - T - 1) * h;
    });
    const auto up_read =
        up_.places(cells, [&](int64_t run, int64_t m) -> const float* { return run ? &kOne : states.of(m); });
    const std::vector<float> constants = added(first, last);
    std::vector<float> sums(size_t(cells * std::max(gates_.columns(), up_.columns()))), kept, unused;
    if (!c) kept.resize(size_t(cells * h)), unused.resize(size_t(kRows * 4 * h));
    ForwardCells<float> at;
    for (int64_t r = 0; r < shape_.H; ++r) {
      const int64_t down = r + 1 < shape_.H ? W : 0;  // what the next row reads and writes is fetched by now
      gates_.run(cells, read, sums.data(), [&](int64_t m, int rows) {
        for (int64_t each = m; down && each < m + rows; ++each) {
          const int64_t pixel = shape_.row(first + each / W, r) + each % W + down;
          if (c) prefetch(c + pixel * h, h), prefetch(gates + pixel * 4 * h, 4 * h);
        }
      });
      for (int64_t m = 0; m < cells; m += kRows) {
        const int rows = int(std::min<int64_t>(kRows, cells - m));
        for (int i = 0; i < rows; ++i) {
          const int64_t cell = m + i, n = cell / W, pixel = shape_.row(first + n, r) + cell % W;
          at.gates[i] = &constants[size_t(n * 4 * h)];
          at.activations[i] = c ? gates + pixel * 4 * h : &unused[size_t(i * 4 * h)];
          at.c[i] = c ? c + pixel * h : &kept[size_t(cell * h)];
          at.previous[i] = r == 0 ? w_.cell : c ? c + (pixel - W) * h : at.c[i];
          at.state[i] = states.of(cell);
        }
        cells_run(rows, h, &sums[size_t(m * gates_.columns())], gates_.columns(), &at);
      }
      up_.run(cells, up_read, sums.data(), [&](int64_t m, int rows) {
        for (int64_t each = m; down && each < m + rows; ++each) {
          const int64_t pixel = shape_.row(first + each / W, r) + each % W + down;
          if (each % W == 0) look_up_pages(x + pixel * 2 * h, W * 2 * h);
          prefetch(x + pixel * 2 * h, 2 * h);
          prefetch(y + pixel * 2 * h, 2 * h);
        }
      });
      for (int64_t n = 0; n < images; ++n) {
        const int64_t row = shape_.row(first + n, r) * 2 * h;
        add_residual(W, 2 * h, &sums[size_t(n * W * up_.columns())], up_.columns(), x + row, y + row);
      }
      for (int64_t run = 0; down && run < T; ++run) gates_.move(cells, run, W * 2 * h, zeros.data(), &read);
    }
  }

 private:
  static std::vector<int64_t> lengths(const RowLstmLayerShape& shape) {
    std::vector<int64_t> found(size_t(shape.taps()), 2 * shape.h);
    found.insert(found.end(), size_t(kRowTaps), shape.h);
    return found;
  }

  // Both kernels, one below the other: (reads, 4h).
  static std::vector<float> matrix(const RowLstmLayerShape& shape, const RowLstmLayerWeights& w) {
    const int64_t h = shape.h, I = 2 * h, T = shape.taps(), O = 4 * h;
    std::vector<float> found(size_t(shape.reads() * O));
    for (int64_t o = 0; o < O; ++o) {
      for (int64_t t = 0; t < T; ++t)
        for (int64_t i = 0; i < I; ++i) found[size_t((t * I + i) * O + o)] = w.input[(o * I + i) * T + t];
      for (int64_t t = 0; t < kRowTaps; ++t)
        for (int64_t k = 0; k < h; ++k)
          found[size_t((T * I + t * h + k) * O + o)] = w.state[(o * h + k) * kRowTaps + t];
    }
    return found;
  }

  static PlacesProduct<float> make_up(const RowLstmLayerShape& shape, const RowLstmLayerWeights& w) {
    const int64_t h = shape.h, O = 2 * h;
    std::vector<int64_t> lengths = {h};
    std::vector<float> matrix(size_t(h * O));
    for (int64_t o = 0; o < O; ++o)
      for (int64_t k = 0; k < h; ++k) matrix[size_t(k * O + o)] = w.up[o * h + k];
    if (w.bias_up) {  // the weight of a one
      lengths.push_back(1);
      matrix.insert(matrix.end(), w.bias_up, w.bias_up + O);
    }
    return {lengths, O, matrix};
  }

  // What joins all gates of an image: the bias, and what is added.
  std::vector<float> added(int64_t first, int64_t last) const {
    const int64_t O = 4 * shape_.h;
    std::vector<float> found(size_t((last - first) * O), 0.0f);
    for (int64_t n = first; n < last; ++n) {
      if (w_.bias) add_run(O, w_.bias, &found[size_t((n - first) * O)]);
      if (w_.added) add_run(O, w_.added + n * O, &found[size_t((n - first) * O)]);
    }
    return found;
  }

  RowLstmLayerShape shape_;
  RowLstmLayerWeights w_;
  PlacesProduct<float> gates_, up_;
};

}  // namespace fastgen
