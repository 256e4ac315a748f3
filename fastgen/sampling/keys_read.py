"""Which keys each query of an attention reads: its masks, looked at as values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .normalisers import ADDED, MASKED
from .pairs import Pairs
from .plan import Pattern
from .trace import UnsupportedModelError


def patterns(pairs: Pairs) -> Iterator[tuple[list[int], Pattern, list[tuple[int, int]]]]:
    """For each group of heads what they read, and in which distances in pixels."""
    assert pairs.weights is not None
    shape = _shape(pairs)
    scale, bias, weights, undefined = (
        each.expand(shape).flatten(3).flatten(1, 2)
        for each in (pairs.scale, pairs.bias, pairs.weights, pairs.undefined)
    )
    if bool((undefined | scale.isnan() | bias.isnan() | weights.isnan()).any()):
        raise UnsupportedModelError(
            "attention of a position that has no key: a softmax of −inf alone, or 0 divided by a sum of 0, is NaN"
        )
    apart = _apart(pairs).flatten(2).flatten(0, 1)
    if bool(((scale != 0) & (bias <= MASKED) & (bias > ADDED) & ~apart).any()):
        raise UnsupportedModelError(
            f"attention with a mask between {MASKED:g} and {ADDED:g} that is added to scores, which may be as "
            "large: fill masked ones with -inf"
        )
    masked = (bias <= MASKED) | apart
    read = ~masked & (scale != 0)
    some, asked = read.any(-1, keepdim=True), (weights != 0) & ~apart
    asked_at_all = asked.any(-1, keepdim=True)
    if bool(((~masked & ~read) & asked_at_all).any()):
        raise UnsupportedModelError(
            "attention whose masked keys have finite scores, and so count in the softmax: fill them with -inf"
        )
    if bool((~some & asked_at_all & ~torch.isneginf(bias.amax(-1, keepdim=True))).any()):
        raise UnsupportedModelError(
            "attention of a position all of whose keys are masked with one finite number: it reads all of them; "
            "multiply its weights with 0, or let it read itself"
        )
    read = read & asked_at_all
    if bool((read & (weights != 1)).any()):
        raise UnsupportedModelError("attention weights that are changed after the softmax, otherwise than to none")
    scales = [float(of[where][0]) if where.any() else 1.0 for of, where in zip(scale, read, strict=True)]
    if any(bool((of[where] != one).any()) for of, where, one in zip(scale, read, scales, strict=True)):
        raise UnsupportedModelError("attention scores that are scaled differently for each pair")
    finite = bias[masked & ~torch.isneginf(bias) & ~apart & some]
    floor = float(finite.max()) if len(finite) else -float("inf")
    added = torch.where(read, bias, 0.0)
    read, added = _of_maps(pairs, read), _of_maps(pairs, added)
    for heads in _alike(read, scales):
        starts, runs = _runs(read[heads[0]])
        extra = added[heads] if added[heads].any() else None
        if extra is not None and torch.equal(extra, extra[:1].expand_as(extra)):
            extra = extra[:1]
        extra = None if extra is None else extra.contiguous()
        pattern = Pattern(len(heads), scales[heads[0]], floor, starts, runs, extra)
        yield heads, pattern, _offsets(pairs, read[heads[0]])


def _offsets(pairs: Pairs, read: Tensor) -> list[tuple[int, int]]:
    """Of bool (queries, keys): for each distance in rows, the largest in columns."""
    query, key = pairs.query.value, pairs.key.value
    by_row = read.view(query.rows, query.columns, key.rows, key.columns).numpy()
    r, c, row = by_row.any(axis=3).nonzero()
    column = key.columns - 1 - by_row[r, c, row, ::-1].argmax(axis=1)
    down = row * key.stride[0] - r * query.stride[0]
    across = column * key.stride[1] - c * query.stride[1]
    return [(int(rows), int(across[down == rows].max())) for rows in np.unique(down)]


def _shape(pairs: Pairs) -> tuple[int, ...]:
    return pairs.query.heads, *pairs.query.grid, *pairs.key.grid


def _apart(pairs: Pairs) -> Tensor:
    """Of (rows, columns, rows, columns): pairs that are not of one row or column, where all have to be."""
    _, *shape = _shape(pairs)
    apart = torch.zeros(shape, dtype=torch.bool)
    kinds = {kind for dim in pairs.dims for kind, _ in dim}
    for axis, kind in enumerate("rs"):
        if kind.upper() not in kinds and "P" not in kinds and shape[axis] == shape[axis + 2] > 1:
            same = torch.eye(shape[axis], dtype=torch.bool)
            view = [1, 1, 1, 1]
            view[axis] = view[axis + 2] = shape[axis]
            apart = apart | ~same.view(view)
    return apart


def _of_maps(pairs: Pairs, numbers: Tensor) -> Tensor:
    """Of pieces of sequences (heads, queries, keys), for all positions of the maps."""
    query, key = pairs.query, pairs.key
    ghosts = key.first + key.count - key.every
    if ghosts > 0 and numbers[:, : query.every - query.first, -ghosts:].any():
        raise UnsupportedModelError("attention to a position behind the last pixel")
    around = [key.first, key.every - key.first - key.count, query.first, query.every - query.first - query.count]
    return F.pad(numbers, around)


def _alike(read: Tensor, scales: list[float]) -> list[list[int]]:
    """Heads that read the same keys, scaled alike, if all do; else each by itself."""
    if torch.equal(read, read[:1].expand_as(read)) and len(set(scales)) == 1:
        return [list(range(len(read)))]
    return [[head] for head in range(len(read))]


def _runs(read: Tensor) -> tuple[Tensor, Tensor]:
    """Of bool (queries, keys), for each query its runs of keys."""
    edges = torch.diff(F.pad(read.to(torch.int8), (1, 1)), dim=1)
    query, begin = (edges == 1).nonzero(as_tuple=True)
    _, end = (edges == -1).nonzero(as_tuple=True)
    starts = F.pad(torch.bincount(query, minlength=len(read)).cumsum(0), (1, 0))
    return starts, torch.stack([begin, end], dim=1)
