"""From a scheduled graph to a plan: channels in the order of their times, and instructions for each time.

Among channels of one time those come first that are needed first. So what belongs to one colour lies side by side, even
in maps that are computed for all colours at once.

A convolution at the pixel's own time is divided: what it owes to complete rows becomes a matrix product for the whole
row, what it owes to its own row another one for the pixel, which adds the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .graph import AnyOperation, Attention, Graph, Linear, Map, Operand, Operation, Pointwise, Read
from .plan import Attend, Axis, Buffer, Instruction, Plan, Ref, Step
from .schedule import Schedule, row_start


def emit(
    schedule: Schedule, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Plan, dict[int, np.ndarray]]:
    """The plan, with one instruction for each operation and time, not yet fused.

    Also, in the order of the plan's given buffers: which of what comes with the condition each is, and in which order
    it has its channels.
    """
    emitter = _Emitter(schedule, shape, dtype, device)
    return emitter.plan, emitter.given_orders


@dataclass
class _Group:
    """Channels of a map that are computed at one time: side by side in its buffer, from ``first`` on."""

    time: int
    channels: np.ndarray
    first: int


class _Emitter:
    def __init__(
        self, schedule: Schedule, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.schedule = schedule
        self.graph: Graph = schedule.graph
        self.like: dict[str, Any] = {"dtype": dtype, "device": device}
        self.plan = Plan(shape, slope=schedule.graph.slope)
        self._buffers: dict[Map, int] = {}
        self.given_orders: dict[int, np.ndarray] = {}
        self._places: dict[Map, np.ndarray] = {}  # channel of a map → channel of its buffer, −1 for none
        self._places_of_operands: dict[int, np.ndarray] = {}
        image = self.graph.image
        self._buffer(image, np.arange(image.channels), np.arange(image.channels))
        for operation in self.graph.operations:
            groups = self._groups(operation)
            for group in groups:
                if isinstance(operation, Linear):
                    self._linear(operation, group)
                elif isinstance(operation, Attention):
                    self._attention(operation, group)
                else:
                    self._pointwise(operation, group)
            if isinstance(operation, Linear):
                operation.taps.clear()  # their weights are in the plan now, once is enough
        assert self.graph.params is not None
        P, C = self.graph.params.channels, shape[0]
        buffer = self._buffers[self.graph.params]
        parts = [(0, P)] * C if self.graph.coupled else [(k * P // C, P // C) for k in range(C)]
        self.plan.params = [Ref(buffer, first, channels) for first, channels in parts]

    # ---- buffers

    def _buffer(self, m: Map, channels: np.ndarray, order: np.ndarray) -> None:
        """A buffer for ``channels`` of a map, in the given order."""
        place = np.full(m.channels, -1)
        place[channels[order]] = np.arange(len(channels))
        data = (
            None if m.data is None else m.data[:, :, torch.from_numpy(channels[order]).to(m.data.device)].contiguous()
        )
        if data is not None:
            data = data.to(**self.like)
        self._buffers[m] = len(self.plan.buffers)
        self._places[m] = place
        self.plan.buffers.append(Buffer(m.kind, m.rows, m.columns, len(channels), m.rows, data, m.path))

    def _groups(self, operation: AnyOperation) -> list[_Group]:
        """What of an operation's result anybody needs, by time."""
        out = operation.out
        needed = np.flatnonzero(self.schedule.needed(out))
        if len(needed) == 0:
            return []
        times = self.schedule.times[out]
        if out not in self._buffers:
            deadlines = self.schedule.deadlines[out][needed]
            order = np.lexsort((*reversed(self._order(operation, needed)), deadlines, times[needed]))
            self._buffer(out, needed, order)
        place = self._places[out]
        groups = []
        for time in np.unique(times[needed]):
            channels = needed[times[needed] == time]
            channels = channels[np.argsort(place[channels])]
            groups.append(_Group(int(time), channels, int(place[channels[0]])))
        return groups

    def _order(self, operation: AnyOperation, channels: np.ndarray) -> list[np.ndarray]:
        """Sort keys that leave a pointwise result's channels in the order in which its first operand lies."""
        if not isinstance(operation, Pointwise) or operation.out.ordered:
            return [channels]
        operand = operation.operands[0]
        assert isinstance(operand, Operand)
        return [operand.read[channels], self._operand_places(operand)[channels]]

    def _operand_places(self, operand: Operand) -> np.ndarray:
        """For each channel of an operand, that of its buffer."""
        if id(operand) not in self._places_of_operands:
            self._places_of_operands[id(operand)] = self._found_places(operand)
        return self._places_of_operands[id(operand)]

    def _found_places(self, operand: Operand) -> np.ndarray:
        places = np.full(len(operand.read), -1)
        for index, read in enumerate(operand.reads):
            mine = operand.read == index
            if mine.any():
                self._source(read.map)
                places[mine] = self._places[read.map][operand.channel[mine]]
        return places

    def _source(self, m: Map) -> int:
        """The buffer of what is read; constants and states of a recurrence get theirs when they are read first."""
        if m not in self._buffers:
            deadlines, needed = self.schedule.deadlines[m], np.arange(m.channels)
            if m.kind == "map":  # of a recurrence: written later
                needed = np.flatnonzero(self.schedule.needed(m))
                order = np.lexsort((needed, deadlines[needed], self.schedule.times[m][needed]))
            else:
                order = np.argsort(deadlines, kind="stable")
            self._buffer(m, needed, order)
            if m.kind == "given":
                self.given_orders[m.given] = order
        return self._buffers[m]

    def _ref(self, read: Read, channel: int, channels: int) -> Ref:
        buffer = self._source(read.map)
        return Ref(buffer, channel, channels, read.row, read.column, read.row_step, read.column_step)

    # ---- instructions

    def _instruction(
        self, operation: Operation, time: int, out: Ref, sources: Sequence[Ref], weight: Tensor | None = None,
        bias: Tensor | None = None, steps: Sequence[Step] = (),
    ) -> None:  # fmt: skip
        rows, columns, color = self.graph.split(time)
        is_row = self.schedule.is_row(time)
        assert operation.out.stride is not None
        (down, across), counts = operation.out.stride, operation.counts
        self.plan.instructions.append(
            Instruction(
                "row" if is_row else "pixel",
                Axis(counts[0], down * operation.row_step, down * operation.row + rows),
                Axis(counts[1], across * operation.column_step, 0 if is_row else across * operation.column + columns),
                0 if is_row else color,
                tuple(sources), out, weight, bias, tuple(steps), operation.path,
            )
        )  # fmt: skip

    def _out(self, operation: Operation, first: int, channels: int) -> Ref:
        return Ref(
            self._buffers[operation.out], first, channels,
            operation.row, operation.column, operation.row_step, operation.column_step,
        )  # fmt: skip

    def _linear(self, operation: Linear, group: _Group) -> None:
        graph, schedule = self.graph, self.schedule
        chosen = torch.from_numpy(group.channels).to(self.like["device"])
        bias = None if operation.bias is None else operation.bias[chosen]
        out = self._out(operation, group.first, len(group.channels))
        begins = graph.split(group.time)[0]
        early: list[tuple[Ref, Tensor]] = []
        late: list[tuple[Ref, Tensor]] = []
        for tap in operation.taps:
            weight = tap.weight[:, chosen]
            live = tap.live[:, group.channels].any(axis=1)
            down = operation.offset(tap.read)[0]
            complete = schedule.complete_rows(tap.read.map)[tap.channels] + down <= begins
            for which, terms in ((live & complete, early), (live & ~complete, late)):
                if which.any():
                    rows = torch.from_numpy(np.flatnonzero(which)).to(weight.device)
                    terms.append(self._term(tap.read, tap.channels[which], weight[rows]))
        if schedule.is_row(group.time) or graph.slope is not None or not late or not early:
            self._product(operation, group.time, out, early + late, bias)
            return
        partial = Buffer("map", operation.counts[0], operation.counts[1], len(group.channels), 1, None, operation.path)
        where = Ref(len(self.plan.buffers), 0, len(group.channels))
        self.plan.buffers.append(partial)
        self._product(operation, row_start(self.graph, begins), where, early, bias)
        self._product(operation, group.time, out, late, None, [Step("add", operand=where)])

    def _product(
        self, operation: Linear, time: int, out: Ref, terms: list[tuple[Ref, Tensor]], bias: Tensor | None,
        steps: Sequence[Step] = (),
    ) -> None:  # fmt: skip
        terms = sorted(terms, key=lambda term: (term[0].buffer, term[0].row, term[0].column, term[0].channel))
        weight = torch.cat([weight for _, weight in terms]) if terms else torch.zeros(0, out.channels, **self.like)
        self._instruction(operation, time, out, [ref for ref, _ in terms], weight, bias, steps)

    def _term(self, read: Read, channels: np.ndarray, weight: Tensor) -> tuple[Ref, Tensor]:
        """Channels, as one range of the buffer, and their weights, with zeros in between."""
        self._source(read.map)
        places = self._places[read.map][channels]
        first, last = int(places.min()), int(places.max())
        packed = weight.new_zeros((last - first + 1, weight.shape[1]))
        packed[torch.from_numpy(places - first).to(weight.device)] = weight
        return self._ref(read, first, last - first + 1), packed

    def _attention(self, operation: Attention, group: _Group) -> None:
        pattern = operation.pattern
        if pattern.bias is not None:
            pattern = replace(pattern, bias=pattern.bias.to(**self.like))
        query = Ref(self._source(operation.query), 0, operation.query.channels)
        keys, values = (
            Ref(self._source(m), 0, m.channels, row_step=0, column_step=0) for m in (operation.keys, operation.values)
        )
        out = self._out(operation, group.first, len(group.channels))
        self._instruction(operation, group.time, out, [query])
        self.plan.instructions[-1].attend = Attend(keys, values, pattern)

    def _pointwise(self, operation: Pointwise, group: _Group) -> None:
        columns = [
            (operand.read[group.channels], self._operand_places(operand)[group.channels])
            for operand in operation.reads()
        ]
        breaks = np.zeros(len(group.channels), dtype=bool)
        for read, place in columns:
            together = (np.diff(read) == 0) & ((np.diff(place) == 1) | (read[1:] < 0))
            breaks[1:] |= ~together
        starts = [0, *np.flatnonzero(breaks).tolist(), len(group.channels)]
        for start, end in pairwise(starts):
            if end > start:
                self._run(operation, group, start, end)

    def _run(self, operation: Pointwise, group: _Group, start: int, end: int) -> None:
        """Channels start to end of a group, whose operands lie side by side."""
        channels = group.channels[start:end]
        refs: list[Ref | Tensor] = []
        for operand in operation.operands:
            if isinstance(operand, Tensor):
                refs.append(operand[torch.from_numpy(channels).to(operand.device)].to(**self.like))
            elif operand.read[channels[0]] < 0:
                refs.append(torch.zeros(len(channels), **self.like))
            else:
                place = int(self._operand_places(operand)[channels[0]])
                refs.append(self._ref(operand.reads[operand.read[channels[0]]], place, len(channels)))
        head, *others = refs
        steps = []
        if operation.op:
            other = others[0] if others else None
            steps.append(
                Step(operation.op, operation.parameters, operand=other)
                if isinstance(other, Ref)
                else Step(operation.op, operation.parameters, vector=other)
            )
        out = self._out(operation, group.first + start, len(channels))
        if isinstance(head, Ref):
            self._instruction(operation, group.time, out, [head], steps=steps)
        else:
            self._instruction(operation, group.time, out, [], head.new_zeros(0, len(head)), head, steps)
