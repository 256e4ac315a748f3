"""Measures one contest: parity, contenders in turn, and the floor."""

import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from cases import DTYPES, Contest
from ceilings import Ceilings
from fastgen.commands import info
from timing import CpuTimer, CudaTimer, Effort, Timer, in_turn, quartiles, walls

FULL = {"cpu": Effort(21, 0.1, 60), "cuda": Effort(15, 0.01, 10)}
QUICK = Effort(2, 0.001, 1, fewest=1)


@dataclass
class Bench:
    """How everything is measured on one device: its timer, its ceilings, its effort."""

    device: str = "cpu"
    quick: bool = False
    tuned: bool = False
    dtypes: Sequence[torch.dtype] = ()
    timer: Timer = field(init=False)
    ceilings: Ceilings = field(init=False)

    def __post_init__(self) -> None:
        self.timer = CudaTimer() if self.device == "cuda" else CpuTimer()
        self.ceilings = Ceilings(self.timer, self.device, self.quick)
        self.effort = QUICK if self.quick else FULL[self.device]
        self.dtypes = self.dtypes or DTYPES[self.device]

    def measure(self, contest: Contest) -> dict[str, Any]:
        """Check parity, time the contenders in turn, and set them against the floor.

        Raises:
            AssertionError: fastgen's result is not within parity.
        RuntimeError: an op's kernel for this device was not built.
        """
        torch.compiler.reset()
        with _OpsSeen() as seen:
            contest.gate()
        kernels = {op: info.kernels()[op].get(self.device.upper(), "reference") for op in sorted(seen.names)}
        for op, kernel in kernels.items():
            if kernel.startswith("reference: "):
                raise RuntimeError(f"{op}: expected a kernel for {self.device}, which this build lacks; {kernel}")
        calls, refused = self._admit(contest)
        times = in_turn(calls, self.timer, self.effort)
        medians = {name: statistics.median(values) for name, values in times.items()}
        result = {
            "case": contest.label,
            "name": contest.name,
            "way": contest.way,
            "kernels": kernels,
            "shape": list(contest.shape),
            "dtype": str(contest.dtype).removeprefix("torch."),
            "headline": contest.headline,
            "microseconds": {name: _micro(value) for name, value in medians.items()},
            "quartiles": {name: [_micro(q) for q in quartiles(values)] for name, values in times.items()},
            "rounds": len(times["fastgen"]),
            "refused": refused,
            "peak_bytes": {name: peak_bytes(run, self.device) for name, run in calls.items()},
            **against_the_best(medians),
        }
        if isinstance(self.timer, CudaTimer):
            wall = walls(calls, self.timer, self.effort, medians)
            result["wall_microseconds"] = {name: _micro(value) for name, value in wall.items()}
            result["wall_ratio"] = against_the_best(wall)["ratio"]
        if contest.nbytes:
            unit = self.ceilings.unit(contest.kind, contest.dtype)
            floors = self.ceilings.copy_seconds(contest.nbytes), contest.flops / self.ceilings.rate(unit)
            result |= against_the_floor(medians["fastgen"], *floors, contest.nbytes, contest.flops) | {"unit": unit}
        return result

    def _admit(self, contest: Contest) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
        """Contenders that run and compute the same function, and why the others do not take part."""
        calls, refused = {}, {}
        for name, make in contest.contenders.items():
            try:
                run = make()
                results = run()
                if contest.check is not None:
                    contest.check(results)
                calls[name] = run
            except Exception as error:
                if name == "fastgen":
                    raise
                refused[name] = brief(error)
        return calls, refused


def against_the_best(seconds: dict[str, float]) -> dict[str, Any]:
    """The fastest contender that is not ours, and how many times longer than "fastgen" it takes."""
    others = {name: value for name, value in seconds.items() if not name.startswith("fastgen")}
    if not others:
        return {"best_alternative": None, "ratio": None}
    best = min(others, key=lambda name: others[name])
    return {"best_alternative": best, "ratio": round(others[best] / seconds["fastgen"], 3)}


def against_the_floor(seconds: float, copy: float, products: float, nbytes: int, flops: int) -> dict[str, Any]:
    """Which floor holds, the share of it that was reached, and the rates.

    Args:
        seconds: measured.
        copy: seconds for a copy of the least traffic.
        products: seconds for the operations at the rate of large products.
        nbytes: least traffic.
        flops: operations.
    """
    floor = max(copy, products)
    return {
        "bytes": nbytes,
        "flops": flops,
        "floor_microseconds": _micro(floor),
        "bound": "memory" if copy >= products else "arithmetic",
        "share_of_ceiling": round(floor / seconds, 3),
        "gb_per_s": round(1e-9 * nbytes / seconds, 2),
        "tflop_per_s": round(1e-12 * flops / seconds, 4),
    }


def brief(error: BaseException) -> str:
    """One line for an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """Bytes of torch's memory that a call takes at most beyond its inputs, without what C++ takes for itself."""
    if device != "cuda":
        return _peak_of_cpu(run)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_of_cpu(run: Callable[[], Any]) -> int:
    with silence(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = run()
    del kept
    events = profiler.profiler.kineto_results.experimental_event_tree()  # type: ignore[union-attr]
    return peak_of(sorted(_allocations(events)))


def _allocations(events: Iterable[Any]) -> Iterator[tuple[int, int, int, int]]:
    """Time, number, address and bytes, negative where they are freed."""
    waiting, number = list(events), 0
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == _EventType.Allocation:
            number += 1
            yield event.start_time_ns, number, event.extra_fields.ptr, event.extra_fields.alloc_size


def peak_of(allocations: Iterable[tuple[int, int, int, int]]) -> int:
    """Most bytes at once of what is allocated here.

    What was there before may be freed here: torch's profiler tells that by the size of whatever an earlier profile has
    seen at this address, or not at all, and so it does not count.
    """
    there: dict[int, int] = {}
    now = most = 0
    for _, _, address, size in allocations:
        if size > 0:
            there[address] = size
            now += size
        else:
            now -= there.pop(address, 0)
        most = max(most, now)
    return most


@contextmanager
def redirected(descriptor: int, to: IO[str]) -> Iterator[None]:
    """What C++ writes to stdout (1) or stderr (2) goes elsewhere."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = os.dup(descriptor)
    try:
        os.dup2(to.fileno(), descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


@contextmanager
def silence() -> Iterator[None]:
    """Without what torch's profiler says on stderr when it begins."""
    with open(os.devnull, "w") as nowhere, redirected(2, nowhere):
        yield


class _OpsSeen(TorchDispatchMode):
    """Notes which of fastgen's ops run, so that a result says which kernels it is evidence for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "fastgen":
            self.names.add(func._opname)
        return func(*args, **(kwargs or {}))


def _micro(seconds: float) -> float:
    return round(1e6 * seconds, 2)
