"""What the benchmarks compute from times, on clocks that pass only when a contender says so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import timing
from ceilings import Ceilings
from measure import against_the_best, against_the_floor
from timing import CpuTimer, CudaTimer, Effort, Pace, in_turn, quartiles, walls


class Clock:
    """Time that passes only when a contender says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns: list[str] = []

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float, name: str = "") -> Callable[[], None]:
        def call() -> None:
            self.now += seconds
            self.turns.append(name)

        return call


def test_contenders_take_turns() -> None:
    clock = Clock()
    runs = {"slow": clock.takes(0.5, "slow"), "fast": clock.takes(0.25, "fast")}
    times = in_turn(runs, CpuTimer(clock), Effort(rounds=3, seconds=0.5, longest=60), clock)
    assert times == {"slow": [0.5] * 3, "fast": [0.25] * 3}
    warm_up = ["slow", "slow", "fast", "fast"]
    assert clock.turns == warm_up + ["slow", "fast", "fast"] * 3  # a turn is calls until its time is up


def test_long_calls_get_fewer_rounds() -> None:
    clock = Clock()
    effort = Effort(rounds=20, seconds=0.1, longest=10, fewest=2)
    assert len(in_turn({"one": clock.takes(4)}, CpuTimer(clock), effort, clock)["one"]) == 3
    assert len(in_turn({"one": clock.takes(40)}, CpuTimer(clock), effort, clock)["one"]) == 2


def test_a_hopeless_contender_takes_one_turn() -> None:
    clock = Clock()
    runs = {"fast": clock.takes(0.5), "twenty times slower": clock.takes(10), "slower yet": clock.takes(10.5)}
    times = in_turn(runs, CpuTimer(clock), Effort(rounds=4, seconds=0.5, longest=60), clock)
    assert [len(of_one) for of_one in times.values()] == [4, 4, 1]


def test_ratio_is_to_the_fastest_that_is_not_ours() -> None:
    seconds = {"fastgen": 2.0, "fastgen, channels_last": 0.5, "eager": 3.0, "torch.compile": 1.0}
    assert against_the_best(seconds) == {"best_alternative": "torch.compile", "ratio": 0.5}
    assert against_the_best({"fastgen": 1.0}) == {"best_alternative": None, "ratio": None}
    assert quartiles([3.0, 1.0, 2.0, 5.0, 4.0]) == [2.0, 4.0]
    assert quartiles([7.0]) == [7.0, 7.0]


def test_floor_is_the_longer_of_traffic_and_arithmetic() -> None:
    found = against_the_floor(4e-3, copy=1e-3, products=2e-3, nbytes=8_000_000, flops=12 * 10**9)
    assert (found["bound"], found["share_of_ceiling"], found["floor_microseconds"]) == ("arithmetic", 0.5, 2000)
    assert (found["gb_per_s"], found["tflop_per_s"]) == (2, 3)
    found = against_the_floor(4e-3, copy=3e-3, products=2e-3, nbytes=8_000_000, flops=12 * 10**9)
    assert (found["bound"], found["share_of_ceiling"]) == ("memory", 0.75)


def test_ceilings_are_the_best_of_several_turns() -> None:
    class Scripted(CpuTimer):
        answers = iter([3.0, 2.0, 9.0, 8.0])

        def turn(self, *_: Any) -> float:
            return next(self.answers)

    ceilings = Ceilings(Scripted(), "cpu", quick=True)
    assert [ceilings.copy_seconds(4096) for _ in range(2)] == [2, 2]
    assert ceilings.rate("float32") == 2 * 256**3 / 8
    kinds = [ceilings.unit(kind, torch.bfloat16) for kind in ("conv", "matmul", "vector")]
    assert kinds == ["bfloat16", "bfloat16", "float32"]


class Device:
    """A GPU that does what it was given in order, and a host whose clock is the time it took to give it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.host, self.given = 0.0, 0.0, []
        device = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = device.now

            def elapsed_time(self, end: Any) -> float:
                return 1e3 * (end.at - self.at)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: setattr(device, "host", max(device.host, device.now)))
        monkeypatch.setattr(timing.time, "perf_counter", lambda: device.host)

    def does(self, name: str, seconds: float, queueing: float = 0.0) -> Callable[[], None]:
        def call() -> None:
            self.host += queueing
            self.now = max(self.now, self.host) + seconds
            self.given.append(name)

        return call


def test_cuda_calls_find_a_cold_cache_and_never_wait_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    timer = object.__new__(CudaTimer)
    timer.buffer = type("Buffer", (), {"zero_": staticmethod(device.does("flush", 1.0))})()
    timer.flush_seconds = 1.0
    call = device.does("call", 0.5, queueing=2.0)  # the host needs longer than the device
    pace = timer.prepare(call, seconds=20.0)
    assert pace == Pace(calls=3, flushes=1 + 3)  # half as long again as the host's two seconds, and one to begin with
    device.given.clear()
    assert timer.turn(call, pace, seconds=20.0) == 0.5
    assert device.given == (["flush"] * 4 + ["call"]) * 3
    assert timer.wall(call, Pace(4)) == pytest.approx(2 + 0.5 / 4), "back to back, the host is what takes the time"
    assert walls({"one": call}, timer, Effort(3, 1.0, 60), {"one": 0.5})["one"] == pytest.approx(2 + 0.5 / 3)
