// concat_elu on the CPU: rows of an image within the rows of a wider one
// Shapes         x (N, C, H, W), y (N, 2C, top + H + bottom, left + W + right), both contiguous or channels_last
// channels_last  a row is W pixels, of which each has a run of C numbers in x, and two in y, one behind the other
// contiguous     a row is W numbers of one channel in x, and two rows of y, C channels apart
// Traffic        C reads and 2C writes a pixel; backward 4C and C. From y, which a convolution keeps: x is free to go
// No torch headers.
#pragma once

#include <algorithm>

#include "checked.h"
#include "concat_elu.h"

namespace fastgen {

struct Border {
  int64_t left, right, top, bottom;
};

// Where a row of x lies, and both of its results in y.
struct ConcatEluShape {
  int64_t N, C, H, W;
  Border border;
  bool channels_last;

  int64_t height() const { return border.top + H + border.bottom; }
  int64_t width() const { return border.left + W + border.right; }
  int64_t runs() const { return channels_last ? W : 1; }
  int64_t run() const { return channels_last ? C : W; }
  int64_t images() const { return channels_last ? N : N * C; }   // of rows that lie one below the other
  int64_t numbers() const { return channels_last ? 2 * C : 1; }  // of a pixel of y, one behind the other
  int64_t between() const { return channels_last ? C : C * height() * width(); }  // from one result to the other

  int64_t x_row(int64_t image, int64_t h) const { return (image * H + h) * runs() * run(); }
  int64_t y_row(int64_t image, int64_t h) const {  // its border included
    const int64_t first = channels_last ? image : image / C * 2 * C + image % C;
    return (first * height() + h) * width() * numbers();
  }
};

template <typename T>
FG_VECTOR_CLONES void concat_elu_row(int64_t runs, int64_t run, int64_t between, const T* __restrict x,
                                     T* __restrict y) {
  for (int64_t r = 0; r < runs; ++r, x += run, y += 2 * run)
    for (int64_t i = 0; i < run; ++i) concat_elu(x[i], &y[i], &y[between + i]);
}

template <typename T>
FG_VECTOR_CLONES void concat_elu_backward_row(int64_t runs, int64_t run, int64_t between, const T* __restrict grad_y,
                                              const T* __restrict y, T* __restrict grad_x) {
  for (int64_t r = 0; r < runs; ++r, grad_y += 2 * run, y += 2 * run, grad_x += run)
    for (int64_t i = 0; i < run; ++i)
      grad_x[i] = concat_elu_backward(grad_y[i], grad_y[between + i], y[i], y[between + i]);
}

// Row h of y, with its border: zeros above and below, and on both sides.
template <typename T>
void concat_elu_row_of(const ConcatEluShape& shape, int64_t image, int64_t h, const T* x, T* y) {
  const int64_t numbers = shape.numbers(), row = shape.y_row(image, h), left = shape.border.left * numbers;
  const int64_t inside = shape.W * numbers, width = shape.width() * numbers;
  const bool outside = h < shape.border.top || h >= shape.border.top + shape.H;
  for (int64_t part = 0; part < (shape.channels_last ? 1 : 2); ++part) {
    T* const first = y + row + part * shape.between();
    std::fill(first, first + (outside ? width : left), T(0));
    if (!outside) std::fill(first + left + inside, first + width, T(0));
  }
  if (!outside)
    concat_elu_row<T>(shape.runs(), shape.run(), shape.between(), x + shape.x_row(image, h - shape.border.top),
                      y + row + left);
}

}  // namespace fastgen
