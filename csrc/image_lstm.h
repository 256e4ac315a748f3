// image_lstm: the cell [o, f, i] = σ(·), g = tanh(·), c = f·c' + i·g, h = o·tanh(c)          arXiv:1601.06759 eq. 3
// The formula and its scans, for CPU and CUDA. No torch headers.
#pragma once

#include "math.h"

namespace fastgen {

// From the gates, sigmoids of their sums, and the candidate g, a tanh, to the states.
template <typename T>
FG_HD void image_lstm_state(T o, T f, T i, T g, T previous, T* c, T* h) {
  const T state = f * previous + i * g;
  *c = state;
  *h = o * tanh(state);
}

template <typename T>
struct ImageLstmGrads {
  T o, f, i, g;  // of the sums
  T previous;    // of c'
};

// grad_c: what has come to c from its successor; grad_o … of the gates themselves, beside what the cell sends them;
// t: tanh(c).
template <typename T>
FG_HD ImageLstmGrads<T> image_lstm_cell_backward(T grad_h, T grad_c, T grad_o, T grad_f, T grad_i, T grad_g, T o, T f,
                                                 T i, T g, T previous, T t) {
  grad_c += grad_h * o * (T(1) - t * t);
  grad_o += grad_h * t;
  grad_f += grad_c * previous;
  grad_i += grad_c * g;
  grad_g += grad_c * i;
  return {grad_o * o * (T(1) - o), grad_f * f * (T(1) - f), grad_i * i * (T(1) - i), grad_g * (T(1) - g * g),
          grad_c * f};
}

// Where a cell reads: states at (r + row, c + column) for each tap; c' comes along the second.
struct ImageLstmScan {
  int taps;
  int row[3], column[3];
  bool around;  // whether the initial state is all around the image; else it is above, and zeros are beside a row
};

enum ImageLstmKind : int64_t { kRowScan, kDiagonalScan, kMirroredScan };

FG_HD ImageLstmScan image_lstm_scan(int64_t kind) {
  if (kind == kRowScan) return {3, {-1, -1, -1}, {-1, 0, 1}, false};
  return {2, {-1, 0, 0}, {0, kind == kDiagonalScan ? -1 : 1, 0}, true};
}

// The cells of one step do not read each other: a row, or a diagonal of all (r, d) with r + d one number, d the
// distance from the column where rows begin.
struct ImageLstmSteps {
  int64_t kind, H, W;

  FG_HD int64_t count() const { return H == 0 || W == 0 ? 0 : kind == kRowScan ? H : H + W - 1; }
  FG_HD int64_t first_row(int64_t step) const { return step < W ? 0 : step - W + 1; }  // of a diagonal
  FG_HD int64_t cells(int64_t step) const {
    return kind == kRowScan ? W : (step < H ? step : H - 1) - first_row(step) + 1;
  }
  FG_HD void cell(int64_t step, int64_t index, int64_t* r, int64_t* c) const {
    *r = kind == kRowScan ? step : first_row(step) + index;
    *c = kind == kRowScan ? index : kind == kDiagonalScan ? step - *r : W - 1 - (step - *r);
  }
};

}  // namespace fastgen
