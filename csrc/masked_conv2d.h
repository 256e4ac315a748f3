// masked_conv2d: y = activation(Σ_live taps x · w + bias) + residual                   arXiv:1601.06759 §3.4, fig. 2
// Which taps are live, what is left of the kernel without the dead ones, and the epilogue's formulas.
// No torch headers.
#pragma once

#include "gated_activation.h"

namespace fastgen {

enum class Activation { kNone, kRelu, kElu, kConcatElu, kGated };

// Channels of y for O channels of the convolution.
FG_HD int64_t result_channels(Activation activation, int64_t O) {
  return activation == Activation::kConcatElu ? 2 * O : activation == Activation::kGated ? O / 2 : O;
}

// Which taps a mask leaves alive. Raster order: everything before the centre; the centre itself by colour.
struct TapMask {
  int64_t O, I, KH, KW;  // weight
  bool sees_itself;      // mask "B"
  bool halves;           // gate: each half of O is divided into colours on its own
  int64_t color_groups;
  bool interleaved;  // colour of channel c: c mod groups, else by thirds

  FG_HD int64_t color(int64_t channel, int64_t channels) const {
    return interleaved ? channel % color_groups : channel * color_groups / channels;
  }
  FG_HD bool center_live(int64_t o, int64_t i) const {
    if (color_groups == 1) return sees_itself;
    const int64_t half = halves ? O / 2 : O;
    const int64_t color_out = color(o % half, half), color_in = color(i, I);
    return sees_itself ? color_in <= color_out : color_in < color_out;
  }
};

// What is left of the kernel: the rows down to the centre and, in a kernel of one row, the columns up to it. With the
// image padded by as much above, left and right, a convolution without padding gives the result.
struct Crop {
  int64_t KH, KW, top, left, right;
  int64_t live;  // of what is left, taps up to the last in raster order that some channel reads

  Crop(int64_t KH, int64_t KW, int64_t top, int64_t left, int64_t right, int64_t live)
      : KH(KH), KW(KW), top(top), left(left), right(right), live(live) {}

  explicit Crop(const TapMask& mask)
      : KH(mask.KH / 2 + 1),
        KW(mask.KH == 1 ? mask.KW / 2 + 1 : mask.KW),
        top(mask.KH / 2),
        left(mask.KW / 2),
        right(mask.KH == 1 ? 0 : mask.KW / 2),
        live(top * KW + left + (mask.sees_itself || mask.color_groups > 1 ? 1 : 0)) {}
};

// Of every kernel the live taps come first in raster order, in the crop as in the whole. T: of whatever is copied.
template <typename T>
void copy_live_taps(const TapMask& taps, const T* from, int64_t of_from, T* to, int64_t of_to) {
  const int64_t center = taps.KH / 2 * taps.KW + taps.KW / 2;
  for (int64_t o = 0; o < taps.O; ++o)
    for (int64_t i = 0; i < taps.I; ++i, from += of_from, to += of_to) {
      for (int64_t tap = 0; tap < center; ++tap) to[tap] = from[tap];
      to[center] = taps.center_live(o, i) ? from[center] : T(0);
      for (int64_t tap = center + 1; tap < of_to; ++tap) to[tap] = T(0);
    }
}

template <typename T>
void crop_weight(const TapMask& taps, const Crop& crop, const T* weight, T* cropped) {
  copy_live_taps(taps, weight, taps.KH * taps.KW, cropped, crop.KH * crop.KW);
}

template <typename T>
void uncrop_weight(const TapMask& taps, const Crop& crop, const T* cropped, T* weight) {
  copy_live_taps(taps, cropped, crop.KH * crop.KW, weight, taps.KH * taps.KW);
}

// ---- the activations: f(p) and its gradient. Gate and concat_elu tie two channels together and are spelled out below.

struct Identity {
  template <typename T>
  static FG_HD T forward(T p) {
    return p;
  }
  template <typename T>
  static FG_HD T backward(T grad_y, T) {
    return grad_y;
  }
};

struct Relu {
  template <typename T>
  static FG_HD T forward(T p) {
    return p < T(0) ? T(0) : p;
  }  // NaN passes through, as in torch
  template <typename T>
  static FG_HD T backward(T grad_y, T p) {
    return p <= T(0) ? T(0) : grad_y;
  }
};

struct Elu {
  template <typename T>
  static FG_HD T forward(T p) {
    return p > T(0) ? p : expm1(p);
  }
  template <typename T>
  static FG_HD T backward(T grad_y, T p) {
    return p > T(0) ? grad_y : grad_y * exp(p);
  }
};

// concat_elu: channel c becomes elu(p), channel O + c becomes elu(−p).
template <typename T>
FG_HD T concat_elu_backward(T grad_plus, T grad_minus, T p) {
  return Elu::backward(grad_plus, p) - Elu::backward(grad_minus, -p);
}

}  // namespace fastgen
