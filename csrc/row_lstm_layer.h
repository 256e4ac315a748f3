// row_lstm_layer: a layer of a Row LSTM                                           arXiv:1601.06759 section 3.1, fig. 4
//   [o, f, i, g] = K_is ∗ x(row) + K_ss ∗ h(row above) + added, c = f·c' + i·g, h = o·tanh(c);  y = up(h) + x
// Shapes   x, y (N, 2h, H, W); K_is (4h, 2h, 1, K) and up (2h, h, 1, 1), both of mask B; K_ss (4h, h, 3); added (N, 4h)
// Traffic  x and y once; training keeps c and the gates, of which it makes h again
// No torch headers.
#pragma once

#include "image_lstm.h"
#include "masked_conv2d.h"

namespace fastgen {

constexpr int64_t kRowTaps = 3;  // of K_ss: from the left to the right of the pixel above

struct RowLstmLayerTaps {
  int64_t h;
  TapMask input, up;

  RowLstmLayerTaps(int64_t h, int64_t K, int64_t color_groups, bool interleaved)
      : h(h),
        input{4 * h, 2 * h, 1, K, true, false, color_groups, interleaved},
        up{2 * h, h, 1, 1, true, false, color_groups, interleaved} {}
};

}  // namespace fastgen
