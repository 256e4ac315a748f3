"""Kill a short run at every single thing it does with a file, resume it, and compare it with a run that was not killed.

    python tests/kill_everywhere.py                     every point: minutes
    python tests/kill_everywhere.py --every 20          each twentieth one

A point is a file that is opened, a half and a whole write, a sync, a renaming, a removal, a new folder or a lock. The
process kills itself by SIGKILL before it, so nothing is cleaned up; and a second time while it resumes. Then the run is
resumed to its end: both checkpoints, the metrics and the pictures are those of the unbroken run, and nothing else is
left. Needs a POSIX system; processes are forked from one that has imported torch and computed nothing.
"""

import argparse
import builtins
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import PIL.PngImagePlugin  # noqa: F401 - imported before the forks, as safetensors is
import safetensors.torch  # noqa: F401
import torch

from fastgen import _files
from fastgen.cli import main as fastgen
from fastgen.training import Run
from fastgen.training import checkpoint as checkpoints
from fastgen.training import run as runs

MODEL = [
    "train", "vae", "--data", "digits", "--latent", "2", "--hidden", "8", "--limit", "150", "--epochs", "3",
    "--samples", "4", "--save-every", "2",
]  # fmt: skip
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "fcntl.flock")


class Points:
    """Counts what a process does with files in ``folder``, and kills it before the ``last``-th of these."""

    def __init__(self, folder: Path, last: int) -> None:
        self.folder, self.last, self.count = str(folder), last, 0
        sync = os.fsync

        def fsync(handle: int) -> None:
            self.pass_one()
            sync(handle)

        os.fsync = fsync
        for module in (_files, runs):
            module.open = self.open
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple) -> None:
        if event in EVENTS and (event == "fcntl.flock" or str(arguments[0]).startswith(self.folder)):
            if event == "open" and not isinstance(arguments[1], str) and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
                return  # of a folder, to sync it: the sync counts
            if event == "open" and isinstance(arguments[1], str) and arguments[1].startswith("r"):
                return
            self.pass_one()

    def pass_one(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def open(self, *arguments: Any, **options: Any) -> Any:
        """The built-in, but that a write can be killed in the middle, too."""
        file = builtins.open(*arguments, **options)  # noqa: SIM115 - closed by its twin below
        write = file.write

        class Halved:
            """A file that writes its first half down before a point."""

            def __enter__(self) -> "Halved":
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def write(_, data: Any) -> None:  # noqa: N805 - ``self`` is the points
                write(data[: len(data) // 2])
                file.flush()
                self.pass_one()
                write(data[len(data) // 2 :])

        return Halved()


def in_a_fork(action: Callable[[], int]) -> tuple[int, str]:
    """(exit code, or minus the signal that ended it; what it printed) of ``action`` in a process of its own."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                for handle in (1, 2):
                    os.dup2(said.fileno(), handle)
                code = action()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return status, said.read().decode(errors="replace")


def train(run: Path, last: int = 0) -> int:
    """Begin the run, or resume it where it has begun; killed before the ``last``-th thing that it does with a file.

    A process that is not killed writes down how many there were.
    """
    random.seed(0)  # nothing draws from these two, but checkpoints keep them
    np.random.seed(0)
    points = Points(run, last)
    resume = ["--resume"] if (run / "config.json").exists() else []
    code = fastgen([*MODEL, "--run", str(run), *resume])
    run.with_name(f"{run.name}.points").write_text(str(points.count))
    return code


def contents(run: Path) -> dict[str, Any]:
    """Everything in a run's folder, by name, without what the clock and the folder's name are in."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        if path.suffix == ".png":
            found[name] = path.read_bytes() if "epoch" in name else b"curves"
        elif path.suffix == ".safetensors":
            loaded = checkpoints._read(path, with_state=True)
            loaded.state["position"]["seconds"] = 0.0
            found[name] = (loaded.weights, loaded.state)
        elif path.suffix == ".pt":
            found.setdefault("states", []).append(name)
        elif name == "metrics.jsonl":
            found[name] = [
                {key: value for key, value in json.loads(line).items() if "second" not in key}
                for line in path.read_text().splitlines()
            ]
        else:
            found[name] = None
    found["states"] = len(found["states"])
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two nests of numbers are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def differences(unbroken: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What a resumed run has lost, has too much, or has otherwise."""
    said = [f"{name} is missing" for name in unbroken.keys() - found.keys()]
    said += [f"{name} is left over" for name in found.keys() - unbroken.keys()]
    both = unbroken.keys() & found.keys()
    return said + [f"{name} differs" for name in both if not same(unbroken[name], found[name])]


def failures(unbroken: dict[str, Any], run: Path, last: int) -> list[str]:
    """Kill a run before its ``last``-th point, kill it while it resumes, resume it, and compare."""
    for point in (last, random.Random(last).randint(1, 12)):
        code, said = in_a_fork(lambda point=point: train(run, point))
        if code not in (-signal.SIGKILL, 0):
            return [f"ended with {code}: {said}"]
    code, said = in_a_fork(lambda: train(run))
    if code:
        return [f"cannot be resumed: {said}"]
    found = differences(unbroken, contents(run))
    best = Run(run)
    weights = checkpoints.load(best.checkpoints, "best").weights
    return found if same(weights, unbroken["checkpoints/best.safetensors"][0]) else [*found, "best differs"]


def main() -> int:
    """Say how many points there are, and at which a kill was not made good."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="kill at each k-th point only")
    parser.add_argument("--first", type=int, default=1, help="point to begin with")
    options = parser.parse_args()
    bad = 0
    torch.set_num_threads(1)
    with redirect_stdout(io.StringIO()):
        assert fastgen([*MODEL, "--dry-run"]) == 0  # imports what the forked processes then have
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "unbroken"
        code, said = in_a_fork(lambda: train(whole))
        assert code == 0, said
        unbroken, count = contents(whole), int(whole.with_name("unbroken.points").read_text())
        points = range(options.first, count + 1, options.every)
        for last in points:
            run = Path(folder) / "run"
            found = failures(unbroken, run, last)
            bad += bool(found)
            for line in found:
                sys.stdout.write(f"killed before point {last}: {line}\n")
            shutil.rmtree(run, ignore_errors=True)
    sys.stdout.write(f"{len(points)} of {count} points, {bad} failures\n")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
