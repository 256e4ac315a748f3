// image_lstm on the CPU: the cells of a few pixels, as vector loops. Transcendental functions stand in loops of their
// own, which are short enough for several of their passes to be under way at once. No torch headers.
#pragma once

#include "image_lstm.h"
#include "pixel_products_cpu.h"

namespace fastgen {

// Into each clone of its caller, for the instruction set of that.
#if defined(__GNUC__)
#define FG_INLINE inline __attribute__((always_inline))
#else
#define FG_INLINE inline
#endif

constexpr int64_t kFewChannels = 16;  // of which a loop is one vector or two: what it costs to enter one would show

// Where the cells of a product's rows lie; whatever is behind a pointer has h channels, or 4h.
template <typename T>
struct ForwardCells {
  const T *gates[kRows], *previous[kRows];
  T *activations[kRows], *c[kRows], *state[kRows];
};

// sums (rows, 4h), rows `columns` apart
template <typename T>
FG_INLINE void cells(int rows, int64_t h, const T* sums, int64_t columns, const ForwardCells<T>* cells) {
  for (int m = 0; m < rows; ++m) {
    const T *sum = sums + m * columns, *gates = cells->gates[m];
    T* activations = cells->activations[m];
#pragma GCC ivdep
    for (int64_t d = 0; d < 3 * h; ++d) activations[d] = sigmoid(sum[d] + gates[d]);
#pragma GCC ivdep
    for (int64_t d = 3 * h; d < 4 * h; ++d) activations[d] = tanh(sum[d] + gates[d]);
  }
  for (int m = 0; m < rows; ++m) {
    const T *gate = cells->activations[m], *previous = cells->previous[m];
    T *c = cells->c[m], *state = cells->state[m];
#pragma GCC ivdep
    for (int64_t d = 0; d < h; ++d)
      image_lstm_state(gate[d], gate[h + d], gate[2 * h + d], gate[3 * h + d], previous[d], c + d, state + d);
  }
}

template <typename T>
FG_VECTOR_CLONES void cells_run(int rows, int64_t h, const T* sums, int64_t columns, const ForwardCells<T>* of) {
  h == kFewChannels ? cells<T>(rows, kFewChannels, sums, columns, of) : cells<T>(rows, h, sums, columns, of);
}

template <typename T>
struct BackwardCells {
  const T *grad_h[kRows], *grad_c[kRows], *grad_activations[kRows], *activations[kRows], *previous[kRows], *c[kRows];
  T* carried[kRows];  // comes from the cell that has read this one's c, and goes to the one that this one has read
  T* grads[kRows];
};

template <typename T>
FG_VECTOR_CLONES void tanh_of_states(int rows, int64_t h, const BackwardCells<T>* cells, T* tanh_c) {
  for (int m = 0; m < rows; ++m) {
    const T* c = cells->c[m];
#pragma GCC ivdep
    for (int64_t d = 0; d < h; ++d) tanh_c[m * h + d] = tanh(c[d]);
  }
}

// sums (rows, h), rows `columns` apart; tanh_c (rows, h)
template <typename T>
FG_INLINE void cells_backward(int rows, int64_t h, const T* sums, int64_t columns, const T* tanh_c,
                              const BackwardCells<T>* cells) {
  for (int m = 0; m < rows; ++m) {
    const T *sum = sums + m * columns, *t = tanh_c + m * h, *grad_h = cells->grad_h[m], *grad_c = cells->grad_c[m],
            *more = cells->grad_activations[m], *gate = cells->activations[m], *previous = cells->previous[m];
    T *carried = cells->carried[m], *grads = cells->grads[m];
#pragma GCC ivdep
    for (int64_t d = 0; d < h; ++d) {
      const ImageLstmGrads<T> grad = image_lstm_cell_backward(
          sum[d] + grad_h[d], carried[d] + grad_c[d], more[d], more[h + d], more[2 * h + d], more[3 * h + d], gate[d],
          gate[h + d], gate[2 * h + d], gate[3 * h + d], previous[d], t[d]);
      grads[d] = grad.o;
      grads[h + d] = grad.f;
      grads[2 * h + d] = grad.i;
      grads[3 * h + d] = grad.g;
      carried[d] = grad.previous;
    }
  }
}

template <typename T>
FG_VECTOR_CLONES void cells_backward_run(int rows, int64_t h, const T* sums, int64_t columns, const T* tanh_c,
                                         const BackwardCells<T>* of) {
  h == kFewChannels ? cells_backward<T>(rows, kFewChannels, sums, columns, tanh_c, of)
                    : cells_backward<T>(rows, h, sums, columns, tanh_c, of);
}

}  // namespace fastgen
