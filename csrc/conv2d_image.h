// conv2d_image: y = Σ over taps of x · w + bias of an image of a few colours, of any stride and padding
// Shapes   x (N, I, H, W) contiguous, a plane a colour; w (O, I, KH, KW); y (N, O, h, w) channels_last, or contiguous
// Reads    the taps of a row of the kernel lie together in a plane: a colour is as many runs as the kernel has rows
// No torch headers.
#pragma once

#include <cstdint>

namespace fastgen {

struct ImageConvolution {
  int64_t N, I, H, W, O, KH, KW, stride[2], padding[2], h, w;  // (h, w): of the result

  int64_t taps() const { return I * KH * KW; }
  int64_t runs() const { return I * KH; }
};

}  // namespace fastgen
