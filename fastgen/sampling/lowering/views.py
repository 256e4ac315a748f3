"""Views, pieces and concatenations: what moves channels and positions around, and computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._places import Region, assigned
from ..builder import Argument, Builder, Given
from ..sequences import is_sequence, window
from ..trace import UnsupportedModelError
from ..traced_tensor import Value
from .registry import INTEGERS, handles


@handles("detach", "alias", "lift_fresh", boolean=True, integer=True)
def _same(b: Builder, x: Value) -> Value:
    return x


@handles("clone", "contiguous", boolean=True, integer=True)
def _clone(b: Builder, x: Value, *, memory_format: Any) -> Value:
    return x


@handles("dropout", "feature_dropout")
def _dropout(b: Builder, x: Value, p: float, train: bool) -> Value:
    if train and p:
        raise UnsupportedModelError("it draws random numbers")
    return x


@handles("_to_copy", integer=True)
def _to_copy(b: Builder, x: Value, *, dtype: torch.dtype | None, **_: Any) -> Value:
    """To integers, towards zero; else to the image's dtype, which every result of a plan has."""
    whole = b.reads is None or not b.reads.is_floating_point
    return x if whole or dtype not in INTEGERS else b.pointwise("trunc", x)


@handles("copy")
def _copy(b: Builder, x: Argument, source: Argument, non_blocking: bool) -> Argument:
    return source.expand(x.shape) if isinstance(source, Value) else source


@handles("view", "_unsafe_view", "reshape", "_reshape_alias", boolean=True, integer=True)
def _view(b: Builder, x: Value, size: Any, *_: Any) -> Value:
    if isinstance(size, torch.dtype):
        raise UnsupportedModelError("a view of its bits as another dtype")
    return x.view(list(b.shape))


@handles("permute", boolean=True, integer=True)
def _permute(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    return x.permute([d % len(x.dims) for d in dims])


@handles("transpose", boolean=True, integer=True)
def _transpose(b: Builder, x: Value, first: int, second: int) -> Value:
    order = list(range(len(x.dims)))
    order[first], order[second] = order[second], order[first]
    return x.permute(order)


@handles("t", "numpy_T", boolean=True, integer=True)
def _t(b: Builder, x: Value) -> Value:
    return x.permute(list(reversed(range(len(x.dims)))))


@handles("channel_shuffle", boolean=True, integer=True)
def _channel_shuffle(b: Builder, x: Value, groups: int) -> Value:
    N, C, *size = x.shape
    return x.view((N, groups, C // groups, *size)).permute([0, 2, 1, *range(3, 3 + len(size))]).view(x.shape)


@handles("unsqueeze", boolean=True, integer=True)
def _unsqueeze(b: Builder, x: Value, dim: int) -> Value:
    return x.unsqueeze(dim % (len(x.dims) + 1))


@handles("squeeze", boolean=True, integer=True)
def _squeeze(b: Builder, x: Value, dim: int | Sequence[int] | None = None) -> Value:  # of no dim there is a form
    every = range(len(x.dims)) if dim is None else [dim] if isinstance(dim, int) else dim
    for d in sorted((d % len(x.dims) for d in every), reverse=True):
        if x.shape[d] == 1:
            x = x.squeeze(d)
    return x


@handles("expand", boolean=True, integer=True)
def _expand(b: Builder, x: Value, size: Sequence[int], *, implicit: bool) -> Value:
    return x.expand(size)


@handles("repeat", boolean=True, integer=True)
def _repeat(b: Builder, x: Value, repeats: Sequence[int]) -> Value:
    for _ in range(len(repeats) - len(x.dims)):
        x = x.unsqueeze(0)
    if 0 in repeats:
        raise UnsupportedModelError("a tensor of no elements")
    for dim, times in enumerate(repeats):
        x = b.cat([x] * times, dim) if times > 1 else x
    return x


@handles("slice", boolean=True, integer=True)
def _slice(b: Builder, x: Value, dim: int, start: int | None, end: int | None, step: int) -> Value:
    dim %= len(x.dims)
    first, last, step = slice(start, end, step).indices(x.shape[dim])
    count = max(0, -((first - last) // step))
    return _piece(b, x, dim, first, count) if step == 1 else x.slice(dim, first, step, count)


@handles("select", boolean=True, integer=True)
def _select(b: Builder, x: Value, dim: int, index: int) -> Value:
    dim %= len(x.dims)
    return _piece(b, x, dim, index % x.shape[dim], 1).squeeze(dim)


@handles("split", boolean=True, integer=True)
def _split(b: Builder, x: Value, size: int | Sequence[int], dim: int) -> list[Value]:
    if not isinstance(size, int):
        return split_with_sizes(b, x, size, dim)
    total = x.shape[dim]
    return split_with_sizes(b, x, [min(size, total - at) for at in range(0, total, size)], dim)


@handles("split_with_sizes", boolean=True, integer=True)
def split_with_sizes(b: Builder, x: Value, sizes: Sequence[int], dim: int) -> list[Value]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [_piece(b, x, dim % len(x.dims), start, size) for start, size in zip(starts, sizes, strict=True)]


def _piece(b: Builder, x: Value, dim: int, start: int, count: int) -> Value:
    """``count`` elements; before the first, where ``start`` is negative, zeros."""
    if (start, count) != (0, x.shape[dim]) and is_sequence(x, dim):
        return window(b, x, dim, start, count)
    return x.slice(dim, start, 1, count)


@handles("unbind", boolean=True, integer=True)
def _unbind(b: Builder, x: Value, dim: int) -> list[Value]:
    return [_select(b, x, dim, index) for index in range(x.shape[dim])]


@handles("index_select", boolean=True, integer=True)
def _index_select(b: Builder, x: Value, dim: int, index: Tensor) -> Value:
    dim %= len(x.dims)
    return b.cat([x.slice(dim, i % x.shape[dim], 1, 1) for i in index.reshape(-1).tolist()], dim)


@handles("index", boolean=True, integer=True)
def _index(b: Builder, x: Value, indices: Sequence[Tensor | None]) -> Value:
    chosen = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(chosen) != 1 or not isinstance(chosen[0][1], Tensor) or chosen[0][1].dim() != 1:
        raise UnsupportedModelError("an index other than one vector of channels")
    dim, index = chosen[0]
    return _index_select(b, x, dim, index.nonzero()[:, 0] if index.dtype == torch.bool else index)


@handles("flip", boolean=True, integer=True)
def _flip(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    for dim in dims:
        x = _permuted(b, x, dim, torch.arange(x.shape[dim]).flip(0))
    return x


@handles("roll", boolean=True, integer=True)
def _roll(b: Builder, x: Value, shifts: Sequence[int], dims: Sequence[int]) -> Value:
    if len(dims) != len(shifts):
        raise UnsupportedModelError("a roll of the flattened batch")
    for shift, dim in zip(shifts, dims, strict=True):
        x = _permuted(b, x, dim, torch.arange(x.shape[dim]).roll(shift))
    return x


def _permuted(b: Builder, x: Value, dim: int, order: Tensor) -> Value:
    x = x.settled()
    dim %= len(x.dims)
    if x.kind(dim) not in ("c", ""):
        raise UnsupportedModelError(
            "another order of rows, columns or images, in which later pixels come first (F.pad and a slice move images)"
        )
    return _index_select(b, x, dim, order)


@handles("cat", boolean=True, integer=True)
def _cat(b: Builder, tensors: Sequence[Argument], dim: int) -> Value:
    tensors = [t for t in tensors if tuple(t.shape) != (0,)]
    return b.cat(tensors, dim)


@handles("stack", boolean=True, integer=True)
def _stack(b: Builder, tensors: Sequence[Argument], dim: int) -> Value:
    dim %= len(tensors[0].shape) + 1
    return b.cat([b.told(torch.unsqueeze, t, dim) if isinstance(t, Given) else t.unsqueeze(dim) for t in tensors], dim)


@handles("constant_pad_nd", integer=True)
def pad(b: Builder, x: Value, around: Sequence[int], value: float) -> Value:
    border = F.pad(torch.zeros(x.shape, dtype=b.dtype, device=b.device), list(around), value=float(value))
    for index in range(len(around) // 2):
        dim = len(x.dims) - 1 - index
        before, after = around[2 * index : 2 * index + 2]
        x = _piece(b, x, dim, -before, x.shape[dim] + before + after)
    return b.pointwise("add", x, border) if value else x


@handles("fastgen.assign")
def _assign(b: Builder, base: Argument, part: Argument, region: Region) -> Value:
    """``base`` with a rectangular region overwritten by ``part``."""
    slices, missing = region
    if any(step != 1 for _, step, _ in slices):
        raise UnsupportedModelError("an assignment to every second element")
    mask = torch.ones(base.shape, dtype=b.dtype, device=b.device)
    mask[tuple(slice(start, start + count) for start, _, count in slices)] = 0
    if not isinstance(part, Value):
        around = torch.zeros_like(mask)
        over = assigned(around, part, region) if isinstance(part, Tensor) else b.told(assigned, around, part, region)
        return b.pointwise("add", b.pointwise("mul", base, mask), over)
    for dim in missing:
        part = part.unsqueeze(dim)
    placed = part
    for dim, (start, _, _) in enumerate(slices):
        if start or part.shape[dim] != base.shape[dim]:
            if part.kind(dim) == "":
                placed = b.cat([placed], dim)
            placed = _piece(b, placed, dim, -start, base.shape[dim])
    if isinstance(base, Tensor):
        rest = torch.where(mask == 1, base, torch.zeros_like(base))  # what is overwritten may have been never set
        return b.pointwise("add", placed, rest) if rest.any() else placed
    if isinstance(base, Given):
        return b.pointwise("add", placed, b.told(torch.where, mask == 1, base, b.scalar(0)))
    return b.pointwise("add", b.pointwise("mul", base, mask), placed)


@handles("fastgen.fixed")
def _fixed(b: Builder, params: Argument) -> Value:
    """Parameters of an image's one pixel, whatever it holds."""
    image = Value.of(b.graph.image, b.n)
    weight = torch.zeros((b.shape[1], b.graph.image.channels, 1, 1), dtype=b.dtype, device=b.device)
    return b.pointwise("add", Value.of(b.linear(image, weight), b.n), params)


@handles("fastgen.part", boolean=True, integer=True)
def _part(b: Builder, base: Value, order: tuple[int, ...], region: Region) -> Value:
    """A rectangular region of ``base``, its dimensions reordered: what an earlier view of it has become."""
    slices, missing = region
    base = base.permute(list(order))
    for dim, (start, step, count) in enumerate(slices):
        if (start, step, count) != (0, 1, base.shape[dim]):
            base = base.slice(dim, start, step, count)
    for dim in reversed(missing):
        base = base.squeeze(dim)
    return base
