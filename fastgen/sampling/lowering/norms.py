"""Norms over the channels of one position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ..builder import Argument, Builder
from ..trace import UnsupportedModelError
from ..traced_tensor import Value
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
    if any(x.kind(len(x.dims) - 1 - d) not in ("c", "") for d in range(len(shape))):
        raise UnsupportedModelError("a layer norm over more than channels mixes pixels")
    size = math.prod(shape)
    groups = x.part.size // size
    x = b.pointwise("", x)
    copied = x.parts[0].read.map
    reach = copied.reach.reshape(groups, size).max(axis=1)
    if np.all(reach == reach[0]):
        copied.ordered = True
        y = b.pointwise("norm", x, parameters=(float(groups), float(eps)))
    else:  # what one group waits for, another need not
        y = _each_group(b, x, size, eps)
    y = y if weight is None else b.pointwise("mul", y, weight)
    return [y if bias is None else b.pointwise("add", y, bias)]


@handles("native_group_norm")
def _group_norm(
    b: Builder, x: Value, weight: Argument | None, bias: Argument | None, n: int, channels: int, positions: int,
    groups: int, eps: float,
) -> list[Value]:  # fmt: skip
    if positions != 1 or x.merged().kind(1) != "c":
        raise UnsupportedModelError(
            "group norm mixes all pixels of an image; over the channels of each, move these last, flatten the others "
            "and norm (N·H·W, C)"
        )
    parts = x.view((x.shape[0], groups, channels // groups))
    y = _layer_norm(b, parts, (channels // groups,), None, None, eps)[0].view(x.shape)
    y = y if weight is None else b.pointwise("mul", y, weight)
    return [y if bias is None else b.pointwise("add", y, bias)]


def _each_group(b: Builder, x: Value, size: int, eps: float) -> Value:
    """Each ``size`` channels by themselves, in maps of their own."""
    channel, parts, part = x.channel.reshape(-1), [], np.zeros(x.part.size, dtype=np.int64)
    for group, start in enumerate(range(0, len(channel), size)):
        one = replace(
            x,
            dims=[(("n", b.n),), (("c", size),), (("r", x.rows),), (("s", x.columns),)],
            part=np.zeros(size, dtype=np.int64),
            channel=channel[start : start + size],
        )
        one = b.pointwise("", one)
        one.parts[0].read.map.ordered = True
        parts += b.pointwise("norm", one, parameters=(1.0, float(eps))).parts
        part[start : start + size] = group
    return replace(x, parts=parts, part=part.reshape(x.part.shape), channel=(channel % size).reshape(x.part.shape))
