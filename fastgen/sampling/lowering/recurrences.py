"""The recurrences of PixelRNN: cells that read states of the row above, of the pixel before, or of the one behind.

Their states are maps that are read by operations which stand before those that write them. Along a row, cells are
computed with their pixels from the left; from the right one column after the other, once the row is complete.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops.image_lstm import TAPS
from ..builder import Argument, Builder
from ..graph import Clocked, Linear, Map, Operand, Pointwise, Read, Tap, constant_map, empty_map
from ..trace import UnsupportedModelError
from ..traced_tensor import Value
from .registry import handles

CLOCKS: dict[str, Clocked] = {"row": "", "diagonal": "pixel", "mirrored": "row"}


@handles("fastgen.image_lstm")
def _image_lstm(b: Builder, gates: Argument, weight: Tensor, hidden: Tensor, cell: Tensor, scan: str) -> list[Value]:
    if not isinstance(gates, Value) or not all(isinstance(each, Tensor) for each in (weight, hidden, cell)):
        raise UnsupportedModelError("a recurrence whose gates do not depend on the image, or whose weights do")
    gates = gates.settled()
    if [gates.kind(d) for d in range(4)] != ["n", "r", "s", "c"]:
        raise UnsupportedModelError("a recurrence over something other than rows and columns of (N, H, W, C)")
    cells = _Cells(b, b.pointwise("", gates).parts[0].read.map, (weight, hidden, cell), scan)
    first = len(b.graph.operations)
    for column in reversed(range(gates.columns)) if scan == "mirrored" else (None,):
        cells.add(column)
    b.graph.recur(first, again=scan != "mirrored")
    return [Value.of(cells.maps["h"], b.n).permute([0, 2, 3, 1])]


class _Cells:
    """The maps of one scan, by name, and the operations that write them: one column of each, or all."""

    def __init__(self, b: Builder, gates: Map, parameters: tuple[Tensor, Tensor, Tensor], scan: str) -> None:
        self.b, self.gates, self.scan = b, gates, scan
        self.weight, self.hidden, self.cell = parameters
        self.width = self.cell.numel()
        names = ("sums", "total", "o", "f", "i", "g", "previous", "kept", "new", "c", "squashed", "h")
        self.maps = {name: self._map(4 * self.width if name in ("sums", "total") else self.width) for name in names}
        self.column: int | None = None

    def _map(self, channels: int) -> Map:
        made = empty_map(self.gates.rows, self.gates.columns, channels, self.gates.stride, self.b.path)
        made.clocked = CLOCKS[self.scan]
        return made

    def add(self, column: int | None) -> None:
        """The cells of one column, or of all of them alike."""
        self.column = column
        h, taps, width = self.maps["h"], TAPS[self.scan], self.width
        terms = [
            Tap(self._at(h, *at), np.arange(width), tap.t().contiguous())
            for at, tap in zip(taps, self.weight.unbind(2), strict=True)
            if self._inside(at[1])
        ]
        self.b.graph.add(Linear(**self._out("sums"), name="state to state", taps=terms))
        self._sum("total", self._at(self.maps["sums"]), self._at(self.gates), *self._initial_states())
        total, (row, across) = self._at(self.maps["total"]), taps[1]
        for k, (name, op) in enumerate((("o", "sigmoid"), ("f", "sigmoid"), ("i", "sigmoid"), ("g", "tanh"))):
            self._step(name, op, self._operand(total, width, k * width))
        self._sum("previous", self._at(self.maps["c"], row, across), *self._initial_cell())
        self._step("kept", "mul", self._own("previous"), self._own("f"))
        self._step("new", "mul", self._own("g"), self._own("i"))
        self._step("c", "add", self._own("kept"), self._own("new"))
        self._step("squashed", "tanh", self._own("c"))
        self._step("h", "mul", self._own("squashed"), self._own("o"))

    # ---- the initial state, as constants of the first row and of the column where rows begin

    def _initial_states(self) -> list[Read | Tensor]:
        if not self.hidden.any():
            return []
        owed = torch.einsum("oht,h->to", self.weight, self.hidden)  # (taps, 4h)
        if self.scan == "row":
            left, middle, right = owed
            row = (left + middle + right).repeat(self.gates.columns, 1)
            row[0] -= left
            row[-1] -= right
            return [Read(self._constant(row[None]), column=self.column or 0)]
        return [Read(self._constant(owed[:1, None]), column_step=0), *self._beside(owed[1])]

    def _initial_cell(self) -> list[Read | Tensor]:
        if not self.cell.any():
            return []
        if self.scan == "row":
            return [Read(self._constant(self.cell[None, None]), column_step=0)]
        return self._beside(self.cell)

    def _beside(self, owed: Tensor) -> list[Read | Tensor]:
        """What the first cell of each row reads."""
        if self.column is None:
            return [Read(self._constant(owed[None, None]), row_step=0)]
        return [owed] if self.column == self.gates.columns - 1 else []

    def _constant(self, data: Tensor) -> Map:
        return constant_map(data, self.b.path)

    # ---- operations

    def _at(self, source: Map, row: int = 0, column: int = 0) -> Read:
        return Read(source, row, (self.column or 0) + column, 1, self._column_step)

    @property
    def _column_step(self) -> int:
        return 1 if self.column is None else self.gates.columns

    def _own(self, name: str) -> Operand:
        return self._operand(self._at(self.maps[name]), self.width)

    def _operand(self, read: Read, channels: int, first: int = 0) -> Operand:
        nothing = read.map.data is None and not self._inside(read.column - (self.column or 0))
        return Operand([read], np.full(channels, -int(nothing)), np.arange(first, first + channels))

    def _inside(self, across: int) -> bool:
        """Whether there is anything so many columns away: of all columns together there is."""
        return self.column is None or 0 <= self.column + across < self.gates.columns

    def _out(self, name: str) -> dict[str, Any]:
        column, step = self.column or 0, self._column_step
        return {"out": self.maps[name], "path": self.b.path, "column": column, "column_step": step}

    def _step(self, name: str, op: str, *operands: Operand | Tensor) -> None:
        self.b.graph.add(Pointwise(**self._out(name), name=op or "copy", op=op, operands=list(operands)))

    def _sum(self, name: str, first: Read, *others: Read | Tensor) -> None:
        """The sum of what is read at several places; maps of their own between."""
        channels = self.maps[name].channels
        target = name
        operand = self._operand(first, channels)
        if not others:
            self._step(name, "", operand)
        for index, other in enumerate(others):
            name = target if index == len(others) - 1 else f"{target} {index}"
            self.maps.setdefault(name, self._map(channels))
            self._step(name, "add", operand, other if isinstance(other, Tensor) else self._operand(other, channels))
            operand = self._operand(self._at(self.maps[name]), channels)
