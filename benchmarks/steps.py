"""What the command lines that look at steps of ``bench_models.py`` share: which of them, and where the numbers go."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from bench_models import Task, tasks
from environment import environment
from fastgen._files import write_atomic

#: By their names on command lines.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """With the options that all have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument("--batch", type=int, help="tasks of so many images")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that everything runs: no numbers")
    parser.add_argument("--json", type=Path)
    return parser


def chosen(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[tuple[int, Task]]:
    """Places in the suite, and what is there; from here on torch has ``--threads``."""
    torch.set_num_threads(options.threads)
    found = [
        (place, task)
        for place, task in enumerate(tasks("cpu", options.quick))
        if options.only in task.name and options.batch in (None, task.shape[0])
    ]
    if not found:
        parser.error(f"--only: expected a part of one of the names, got {options.only!r}")
    return found


def begun(options: argparse.Namespace) -> dict[str, Any]:
    """What a report begins with."""
    return {"environment": environment("cpu"), "quick": options.quick, "steps": []}


def save(report: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        write_atomic(options.json, (json.dumps(report, indent=1) + "\n").encode())
