"""All the memory that training steps take of the system: fastgen's and eager code's, each in a process of its own.

    pip install memray
    python benchmarks/memory.py [--batch 16] [--only NAME] [--dtype float32 bfloat16] [--threads 2] [--json FILE]

The steps are those of ``bench_models.py``. What torch counts, as ``peak_bytes`` of the suite does, leaves out what C++
takes for itself: oneDNN's working memory, which it keeps from step to step, and the buffers of matrix products. memray
stands before ``malloc`` and ``mmap``, and sees all of it. Counted is the most that was there at once of what was taken
in the first three steps; parameters and images, which both have, were there before.
"""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from bench_models import TRAINING, tasks
from steps import DTYPES, begun, chosen, parser_of, save

FORMS = ("fastgen", "eager")
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
    parser = parser_of(__doc__)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    options = parser.parse_args()
    places, found = chosen(parser, options), begun(options)
    for place, task in places:
        for dtype in options.dtype:
            of_all = peaks(FORMS, place, DTYPES[dtype], options.threads, options.quick)
            shown = ", ".join(f"{form} {most / 2**20:.2f} MiB" for form, most in of_all.items())
            print(f"{task.name}, {task.shape[0]} at a time, {dtype}: {shown}", flush=True)
            step = {"name": task.name, "shape": list(task.shape), "way": TRAINING, "dtype": dtype}
            found["steps"].append({**step, "peak_bytes": of_all})
    save(found, options)


if __name__ == "__main__":
    main()
