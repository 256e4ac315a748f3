// conv_transpose2d_weight on the CPU: channels_last, in squares of vectors. No torch headers.
#pragma once

#include <cstdint>
#include <type_traits>

#include "math.h"

namespace fastgen {

// A square of as many numbers as a vector of 16 bytes holds, from rows `pitch` apart to its transpose.
template <typename T>
FG_HD void transpose_square(const T* from, int64_t pitch, T* to, int64_t to_pitch) {
  constexpr int kSide = 16 / int(sizeof(T));
#if defined(__GNUC__) && !defined(__clang__)
  typedef T V __attribute__((vector_size(16)));
  typedef T Unaligned __attribute__((vector_size(16), aligned(alignof(T)), may_alias));
  typedef typename std::conditional<sizeof(T) == 2, int16_t,
                                    typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type>::type Index;
  typedef Index Mask __attribute__((vector_size(16)));
  Mask low, high;  // of two vectors in turns: their first halves, and their second ones
  for (int k = 0; k < kSide; ++k) low[k] = Index(k / 2 + k % 2 * kSide), high[k] = Index(low[k] + kSide / 2);
  V rows[kSide], next[kSide];
  for (int k = 0; k < kSide; ++k) rows[k] = *reinterpret_cast<const Unaligned*>(from + k * pitch);
#pragma GCC unroll 4
  for (int done = 1; done < kSide; done *= 2) {
#pragma GCC unroll 8
    for (int k = 0; k < kSide / 2; ++k) {
      next[2 * k] = __builtin_shuffle(rows[k], rows[k + kSide / 2], low);
      next[2 * k + 1] = __builtin_shuffle(rows[k], rows[k + kSide / 2], high);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kSide; ++k) rows[k] = next[k];
  }
  for (int k = 0; k < kSide; ++k) *reinterpret_cast<Unaligned*>(to + k * to_pitch) = rows[k];
#else
  for (int k = 0; k < kSide; ++k)
    for (int j = 0; j < kSide; ++j) to[j * to_pitch + k] = from[k * pitch + j];
#endif
}

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
