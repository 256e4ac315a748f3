"""Numbers for pairs of positions, as attention has them between its two products: never computed, only described.

The scores of a traced attention are scale·q·kᵀ + bias, with constants for each pair; masks change these constants. A
softmax over the keys makes weights of them, which may be set to zero. What they multiply makes the operation: then it
is known which keys each query reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .plan import Pattern
from .trace import UnsupportedModelError
from .traced_tensor import Dims, Value

#: What is in the place of the scores of keys that are not read, at most, where it is finite; and what is added to them,
#: which has to be far beyond all scores, since these are not looked at.
MASKED, ADDED = -1e4, -1e8


@dataclass(frozen=True, eq=False)
class Side:
    """The queries, the keys or the values of an attention.

    Attributes:
        value: (N, rows, columns, channels): heads, then those of one head.
        heads: how many.
        first, count: of a piece of a sequence, where it begins, and how many positions it has.
    """

    value: Value
    heads: int
    first: int
    count: int

    @property
    def every(self) -> int:
        """Positions of the maps."""
        return self.value.rows * self.value.columns

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns; a piece of a sequence is one row."""
        whole = (self.first, self.count) == (0, self.every)
        return (self.value.rows, self.value.columns) if whole else (1, self.count)

    def of(self, heads: list[int]) -> Value:
        """The channels of some heads."""
        width = self.value.part.size // self.heads
        channels = np.concatenate([np.arange(head * width, (head + 1) * width) for head in heads])
        dims: Dims = [*self.value.dims[:3], (("c", len(channels)),)]
        return replace(self.value, dims=dims, part=self.value.part[channels], channel=self.value.channel[channels])


@dataclass(eq=False)
class Pairs(Value):
    """A tensor of numbers for each pair; its channels are the heads, its ``channel`` their numbers.

    Along r, s and p lie the queries, along R, S and P the keys; where a dimension of both is rows or columns alone,
    pairs are of the same row or column.

    Attributes:
        query, key: what is multiplied.
        scale, bias: (heads or 1, rows or 1, columns or 1, rows or 1, columns or 1): of queries, then of keys. A piece
            of a sequence is one row.
        weights: after a softmax: what it is multiplied with, as ``scale``; or None.
        undefined: after it: which weights are NaN, since there is no key to read.
    """

    query: Side = None  # type: ignore[assignment]
    key: Side = None  # type: ignore[assignment]
    scale: Tensor = None  # type: ignore[assignment]
    bias: Tensor = None  # type: ignore[assignment]
    weights: Tensor | None = None
    undefined: Tensor | None = None

    def settled(self) -> Value:
        return self

    def merged(self) -> Value:
        raise UnsupportedModelError(
            "attention scores or weights, cut, joined or summed: these may be scaled, added to, masked, and multiplied "
            "with values"
        )

    def expand(self, shape: Sequence[int]) -> Value:
        return self if tuple(shape) == self.shape else self.merged()

    # ---- constants

    def constant(self, tensor: Tensor) -> Tensor:
        """One that broadcasts against the pairs, as ``scale`` is."""
        if torch.broadcast_shapes(tensor.shape, self.shape) != self.shape:
            raise UnsupportedModelError(f"attention scores {self.shape} with a constant {tuple(tensor.shape)}")
        tensor = tensor.reshape([1] * (len(self.dims) - tensor.dim()) + list(tensor.shape))
        atoms = [(kind, 1 if size == 1 else length) for dim, size in zip(self.dims, tensor.shape, strict=True)
                 for kind, length in dim]  # fmt: skip
        tensor = tensor.reshape([size for _, size in atoms])
        kinds, sizes = [kind for kind, _ in atoms], dict(atoms)
        order = [axis for wanted in "ncrspRSP" for axis, kind in enumerate(kinds) if kind == wanted]
        tensor = tensor.permute(order)
        for axis in range(kinds.count("n")):
            if not torch.equal(tensor, tensor.narrow(axis, 0, 1).expand_as(tensor)):
                raise UnsupportedModelError("a constant that differs between the images of a batch")
            tensor = tensor.narrow(axis, 0, 1)
        heads = tensor.shape[kinds.count("n") : kinds.count("n") + kinds.count("c")]
        grid = [
            size
            for row, column, piece in ("rsp", "RSP")
            for size in ((1, sizes[piece]) if piece in sizes else (sizes.get(row, 1), sizes.get(column, 1)))
        ]
        if math.prod(heads) > 1:
            tensor = tensor.reshape(*heads, *grid).expand(*self.channel.shape, *grid).reshape(-1, *grid)
            return tensor[torch.from_numpy(np.argsort(self.channel.reshape(-1)))]
        return tensor.reshape(1, *grid)

    # ---- arithmetic

    def arithmetic(self, op: str, first: bool, tensor: Tensor) -> Pairs:
        """A step of the plan with a constant; ``first``: whether the pairs come first."""
        other = self.constant(tensor.to(torch.float64))
        if self.weights is not None:
            if op == "mul":
                return replace(self, weights=self.weights * other)
            raise UnsupportedModelError(
                f"{op} of attention weights: these may be masked, by a product or filled with 0"
            )
        scale, bias = self.scale, self.bias
        op = op if first else {"sub": "rsub", "rsub": "sub", "div": "rdiv", "rdiv": "div"}.get(op, op)
        if op == "mul":
            return replace(self, scale=scale * other, bias=bias * other)
        if op == "div":
            return replace(self, scale=scale / other, bias=bias / other)
        if op == "add":
            return replace(self, bias=bias + other)
        if op == "sub":
            return replace(self, bias=bias - other)
        if op == "rsub":
            return replace(self, scale=-scale, bias=other - bias)
        raise UnsupportedModelError(f"{op} of attention scores: these may be scaled, added to, and masked")

    def filled(self, where: Tensor, number: Tensor) -> Pairs:
        """With a constant in the place of some."""
        mask, number = self.constant(where), self.constant(number.to(torch.float64))
        if self.weights is None:
            return replace(self, scale=torch.where(mask, 0.0, self.scale), bias=torch.where(mask, number, self.bias))
        if number.where(mask, 0.0).any():
            raise UnsupportedModelError("attention weights filled with something other than 0")
        assert self.undefined is not None
        return replace(self, weights=torch.where(mask, 0.0, self.weights), undefined=self.undefined & ~mask)

    def softmax(self, dim: int, safe: bool) -> Pairs:
        """Over the keys; ``safe``: zeros where there is none."""
        kinds = set(self.kind(dim))
        if kinds and not kinds - set("rsp"):
            return self.turned().softmax(dim, safe)
        keys = {kind for each in self.dims for kind, size in each if kind in "RSP" and size > 1}
        if self.weights is not None or not kinds or kinds - set("RSP") or keys - kinds:
            raise UnsupportedModelError("attention: a softmax over something other than the keys")
        none = torch.isneginf(self.bias + 0 * self.scale).all(dim=(3, 4), keepdim=True)
        none = none & torch.full_like(none, not safe)
        return replace(self, weights=torch.ones((1,) * 5, dtype=torch.float64), undefined=none)

    def turned(self) -> Pairs:
        """The first factor's positions are the keys, and the second's the queries."""
        other = {**{kind: kind.upper() for kind in "rsp"}, **{kind.upper(): kind for kind in "rsp"}}
        dims: Dims = [tuple((other.get(kind, kind), size) for kind, size in dim) for dim in self.dims]
        scale, bias = (each.permute(0, 3, 4, 1, 2) for each in (self.scale, self.bias))
        return replace(self, dims=dims, query=self.key, key=self.query, scale=scale, bias=bias)

    # ---- which keys each query reads

    def patterns(self) -> Iterator[tuple[list[int], Pattern, list[tuple[int, int]]]]:
        """For each group of heads what they read, and in which distances in pixels."""
        assert self.weights is not None
        assert self.undefined is not None
        shape = self._shape()
        scale, bias, weights, undefined = (
            each.expand(shape).flatten(3).flatten(1, 2)
            for each in (self.scale, self.bias, self.weights, self.undefined)
        )
        if bool((undefined | scale.isnan() | bias.isnan() | weights.isnan()).any()):
            raise UnsupportedModelError("attention of a position that has no key: a softmax of −inf alone is NaN")
        apart = self._apart().flatten(2).flatten(0, 1)
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
        read, added = self._of_maps(read), self._of_maps(added)
        for heads in _alike(read, scales):
            starts, runs = _runs(read[heads[0]])
            extra = added[heads] if added[heads].any() else None
            if extra is not None and torch.equal(extra, extra[:1].expand_as(extra)):
                extra = extra[:1]
            extra = None if extra is None else extra.contiguous()
            pattern = Pattern(len(heads), scales[heads[0]], floor, starts, runs, extra)
            yield heads, pattern, self._offsets(read[heads[0]])

    def _offsets(self, read: Tensor) -> list[tuple[int, int]]:
        """Of bool (queries, keys): for each distance in rows, the largest in columns."""
        query, key = self.query.value, self.key.value
        by_row = read.view(query.rows, query.columns, key.rows, key.columns).numpy()
        r, c, row = by_row.any(axis=3).nonzero()
        column = key.columns - 1 - by_row[r, c, row, ::-1].argmax(axis=1)
        down = row * key.stride[0] - r * query.stride[0]
        across = column * key.stride[1] - c * query.stride[1]
        return [(int(rows), int(across[down == rows].max())) for rows in np.unique(down)]

    def _shape(self) -> tuple[int, ...]:
        return self.query.heads, *self.query.grid, *self.key.grid

    def _apart(self) -> Tensor:
        """Of (rows, columns, rows, columns): pairs that are not of one row or column, where all have to be."""
        _, *shape = self._shape()
        apart = torch.zeros(shape, dtype=torch.bool)
        kinds = {kind for dim in self.dims for kind, _ in dim}
        for axis, kind in enumerate("rs"):
            if kind.upper() not in kinds and "P" not in kinds and shape[axis] == shape[axis + 2] > 1:
                same = torch.eye(shape[axis], dtype=torch.bool)
                view = [1, 1, 1, 1]
                view[axis] = view[axis + 2] = shape[axis]
                apart = apart | ~same.view(view)
        return apart

    def _of_maps(self, numbers: Tensor) -> Tensor:
        """Of pieces of sequences (heads, queries, keys), for all positions of the maps."""
        query, key = self.query, self.key
        ghosts = key.first + key.count - key.every
        if ghosts > 0 and numbers[:, : query.every - query.first, -ghosts:].any():
            raise UnsupportedModelError("attention to a position behind the last pixel")
        around = [key.first, key.every - key.first - key.count, query.first, query.every - query.first - query.count]
        return F.pad(numbers, around)


def of_pairs(op: str, operands: Sequence[Any]) -> Value:
    """A step of the plan on pairs, alone or with a constant."""
    first, *others = operands
    if op == "neg" and isinstance(first, Pairs):
        return first.arithmetic("mul", True, torch.tensor(-1.0))
    if not op and isinstance(first, Pairs):
        return first
    pairs, other = (first, others[0]) if isinstance(first, Pairs) and others else (others[0] if others else None, first)
    if not isinstance(pairs, Pairs) or not isinstance(other, Tensor):
        raise UnsupportedModelError(f"{op} of attention scores or weights: these may be scaled, added to, and masked")
    return pairs.arithmetic(op, pairs is first, other)


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
