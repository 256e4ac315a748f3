"""Steps of ``bench_models.py``, each contender in processes of its own, which take turns.

    python benchmarks/apart.py [--only NAME] [--batch 16] [--dtype float32] [--threads 2] [--json FILE]

In one process contenders share what a step leaves behind: caches, pages of memory, and holes between tensors, in which
the next one finds a place or does not. Of steps of a millisecond that is some percent, for one contender and not for
the other, and the same at every start. Here each has several processes, of which one runs at a time, for so many steps
without a break. A contender's ratio in a process is the median over turns of its time by the median of fastgen's
processes in that turn; below 1 it is faster.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from bench_models import EVAL, TRAINING, WHOLE, tasks
from steps import DTYPES, begun, chosen, parser_of, save

#: Contender → whether it is plain torch, what torch.compile is told, if it takes part, and whether it sees the loss.
FORMS: dict[str, tuple[bool, dict[str, Any], bool]] = {
    "fastgen": (False, {}, False),
    "fastgen, torch.compile": (False, {"mode": "default"}, False),
    f"fastgen, torch.compile, {WHOLE}": (False, {"mode": "default"}, True),
    "eager": (True, {}, False),
    "torch.compile": (True, {"mode": "default"}, False),
    f"torch.compile, {WHOLE}": (True, {"mode": "default"}, True),
}
WAYS = (TRAINING, EVAL)


def ways_of(form: str) -> tuple[str, ...]:
    """An evaluation has no loss."""
    return (TRAINING,) if FORMS[form][2] else WAYS


def serve(connection: Connection, form: str, step: tuple[int, torch.dtype, int, bool]) -> None:
    """Answer (way, warm-up, steps) with seconds a step until None comes; of fastgen parity is checked first."""
    place, dtype, threads, quick = step
    torch.set_num_threads(threads)
    task, (plain, options, whole) = tasks("cpu", quick)[place], FORMS[form]
    if form == "fastgen":
        for way in WAYS:
            task._gate("cpu", dtype, way)
    runs = {way: task._step(plain, "cpu", way, dtype, options, whole=whole) for way in ways_of(form)}
    for run in runs.values():
        run()
    connection.send("ready")
    while (asked := connection.recv()) is not None:
        way, before, steps = asked
        for _ in range(before):
            runs[way]()
        begin = time.perf_counter()
        for _ in range(steps):
            runs[way]()
        connection.send((time.perf_counter() - begin) / steps)


def in_turn(ask: Sequence[Callable[[], float]], turns: int) -> list[list[float]]:
    """What each answers, turn by turn; every other turn goes the other way around."""
    found: list[list[float]] = [[] for _ in ask]
    for turn in range(turns):
        order = range(len(ask))
        for i in order if turn % 2 else reversed(order):
            found[i].append(ask[i]())
    return found


def compared(times: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, dict[str, Any]]:
    """Of contender → process → turn, seconds: microseconds and ratios, process by process, and the medians."""
    base = [statistics.median(turn) for turn in zip(*times["fastgen"], strict=True)]
    found = {}
    for form, processes in times.items():
        ratios = [statistics.median(t / b for t, b in zip(each, base, strict=True)) for each in processes]
        micro = [statistics.median(each) * 1e6 for each in processes]
        found[form] = {
            "microseconds": round(statistics.median(micro), 1),
            "ratio": round(statistics.median(ratios), 3),
            "ratios": sorted(round(ratio, 3) for ratio in ratios),
        }
    return found


def measured(
    forms: Sequence[str], processes: int, turns: int, step: tuple[int, torch.dtype, int, bool]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Way → contender → what ``compared`` says of it."""
    context, servers = multiprocessing.get_context("spawn"), []
    try:
        for form in [form for _ in range(processes) for form in forms]:  # one after the other: they compile
            ours, theirs = context.Pipe()
            server = context.Process(target=serve, args=(theirs, form, step), daemon=True)
            server.start()
            theirs.close()
            servers.append((form, ours, server))
            _received(ours, form)
        found = {}
        for way in WAYS:
            asked = [(form, ours) for form, ours, _ in servers if way in ways_of(form)]
            pace = max(1, round(0.05 / _asked(servers[0][1], forms[0], (way, 1, 1)))) if not step[3] else 1
            answers = in_turn([partial(_asked, ours, form, (way, 1 + pace // 5, pace)) for form, ours in asked], turns)
            times: dict[str, list[list[float]]] = {form: [] for form, _ in asked}
            for (form, _), each in zip(asked, answers, strict=True):
                times[form].append(each)
            found[way] = compared(times)
        return found
    finally:
        for _, _, server in servers:
            server.kill()


def _asked(connection: Connection, form: str, what: tuple[str, int, int]) -> float:
    connection.send(what)
    seconds: float = _received(connection, form)
    return seconds


def _received(connection: Connection, form: str) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise RuntimeError(f"{form}: expected an answer, but its process ended; what it said is above") from None


def main() -> None:
    """Measure, and print a line for each contender."""
    parser = parser_of(__doc__)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--processes", type=int, default=5, help="of each contender")
    parser.add_argument("--turns", type=int, default=24)
    options = parser.parse_args()
    for name in ("processes", "turns"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    forms = ["fastgen", *(form for form in options.forms if form != "fastgen")]
    report, places = begun(options), chosen(parser, options)
    for place, task in places:
        for dtype in options.dtype:
            step = (place, DTYPES[dtype], options.threads, options.quick)
            for way, of_all in measured(forms, options.processes, options.turns, step).items():
                for form, seen in of_all.items():
                    spread = f"{seen['ratios'][0]} to {seen['ratios'][-1]}"
                    shown = f"{seen['microseconds']} us, {seen['ratio']} ({spread})"
                    print(f"{task.name}, {task.shape[0]} at a time, {way}, {dtype}, {form}: {shown}", flush=True)
                found = {"name": task.name, "shape": list(task.shape), "way": way, "dtype": dtype}
                report["steps"].append({**found, "processes": options.processes, "turns": options.turns, **of_all})
    save(report, options)


if __name__ == "__main__":
    main()
