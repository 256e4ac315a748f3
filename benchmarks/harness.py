"""Runs suites of cases, and keeps what was measured as JSON, written anew after every case.

    {"benchmark": "kernels", "quick": false, "environment": {...}, "ceilings": {...},
     "cases": [...], "failed": [{"case", "error"}], "left_out": ["case", ...]}

A case is measured only after its parity check passed in the same process; one that fails is listed under "failed".
"left_out" names what was not begun because the time given was up.
"""

import argparse
import itertools
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch

from cases import Case, Contest
from environment import environment
from fastgen._files import write_atomic
from measure import Bench, brief

__all__ = ["Bench", "Contests", "Measurable", "alone", "finish", "parts", "run"]


class Measurable(Protocol):
    """What a suite is made of."""

    name: str

    def results(self, bench: Bench) -> Iterator[dict[str, Any]]:
        """Measure, and yield the "cases" of the JSON one by one."""


@dataclass(frozen=True)
class Contests:
    """A case in one dtype, or another maker of contests, as a part of a suite."""

    name: str
    make: Callable[[Bench], Iterable[Contest]]

    def results(self, bench: Bench) -> Iterator[dict[str, Any]]:
        for contest in self.make(bench):
            yield bench.measure(contest)


def parts(tables: Iterable[Iterable[Case | Measurable]], bench: Bench) -> list[Measurable]:
    """The entries of several tables in turn, so that whatever stops a run stops it after the first of each table.

    Cases come once for each dtype, the device's first one before the others.
    """
    rows = [entry for row in itertools.zip_longest(*tables) for entry in row if entry is not None]
    found: list[Measurable] = []
    for dtype in bench.dtypes:
        found += [_of_case(entry, dtype) for entry in rows if isinstance(entry, Case)]
        if dtype == bench.dtypes[0]:
            found += [entry for entry in rows if not isinstance(entry, Case)]
    return found


def _of_case(case: Case, dtype: torch.dtype) -> Contests:
    name = f"{case.name}, {'x'.join(map(str, case.shape))}, {str(dtype).removeprefix('torch.')}"
    return Contests(name, lambda bench: case.contests(bench.device, dtype, bench.tuned))


def run(
    benchmark: str, entries: Iterable[Measurable], bench: Bench, output: Path | None, budget: float | None = None
) -> dict[str, Any]:
    """Measure every entry, report progress on stderr, and write ``output`` after each.

    Args:
        benchmark: name of the suite.
        entries: what is measured, most important first.
        bench: how.
        output: JSON file, or None.
        budget: seconds after which no further entry begins.
    """
    begin = time.perf_counter()
    report: dict[str, Any] = {
        "benchmark": benchmark,
        "quick": bench.quick,
        "environment": environment(bench.device),
        "ceilings": bench.ceilings.report(),
        "cases": [],
        "failed": [],
        "left_out": [],
    }
    save(report, output)
    for entry in entries:
        if budget is not None and time.perf_counter() - begin > budget:
            report["left_out"].append(entry.name)
            continue
        try:
            for result in entry.results(bench):
                report["cases"].append(result)
                print(line(result), file=sys.stderr, flush=True)
        except Exception as error:
            report["failed"].append({"case": entry.name, "error": brief(error)})
            traceback.print_exc()
        report["ceilings"] = bench.ceilings.report()
        save(report, output)
        if bench.device == "cuda":
            torch.cuda.empty_cache()
    save(report, output)
    return report


def save(report: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        write_atomic(output, (json.dumps(report, indent=1) + "\n").encode())


def line(result: dict[str, Any]) -> str:
    """Progress: a case, and what its contenders took."""
    if "microseconds" not in result:
        return f"{result['case']} {tuple(result['shape'])}: {result['ratio']}x one forward for every pixel"
    times = "; ".join(f"{name} {value:g} us" for name, value in result["microseconds"].items())
    refused = "".join(f"; without {name} ({why})" for name, why in result["refused"].items())
    return f"{result['case']} {tuple(result['shape'])} {result['dtype']}: {times}{refused}"


def alone(description: str | None, benchmark: str, cases: Callable[..., Sequence[Case | Measurable]]) -> None:
    """``main`` of a file of cases: ``--device``, ``--threads``, ``--quick``, ``--tuned`` and ``--output``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="tiny and meaningless, to see that everything runs")
    parser.add_argument("--tuned", action="store_true", help="also the forms that torch.compile tunes for minutes")
    parser.add_argument("--output", type=Path, help="write the JSON here, not to the terminal")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options.device, options.quick, options.tuned)
    table = cases(options.device, options.quick)
    finish(run(benchmark, parts([table], bench), bench, options.output), options.output)


def finish(report: dict[str, Any], output: Path | None) -> NoReturn:
    """End a script: the JSON on the terminal if it went to no file, and exit code 1 if a case failed."""
    if output is None:
        print(json.dumps(report, indent=1))
    sys.exit(1 if report["failed"] else 0)
