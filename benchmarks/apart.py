"""Steps of ``bench_models.py``, each contender in processes of its own, which take turns.

    python benchmarks/apart.py [--only NAME] [--batch 16] [--dtype float32] [--threads 2] [--keep] [--json FILE]

In one process contenders share what a step leaves behind: caches, pages of memory, and holes between tensors, in which
the next one finds a place or does not. Of steps of a millisecond that is some percent, for one contender and not for
the other, and the same at every start. Here each has several processes, of which one runs at a time, for so many steps
without a break. A contender's ratio in a process is the median over turns of its time by the median of fastgen's
processes in that turn; below 1 it is faster. Beside it stands how many pages of memory a step waits for: what glibc
gives back to the system and fetches again is a process's luck. With ``--keep`` it keeps them, as fastgen's commands do.
"""

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from bench_models import EVAL, TRAINING, WHOLE, tasks
from fastgen import keep_freed_memory
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

#: Of a step: seconds, and pages of memory that it waited for.
Answer = tuple[float, float]


def ways_of(form: str) -> tuple[str, ...]:
    """An evaluation has no loss."""
    return (TRAINING,) if FORMS[form][2] else WAYS


class Step(NamedTuple):
    """Which task of the suite, how it is run, and whether glibc keeps what is freed."""

    place: int
    dtype: torch.dtype
    threads: int
    quick: bool
    keep: bool = False


def serve(connection: Connection, form: str, step: Step) -> None:
    """Answer (way, warm-up, steps) until None comes; of fastgen parity is checked first."""
    place, dtype, threads, quick, keep = step
    if keep and not keep_freed_memory():
        raise RuntimeError("--keep: expected glibc's own allocator, of which nothing was chosen by the environment")
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
        faults, begin = _faults(), time.perf_counter()
        for _ in range(steps):
            runs[way]()
        seconds = time.perf_counter() - begin
        connection.send((seconds / steps, (_faults() - faults) / steps))


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def in_turn(ask: Sequence[Callable[[], Answer]], turns: int) -> list[list[Answer]]:
    """What each answers, turn by turn; every other turn goes the other way around."""
    found: list[list[Answer]] = [[] for _ in ask]
    for turn in range(turns):
        order = range(len(ask))
        for i in order if turn % 2 else reversed(order):
            found[i].append(ask[i]())
    return found


def compared(answers: Mapping[str, Sequence[Sequence[Answer]]]) -> dict[str, dict[str, Any]]:
    """Of contender → process → turn, answers: microseconds, ratios and faults of processes, and their medians."""
    times = {form: [[seconds for seconds, _ in each] for each in processes] for form, processes in answers.items()}
    base = [statistics.median(turn) for turn in zip(*times["fastgen"], strict=True)]
    found = {}
    for form, processes in times.items():
        ratios = [statistics.median(t / b for t, b in zip(each, base, strict=True)) for each in processes]
        micro = [statistics.median(each) * 1e6 for each in processes]
        found[form] = {
            "microseconds": round(statistics.median(micro), 1),
            "ratio": round(statistics.median(ratios), 3),
            "ratios": sorted(round(ratio, 3) for ratio in ratios),
            "faults": sorted(round(statistics.median(n for _, n in each)) for each in answers[form]),
        }
    return found


def measured(forms: Sequence[str], processes: int, turns: int, step: Step) -> dict[str, dict[str, dict[str, Any]]]:
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
            pace = max(1, round(0.05 / _asked(servers[0][1], forms[0], (way, 1, 1))[0])) if not step.quick else 1
            found_in = in_turn([partial(_asked, ours, form, (way, 1 + pace // 5, pace)) for form, ours in asked], turns)
            answers: dict[str, list[list[Answer]]] = {form: [] for form, _ in asked}
            for (form, _), each in zip(asked, found_in, strict=True):
                answers[form].append(each)
            found[way] = compared(answers)
        return found
    finally:
        for _, _, server in servers:
            server.kill()


def _asked(connection: Connection, form: str, what: tuple[str, int, int]) -> Answer:
    connection.send(what)
    answer: Answer = _received(connection, form)
    return answer


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
    parser.add_argument("--keep", action="store_true", help="glibc keeps what is freed, as in fastgen's commands")
    options = parser.parse_args()
    for name in ("processes", "turns"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    forms = ["fastgen", *(form for form in options.forms if form != "fastgen")]
    report, places = begun(options), chosen(parser, options)
    for place, task in places:
        for dtype in options.dtype:
            step = Step(place, DTYPES[dtype], options.threads, options.quick, options.keep)
            for way, of_all in measured(forms, options.processes, options.turns, step).items():
                for form, seen in of_all.items():
                    spread = f"{seen['ratios'][0]} to {seen['ratios'][-1]}"
                    shown = f"{seen['microseconds']} us, {seen['ratio']} ({spread}), faults {seen['faults']}"
                    print(f"{task.name}, {task.shape[0]} at a time, {way}, {dtype}, {form}: {shown}", flush=True)
                found = {"name": task.name, "shape": list(task.shape), "way": way, "dtype": dtype}
                report["steps"].append(
                    {**found, "processes": options.processes, "turns": options.turns, "kept": options.keep, **of_all}
                )
    save(report, options)


if __name__ == "__main__":
    main()
