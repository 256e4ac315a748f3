// row_lstm_layer's gradients on the CPU: from the last row to the first, a few images at a time, what a row sends to
// the one above in the first caches. No torch headers.
#pragma once

#include "row_lstm_layer_cpu.h"

namespace fastgen {

// tanh(c), and h = o·tanh(c), of pixels whose gates begin with o
FG_VECTOR_CLONES inline void states_again(int64_t pixels, int64_t h, const float* __restrict c,
                                          const float* __restrict gates, float* __restrict tanh_c,
                                          float* __restrict state) {
#pragma GCC ivdep
  for (int64_t i = 0; i < pixels * h; ++i) tanh_c[i] = tanh(c[i]);
  for (int64_t m = 0; m < pixels; ++m)
    for (int64_t d = 0; d < h; ++d) state[m * h + d] = gates[m * 4 * h + d] * tanh_c[m * h + d];
}

// What a layer has read and kept, of all pixels.
struct RowLstmLayerKept {
  const float *grad_y, *x, *c, *gates;
};

// Where the gradients of the weights go, in the layout of RowLstmLayerWeights.
struct RowLstmLayerFound {
  float *input, *bias, *state, *hidden, *cell, *up, *bias_up;
};

class RowLstmLayerGradients {
 public:
  RowLstmLayerGradients(const RowLstmLayerShape& shape, const RowLstmLayerWeights& w)
      : shape_(shape),
        w_(w),
        to_states_(make_to_states(shape, w)),
        to_x_(make_to_x(shape, w)),
        images_(RowLstmLayerProducts::kImages *
                std::max<int64_t>(1, ceil_div(shape.N, kMostParts * RowLstmLayerProducts::kImages))),
        columns_(OuterProducts<float>(0, 4 * shape.h).columns()),
        up_columns_(OuterProducts<float>(0, 2 * shape.h).columns()),
        parts_(size_t(parts() * part()), 0.0f) {
    for (int64_t k = 0; k < std::max(shape.taps() * 2, kRowTaps) * shape.h; ++k) in_line_.push_back(k);
  }

  // Of images; they are added in their order, whoever has computed them.
  int64_t parts() const { return ceil_div(shape_.N, images_); }

  // Parts [first, last); grad_x of all pixels, grad_added (N, 4h)
  void add(int64_t first, int64_t last, const RowLstmLayerKept& kept, float* grad_x, float* grad_added) {
    for (int64_t p = first; p < last; ++p)
      for (int64_t n = p * images_; n < std::min((p + 1) * images_, shape_.N); n += RowLstmLayerProducts::kImages) {
        const int64_t end = std::min({n + RowLstmLayerProducts::kImages, (p + 1) * images_, shape_.N});
        add_images(n, end, kept, grad_x, grad_added, &parts_[size_t(p * part())]);
      }
  }

  void finish(const float* grad_added, const RowLstmLayerFound& found) const {
    const int64_t h = shape_.h, I = 2 * h, O = 4 * h, T = shape_.taps();
    std::vector<float> sum(size_t(part()), 0.0f);
    for (int64_t p = 0; p < parts(); ++p) add_run(part(), &parts_[size_t(p * part())], sum.data());
    const float *states = &sum[size_t(T * I * columns_)], *up = states + kRowTaps * h * columns_,
                *bias_up = up + h * up_columns_, *above = bias_up + I, *cell = above + kRowTaps * O;
    for (int64_t o = 0; o < O; ++o) {
      for (int64_t i = 0; i < I; ++i)
        for (int64_t t = 0; t < T; ++t) found.input[(o * I + i) * T + t] = sum[size_t((t * I + i) * columns_ + o)];
      for (int64_t k = 0; k < h; ++k)
        for (int64_t t = 0; t < kRowTaps; ++t)
          found.state[(o * h + k) * kRowTaps + t] = states[(t * h + k) * columns_ + o];
    }
    for (int64_t o = 0; o < I; ++o)
      for (int64_t k = 0; k < h; ++k) found.up[o * h + k] = up[k * up_columns_ + o];
    std::copy_n(bias_up, I, found.bias_up);
    std::copy_n(cell, h, found.cell);
    std::fill_n(found.hidden, h, 0.0f);
    for (int64_t t = 0; t < kRowTaps; ++t)
      for (int64_t o = 0; o < O; ++o)
        for (int64_t k = 0; k < h; ++k) found.hidden[k] += above[t * O + o] * w_.state[(o * h + k) * kRowTaps + t];
    std::fill_n(found.bias, O, 0.0f);
    for (int64_t n = 0; n < shape_.N; ++n) add_run(O, grad_added + n * O, found.bias);
  }

 private:
  static constexpr int64_t kMostParts = 16;

  // From y, and from the gates of who has read a state: (2h + 3·4h, h).
  static PlacesProduct<float> make_to_states(const RowLstmLayerShape& shape, const RowLstmLayerWeights& w) {
    const int64_t h = shape.h, O = 4 * h;
    std::vector<float> matrix(size_t((2 * h + kRowTaps * O) * h));
    float* at = std::copy_n(w.up, 2 * h * h, matrix.data());
    for (int64_t t = 0; t < kRowTaps; ++t)
      for (int64_t i = 0; i < O * h; ++i) *at++ = w.state[i * kRowTaps + t];
    return {{2 * h, O, O, O}, h, matrix};
  }

  // From the gates of who has read x: (taps·4h, 2h).
  static PlacesProduct<float> make_to_x(const RowLstmLayerShape& shape, const RowLstmLayerWeights& w) {
    const int64_t I = 2 * shape.h, O = 4 * shape.h, T = shape.taps();
    std::vector<float> matrix(size_t(T * O * I));
    float* at = matrix.data();
    for (int64_t t = 0; t < T; ++t)
      for (int64_t i = 0; i < O * I; ++i) *at++ = w.input[i * T + t];
    return {std::vector<int64_t>(size_t(T), O), I, matrix};
  }

  // (reads, columns) of both kernels, (h, up_columns) of up, 2h of its bias, what the first row's gates are to the
  // states above it by tap, (3, 4h), and h of the cell.
  int64_t part() const {
    const int64_t h = shape_.h;
    return shape_.reads() * columns_ + h * up_columns_ + 2 * h + kRowTaps * 4 * h + h;
  }

  void add_images(int64_t first, int64_t last, const RowLstmLayerKept& kept, float* grad_x, float* grad_added,
                  float* part) {
    const int64_t images = last - first, H = shape_.H, W = shape_.W, h = shape_.h, I = 2 * h, O = 4 * h,
                  T = shape_.taps(), cells = images * W;
    const std::vector<float> zeros(size_t(O), 0.0f);
    std::vector<float> grads(size_t(cells * O), 0.0f), carried(size_t(cells * h), 0.0f),
        sums(size_t(cells * std::max(to_states_.columns(), to_x_.columns()))), sum(size_t(std::max(I, O)));
    Frame<float> x(images, W, I, 0, shape_.input.left, 0);
    RowStates frames[] = {RowStates(images, shape_), RowStates(images, shape_)};
    std::vector<float> tanh_c[] = {std::vector<float>(size_t(cells * h)), std::vector<float>(size_t(cells * h))};
    const auto gates_at = [&](int64_t m, int64_t column) {  // of the pixel beside m
      const int64_t c = m % W + column;
      return c < 0 || c >= W ? zeros.data() : &grads[size_t((m + column) * O)];
    };
    auto from = to_states_.places(cells, [&](int64_t run, int64_t m) -> const float* {
      return run ? gates_at(m, 2 - run) : kept.grad_y + (shape_.row(first + m / W, H - 1) + m % W) * I;
    });
    const auto from_gates =
        to_x_.places(cells, [&](int64_t run, int64_t m) { return gates_at(m, shape_.input.left - run); });
    const auto states = [&](int64_t r, int which) {
      for (int64_t n = 0; n < images; ++n) {
        const int64_t pixel = shape_.row(first + n, r);
        states_again(W, h, kept.c + pixel * h, kept.gates + pixel * O, &tanh_c[which][size_t(n * W * h)],
                     frames[which].at(n, 0));
      }
    };
    float *of_states = part + T * I * columns_, *of_up = of_states + kRowTaps * h * columns_,
          *of_bias_up = of_up + h * up_columns_, *of_above = of_bias_up + I, *of_cell = of_above + kRowTaps * O;
    OuterProducts<float> by_gates(W, O), by_y(W, I);
    BackwardCells<float> at;
    int here = 0;
    states(H - 1, here);
    std::fill_n(&grad_added[first * O], images * O, 0.0f);
    for (int64_t r = H - 1; r >= 0; --r, here = 1 - here) {
      RowStates& above = frames[1 - here];
      r ? states(r - 1, 1 - here) : above.begin(w_.hidden);
      for (int64_t n = 0; n < images; ++n) std::copy_n(kept.x + shape_.row(first + n, r) * I, W * I, x.at(n, 0));
      to_states_.run(cells, from, sums.data(), [&](int64_t m, int rows) {
        for (int64_t each = m; r && each < m + rows; ++each) {
          const int64_t pixel = shape_.row(first + each / W, r - 1) + each % W;
          if (r == 1) continue;
          if (each % W == 0)
            look_up_pages(kept.c + (pixel - W) * h, W * h), look_up_pages(kept.gates + (pixel - W) * O, W * O);
          prefetch(kept.c + (pixel - W) * h, h);
          prefetch(kept.gates + (pixel - W) * O, O);
        }
      });
      for (int64_t m = 0; m < cells; m += kRows) {
        const int rows = int(std::min<int64_t>(kRows, cells - m));
        for (int i = 0; i < rows; ++i) {
          const int64_t cell = m + i, pixel = shape_.row(first + cell / W, r) + cell % W;
          at.grad_h[i] = at.grad_c[i] = at.grad_activations[i] = zeros.data();
          at.activations[i] = kept.gates + pixel * O;
          at.previous[i] = r ? kept.c + (pixel - W) * h : w_.cell;
          at.carried[i] = &carried[size_t(cell * h)];
          at.grads[i] = &grads[size_t(cell * O)];
        }
        cells_backward_run(rows, h, &sums[size_t(m * to_states_.columns())], to_states_.columns(),
                           &tanh_c[here][size_t(m * h)], &at);
      }
      outer(&by_gates, images, x.at(0, -x.left), x.row, I, T * I, grads.data(), part);
      outer(&by_gates, images, above.at(0, -1), above.row, h, kRowTaps * h, grads.data(), of_states);
      to_x_.run(cells, from_gates, sums.data(), [&](int64_t m, int rows) {
        for (int64_t each = m; r && each < m + rows; ++each) {
          const int64_t pixel = shape_.row(first + each / W, r - 1) + each % W;
          if (each % W == 0) look_up_pages(kept.x + pixel * I, W * I), look_up_pages(kept.grad_y + pixel * I, W * I);
          prefetch(kept.x + pixel * I, I);
          prefetch(kept.grad_y + pixel * I, I);
          prefetch(grad_x + pixel * I, I);
        }
      });
      for (int64_t n = 0; n < images; ++n) {
        const int64_t row = shape_.row(first + n, r) * I;
        const float* grad_y = kept.grad_y + row;
        outer(&by_y, 1, frames[here].at(n, 0), frames[here].row, h, h, grad_y, of_up);
        add_row(I, grad_y, &sum, of_bias_up);
        add_row(O, &grads[size_t(n * W * O)], &sum, &grad_added[(first + n) * O]);
        add_residual(W, I, &sums[size_t(n * W * to_x_.columns())], to_x_.columns(), grad_y, grad_x + row);
      }
      if (r) to_states_.move(cells, 0, -W * I, nullptr, &from);
    }
    for (int64_t m = 0; m < cells; ++m) {  // grads and carried are the first row's
      add_run(h, &carried[size_t(m * h)], of_cell);
      for (int64_t t = 0; t < kRowTaps; ++t)
        if (m % W + t - 1 >= 0 && m % W + t - 1 < W) add_run(O, &grads[size_t(m * O)], of_above + t * O);
    }
  }

  // y (count, columns) += of all images the row's outer products; a pixel's numbers from at on, `step` to the next
  void outer(OuterProducts<float>* product, int64_t images, const float* at, int64_t row, int64_t step, int64_t count,
             const float* grads, float* y) const {
    const std::vector<int64_t> read(in_line_.begin(), in_line_.begin() + count);
    const int64_t most = product->rows(), each = ceil_div(images, ceil_div(images, most));
    const Plane<float> plane{at, row, step};
    for (int64_t n = 0; n < images; n += each)
      product->add(plane.below(n), std::min(each, images - n), read, grads + n * shape_.W * product->outputs(), y);
  }

  // A row's sum by itself first: it keeps the digits of a long one.
  void add_row(int64_t width, const float* grads, std::vector<float>* sum, float* y) const {
    std::fill_n(sum->begin(), width, 0.0f);
    add_pixels(shape_.W, width, grads, sum->data());
    add_run(width, sum->data(), y);
  }

  RowLstmLayerShape shape_;
  RowLstmLayerWeights w_;
  PlacesProduct<float> to_states_, to_x_;
  int64_t images_, columns_, up_columns_;
  std::vector<float> parts_;
  std::vector<int64_t> in_line_;
};

}  // namespace fastgen
