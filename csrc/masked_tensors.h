// What ops of several masked convolutions share on the side of tensors.
#pragma once

#include "pixel_convolution.h"

namespace fastgen {

// Whether every tap is live, and a kernel is its crop.
inline bool is_whole(const TapMask& taps) {
  return taps.KH * taps.KW == 1 && taps.sees_itself && taps.color_groups == 1;
}

inline Tensor cropped(const Tensor& weight, const TapMask& taps) {
  if (is_whole(taps)) return as_contiguous(weight);
  const Crop crop(taps);
  Tensor found = empty(weight, {taps.O, taps.I, crop.KH, crop.KW});
  const Tensor given = as_contiguous(weight);
  crop_weight(taps, crop, data<float>(given), mutable_data<float>(found));
  return found;
}

inline Tensor uncropped(const Tensor& weight, const TapMask& taps) {
  if (is_whole(taps)) return weight;
  Tensor found = empty(weight, {taps.O, taps.I, taps.KH, taps.KW});
  uncrop_weight(taps, Crop(taps), data<float>(weight), mutable_data<float>(found));
  return found;
}

inline bool checked_order(const std::string& groups_order) {  // whether colours are interleaved
  STD_TORCH_CHECK(groups_order == "contiguous" || groups_order == "interleaved",
                  "groups_order: expected 'contiguous' or 'interleaved', got ", groups_order);
  return groups_order == "interleaved";
}

}  // namespace fastgen
