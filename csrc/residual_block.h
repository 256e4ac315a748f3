// residual_block: y = up(relu(conv(relu(down(relu(x)))))) + x                        arXiv:1601.06759 figure 5, left
// Shapes   x, y (N, C, H, W); down (M, C, 1, 1), conv (M, M, KH, KW) and up (C, M, 1, 1), all of mask B
// Traffic  of an image x, y and the two results between, once each; whatever else there is stays in the caches
// No torch headers.
#pragma once

#include "masked_conv2d.h"

namespace fastgen {

// The three convolutions of a block.
struct ResidualBlockTaps {
  TapMask down, around, up;

  ResidualBlockTaps(int64_t C, int64_t M, int64_t KH, int64_t KW, int64_t color_groups, bool interleaved)
      : down{M, C, 1, 1, true, false, color_groups, interleaved},
        around{M, M, KH, KW, true, false, color_groups, interleaved},
        up{C, M, 1, 1, true, false, color_groups, interleaved} {}
};

}  // namespace fastgen
