"""Convolutions of every kind, and matrix products over channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops.masked_conv2d import _live, masked_conv2d_mask
from ..builder import Argument, Builder
from ..pairs import Pairs
from ..trace import UnsupportedModelError
from ..traced_tensor import Value
from .attention import product, summed
from .comparisons import equal
from .pointwise import add, concat_elu, elu, gate, scaled
from .registry import handles
from .views import pad
from .whole_images import is_flat, over_all


@handles("convolution")
def _convolution(
    b: Builder, x: Value, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor | None):
        raise UnsupportedModelError("a convolution with weights that depend on the image or the condition")
    size: Sequence[int] = b.shape[2:]
    lacking = next((d for d in (2, 3) if len(x.dims) == 3 and _is_map(x.unsqueeze(d))), None)
    if lacking is not None:  # of one row or one column
        x, weight = x.unsqueeze(lacking), weight.unsqueeze(lacking)
        size, stride, padding, dilation = (
            (*each, fill) if lacking == 3 else (fill, *each)
            for each, fill in ((size, 1), (stride, 1), (padding, 0), (dilation, 1))
        )
    if not _is_map(x):
        raise UnsupportedModelError("a convolution over something other than rows and columns of (N, C, H, W)")
    geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    weight = dense(weight.transpose(0, 1) if transposed and groups == 1 else weight, groups, transposed)
    make = b.transposed if transposed else b.linear
    y = Value.of(make(x.settled().merged(), weight, bias, size=(size[0], size[1]), **geometry), b.n)
    return y if lacking is None else y.squeeze(lacking)


def _is_map(x: Value) -> bool:
    """Whether rows and columns lie along the last two of (N, C, H, W)."""
    x = x.settled()
    return [x.kind(d) for d in range(len(x.dims))] == ["n", "c", "r", "s"]


def dense(weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """Weights (O, I, KH, KW) of a convolution without groups."""
    if groups == 1:
        return weight
    parts = [part.transpose(0, 1) if transposed else part for part in weight.chunk(groups)]
    O, I = parts[0].shape[:2]
    full = weight.new_zeros((groups * O, groups * I, *weight.shape[2:]))
    for g, part in enumerate(parts):
        full[g * O : (g + 1) * O, g * I : (g + 1) * I] = part
    return full


@handles("fastgen.masked_conv2d")
def _masked_conv2d(
    b: Builder, x: Value, weight: Tensor, bias: Tensor | None, residual: Argument | None, mask: str, activation: str,
    color_groups: int, groups_order: str, save_preactivation: bool,
) -> list[Value]:  # fmt: skip
    live = _live(weight, masked_conv2d_mask(weight, mask, activation, color_groups, groups_order))
    y = Value.of(b.linear(x.merged(), live, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2)), b.n)
    if activation == "gated":
        y = gate(b, y)
    elif activation == "concat_elu":
        y = concat_elu(b, y)
    elif activation == "elu":
        y = elu(b, y)
    elif activation != "none":
        y = b.pointwise(activation, y)
    return [y if residual is None else b.pointwise("add", y, residual)]


@handles("fastgen.concat_elu")
def _concat_elu(b: Builder, x: Value, padding: Sequence[int]) -> Value:
    return pad(b, concat_elu(b, x), padding, 0.0)


@handles("fastgen.gated_residual_block")
def _gated_residual_block(
    b: Builder, x: Value, weight: Tensor, bias: Tensor | None, weight_out: Tensor, bias_out: Tensor | None, mask: str,
    color_groups: int, groups_order: str, save_preactivation: bool,
) -> list[Value]:  # fmt: skip
    colors = (color_groups, groups_order)
    (gated,) = _masked_conv2d(b, x, weight, bias, None, mask, "gated", *colors, False)
    return _masked_conv2d(b, gated, weight_out, bias_out, x, "B", "none", *colors, False)


@handles("mm")
def _mm(b: Builder, x: Argument, weight: Argument) -> Value:
    if isinstance(x, Pairs) or isinstance(weight, Pairs):
        return summed(x, weight, 1 if isinstance(x, Pairs) else 0)
    if isinstance(x, Tensor) and isinstance(weight, Value) and weight.kind(0) == "c" and "c" not in weight.kind(1):
        return across_channels(b, weight, x, dim=0)
    if not isinstance(x, Value) or not isinstance(weight, Tensor):
        raise UnsupportedModelError("a product of two things that depend on the image")
    if is_flat(x, 1):
        return over_all(b, x, weight.t())
    if not _are_channels(x, 1) or "c" in x.kind(0):
        raise UnsupportedModelError("a matrix product over something other than channels")
    return across_channels(b, x, weight.t(), dim=1)


def _are_channels(x: Value, dim: int) -> bool:
    """Whether channels lie along a dimension: a single one may have a row or column of size 1 beside it."""
    return x.kind(dim) == "c" or (x.shape[dim] == 1 and any(kind == "c" for kind, _ in x.dims[dim]))


@handles("addmm")
def _addmm(b: Builder, bias: Argument, x: Argument, weight: Argument, *, beta: float, alpha: float) -> Value:
    if isinstance(x, Tensor) and isinstance(weight, Tensor):
        product: Argument = x @ weight
    else:
        product = _mm(b, x, weight)
    return add(b, scaled(b, product, alpha), scaled(b, bias, beta)) if beta else scaled(b, product, alpha)


@handles("bmm")
def _bmm(b: Builder, first: Argument, second: Argument) -> Value:
    """Attention, or one constant matrix times channels: what einsum makes of a 1×1 convolution."""
    if isinstance(first, Value) and isinstance(second, Value):
        return product(b, first, second)
    if isinstance(first, Pairs) or isinstance(second, Pairs):
        return summed(first, second, 2 if isinstance(first, Pairs) else 1)
    x, weight, left = (second, first, True) if isinstance(first, Tensor) else (first, second, False)
    if (
        not isinstance(x, Value)
        or not isinstance(weight, Tensor)
        or not torch.equal(weight, weight[:1].expand_as(weight))
    ):
        raise UnsupportedModelError(
            "a product of what depends on the image with what depends on the condition, or with matrices that differ"
        )
    dim = 1 if left else 2
    if x.kind(dim) != "c" or "c" in x.kind(3 - dim) + x.kind(0):
        raise UnsupportedModelError("a matrix product over something other than channels")
    return across_channels(b, x, weight[0] if left else weight[0].t(), dim)


def across_channels(b: Builder, x: Value, weight: Tensor, dim: int) -> Value:
    """Weight (O, I) applied along one dimension of channels, the same for all channels of other dimensions."""
    x = x.merged()
    axis, sizes = x._axis(dim), x.part.shape
    before, after = (torch.eye(math.prod(each), dtype=weight.dtype) for each in (sizes[:axis], sizes[axis + 1 :]))
    full = torch.kron(torch.kron(before.to(weight.device), weight.contiguous()), after.to(weight.device))
    out = b.linear(x, full[:, :, None, None])
    dims = list(x.dims)
    dims[dim] = (("c", weight.shape[0]),)
    size = (*sizes[:axis], weight.shape[0], *sizes[axis + 1 :])
    channel = np.arange(out.channels).reshape(size)
    part = np.zeros(size, dtype=np.int64)
    return replace(Value.of(out, b.n), dims=dims, part=part, channel=channel, first=x.first)


_EXACT_IN_16_BITS = 256  # as many levels, from 0 on, are numbers of eight bits


@handles("embedding")
def _embedding(b: Builder, weight: Argument, index: Argument, *_: Any) -> Value:
    """A row of the weight (K, D) for each integer: one of K comparisons is true, times the weight.

    The integer is spread over K channels by a product with ones, so that all are compared at once. Where products are
    rounded to bfloat16 or float16, integers up to 256 stay what they are.
    """
    if not isinstance(weight, Tensor) or not isinstance(index, Value):
        raise UnsupportedModelError("an embedding whose weight depends on the image or the condition")
    b.embeddings.append((b.path, len(weight), b.operand_of(index.merged())))
    last = len(index.dims)
    levels, spread = torch.arange(len(weight), dtype=b.dtype, device=b.device), index.unsqueeze(last)
    if len(weight) <= _EXACT_IN_16_BITS:
        spread = across_channels(b, spread, torch.ones_like(levels)[:, None], dim=last)
    hot = equal(b, spread, levels)
    return across_channels(b, hot, weight.t(), dim=last)


@handles("pixel_unshuffle")
def _pixel_unshuffle(b: Builder, x: Value, factor: int) -> Value:
    H, W = x.shape[2] // factor, x.shape[3] // factor
    pieces = [x.slice(2, i, factor, H).slice(3, j, factor, W) for i in range(factor) for j in range(factor)]
    channels = [b.cat([piece.slice(1, c, 1, 1) for piece in pieces], 1) for c in range(x.shape[1])]
    return b.cat(channels, 1)


@handles("pixel_shuffle", "upsample_nearest2d")
def _spread(b: Builder, x: Value, factor: Any, *scales: float | None) -> Value:
    """Every position becomes a block of positions: a transposed convolution with ones."""
    _, C, H, W = x.shape
    shuffled = isinstance(factor, int)
    f, g = (factor, factor) if shuffled else (b.shape[2] // H, b.shape[3] // W)
    size = (H * f, W * g)
    if size != tuple(b.shape[2:]) or any(scale not in (None, by) for scale, by in zip(scales, (f, g), strict=False)):
        raise UnsupportedModelError("an enlargement by a factor that is no integer")
    out = C // (f * g) if shuffled else C
    weight = torch.zeros(out, C, f, g, dtype=b.dtype, device=b.device)
    for channel in range(out):
        for i in range(f):
            for j in range(g):
                weight[channel, channel * f * g + i * g + j if shuffled else channel, i, j] = 1
    made = b.transposed(x.merged(), weight, None, size=size, stride=(f, g), padding=(0, 0), dilation=(1, 1))
    return Value.of(made, b.n)
