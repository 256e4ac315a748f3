"""Transposed convolution of few pixels and many channels as one product with the whole weight, and a sum."""

import torch.nn.functional as F
from torch import Tensor

from ._records import Convolution

#: Up to so many pixels of an image and of a batch, of so many channels or more, a product with the whole weight outruns
#: torch's on a CPU: 512 to 256 channels, 4×4, one thread: 32 pixels take 0.6 of its time.
SCATTERED_PIXELS, SCATTERED_BATCH, SCATTERED_CHANNELS = 16, 48, 512


def is_scattered(x: Tensor, convolution: Convolution) -> bool:
    """Whether that is the fastest form that a CPU has."""
    pixels = x.shape[2] * x.shape[3]
    few = pixels <= SCATTERED_PIXELS and x.shape[0] * pixels <= SCATTERED_BATCH
    small = few and x.shape[1] >= SCATTERED_CHANNELS
    _, _, stride, _, output_padding, _, groups = convolution
    fits = groups == 1 and all(more < step for more, step in zip(output_padding, stride, strict=True))  # of F.fold
    return small and fits and x.device.type == "cpu" and convolution.weight.is_contiguous()


def scattered(x: Tensor, convolution: Convolution, size: tuple[int, int]) -> Tensor:
    """Each pixel times the weight of every tap in one product, whose taps are then added where they belong.

    size: of the result's images.
    """
    weight, bias, stride, padding, _, dilation, _ = convolution
    N, I, H, W = x.shape
    taps = x.permute(0, 2, 3, 1).reshape(N * H * W, I) @ weight.flatten(1)
    taps = taps.view(N, H * W, -1).transpose(1, 2)
    y = F.fold(taps, size, weight.shape[2:], dilation, padding, stride)
    return y if bias is None else y.add_(bias.view(1, -1, 1, 1))
