"""All the memory that training steps take of the system: fastgen's and eager code's, each in a process of its own.

    pip install memray
    python benchmarks/memory.py [--batch 16] [--only NAME] [--dtype float32 bfloat16] [--threads 2] [--json FILE]

The steps are those of ``bench_models.py``. What torch counts, as ``peak_bytes`` of the suite does, leaves out what C++
takes for itself: oneDNN's working memory, which it keeps from step to step, and the buffers of matrix products. memray
stands before ``malloc`` and ``mmap``, and sees all of it. Counted is the most that was there at once of what was taken
in the first three steps; parameters and images, which both have, were there before.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from bench_models import TRAINING, tasks
from environment import environment
from fastgen._files import write_atomic

FORMS = ("fastgen", "eager")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STEPS = 3


def most_at_once(run: Callable[[], Any]) -> int:
    """Bytes that a call takes of the system at most, of those that it takes."""
    import memray  # installed by those who ask for this

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "allocations"
        with memray.Tracker(path):
            run()
        peak: int = memray.FileReader(path).metadata.peak_memory
    return peak


def measured(form: str, place: int, dtype: torch.dtype, threads: int, quick: bool) -> int:
    """Of the training step at this place of the suite, in a process where no step ran before; parity is asked after."""
    torch.set_num_threads(threads)
    task = tasks("cpu", quick)[place]
    step = task._step(form == "eager", "cpu", TRAINING, dtype, {})

    def steps() -> None:
        for _ in range(STEPS):
            step()

    found = most_at_once(steps)
    if form == "fastgen":
        task._gate("cpu", dtype, TRAINING)
    return found


def peaks(forms: Iterable[str], *step: Any) -> dict[str, int]:
    """Bytes by contender."""
    found = {}
    for form in forms:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[form] = pool.apply(measured, (form, *step))
    return found


def main() -> None:
    """Measure, and print a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument("--batch", type=int, help="tasks of so many images")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that everything runs: no numbers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = [
        (place, task)
        for place, task in enumerate(tasks("cpu", options.quick))
        if options.only in task.name and options.batch in (None, task.shape[0])
    ]
    if not chosen:
        parser.error(f"--only: expected a part of one of the names, got {options.only!r}")
    found: dict[str, Any] = {"environment": environment("cpu"), "quick": options.quick, "steps": []}
    for place, task in chosen:
        for dtype in options.dtype:
            of_all = peaks(FORMS, place, DTYPES[dtype], options.threads, options.quick)
            shown = ", ".join(f"{form} {most / 2**20:.2f} MiB" for form, most in of_all.items())
            print(f"{task.name}, {task.shape[0]} at a time, {dtype}: {shown}", flush=True)
            step = {"name": task.name, "shape": list(task.shape), "way": TRAINING, "dtype": dtype}
            found["steps"].append({**step, "peak_bytes": of_all})
    if options.json:
        write_atomic(options.json, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
