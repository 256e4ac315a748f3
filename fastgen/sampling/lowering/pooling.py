"""Pooling over windows, each of which may be causal; over a whole image it never is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F

from ..builder import Builder
from ..trace import UnsupportedModelError
from ..traced_tensor import Value
from .registry import handles
from .views import pad


@handles("max_pool2d_with_indices")
def _max_pool(
    b: Builder, x: Value, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    ceil_mode: bool,
) -> list[Value]:  # fmt: skip
    pieces = _pieces(b, x, kernel, stride, padding, dilation, -math.inf)
    return [reduce(lambda first, second: b.pointwise("max", first, second), pieces)]


@handles("avg_pool2d")
def _avg_pool(
    b: Builder, x: Value, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Value:  # fmt: skip
    pieces = _pieces(b, x, kernel, stride, padding, (1, 1), 0.0)
    total = reduce(lambda first, second: b.pointwise("add", first, second), pieces)
    if divisor_override is not None:
        return b.pointwise("mul", total, b.scalar(1 / divisor_override))
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=b.dtype, device=b.device)
    options = (list(kernel), list(stride), list(padding), ceil_mode, count_include_pad)
    sums, means = F.avg_pool2d(ones, *options, 1), F.avg_pool2d(ones, *options)
    return b.pointwise("mul", total, means / sums)


def _pieces(
    b: Builder, x: Value, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    outside: float,
) -> list[Value]:  # fmt: skip
    """What lies at each place of the windows, and ``outside`` beside the image."""
    x = x.settled()
    if [x.kind(dim) for dim in range(len(x.dims))] != ["n", "c", "r", "s"]:
        raise UnsupportedModelError("pooling over something other than rows and columns of (N, C, H, W)")
    kernel, stride, padding, dilation = map(_both, (kernel, stride or kernel, padding, dilation))
    counts, around = b.shape[2:], []
    for d in (1, 0):
        last = (counts[d] - 1) * stride[d] + (kernel[d] - 1) * dilation[d]
        around += [padding[d], max(0, last - x.shape[2 + d] - padding[d] + 1)]
    x = pad(b, x, around, outside) if any(around) else x
    return [
        x.slice(2, i * dilation[0], stride[0], counts[0]).slice(3, j * dilation[1], stride[1], counts[1])
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _both(size: Sequence[int]) -> tuple[int, int]:
    return (size[0], size[-1])
