"""Sums, extremes and statistics over channels, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch

from ..builder import Builder
from ..pairs import Pairs
from ..trace import UnsupportedModelError
from ..traced_tensor import Value
from .linear import across_channels
from .pointwise import multiply
from .registry import handles

#: Over what a plan cannot reduce, since it never holds a whole image.
WHOLE = "{}, over rows, columns or images: no pixel may depend on a whole image in which later pixels lie"
#: The same of what may be causal there, but is not planned.
SO_FAR = "{}, over rows, columns or images: there is no rule for it"


def over_channels(
    x: Value, dims: int | Sequence[int] | None, what: str, refusal: str = WHOLE
) -> tuple[Value, list[int]]:
    """The value with one atom in each dimension, and the dimensions, all of channels."""
    x = x.settled().merged()
    every = len(x.dims)
    dims = [dims] if isinstance(dims, int) else list(dims) if dims else list(range(every))
    dims = sorted({d % every for d in dims})
    if any(x.kind(d) not in ("c", "") for d in dims):
        raise UnsupportedModelError(refusal.format(what))
    return x, dims


def total(b: Builder, x: Value, dims: list[int], keepdim: bool, mean: bool = False) -> Value:
    """The sum, or the mean, over dimensions of channels."""
    for d in reversed(dims):
        count = x.shape[d]
        if x.kind(d) == "c":
            ones = torch.full((1, count), 1 / count if mean else 1.0, dtype=b.dtype, device=b.device)
            x = across_channels(b, x, ones, d)
        x = x if keepdim else x.squeeze(d)
    return x


@handles("sum")
def _sum(b: Builder, x: Value, dims: Any = None, keepdim: bool = False, *, dtype: Any) -> Value:
    if isinstance(x, Pairs):
        return x.reduced("sum", dims, keepdim)
    return total(b, *over_channels(x, dims, "a sum, or global pooling"), keepdim)


@handles("mean")
def _mean(b: Builder, x: Value, dims: Any = None, keepdim: bool = False, *, dtype: Any) -> Value:
    return total(b, *over_channels(x, dims, "global pooling"), keepdim, mean=True)


@handles("var")
def _var(b: Builder, x: Value, dims: Any, *, correction: float | None, keepdim: bool) -> Value:
    x, dims = over_channels(x, dims, "a variance")
    centred = b.pointwise("sub", x, total(b, x, dims, True, mean=True))
    count, correction = 1, 1 if correction is None else correction
    for d in dims:
        count *= x.shape[d]
    if correction >= count:
        raise UnsupportedModelError(f"a variance of {count} channels, corrected by {correction}")
    variance = total(b, b.pointwise("mul", centred, centred), dims, keepdim, mean=True)
    return multiply(b, variance, count / (count - correction)) if correction else variance


@handles("var_mean")
def _var_mean(b: Builder, x: Value, dims: Any, *, correction: float | None, keepdim: bool) -> list[Value]:
    mean = total(b, *over_channels(x, dims, "a mean"), keepdim, mean=True)
    return [_var(b, x, dims, correction=correction, keepdim=keepdim), mean]


@handles("std")
def _std(b: Builder, x: Value, dims: Any, *, correction: float | None, keepdim: bool) -> Value:
    return b.pointwise("sqrt", _var(b, x, dims, correction=correction, keepdim=keepdim))


@handles("cumsum")
def _cumsum(b: Builder, x: Value, dim: int, *, dtype: Any) -> Value:
    x, (dim,) = over_channels(x, [dim], "a cumulative sum", SO_FAR)
    if x.kind(dim) == "":
        return x
    return across_channels(b, x, torch.ones(x.shape[dim], x.shape[dim], dtype=b.dtype, device=b.device).tril(), dim)


def extreme(b: Builder, x: Value, dims: list[int], keepdim: bool, op: str) -> Value:
    """The largest ("max") or smallest ("min") over dimensions of channels."""
    for d in reversed(dims):
        pieces = [x.slice(d, i, 1, 1) for i in range(x.shape[d])] if x.kind(d) == "c" else [x]
        x = reduce(lambda first, second: b.pointwise(op, first, second), pieces)
        x = x if keepdim else x.squeeze(d)
    return x


@handles("amax")
def _amax(b: Builder, x: Value, dims: Any, keepdim: bool) -> Value:
    if isinstance(x, Pairs):
        return x.reduced("max", dims, keepdim)
    return extreme(b, *over_channels(x, dims, "a maximum"), keepdim, "max")


@handles("amin")
def _amin(b: Builder, x: Value, dims: Any, keepdim: bool) -> Value:
    return extreme(b, *over_channels(x, dims, "a minimum"), keepdim, "min")


@handles("linalg_vector_norm")
def _norm(b: Builder, x: Value, order: float, dims: Any, keepdim: bool, *, dtype: Any) -> Value:
    if isinstance(x, Pairs) and order == 1:
        return x.reduced("sum", dims, keepdim)
    x, dims = over_channels(x, dims, "a norm")
    if order == 2:
        return b.pointwise("sqrt", total(b, b.pointwise("mul", x, x), dims, keepdim))
    if order not in (1, math.inf):
        raise UnsupportedModelError(f"a norm of order {order:g}, where a plan has those of order 1, 2 and infinity")
    size = b.pointwise("abs", x)
    return total(b, size, dims, keepdim) if order == 1 else extreme(b, size, dims, keepdim, "max")


@handles("max")
def _max(b: Builder, x: Any, dim: int | None = None, keepdim: bool = False) -> list[Value]:
    return [_amax(b, x, [] if dim is None else [dim], keepdim)]


@handles("min")
def _min(b: Builder, x: Any, dim: int | None = None, keepdim: bool = False) -> list[Value]:
    return [_amin(b, x, [] if dim is None else [dim], keepdim)]


def _shifted(b: Builder, x: Value, dim: int, what: str) -> tuple[Value, list[int], Value]:
    """The value, its dimension, and the value minus its largest entry."""
    x, dims = over_channels(x, [dim], what)
    return x, dims, b.pointwise("sub", x, extreme(b, x, dims, True, "max"))


@handles("_softmax", "softmax")
def _softmax(b: Builder, x: Value, dim: int, half_to_float: Any) -> Value:
    if isinstance(x, Pairs):
        return x.softmax(dim % len(x.dims), safe=False)
    _, dims, shifted = _shifted(b, x, dim, "a softmax")
    y = b.pointwise("exp", shifted)
    return b.pointwise("div", y, total(b, y, dims, True))


@handles("_safe_softmax")
def _safe_softmax(b: Builder, x: Value, dim: int, dtype: Any) -> Value:
    return x.softmax(dim % len(x.dims), safe=True) if isinstance(x, Pairs) else _softmax(b, x, dim, None)


@handles("_log_softmax", "log_softmax")
def _log_softmax(b: Builder, x: Value, dim: int, half_to_float: Any) -> Value:
    if isinstance(x, Pairs):
        return x.log_softmax(dim % len(x.dims))
    _, dims, shifted = _shifted(b, x, dim, "a log_softmax")
    return b.pointwise("sub", shifted, b.pointwise("log", total(b, b.pointwise("exp", shifted), dims, True)))


@handles("logsumexp")
def _logsumexp(b: Builder, x: Value, dims: Any, keepdim: bool) -> Value:
    if isinstance(x, Pairs):
        return x.reduced("logsumexp", dims, keepdim)
    x, dims = over_channels(x, dims, "a logsumexp")
    highest = extreme(b, x, dims, True, "max")
    y = b.pointwise("log", total(b, b.pointwise("exp", b.pointwise("sub", x, highest)), dims, True))
    y = b.pointwise("add", y, highest)
    for d in [] if keepdim else reversed(dims):
        y = y.squeeze(d)
    return y
