// shifted_conv2d: a convolution over a pixel's row and those above                     arXiv:1701.05517 section 2.4
//   y[r, c] = Σ w[k, l] · x[r − (KH − 1) + k, c − left + l] + b + residual[r, c]
// Shapes   x (N, I, H, W), w (O, I, KH, KW), y and residual (N, O, H, W); all taps are alive, outside x is zero
// Traffic  x, y and the residual once each; the weights from the caches
// No torch headers.
#pragma once

#include "masked_conv2d_products_cpu.h"

namespace fastgen {

// The kernel's last row is the pixel's own, and its column `left`.
inline PixelConvolution shifted_convolution(int64_t N, int64_t H, int64_t W, int64_t I, int64_t O, int64_t KH,
                                            int64_t KW, int64_t left) {
  return {N, H, W, I, O, Crop(KH, KW, KH - 1, left, KW - 1 - left, KH * KW)};
}

}  // namespace fastgen
