"""The suites of `fastgen bench`, and its options."""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import tables
from cases import Case
from fastgen._extras import require
from harness import Bench, Measurable, parts, run

HERE = Path(__file__).parent
#: Files of cases that are no kernels.
OTHERS = ("sampling", "models", "pixel_rnn")
SUITES = ("kernels", *OTHERS, "all")


def main(arguments: Sequence[str]) -> str:
    """Run what the arguments say, and return the table.

    Raises:
        ValueError: an argument does not fit, or a case failed.
        MissingExtraError: --plot without matplotlib.
    """
    options = _parser().parse_args(arguments)
    _check(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    dtypes = tuple(getattr(torch, name) for name in options.dtypes or ())
    bench = Bench(options.device, options.quick, options.tuned, dtypes)
    entries = parts(chosen(options.suite, options.device, options.quick, options.only), bench)
    report = run(options.suite, entries, bench, options.json, options.budget)
    if options.plot is not None:
        importlib.import_module("roofline").draw(report, options.plot)
    text = tables.terminal(report)
    if report["failed"]:
        print(text)
        raise ValueError("benchmarks that failed: " + "; ".join(each["case"] for each in report["failed"]))
    return text


def chosen(suite: str, device: str, quick: bool, only: str | None = None) -> list[list[Case | Measurable]]:
    """One table for each file of the suite, with the entries whose name, or file, contains ``only``.

    Raises:
        ValueError: there is none.
    """
    found, names = [], []
    for stem in stems(suite):
        cases = importlib.import_module(f"bench_{stem}").cases(device, quick)
        names += [stem, *(case.name for case in cases)]
        found.append([case for case in cases if only is None or only in stem or only in case.name])
    if not any(found):
        raise ValueError(f"only: expected a part of one of the names {'; '.join(names)}, got {only!r}")
    return found


def stems(suite: str) -> list[str]:
    """bench_<stem>.py of every file of a suite; kernels are whatever is none of the others."""
    kernels = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    kernels = [stem for stem in kernels if stem not in OTHERS]
    return kernels if suite == "kernels" else [suite] if suite in OTHERS else [*kernels, *OTHERS]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastgen bench",
        description="Measure fastgen side by side with what a user could use instead, on this machine. Parity is "
        "checked before each case, and cases that fastgen loses are listed like the others.",
    )
    parser.add_argument("--suite", choices=SUITES, default="kernels", help="what to measure (default: kernels)")
    parser.add_argument("--only", metavar="NAME", help="only cases whose name, or file's name, contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here, again after every case")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a roofline plot; needs matplotlib")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure (default: cpu)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (default: torch's choice)")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16", "float16"), help="default: float32 on "
                        "the CPU, all on CUDA")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="tiny inputs, to see that everything runs: no numbers")
    parser.add_argument("--tuned", action="store_true", help="also forms that torch.compile tunes for minutes")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin no case after so many seconds")
    return parser


def _check(options: Any) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected cpu, since torch finds no CUDA device here, got cuda")
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"threads: expected 1 or more, got {options.threads}")
    for option, path in (("json", options.json), ("plot", options.plot)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise ValueError(f"{option}: expected a file in a folder that exists, got {path}")
    if options.plot is not None:
        if options.suite == "sampling":
            raise ValueError("plot: expected a suite with floors, such as kernels, got sampling")
        require("matplotlib", extra="bench")
