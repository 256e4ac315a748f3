"""A convolution that sees the whole image at once, as the matrix product that it is."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from .._constants import is_exporting
from ._layouts import is_channels_last
from .winograd import pair_of


def is_product(image: Tensor, kernel: Sequence[int], padding: Any, dilation: Any) -> bool:
    """Whether a kernel is as large as an image without a border: the last one of a DCGAN's discriminator.

    512 channels of 16 4×4 images to one, with gradients, two threads of an AMD EPYC with AVX512-BF16: 0.17 ms where
    torch's convolution takes 0.68; in bfloat16 0.28 and 0.74.
    """
    height, width = kernel
    if image.dim() != 4 or image.shape[2] != height or image.shape[3] != width or height * width == 1:
        return False
    if is_exporting() or forward_ad._current_level >= 0 or isinstance(padding, str):
        return False
    return pair_of(padding) == (0, 0) and pair_of(dilation) == (1, 1)


def conv2d_product(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.conv2d(image, weight, bias)``, (N, O, 1, 1).

    Where their layouts differ the smaller one is copied: the weight, whose gradient is too, or the image.
    """
    if is_channels_last(image) and (is_channels_last(weight) or weight.numel() <= image.numel()):
        image, weight = image.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
    y = F.linear(image.flatten(1), weight.flatten(1), bias)
    found: Tensor = torch.ops.aten._unsafe_view.default(y, [*y.shape, 1, 1])  # no view, as a convolution's result
    return found
