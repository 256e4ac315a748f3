"""When every channel of every map is computed: at its own pixel, or for a whole row at once.

Times are relative to where a position stands, and numbers like reaches (``fastgen.sampling.graph``): (0, 0, k) is
just before colour k of its own pixel is drawn. "When row 1 below begins" is (1, −SPAN / 4): before any column.

Two passes. Backward: the *deadline* of a channel, so that everything that reads it can be in time. Forward: the
earliest *time*, and from there later to the next beginning of a row wherever the deadline allows it, since a row at
once is one matrix product.

Where every row above is needed only up to some column to the right, pixels on a slanted front, all with one
column + slope·row, do not need each other. Then a row counts for ``slope`` columns, and nothing waits for whole rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .graph import NEVER, SPAN, Attention, Graph, Linear, Map

#: The deadline of what nobody reads.
UNUSED = 1 << 60
#: How many times fewer steps a wavefront has to take than the raster walk to be used.
WORTHWHILE = 3


@dataclass
class Schedule:
    """Times and deadlines, int64 (channels,) for each map.

    ``in_time``: whether every parameter is there when it is drawn from, as it is in raster order.
    """

    graph: Graph
    times: dict[Map, np.ndarray]
    deadlines: dict[Map, np.ndarray]
    in_time: bool = True

    def time_of(self, m: Map) -> np.ndarray:
        """When a map's channels are computed; constants are always there."""
        return self.times[m] if m in self.times else np.full(m.channels, NEVER)

    def needed(self, m: Map) -> np.ndarray:
        """Which channels anybody reads."""
        deadline = self.deadlines.get(m)
        return np.zeros(m.channels, dtype=bool) if deadline is None else deadline < UNUSED

    def is_row(self, time: int) -> bool:
        """Whether a time is the beginning of a row."""
        return self.graph.slope is None and self.graph.split(time)[1] < -SPAN // 8

    def complete(self, time: int) -> int:
        """The row that has to begin for all that is computed at ``time`` in one row to be there."""
        return self.graph.split(time)[0] + (not self.is_row(time))

    def complete_rows(self, m: Map) -> np.ndarray:
        """The same for each channel of a map; constants are there before any row. Along the wavefront, no row is."""
        if m not in self.times or self.graph.slope is not None:
            return np.full(m.channels, -SPAN if self.graph.slope is None else SPAN)
        times, which = np.unique(self.times[m], return_inverse=True)
        return np.array([self.complete(int(time)) for time in times])[which]


def schedule(graph: Graph) -> Schedule:
    """Deadlines, then times: parameters are due at the draw of the first colour that reads them."""
    color = graph.color_of_params()
    deadlines = _deadlines(graph, color)
    result = Schedule(graph, {graph.image: graph.image.reach + 1}, deadlines)
    for _ in range(2 if graph.recurrent else 1):
        _pass(result, color)
    result.in_time = result.in_time and all(_ready(result))
    return result


def _pass(result: Schedule, color: np.ndarray) -> None:
    """The times of all operations, from those of what they read; of a recurrence, as far as they are known."""
    graph, deadlines = result.graph, result.deadlines
    for operation, later in zip(graph.operations, _read_before_written(result), strict=True):
        out = operation.out
        time = np.maximum(graph.latest(operation, result.time_of), [_after(result, int(one)) for one in later])
        if out is graph.params:
            result.in_time = bool((time <= color).all())
            result.times[out] = color.copy()
            continue
        if out in result.times:
            time = np.maximum(time, result.times[out])
        deadline = deadlines.get(out, np.full(out.channels, UNUSED))
        if out.ordered:
            time, deadline = np.full_like(time, time.max()), np.full_like(deadline, deadline.min())
        pairs, which = np.unique(np.stack((time, deadline)), axis=1, return_inverse=True)
        settle = _settle_with_pixels if out.clocked == "pixel" else _settle
        settled = [settle(result, int(t), int(d)) for t, d in pairs.T]
        result.times[out] = np.array(settled, dtype=np.int64)[which.reshape(-1)]


def _ready(result: Schedule) -> Iterator[bool]:
    """Of each operation in a recurrence: whether it reads only what has been written, on the clock that it needs."""
    for operation, later in zip(result.graph.operations, list(_read_before_written(result)), strict=True):
        needed = result.needed(operation.out)
        times = result.times[operation.out][needed]
        yield bool((later[needed] < times).all())
        if operation.out.clocked:
            wanted = operation.out.clocked == "row"
            yield all(result.is_row(int(time)) == wanted for time in times)


def _read_before_written(result: Schedule) -> Iterator[np.ndarray]:
    """For each operation the latest time of what it reads of maps that are written by later operations; else NEVER."""
    graph = result.graph
    coming = {operation.out for operation in graph.operations} if graph.recurrent else set()
    for operation in graph.operations:
        if coming:
            yield graph.latest(operation, lambda m: result.time_of(m) if m in coming else np.full(m.channels, NEVER))
        else:
            yield np.full(operation.out.channels, NEVER)
        coming.discard(operation.out)


def _after(result: Schedule, time: int) -> int:
    """The first time after ``time``: what is written in the same row or pixel by a later operation is not there yet."""
    if time < NEVER // 2:
        return NEVER
    return time + (result.graph.shift((1, 0)) if result.is_row(time) else 1)


def wavefront(graph: Graph, size: tuple[int, int]) -> Schedule | None:
    """The schedule along the steepest front on which pixels do not need each other; None if it saves too little."""
    H, W = size
    worthwhile = (H * W // WORTHWHILE - W) // max(H - 1, 1)
    low, found = 1, None
    while low <= worthwhile:  # what is in time along one front is so along every flatter one
        slope = worthwhile if found is None else (low + worthwhile) // 2
        candidate = schedule(replace(graph, slope=slope))
        if candidate.in_time:
            found, worthwhile = candidate, slope - 1
        elif found is None:
            return None
        else:
            low = slope + 1
    return found


def row_start(graph: Graph, row: int) -> int:
    return (row * SPAN - SPAN // 4) * graph.colors


def _settle_with_pixels(schedule: Schedule, time: int, deadline: int) -> int:
    """A pixel's time between ``time`` and ``deadline`` if there is one, at the earliest in its own column."""
    graph = schedule.graph
    if graph.slope is not None or time < NEVER // 2:
        return max(time, min(0, deadline))
    rows, columns, _ = graph.split(time)
    return time if columns >= 0 else max(time, min(rows * SPAN * graph.colors, deadline))


def _deadlines(graph: Graph, color: np.ndarray) -> dict[Map, np.ndarray]:
    assert graph.params is not None
    deadlines = {graph.params: color.astype(np.int64)}
    for operation in list(reversed(graph.operations)) * (2 if graph.recurrent else 1):
        mine = deadlines.get(operation.out)
        if mine is None:
            continue
        if isinstance(operation, Linear):
            for tap in operation.taps:
                theirs = deadlines.setdefault(tap.read.map, np.full(tap.read.map.channels, UNUSED))
                wanted = np.where(tap.live, mine[None, :], UNUSED).min(axis=1, initial=UNUSED)
                _lower(theirs, tap.channels, wanted, graph.shift(operation.offset(tap.read)))
            continue
        if isinstance(operation, Attention):
            mine[:] = mine.min()
            for source, shift in operation.accesses(graph):
                theirs = deadlines.setdefault(source, np.full(source.channels, UNUSED))
                _lower(theirs, np.arange(source.channels), np.full(source.channels, mine.min()), shift)
            continue
        if operation.op == "norm":
            mine[:] = mine.min()  # all or nothing
        for operand in operation.reads():
            for index, read in enumerate(operand.reads):
                theirs = deadlines.setdefault(read.map, np.full(read.map.channels, UNUSED))
                which = operand.read == index
                _lower(theirs, operand.channel[which], mine[which], graph.shift(operation.offset(read)))
    return deadlines


def _lower(deadlines: np.ndarray, channels: np.ndarray, wanted: np.ndarray, shift: int) -> None:
    np.minimum.at(deadlines, channels, np.where(wanted < UNUSED, wanted - shift, UNUSED))


def _settle(schedule: Schedule, time: int, deadline: int) -> int:
    """The beginning of a row between ``time`` and ``deadline`` if there is one, else a pixel."""
    graph = schedule.graph
    if graph.slope is not None:
        return max(time, min(0, deadline))
    row = schedule.complete(time) if time > NEVER // 2 else min(0, graph.split(deadline)[0])
    for candidate in (max(row, 0), row):
        if row_start(graph, candidate) <= deadline:
            return row_start(graph, candidate)
    rows, columns, _ = graph.split(time)
    own_column = rows * SPAN * graph.colors  # not before the walk is in this column
    return own_column if columns < 0 and own_column <= deadline else time
