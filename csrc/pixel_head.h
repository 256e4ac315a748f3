// pixel_head: y = output(relu(hidden(relu(x)))), convolutions of single pixels         arXiv:1601.06759 table 1
// Shapes   x (N, C, H, W); hidden (M, C, 1, 1) and output (P, M, 1, 1), both of mask B; y (N, P, H, W)
// Traffic  of a block of pixels x and y once each, and what lies between where a gradient is to read it
// No torch headers.
#pragma once

#include "masked_conv2d.h"

namespace fastgen {

struct PixelHeadTaps {
  TapMask hidden, output;

  PixelHeadTaps(int64_t C, int64_t M, int64_t P, int64_t color_groups, bool interleaved)
      : hidden{M, C, 1, 1, true, false, color_groups, interleaved},
        output{P, M, 1, 1, true, false, color_groups, interleaved} {}
};

}  // namespace fastgen
