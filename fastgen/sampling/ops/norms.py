"""Norms and sums over the channels of one position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..builder import Argument, Builder
from ..trace import UnsupportedModelError
from ..values import Value
from .linear import across_channels
from .pointwise import multiply
from .registry import handles


@handles("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit")
def _batch_norm(
    b: Builder, x: Value, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, *rest: Any
) -> list[Value]:
    training, eps = (rest[0], rest[-1]) if isinstance(rest[0], bool) else (False, rest[-1])
    if training:
        raise UnsupportedModelError("a norm over the pixels of an image or a batch")
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    shift = -mean * scale + (0 if bias is None else bias)
    shape = [1, -1] + [1] * (len(x.dims) - 2)
    return [b.pointwise("add", b.pointwise("mul", x, scale.view(shape)), shift.view(shape))]


@handles("native_layer_norm")
def _layer_norm(
    b: Builder, x: Value, shape: Sequence[int], weight: Argument | None, bias: Argument | None, eps: float
) -> list[Value]:
    x = x.merged()
    if any(x.kind(len(x.dims) - 1 - d) != "c" for d in range(len(shape))):
        raise UnsupportedModelError("a layer norm over more than channels mixes pixels")
    groups = x.part.size // math.prod(shape)
    x = b.pointwise("", x)
    x.parts[0].read.map.ordered = True
    y = b.pointwise("norm", x, parameters=(float(groups), float(eps)))
    y = y if weight is None else b.pointwise("mul", y, weight)
    return [y if bias is None else b.pointwise("add", y, bias)]


AVERAGES = ("aten.mean", "aten.var", "aten.var_mean")


@handles("sum", "mean")
def _sum(b: Builder, x: Value, dims: Sequence[int] | None = None, keepdim: bool = False, **_: Any) -> Value:
    x = x.merged()
    dims = range(len(x.dims)) if not dims else [d % len(x.dims) for d in dims]
    if len(list(dims)) != 1 or x.kind(dims[0]) != "c" or x.part.ndim != 1:
        raise UnsupportedModelError("global pooling: a sum over rows, columns or images")
    dim, count = dims[0], x.shape[dims[0]]
    weight = 1 / count if b.op in AVERAGES else 1.0
    y = across_channels(b, x, torch.full((1, count), weight, dtype=b.dtype, device=b.device), dim)
    return y if keepdim else y.squeeze(dim)


@handles("var")
def _var(
    b: Builder, x: Value, dims: Sequence[int] | None = None, *, correction: float = 1, keepdim: bool = False
) -> Value:
    centred = b.pointwise("sub", x, _sum(b, x, dims, keepdim=True))
    variance = _sum(b, b.pointwise("mul", centred, centred), dims, keepdim)
    count = x.shape[dims[0]]  # type: ignore[index]
    return multiply(b, variance, count / (count - correction)) if correction else variance


@handles("var_mean")
def _var_mean(b: Builder, x: Value, dims: Sequence[int] | None = None, **options: Any) -> list[Value]:
    variance = _var(b, x, dims, **options)
    return [variance, _sum(b, x, dims, options.get("keepdim", False))]
