"""Clocks, and contenders timed in turn.

Contenders take turns, round by round, so that whatever disturbs the machine disturbs all of them alike. What counts is
the ratio of medians within one run.

**On the CPU** a turn is calls until its time is up, and counts as its mean.

**On CUDA** a turn counts as the median of the times between events around each call. Before each call a buffer of at
least twice the L2 cache is written, as often as it takes for the host to queue the call meanwhile: the call finds a
cold cache, and no time in which the device waits for the host is counted. What the host adds is measured apart
(:meth:`CudaTimer.wall`): calls back to back, warm, as a loop that does nothing else would see them.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Call = Callable[[], Any]


@dataclass(frozen=True)
class Pace:
    """How one contender takes a turn: calls in it, and writes of the buffer before each."""

    calls: int
    flushes: int = 0


class Timer(Protocol):
    """How calls are timed on a device."""

    def prepare(self, run: Call, seconds: float) -> Pace:
        """Warm up, and decide how often ``run`` is called in a turn of ``seconds``."""

    def turn(self, run: Call, pace: Pace, seconds: float) -> float:
        """Seconds a call."""


class CpuTimer:
    """Calls until the turn is over; the clock is the one on the wall."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock

    def prepare(self, run: Call, seconds: float) -> Pace:
        for _ in range(2):
            run()
        return Pace(1)

    def turn(self, run: Call, pace: Pace, seconds: float) -> float:
        calls, start = 0, self.clock()
        while True:
            run()
            calls += 1
            passed = self.clock() - start
            if passed >= seconds:
                return passed / calls


class CudaTimer:
    """Device time with a cold L2 cache; see the module's docstring."""

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties().L2_cache_size
        self.buffer = torch.empty(max(2 * size, 2**27), dtype=torch.int8, device="cuda")
        self.flush_seconds = min(self._between(self.buffer.zero_) for _ in range(5))

    def prepare(self, run: Call, seconds: float) -> Pace:
        for _ in range(3):
            run()
        torch.cuda.synchronize()
        queueing = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            queueing.append(time.perf_counter() - start)
            torch.cuda.synchronize()
        flushes = 1 + math.ceil(1.5 * min(queueing) / self.flush_seconds)
        each = min(self._between(run) for _ in range(3)) + flushes * self.flush_seconds
        return Pace(max(3, min(200, int(seconds / each))), flushes)

    def turn(self, run: Call, pace: Pace, seconds: float) -> float:
        events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(pace.calls)]
        for start, end in events:
            for _ in range(pace.flushes):
                self.buffer.zero_()
            start.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(1e-3 * start.elapsed_time(end) for start, end in events)

    def wall(self, run: Call, pace: Pace) -> float:
        """Seconds a call, back to back and warm, the host's share included."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(pace.calls):
            run()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / pace.calls

    def _between(self, run: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return 1e-3 * start.elapsed_time(end)


@dataclass(frozen=True)
class Effort:
    """How long is measured: rounds at most, seconds of a turn, and seconds after which no further round begins."""

    rounds: int
    seconds: float
    longest: float
    fewest: int = 5


HOPELESS = 20
"""Times the fastest contender's time."""


def in_turn(
    contenders: Mapping[str, Call], timer: Timer, effort: Effort, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds a call of every contender in every round; one that is ``HOPELESS`` in the first takes no other turn."""
    paces = {name: timer.prepare(run, effort.seconds) for name, run in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    begin = clock()
    for done in range(effort.rounds):
        if done >= effort.fewest and clock() - begin > effort.longest:
            break
        best = min((of_one[0] for of_one in times.values() if of_one), default=0.0)
        for name, run in contenders.items():
            if not done or times[name][0] <= HOPELESS * best:
                times[name].append(timer.turn(run, paces[name], effort.seconds))
    return times


def walls(contenders: Mapping[str, Call], timer: CudaTimer, effort: Effort, medians: Mapping[str, float]) -> dict:
    """Median over three rounds of :meth:`CudaTimer.wall`."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(3):
        for name, run in contenders.items():
            times[name].append(timer.wall(run, Pace(max(3, min(50, int(effort.seconds / medians[name]))))))
    return {name: statistics.median(values) for name, values in times.items()}


def quartiles(values: list[float]) -> list[float]:
    """First and third; of a single value, that value."""
    return statistics.quantiles(values, n=4, method="inclusive")[::2] if len(values) > 1 else [values[0]] * 2
