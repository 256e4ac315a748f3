// What ops of convolutions with a stride and a padding share on the side of tensors.
#pragma once

#include "conv2d_image.h"
#include "tensor_utils.h"

namespace fastgen {

// The sizes of a convolution of `image` to `O` channels, none of which overflows.
inline ImageConvolution checked_convolution(const Tensor& image, int64_t O, const std::vector<int64_t>& kernel,
                                            const std::vector<int64_t>& stride, const std::vector<int64_t>& padding) {
  STD_TORCH_CHECK(image.dim() == 4, "image: expected (N, I, H, W)");
  check_pair(kernel, "kernel", 1);
  check_pair(stride, "stride", 1);
  check_pair(padding, "padding", 0);
  ImageConvolution shape{
      image.size(0), image.size(1), image.size(2), image.size(3), O, kernel[0], kernel[1], {}, {}, 0, 0};
  STD_TORCH_CHECK(shape.I > 0 && shape.O > 0 && shape.I < kMost && shape.O < kMost,
                  "weight: expected a channel on either side");
  for (int i = 0; i < 2; ++i) {
    const size_t d = size_t(i);
    const int64_t size = image.size(2 + i), rest = size + 2 * padding[d] - kernel[d];
    STD_TORCH_CHECK(size > 0 && size < kMost, "image: expected at least one pixel");
    STD_TORCH_CHECK(rest >= 0, "kernel: expected no more than the image between its borders, got ", kernel[d]);
    shape.stride[i] = stride[d];
    shape.padding[i] = padding[d];
    (i ? shape.w : shape.h) = rest / stride[d] + 1;
  }
  return shape;
}

}  // namespace fastgen
