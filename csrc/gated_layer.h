// gated_layer: a layer of a Gated PixelCNN's two stacks                                   arXiv:1606.05328 figure 2
//   above = vertical(v) + class, v' = gate(above);   here = horizontal(h) + link(above) + class, h' = out(gate(here)) +
//   h
// Shapes   v, h (N, p, H, W); vertical (2p, p, R, K), R rows of which the last is the pixel's own; link (2p, 2p, 1, 1);
//          horizontal (2p, p, 1, K) and out (p, p, 1, 1), both of mask B; a class' numbers (N, 2p)
// Traffic  v, h, v', h' once; training keeps above, and of `here` the tanh and the sigmoid
// No torch headers.
#pragma once

#include "masked_conv2d.h"

namespace fastgen {

struct GatedLayerTaps {
  int64_t p, rows, K;
  TapMask horizontal, out;

  GatedLayerTaps(int64_t p, int64_t rows, int64_t K, int64_t color_groups, bool interleaved)
      : p(p),
        rows(rows),
        K(K),
        horizontal{2 * p, p, 1, K, true, false, color_groups, interleaved},
        out{p, p, 1, 1, true, false, color_groups, interleaved} {}

  // All taps of a kernel without a mask are alive.
  Crop vertical() const { return {rows, K, rows - 1, K / 2, K / 2, rows * K}; }
  static Crop point() { return {1, 1, 0, 0, 0, 1}; }
};

}  // namespace fastgen
