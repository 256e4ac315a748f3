// From planes of an image to its pixels, on the CPU. No torch headers.
#pragma once

#include <algorithm>

#include "math.h"

namespace fastgen {

constexpr int64_t kSquare = 32;  // numbers on a side of what stays in the first cache

// Of x (C, pixels) the pixels [first, last) of y (pixels, C), by squares. Along a pixel's channels, as torch's copy
// goes, each number of many channels is of another line of memory.
template <typename T>
void planes_to_pixels(int64_t C, int64_t pixels, int64_t first, int64_t last, const T* x, T* y) {
  for (int64_t strip = first; strip < last; strip += kSquare)
    for (int64_t channel = 0; channel < C; channel += kSquare)
      for (int64_t c = channel; c < std::min(channel + kSquare, C); ++c) {
        const T* const from = x + c * pixels;
        T* const to = y + c;
        for (int64_t pixel = strip; pixel < std::min(strip + kSquare, last); ++pixel) to[pixel * C] = from[pixel];
      }
}

}  // namespace fastgen
