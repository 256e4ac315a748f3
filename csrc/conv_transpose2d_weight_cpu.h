// conv_transpose2d_weight on the CPU: channels_last, in squares of vectors. No torch headers.
#pragma once

#include "layouts_cpu.h"

namespace fastgen {

// (I, O, taps) → (I, taps, O), inputs [first, last)
template <typename T>
void taps_first(int64_t first, int64_t last, int64_t O, int64_t taps, const T* from, T* to) {
  constexpr int64_t kSide = 16 / int64_t(sizeof(T));
  const int64_t outputs = taps % kSide ? 0 : O / kSide * kSide;  // in squares
  for (int64_t i = first; i < last; ++i) {
    const T* x = from + i * O * taps;
    T* y = to + i * O * taps;
    for (int64_t o = 0; o < outputs; o += kSide)
      for (int64_t t = 0; t < taps; t += kSide) transpose_square(x + o * taps + t, taps, y + t * O + o, O);
    for (int64_t o = outputs; o < O; ++o)
      for (int64_t t = 0; t < taps; ++t) y[t * O + o] = x[o * taps + t];
  }
}

}  // namespace fastgen
