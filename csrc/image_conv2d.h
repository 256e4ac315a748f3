// image_conv2d: y = Σ_live taps x · w + bias of an image of a few colours                arXiv:1601.06759 §3.4, fig. 2
// Shapes   x (N, I, H, W) contiguous, a plane a colour; w (O, I, KH, KW), odd; y (N, O, H, W) channels_last
// Reads    the live taps of a row of the kernel lie together in a plane: a colour is as many runs as the crop has rows
// No torch headers.
#pragma once

#include "masked_conv2d.h"

namespace fastgen {

// Of taps; colours one after the other, rows from the top.
struct ImageConv2dRuns {
  TapMask taps;
  Crop crop;

  explicit ImageConv2dRuns(const TapMask& taps) : taps(taps), crop(taps) {}

  int64_t rows() const { return crop.KH; }
  int64_t count() const { return taps.I * rows(); }
  int64_t length(int64_t row) const { return row + 1 < crop.KH ? crop.KW : crop.live - (crop.KH - 1) * crop.KW; }
  int64_t numbers() const { return taps.I * crop.live; }  // that a pixel reads
};

}  // namespace fastgen
