"""Which rows of an embedding a pixel looks up. Where there is no such row torch raises, and a plan would find zeros."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .graph import Graph, Map, Operand, Pointwise
from .plan import VECTOR
from .reference_executor import FUNCTIONS

Place = tuple[int, int, int, int]
"""Row and column of a pixel, and their steps, as ``graph.Read`` has them."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """An embedding of what is drawn.

    Attributes:
        path: of its module.
        rows: how many it has.
        numbers: (N, channels), what the model reads of a pixel → (N,), the row; one for each that it looks up.
    """

    path: str
    rows: int
    numbers: list[Callable[[Tensor], Tensor]]

    def check(self, name: str, values: Tensor, where: str) -> None:
        """Raise ValueError unless it has all rows that the argument ``name`` makes ``values`` (N, channels) look up."""
        for number in self.numbers:
            low, high = (float(bound) for bound in number(values).aminmax())
            if not (0 <= low <= high < self.rows):
                raise ValueError(
                    f"{name}: expected integers in [0, {self.rows}), the rows of the embedding {self.path}, got some"
                    f" from {low:.0f} to {high:.0f}{where}"
                )


def lookup_of(graph: Graph, path: str, rows: int, index: Operand) -> Lookup:
    """The lookup of an embedding, as far as its ``index`` is made from one pixel alone, which almost any is."""
    found = [_operand(graph, index, channel) for channel in range(len(index.read))]
    return Lookup(path, rows, [number.of for number in found if number is not None and number.place is not None])


@dataclass(frozen=True, eq=False)
class _Number:
    """A number as a function of one pixel's channels; ``place``: of which pixel, None of a constant."""

    of: Callable[[Tensor], Tensor]
    place: Place | None


def _constant(number: Tensor) -> _Number:
    return _Number(lambda x: number.to(x).expand(len(x)), None)


def _number(graph: Graph, source: Map, channel: int) -> _Number | None:
    """A channel of a map; None where it is made from several pixels, or is not the same function at all of them."""
    if source is graph.image:
        return _Number(lambda x: x[:, channel], (0, 0, 1, 1))
    if source.data is not None:
        numbers = source.data[..., channel]
        return _constant(numbers[0, 0]) if bool((numbers == numbers[0, 0]).all()) else None
    makers = [operation for operation in graph.operations if operation.out is source]
    if len(makers) != 1 or not isinstance(makers[0], Pointwise) or makers[0].op in VECTOR:
        return None
    made = makers[0]
    operands = []
    for each in made.operands:
        number = _constant(each[channel]) if isinstance(each, Tensor) else _operand(graph, each, channel)
        if number is None:
            return None
        operands.append(number)
    places = {number.place for number in operands} - {None}
    if len(places) > 1:
        return None
    function = FUNCTIONS[made.op] if made.op else torch.clone
    return _Number(lambda x: function(*(each.of(x) for each in operands), *made.parameters), next(iter(places), None))


def _operand(graph: Graph, operand: Operand, channel: int) -> _Number | None:
    """What an operand reads for one channel of the result."""
    if operand.read[channel] < 0:
        return _constant(torch.zeros(()))
    read = operand.reads[operand.read[channel]]
    number = _number(graph, read.map, int(operand.channel[channel]))
    if number is None or number.place is None:
        return number
    row, column, down, across = number.place
    moved = (row + down * read.row, column + across * read.column, down * read.row_step, across * read.column_step)
    return _Number(number.of, moved)
