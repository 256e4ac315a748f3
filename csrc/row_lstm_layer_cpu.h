// row_lstm_layer on the CPU: a few images go through the layer together, row by row, and back; what a row reads, makes
// and sends to the next one stays in the first caches. Pixels lie in memory with their channels together. No torch
// headers.
#pragma once

#include "image_lstm_cpu.h"
#include "masked_conv2d_products_cpu.h"
#include "row_lstm_layer.h"

namespace fastgen {

// y[m] = Σ over runs of x @ W, of any number of pixels m, which read the same places whenever it is run
class PlacesProduct {
 public:
  // w (Σ lengths, N)
  PlacesProduct(std::vector<int64_t> lengths, int64_t N, const std::vector<float>& w)
      : lengths_(std::move(lengths)), layout_(isa_, int64_t(w.size()) / N, N, false), packed_(size_t(layout_.size())) {
    layout_.pack(w.data(), packed_.data());
  }

  int64_t columns() const { return ceil_div(layout_.N, isa_.lanes) * isa_.lanes; }  // from a row of y to the next

  // at(run, m): where pixel m reads
  template <typename F>
  std::vector<const float*> places(int64_t pixels, const F& at) const {
    const int64_t runs = int64_t(lengths_.size());
    std::vector<const float*> found(size_t(runs * pixels));
    for (int64_t m = 0; m < pixels; ++m) {
      const int64_t tile = m / isa_.rows * isa_.rows, rows = std::min<int64_t>(isa_.rows, pixels - tile);
      for (int64_t run = 0; run < runs; ++run) found[size_t(runs * tile + run * rows + m - tile)] = at(run, m);
    }
    return found;
  }

  // before(m, rows): called before the first panel's product of these
  template <typename F>
  void run(int64_t pixels, const std::vector<const float*>& places, float* y, const F& before) const {
    const int64_t runs = int64_t(lengths_.size()), pitch = columns();
    for (int64_t p = 0; p < layout_.panels(); ++p)
      for (int64_t m = 0; m < pixels; m += isa_.rows) {
        const int rows = int(std::min<int64_t>(isa_.rows, pixels - m));
        if (p == 0) before(m, rows);
        isa_.tile[rows][layout_.vectors_of(p)](runs, lengths_.data(), &places[size_t(runs * m)],
                                               packed_.data() + layout_.offset(p), y + m * pitch + layout_.first(p),
                                               pitch);
      }
  }
  void run(int64_t pixels, const std::vector<const float*>& places, float* y) const {
    run(pixels, places, y, [](int64_t, int) {});
  }

 private:
  const GemmIsa& isa_ = gemm_isas().back();
  std::vector<int64_t> lengths_;
  GemmLayout layout_;
  std::vector<float> packed_;
};

// y = sums + residual of pixels of which the sums lie `columns` apart
inline void add_residual(int64_t pixels, int64_t width, const float* sums, int64_t columns, const float* residual,
                         float* y) {
  const bool joined = columns == width;
  for (int64_t m = 0; m < (joined ? 1 : pixels); ++m)
    add_runs(joined ? pixels * width : width, sums + m * columns, residual + m * width, y + m * width);
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

// A row of a few images beside each other: x with zeros on its left, and the states above with zeros on both sides.
struct RowFrames {
  int64_t images, W, h, left;
  std::vector<float> x, states;

  RowFrames(int64_t images, const RowLstmLayerShape& shape)
      : images(images),
        W(shape.W),
        h(shape.h),
        left(shape.input.left),
        x(size_t(images * x_row()), 0.0f),
        states(size_t(images * states_row()), 0.0f) {}

  int64_t x_row() const { return (left + W) * 2 * h; }
  int64_t states_row() const { return (1 + W + 1) * h; }
  float* x_at(int64_t m) { return &x[size_t(m / W * x_row() + (left + m % W) * 2 * h)]; }
  float* state_at(int64_t m) { return &states[size_t(m / W * states_row() + (1 + m % W) * h)]; }
  void begin(const float* hidden) {
    for (int64_t m = 0; m < images * W; ++m) std::copy_n(hidden, h, state_at(m));
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
    RowFrames frames(images, shape_);
    frames.begin(w_.hidden);
    const auto read = gates_.places(cells, [&](int64_t run, int64_t m) -> const float* {
      return run < T ? frames.x_at(m) + (run - frames.left) * 2 * h : frames.state_at(m) + (run - T - 1) * h;
    });
    const auto up_read =
        up_.places(cells, [&](int64_t run, int64_t m) -> const float* { return run ? &kOne : frames.state_at(m); });
    const std::vector<float> constants = added(first, last);
    std::vector<float> sums(size_t(cells * std::max(gates_.columns(), up_.columns()))), kept, unused;
    if (!c) kept.resize(size_t(cells * h)), unused.resize(size_t(kRows * 4 * h));
    ForwardCells<float> at;
    for (int64_t r = 0; r < shape_.H; ++r) {
      for (int64_t n = 0; n < images; ++n)
        std::copy_n(x + shape_.row(first + n, r) * 2 * h, W * 2 * h, frames.x_at(n * W));
      const int64_t down = r + 1 < shape_.H ? W : 0;  // what the next row reads and writes is fetched by now
      gates_.run(cells, read, sums.data(), [&](int64_t m, int rows) {
        for (int64_t each = m; down && each < m + rows; ++each) {
          const int64_t pixel = shape_.row(first + each / W, r) + each % W + down;
          prefetch(x + pixel * 2 * h, 2 * h);
          prefetch(y + pixel * 2 * h, 2 * h);
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
          at.state[i] = frames.state_at(cell);
        }
        cells_run(rows, h, &sums[size_t(m * gates_.columns())], gates_.columns(), &at);
      }
      up_.run(cells, up_read, sums.data());
      for (int64_t n = 0; n < images; ++n)
        add_residual(W, 2 * h, &sums[size_t(n * W * up_.columns())], up_.columns(), frames.x_at(n * W),
                     y + shape_.row(first + n, r) * 2 * h);
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

  static PlacesProduct make_up(const RowLstmLayerShape& shape, const RowLstmLayerWeights& w) {
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
  PlacesProduct gates_, up_;
};

}  // namespace fastgen
