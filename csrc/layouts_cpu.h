// Numbers that lie in rows, laid out in columns, on the CPU: planes of an image as its pixels. No torch headers.
#pragma once

#include <algorithm>
#include <type_traits>

#include "math.h"

namespace fastgen {

// A square of as many numbers as a vector of 16 bytes holds, from rows `pitch` apart to its transpose.
template <typename T>
FG_HD void transpose_square(const T* from, int64_t pitch, T* to, int64_t to_pitch) {
  constexpr int kSide = 16 / int(sizeof(T));
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
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

// Rows `pitch` apart, of C numbers, to C rows `plane` apart: pixels to planes, and planes to pixels.
template <typename T>
void transpose_rows(int64_t C, int64_t rows, const T* from, int64_t pitch, T* to, int64_t plane) {
  constexpr int64_t kSide = 16 / int64_t(sizeof(T));
  const int64_t channels = C / kSide * kSide, whole = rows / kSide * kSide;
  for (int64_t c = 0; c < channels; c += kSide)
    for (int64_t m = 0; m < whole; m += kSide) transpose_square(from + m * pitch + c, pitch, to + c * plane + m, plane);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t m = c < channels ? whole : 0; m < rows; ++m) to[c * plane + m] = from[m * pitch + c];
}

constexpr int64_t kSquare = 32;  // numbers on a side of what stays in the first cache

// Of x (C, pixels) the pixels [first, last) of y (pixels, C), by squares. Along a pixel's channels, as torch's copy
// goes, each number of many channels is of another line of memory.
template <typename T>
void planes_to_pixels(int64_t C, int64_t pixels, int64_t first, int64_t last, const T* x, T* y) {
  for (int64_t strip = first; strip < last; strip += kSquare)
    for (int64_t channel = 0; channel < C; channel += kSquare)
      transpose_rows(std::min(kSquare, last - strip), std::min(kSquare, C - channel), x + channel * pixels + strip,
                     pixels, y + strip * C + channel, C);
}

}  // namespace fastgen
