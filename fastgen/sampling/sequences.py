"""Positions flattened into a sequence: shifted, cut and put together, as transformers over pixels do.

Maps stay maps of rows and columns. Position p of a sequence is row p // columns, column p % columns, so a sequence that
is shifted by one reads the column before, and at the beginning of a row the end of the row above. A piece of a sequence
is a map of all positions, of which some are not asked for. A sequence with a start token before it has one position
more than there are pixels; what the last one would hold is in no map, and may only be cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor

from .graph import Graph, Map, Operand, Pointwise, empty_map
from .trace import UnsupportedModelError
from .traced_tensor import Atom, Dims, Part, Value


class Builder(Protocol):
    """What is asked of the builder."""

    graph: Graph
    path: str

    def clean(self, part: Part, top: int, bottom: int, left: int, right: int) -> Part: ...
    def operand_of(self, value: Value) -> Operand: ...
    def result(self, out: Map, like: Value) -> Value: ...
    def told(self, function: Any, *args: Any) -> Any: ...
    def pointwise(self, op: str, *operands: Any) -> Value: ...


def is_sequence(value: Value, dim: int) -> bool:
    """Whether positions flattened, or a piece of them, lie along a dimension, and nothing else."""
    return value.kind(dim) in ("rs", "p")


def window(b: Builder, value: Value, dim: int, start: int, count: int) -> Value:
    """``count`` elements of a sequence from ``start`` on; before its first are zeros."""
    value, length = value.merged(), value.shape[dim]
    if start + count > length:
        raise UnsupportedModelError("a sequence of positions, continued behind its end")
    if start < 0:
        if value.first:
            raise UnsupportedModelError("a sequence of positions whose first ones were cut away, continued before them")
        value = shifted(b, value, -start)
    first, every = value.first + max(start, 0), value.rows * value.columns
    along: tuple[Atom, ...] = (("p", count),)
    if (first, count) == (0, every):
        along = (("r", value.rows), ("s", value.columns))
    dims = [*value.dims[:dim], along, *value.dims[dim + 1 :]]
    return replace(value, dims=dims, first=first if along[0][0] == "p" else 0)


def shifted(b: Builder, value: Value, by: int) -> Value:
    """Position p becomes position p + ``by``; zeros before."""
    value = value.merged()
    if any(value.kind(dim) == "p" for dim in range(len(value.dims))) and value.first:
        raise UnsupportedModelError("a shift of a piece of a sequence")
    W, (down, across) = value.columns, divmod(by, value.columns)
    parts = [b.clean(part, -down - 1, value.rows - 1, 0, W - 1) for part in value.parts]
    value = replace(value, parts=parts)
    out = empty_map(value.rows, W, value.part.size, value.stride, b.path)
    for column in (None, *range(across)):  # those of one row, then those that come from the end of the row above
        row, start, step = (-down, 0, 1) if column is None else (-down - 1, column + W - across, W)
        moved = [part.spatial("r", row, 1, value.rows).spatial("s", start, step, W) for part in parts]
        b.graph.add(
            Pointwise(
                out, b.path, "shift", column=across if column is None else column, column_step=step,
                operands=[b.operand_of(replace(value, parts=moved))],
            )
        )  # fmt: skip
    return b.result(out, value)


def joined(b: Builder, values: Sequence[Any], dim: int) -> Value:
    """Along a sequence: start tokens, then positions."""
    which = [index for index, value in enumerate(values) if isinstance(value, Value)]
    if which != [len(values) - 1]:
        raise UnsupportedModelError(
            "sequences of positions put together otherwise than fixed start tokens before one of them"
        )
    *tokens, value = values
    before = sum(token.shape[dim] for token in tokens)
    assert isinstance(value, Value)
    result = window(b, value, dim, -before, before + value.shape[dim])
    start = 0
    for token in tokens:
        around = [0, 0] * (len(result.dims) - 1 - dim) + [start, result.shape[dim] - start - token.shape[dim]]
        start += token.shape[dim]
        padded: Any = F.pad(token, around) if isinstance(token, Tensor) else b.told(F.pad, token, around)
        if not isinstance(padded, Tensor) or padded.any():
            result = b.pointwise("add", result, padded)
    return result


def whole(tensor: Tensor, like: Value) -> tuple[Tensor, Dims]:
    """A tensor that broadcasts to a value with a piece of a sequence, as one of all positions, zeros in the others.

    Returns:
        it, and the value's dimensions with rows and columns in the place of the piece.
    """
    dims = list(like.dims)
    for dim, along in enumerate(like.dims):
        if "p" not in (kind for kind, _ in along):
            continue
        axis = dim - (len(like.dims) - tensor.dim())
        if axis >= 0 and tensor.shape[axis] != 1:
            if len(along) > 1:
                raise UnsupportedModelError("a constant of positions, where these lie along one dimension with others")
            count, every = along[0][1], like.rows * like.columns
            around = [0, 0] * (tensor.dim() - 1 - axis) + [like.first, every - like.first - count]
            tensor = F.pad(tensor, around)
        rows: tuple[Atom, ...] = (("r", like.rows), ("s", like.columns))
        dims[dim] = tuple(atom for each in along for atom in (rows if each[0] == "p" else (each,)))
    return tensor, dims


def has_piece(value: Value) -> bool:
    """Whether a piece of a sequence lies along one of its dimensions."""
    return any(kind == "p" for along in value.dims for kind, _ in along)


def told_whole(tensor: Tensor, like: Value) -> Tensor:
    """What ``whole`` answers, without the dimensions."""
    return whole(tensor, like)[0]
