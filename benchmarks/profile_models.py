"""Where the time of a whole step goes: kernel by kernel, with the bytes that only change a layout, and what is left.

    python benchmarks/profile_models.py [--only NAME] [--ways "training step"] [--threads 2] [--json FILE]

The steps are those of ``bench_models.py``. For each contender that does not compile: the wall time of a step (median,
without the profiler), and of the profiler's steps the time that each operator keeps for itself, and how
often it is called. Three groups stand apart: copies, which move numbers and compute none (``copy_``, ``clone``,
``cat``, padding); the optimiser; and Python, which is what no operator accounts for. What oneDNN reorders inside of its
operators, from one layout to another, is counted by its own log: how often, how many bytes are read, how long.
"""

import math
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench_models import EVAL, TRAINING, Task
from harness import Bench
from measure import peak_bytes, redirected, silence
from steps import begun, chosen, parser_of, save

COPIES = ("copy_", "clone", "contiguous", "cat", "constant_pad_nd", "pad", "fill_", "zero_", "index_put", "to_mkldnn")
"""Operators that compute nothing."""


def group(name: str) -> str:
    """What an operator is counted as: "copies", "optimiser", or its own name."""
    short = name.removeprefix("aten::")
    if short.rstrip("_") in {each.rstrip("_") for each in COPIES} or "reorder" in short:
        return "copies"
    return "optimiser" if short.startswith(("_foreach", "_fused_adam")) or "Optimizer" in short else name


def seconds(run: Callable[[], Any], rounds: int) -> float:
    """Median of calls on the wall's clock."""
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def reorders(run: Callable[[], Any]) -> dict[str, float]:
    """Changes of layout by oneDNN in one call: how many, the bytes that they read, and their milliseconds."""
    with tempfile.TemporaryFile("w+") as log:
        with redirected(1, log), torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            run()
        log.seek(0)
        return read_log(log.read())


def read_log(log: str) -> dict[str, float]:
    """Of lines as ``onednn_verbose,v1,primitive,exec,cpu,reorder,…,src:f32::… dst:…,…,2x16x8x8,0.007``."""
    found = {"calls": 0.0, "bytes": 0.0, "ms": 0.0}
    for fields in (line.split(",") for line in log.splitlines()):
        if fields[0] == "onednn_verbose" and "exec" in fields and "reorder" in fields:
            (kind,) = (re.match(r"src:([a-z]+)(\d+)", each) for each in fields if each.startswith("src:"))
            assert kind is not None
            found["calls"] += 1
            found["bytes"] += math.prod(map(int, fields[-2].split("x"))) * int(kind[2]) // 8
            found["ms"] += float(fields[-1])
    return found


def profiled(run: Callable[[], Any], rounds: int = 5) -> dict[str, Any]:
    """One contender's budget: milliseconds and calls of a step by group, the largest first, memory and reorders."""
    for _ in range(3):
        run()
    wall = seconds(run, 2 * rounds + 1)
    with silence(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        for _ in range(rounds):
            run()
        watched = (time.perf_counter() - started) / rounds
    rows: dict[str, dict[str, float]] = {}
    for event in profiler.key_averages():
        row = rows.setdefault(group(event.key), {"ms": 0.0, "calls": 0.0})
        row["ms"] += event.self_cpu_time_total / rounds / 1e3
        row["calls"] += event.count / rounds
    inside = sum(row["ms"] for row in rows.values())
    rows["Python"] = {"ms": max(0.0, 1e3 * watched - inside), "calls": 0.0}
    kept = sorted(rows.items(), key=lambda item: -item[1]["ms"])
    return {
        "ms": 1e3 * wall,
        "ms_watched": 1e3 * watched,
        "peak_bytes": peak_bytes(run, "cpu"),
        "reorders": reorders(run),
        "groups": {name: {key: round(value, 4) for key, value in row.items()} for name, row in kept},
    }


def table(found: dict[str, Any], most: int = 12) -> str:
    """The largest groups of one contender."""
    moved = found["reorders"]
    lines = [f"{found['ms']:.2f} ms a step, {found['ms_watched']:.2f} watched, {found['peak_bytes'] / 2**20:.1f} MiB"]
    lines.append(
        f"  {moved['ms']:9.3f} ms  {moved['calls']:.0f} reorders of {moved['bytes'] / 2**20:.1f} MiB by oneDNN"
    )
    for name, row in list(found["groups"].items())[:most]:
        share = 100 * row["ms"] / found["ms_watched"]
        lines.append(f"  {row['ms']:9.3f} ms  {share:5.1f} %  {row['calls']:7.1f} calls  {name}")
    return "\n".join(lines)


def budgets(task: Task, way: str, forms: list[str] | None) -> dict[str, Any]:
    """Every contender's that was asked for, of those that need no compiler."""
    bench = Bench(quick=True)
    makers = task._contenders(bench, torch.float32, way)
    return {name: profiled(make()) for name, make in makers.items() if forms is None or name in forms}


def main() -> None:
    """Profile, and print a table for each contender."""
    parser = parser_of(__doc__)
    parser.add_argument("--ways", nargs="+", choices=(TRAINING, EVAL), default=[TRAINING, EVAL])
    parser.add_argument("--forms", nargs="+", help="contenders (default: all that do not compile)")
    options = parser.parse_args()
    places, found = chosen(parser, options), begun(options)
    for _, task in places:
        for way in options.ways:
            of_all = budgets(task, way, options.forms)
            for name, budget in of_all.items():
                print(f"\n{task.name}, {task.shape[0]} at a time, {way}, {name}: {table(budget)}", flush=True)
            found["steps"].append({"name": task.name, "shape": list(task.shape), "way": way, "contenders": of_all})
    save(found, options)


if __name__ == "__main__":
    main()
