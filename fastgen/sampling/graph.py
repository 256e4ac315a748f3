"""What a model is to the analysis: feature maps, and the three kinds of operation that make them.

A map is a grid of positions (i, j), one for every ``stride`` pixels of the image: position (i, j) stands at pixel
(stride·i, stride·j). An operation is linear (convolutions of any kind, matrix products), attention, or pointwise
(everything else).
Each channel of a map has a *reach*: the last value, in the order of the walk, that it depends on, relative to where its
position stands. It is one number, (rows·SPAN + columns)·C + colour, so that moving a reading position is an addition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .plan import Kind, Pattern

#: More columns than an offset can have; a quarter of it is where "the row begins" stands, see schedule.py.
SPAN = 1 << 16
#: The reach of what depends on no pixel.
NEVER = -(1 << 60)
#: When a map has to be computed whose positions along a row read each other: with the pixels, or a row at once.
Clocked = Literal["", "pixel", "row"]


@dataclass(eq=False)
class Map:
    """A feature map of (rows, columns) positions.

    Attributes:
        stride: pixels between positions, down and across; None where that has no meaning (constants).
        reach: int64 (channels,).
        data: (rows, columns, channels) of a constant.
        given: of a map that comes with the condition: its index among them.
        path: of the module that made it.
        ordered: whether its channels have to stay together, in their order.
        clocked: "" where that is open.
    """

    kind: Kind
    rows: int
    columns: int
    channels: int
    stride: tuple[int, int] | None
    reach: np.ndarray
    data: Tensor | None = None
    given: int = -1
    path: str = ""
    ordered: bool = False
    clocked: Clocked = ""


@dataclass(frozen=True)
class Read:
    """Row u·row_step + row and column v·column_step + column of a map."""

    map: Map
    row: int = 0
    column: int = 0
    row_step: int = 1
    column_step: int = 1


@dataclass
class Tap:
    """A term of a linear operation: some channels at one offset, times ``weight`` (their number, O)."""

    read: Read
    channels: np.ndarray
    weight: Tensor

    @cached_property
    def live(self) -> np.ndarray:
        """Which weights are not zero."""
        return self.weight.ne(0).cpu().numpy()


@dataclass
class Operand:
    """One number for each channel of the result: from ``reads[read]``, channel ``channel``; zero where read is −1."""

    reads: list[Read]
    read: np.ndarray
    channel: np.ndarray


@dataclass
class Operation:
    """Writes (a phase of) ``out``: positions row_step·u + row, column_step·v + column for all u and v inside of it."""

    out: Map
    path: str
    name: str
    row: int = 0
    column: int = 0
    row_step: int = 1
    column_step: int = 1

    @property
    def counts(self) -> tuple[int, int]:
        """How many rows u and columns v there are."""
        return -(-(self.out.rows - self.row) // self.row_step), -(-(self.out.columns - self.column) // self.column_step)

    def offset(self, read: Read) -> tuple[int, int]:
        """Where ``read`` stands relative to the result, in pixels."""
        if read.map.stride is None or self.out.stride is None:
            return 0, 0
        (down, across), (out_down, out_across) = read.map.stride, self.out.stride
        return down * read.row - out_down * self.row, across * read.column - out_across * self.column


@dataclass
class Linear(Operation):
    """out = bias + Σ over taps of read[channels] @ weight."""

    taps: list[Tap] = field(default_factory=list)
    bias: Tensor | None = None


@dataclass
class Pointwise(Operation):
    """out = op(operands): a step of the plan, or a copy if ``op`` is "". An operand may be a constant vector."""

    op: str = ""
    parameters: tuple[float, ...] = ()
    operands: list[Operand | Tensor] = field(default_factory=list)

    def reads(self) -> Iterator[Operand]:
        for operand in self.operands:
            if isinstance(operand, Operand):
                yield operand


@dataclass(kw_only=True)
class Attention(Operation):
    """out = attention of each position to others, as the plan's ``Attend`` has it; all channels of three maps.

    ``offsets``: pixels from a position to those that it reads keys and values of, as many as may be the latest.
    """

    query: Map
    keys: Map
    values: Map
    pattern: Pattern
    offsets: list[tuple[int, int]]

    def accesses(self, graph: Graph) -> Iterator[tuple[Map, int]]:
        """What is read, and what the latest position of it adds to a reach."""
        yield self.query, 0
        latest = max(map(graph.shift, self.offsets), default=NEVER)
        yield self.keys, latest
        yield self.values, latest


AnyOperation = Linear | Pointwise | Attention


@dataclass
class Graph:
    """Operations in the order of their evaluation; ``params`` has the parameters.

    ``coupled``: whether every colour reads all parameters, and not one part of them each.
    ``slope``: None to count in raster order. Otherwise along the wavefront: a row is worth that many columns.
    ``recurrent``: whether a map is read by operations that stand before those that write it.
    """

    image: Map
    colors: int
    coupled: bool = False
    operations: list[AnyOperation] = field(default_factory=list)
    params: Map | None = None
    slope: int | None = None
    recurrent: bool = False

    def color_of_params(self) -> np.ndarray:
        """For each parameter, the first colour whose draw reads it."""
        assert self.params is not None
        P = self.params.channels
        return np.zeros(P, dtype=np.int64) if self.coupled else np.arange(P) // (P // self.colors)

    def shift(self, offset: tuple[int, int]) -> int:
        """What an offset in pixels adds to a reach."""
        return (offset[0] * (SPAN if self.slope is None else self.slope) + offset[1]) * self.colors

    def split(self, reach: int) -> tuple[int, int, int]:
        """A reach as (rows, columns, colour); along the wavefront all in columns."""
        pixels, color = divmod(int(reach), self.colors)
        if self.slope is not None:
            return 0, pixels, color
        rows = (pixels + SPAN // 2) // SPAN
        return rows, pixels - rows * SPAN, color

    def add(self, operation: AnyOperation) -> None:
        """Append an operation, and extend the reach of what it writes."""
        self.operations.append(operation)
        self._reach(operation)

    def recur(self, first: int, again: bool) -> None:
        """Extend reaches by what the operations from ``first`` on read of what they write later.

        ``again``: until nothing changes, as it ends where every cell reads earlier pixels. Otherwise every column has
        had operations of its own, and none changes any more.
        """
        self.recurrent = True
        while again and any([self._reach(operation) for operation in self.operations[first:]]):
            pass

    def _reach(self, operation: AnyOperation) -> bool:
        """Extend the reach of what an operation writes; whether it has changed."""
        out, before = operation.out, operation.out.reach.copy()
        np.maximum(out.reach, self.latest(operation, lambda m: m.reach), out=out.reach)
        return not np.array_equal(out.reach, before)

    def latest(self, operation: AnyOperation, of: Callable[[Map], np.ndarray]) -> np.ndarray:
        """For each channel of the result, the latest ``of(map)`` among what it reads, moved by where it is read."""
        latest = np.full(operation.out.channels, NEVER)
        if isinstance(operation, Linear):
            for tap in operation.taps:
                arrives = of(tap.read.map)[tap.channels] + self.shift(operation.offset(tap.read))
                np.maximum(latest, np.where(tap.live, arrives[:, None], NEVER).max(axis=0, initial=NEVER), out=latest)
            return latest
        if isinstance(operation, Attention):
            return np.full_like(latest, max(of(m).max() + shift for m, shift in operation.accesses(self)))
        for operand in operation.reads():
            arrives = self.operand_values(operation, operand, of)
            np.maximum(latest, arrives.max() if operation.op == "norm" else arrives, out=latest)
        return latest

    def operand_values(self, operation: Operation, operand: Operand, of: Callable[[Map], np.ndarray]) -> np.ndarray:
        """For each channel of an operand ``of(its map)[its channel]``, moved by where it is read; NEVER for zeros."""
        values = np.full(len(operand.read), NEVER)
        for index, read in enumerate(operand.reads):
            mine = operand.read == index
            values[mine] = of(read.map)[operand.channel[mine]] + self.shift(operation.offset(read))
        return values


def constant_map(data: Tensor, path: str) -> Map:
    """A map that holds ``data`` (rows, columns, channels)."""
    rows, columns, channels = data.shape
    return Map("constant", rows, columns, channels, None, np.full(channels, NEVER), data=data.contiguous(), path=path)


def image_map(shape: tuple[int, int, int], inputs: int = 1) -> Map:
    """The image, each colour in ``inputs`` channels: those of colour k depend on it at their own pixel."""
    C, H, W = shape
    return Map("image", H, W, C * inputs, (1, 1), np.arange(C, dtype=np.int64).repeat(inputs), path="image")


def empty_map(rows: int, columns: int, channels: int, stride: tuple[int, int] | None, path: str) -> Map:
    return Map("map", rows, columns, channels, stride, np.full(channels, NEVER), path=path)


def is_uniform(data: Tensor) -> bool:
    """Whether (rows, columns, channels) holds the same vector everywhere."""
    return bool(torch.equal(data, data[:1, :1].expand_as(data)))
