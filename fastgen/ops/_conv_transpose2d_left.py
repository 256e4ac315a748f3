"""Where products that leave out what is beside an image are a transposed convolution's fastest form on a CPU."""

import math

import torch
from torch import Tensor

from ._dtypes import pairs_pay
from ._records import Convolution

#: Products outrun oneDNN where the border is so much of an image that no more than this share of the work is left, for
#: so many pixels, of so many channels and of the result. One thread, AVX2, kernel 4, stride 2: 512 to 256 channels of
#: 16 4×4 images take 0.75 of its time, 1024 to 512 0.55, 256 to 128 of 8×8 0.95; of 16×16 it would be 1.1. AVX-512: 64
#: to 32 channels of 16 7×7 images 0.76 to 0.81, 32 to 32 0.62 to 0.73. AVX512-BF16, one thread and two: 128 to 64 of
#: 16×16 0.92 to 0.99, 64 to 64 of 32×32 1.06, 256 to 128 of 8×8 0.85 to 0.91, 64 to 32 of 7×7 0.70 to 0.73.
LEFT, LEFT_OF_HALVES, PIXELS, CHANNELS = 0.89, 0.95, 64, 32
#: Taps of a kernel, phases of a stride and numbers of a block that the ops take: lists of them are made at each call.
MOST_TAPS, MOST_NUMBERS = 4096, 256


def result_size(size: int, kernel: int, stride: int, padding: int, output_padding: int, dilation: int = 1) -> int:
    """Of one side, as ``nn.ConvTranspose2d`` states it."""
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1


def pays(x: Tensor, convolution: Convolution) -> bool:
    """Whether ``conv_transpose2d_products`` takes these, and is the fastest that a CPU has."""
    weight, _, stride, padding, output_padding, dilation, groups = convolution
    N, I, *size = x.shape
    if x.device.type != "cpu" or not _pairs(x.dtype, I) or groups != 1 or list(dilation) != [1, 1]:
        return False
    if not is_listed(convolution) or min(I, weight.shape[1]) < CHANNELS or N * size[0] * size[1] < PIXELS:
        return False
    rows, columns = (_left(size[i], weight.shape[2 + i], stride[i], padding[i], output_padding[i]) for i in range(2))
    return rows * columns <= (LEFT if x.dtype == torch.float32 else LEFT_OF_HALVES)


def _pairs(dtype: torch.dtype, channels: int) -> bool:
    """Whether a CPU's products are as fast as any: of float32, or of bfloat16, which are of two channels at once."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and channels % 2 == 0 and pairs_pay())


def is_listed(convolution: Convolution) -> bool:
    return math.prod(convolution.weight.shape[2:]) <= MOST_TAPS and math.prod(convolution.stride) <= MOST_TAPS


def _left(size: int, kernel: int, stride: int, padding: int, output_padding: int) -> float:
    """The share of the taps of an axis' pixels that are inside of the result."""
    result = result_size(size, kernel, stride, padding, output_padding)
    inside = 0
    for before in (padding - tap for tap in range(kernel)):  # sizes may be symbols
        first, last = max(0, -(-before // stride)), min(size - 1, (before + result - 1) // stride)
        inside += max(0, last - first + 1)
    return inside / (size * kernel)
