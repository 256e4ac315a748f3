// conv_transpose2d_products: which taps the pixels of a transposed convolution's result see, phase by phase
// Phase p of an axis: positions p, p + stride, … of the kernel, and the positions of the result that see them. No torch
// headers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "checked.h"

namespace fastgen {

// Positions [first, last) of a phase along one axis see the taps [low, high) of it inside the image.
struct PhaseSegment {
  int64_t first, last, low, high;
};

// One axis of a phase: position j of it is at `start + stride·j` of the result, and its tap t, which is at
// `phase + stride·t` of the kernel, reads `base + j - t` of the image.
struct PhaseAxis {
  int64_t phase, stride, taps, start, count, base;
  std::vector<PhaseSegment> segments;

  PhaseAxis(int64_t phase, int64_t stride, int64_t padding, int64_t kernel, int64_t size, int64_t result)
      : phase(phase),
        stride(stride),
        taps(phase < kernel ? ceil_div(kernel - phase, stride) : 0),
        start(((phase - padding) % stride + stride) % stride),
        count(start < result ? ceil_div(result - start, stride) : 0),
        base((start + padding - phase) / stride) {
    for (int64_t j = 0; j < count; ++j) {
      int64_t low = std::max<int64_t>(0, base + j - size + 1), high = std::min(taps, base + j + 1);
      if (low >= high) low = high = 0;
      if (segments.empty() || segments.back().low != low || segments.back().high != high)
        segments.push_back({j, j, low, high});
      ++segments.back().last;
    }
  }
};

struct TransposedConvolution {
  int64_t N, I, H, W, O, KH, KW, stride[2], padding[2], result[2];  // result: its height and width
  int64_t strides[4];                                               // of the weight (I, O, KH, KW)

  int64_t phases() const { return stride[0] * stride[1]; }
  PhaseAxis axis(int dim, int64_t phase) const {
    return {phase, stride[dim], padding[dim], dim ? KW : KH, dim ? W : H, result[dim]};
  }
};

}  // namespace fastgen
