"""Attention: the products of its scores and of its weights. What lies between is in ``pairs``."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..builder import Builder
from ..graph import Attention, Map, empty_map
from ..keys_read import patterns
from ..normalisers import REPEATED, Described, Normaliser, Side
from ..pairs import Pairs, Unnormalised
from ..plan import Pattern
from ..trace import UnsupportedModelError
from ..traced_tensor import Atom, Dims, Part, Value, at_same_pixels
from .registry import handles

OTHER = "a product of two things that depend on the image, other than attention"


def product(b: Builder, first: Value, second: Value) -> Value:
    """Of (B, i, j) and (B, j, k): scores, of queries and keys over channels; or weights times values, over keys."""
    if isinstance(first, Pairs) and isinstance(second, Pairs):
        raise UnsupportedModelError(OTHER)
    if isinstance(first, Pairs):
        return _attended(b, first, second, queries=1, positions=1)
    if isinstance(second, Pairs):
        return _attended(b, second, first, queries=2, positions=2)
    return _scores(first, second)


def summed(first: Any, second: Any, keys: int) -> Value:
    """A matrix product of weights with a constant: their sum over the keys, if that is ones.

    ``keys``: along which dimension they lie, of the weights; there the result has the constant's other one.
    """
    pairs, ones = (first, second) if isinstance(second, Tensor) else (second, first)
    if not isinstance(pairs, Pairs) or not isinstance(ones, Tensor) or not torch.equal(ones, torch.ones_like(ones)):
        raise UnsupportedModelError("attention to values that do not depend on the image")
    total = pairs.reduced("sum", [keys], keepdim=True)
    total.dims[keys] = ((REPEATED, ones.shape[keys]),)
    return total


def _scores(first: Value, second: Value) -> Pairs:
    query, key = _side(first, positions=1), _side(second, positions=2)
    if _atoms(first.dims[0]) != _atoms(second.dims[0]):
        raise UnsupportedModelError(OTHER)
    keys = tuple((kind.upper(), size) for kind, size in second.dims[2])
    heads = [size for kind, size in first.dims[0] if kind == "c"]
    one = torch.ones((1,) * 5, dtype=torch.float64)
    return Pairs(
        dims=[first.dims[0], first.dims[1], keys],
        parts=[], part=np.zeros(heads, dtype=np.int64), channel=np.arange(math.prod(heads)).reshape(heads),
        rows=first.rows, columns=first.columns, first=first.first,
        query=query, key=key, scale=one, bias=0 * one, undefined=one < 0,
    )  # fmt: skip


def _side(value: Value, positions: int) -> Side:
    """A factor, (B, positions, channels) or (B, channels, positions), where B are the images and heads.

    Rows or columns may be among B: then both factors' have to be the same.
    """
    if isinstance(value, Described):
        value.merged()
    kinds = ["".join(kind for kind, _ in _atoms(value.dims[dim])) for dim in (0, positions, 3 - positions)]
    if set(kinds[0]) - set("ncrs") or set(kinds[1]) - set("rsp") or set(kinds[2]) - {"c"}:
        raise UnsupportedModelError(OTHER)
    heads = math.prod(size for kind, size in value.dims[0] if kind == "c")
    count = next((size for kind, size in value.dims[positions] if kind == "p"), value.rows * value.columns)
    dims: Dims = [
        (("n", next(size for dim in value.dims for kind, size in dim if kind == "n")),),
        (("r", value.rows),), (("s", value.columns),), (("c", value.part.size),),
    ]  # fmt: skip
    plain = replace(value, dims=dims, part=value.part.reshape(-1), channel=value.channel.reshape(-1), first=0)
    return Side(plain, heads, value.first, count)


def _attended(b: Builder, pairs: Pairs, values: Value, queries: int, positions: int) -> Value:
    if pairs.weights is None:
        raise UnsupportedModelError(f"{OTHER}: scores that are no softmax, as linear attention has them")
    if not pairs.shift and _kinds(pairs.dims[queries]) - set("rsp"):
        pairs = pairs.turned()
    keys = tuple((kind.lower(), size) for kind, size in pairs.dims[3 - queries])
    side = _side(values, positions)
    if _kinds(pairs.dims[queries]) - set("rsp"):
        raise UnsupportedModelError(f"{OTHER}: its weights are normalised over the queries")
    fits = (
        _atoms(keys) == _atoms(values.dims[positions])
        and _atoms(pairs.dims[0]) == _atoms(values.dims[0])
        and at_same_pixels(replace(side.value, first=side.first), replace(pairs.key.value, first=pairs.key.first))
        and np.array_equal(pairs.channel.reshape(-1), np.arange(pairs.query.heads))
    )
    if not fits:
        raise UnsupportedModelError(OTHER)
    channels = values.dims[3 - positions]
    dims: Dims = [pairs.dims[0], pairs.dims[queries], channels]
    dims = dims if queries == 1 else [dims[0], dims[2], dims[1]]
    if pairs.are_a_softmax() and not pairs.are_weighed():
        return _weighted(b, side, dims, pairs)
    sizes = [size for dim in dims for kind, size in dim if kind == "c"]
    return Unnormalised(
        dims, [], np.zeros(sizes, dtype=np.int64), np.arange(math.prod(sizes)).reshape(sizes),
        pairs.rows, pairs.columns, pairs.query.first,
        pairs=pairs, finish=partial(_weighted, b, side, dims),
    )  # fmt: skip


def _weighted(b: Builder, side: Side, dims: Dims, pairs: Pairs) -> Value:
    """Weights that are a softmax times values."""
    parts: list[Part] = []
    part = np.zeros(side.value.part.size, dtype=np.int64).reshape(side.heads, -1)
    channel = np.zeros_like(part)
    for heads, pattern, offsets in patterns(pairs):
        query, key, value = (each.of(heads) for each in (pairs.query, pairs.key, side))
        if len(pattern.runs):
            out = _attention(b, _map(b, query), _map(b, key), _map(b, value), pattern, offsets)
        else:  # no position has a key, as of one pixel to earlier ones: zeros
            out = b.linear(query, torch.zeros((value.part.size, query.part.size, 1, 1), dtype=b.dtype, device=b.device))
        part[heads] = len(parts)
        channel[heads] = np.arange(out.channels).reshape(len(heads), -1)
        parts.append(Part.of(out))
    sizes = [size for dim in dims for kind, size in dim if kind == "c"]
    asking = pairs.query.value
    return Value(
        dims, parts, part.reshape(sizes), channel.reshape(sizes), asking.rows, asking.columns, pairs.query.first
    )  # fmt: skip


def _kinds(dim: tuple[Atom, ...]) -> set[str]:
    return {kind for kind, _ in _atoms(dim)}


def _attention(b: Builder, query: Map, keys: Map, values: Map, pattern: Pattern, offsets: list[tuple[int, int]]) -> Map:
    out = empty_map(query.rows, query.columns, values.channels, query.stride, b.path)
    out.ordered, out.clocked = True, "pixel"
    b.graph.add(
        Attention(out, b.path, "attention", query=query, keys=keys, values=values, pattern=pattern, offsets=offsets)
    )
    return out


def _map(b: Builder, value: Value) -> Map:
    """All of it in a map of its own, in its order."""
    copied = b.pointwise("", value).parts[0].read.map
    copied.ordered = True
    return copied


def _atoms(dim: tuple[Atom, ...]) -> list[Atom]:
    return [atom for atom in dim if atom[1] > 1]


@handles("baddbmm")
def _baddbmm(b: Builder, added: Any, first: Any, second: Any, *, beta: float, alpha: float) -> Value:
    if not isinstance(first, Value) or not isinstance(second, Value) or not isinstance(added, Tensor):
        raise UnsupportedModelError(OTHER)
    scores = product(b, first, second)
    if alpha != 1:
        scores = b.pointwise("mul", scores, b.scalar(alpha))
    return b.pointwise("add", scores, beta * added) if beta else scores


@handles("nan_to_num")
def _nan_to_num(b: Builder, x: Value, nan: float | None, above: float | None, below: float | None) -> Value:
    if isinstance(x, Normaliser):
        return x.of_none(below)
    if not isinstance(x, Pairs) or x.weights is None or nan:
        raise UnsupportedModelError("other than weights of attention, where NaN becomes 0")
    without = torch.isneginf(x.folded().bias).all(dim=(3, 4), keepdim=True)
    if bool((x.undefined & ~without).any()):
        raise UnsupportedModelError("attention weights that are NaN though there is a key")
    return replace(x, weights=torch.where(x.undefined, 0.0, x.weights), undefined=torch.zeros_like(x.undefined))
