"""The folder of a training run.

    config.json               what defines the run: model, data, recipe
    metrics.jsonl             one line per epoch
    held_out.png              some of the images that training was watched on
    samples/epoch-0001.png    one picture per epoch
    checkpoints/              see fastgen.training.checkpoint
    .lock                     while a process writes in it, see fastgen.training.lock

A folder is a run if it holds a config.json.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import models
from .._checks import check_option
from .._files import errors_name, remove_temporaries, write_atomic
from . import distributed
from .checkpoint import load
from .lock import NAME, Lock

Record = dict[str, Any]
"""A line of metrics.jsonl."""

CHECKPOINTS = ("best", "last")
"""Names of checkpoints; the last is deleted last, so that it can be resumed until then."""
EXPLORED = (
    *("reconstructions", "samples", "manifold", "traversals", "interpolations", "arithmetic", "nearest", "scatter"),
    "grid",
)
"""Pictures of ``fastgen explore``."""
WRITTEN = (
    *(f"checkpoints/{name}.safetensors" for name in CHECKPOINTS),
    *("checkpoints/state-*.pt", "metrics.jsonl", "samples/epoch-*.png", "curves.png", "held_out.png", "report.html"),
    "samples.gif",
    *(f"explore/{kind}.png" for kind in EXPLORED),
    "tensorboard/events.out.tfevents.*",
)
"""What commands write in a run's folder beside config.json, and nobody else's files."""

CONFIG: dict[str, dict[str, type]] = {
    "model": {"name": str, "config": dict},
    "data": {"shape": list, "levels": int},
    "options": {"data": str, "held_out": str},
}
"""What every config.json holds, at least."""


class Run:
    """A run's folder; it need not exist yet."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self.samples = self.folder / "samples"
        self._held = False  # by this process, or for it by the first of several
        self._lock: Lock | None = None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let no other process write in the folder meanwhile; of several processes, the first holds it for all.

        Raises:
            BlockingIOError: another process holds it; the message says which.
            ElsewhereError: the first of several processes could not get it.
        """
        if self._held:  # further up
            yield
            return
        distributed.first_only(self._take)
        self._held = True
        try:
            yield
        finally:
            self._held = False
            lock, self._lock = self._lock, None
            if lock is not None:
                lock.release()

    def _take(self) -> None:
        self._lock = Lock(self.folder)

    def check_there(self) -> None:
        """Raise FileNotFoundError if the folder is no longer the one that was locked."""
        if self._lock is not None:
            self._lock.check()

    def picture(self, epoch: int) -> Path:
        """Where the picture of an epoch is."""
        return self.samples / f"epoch-{epoch:04}.png"

    @property
    def has_checkpoint(self) -> bool:
        """Whether anything was saved: not before the end of the first epoch, or its first ``save_every`` steps."""
        return any((self.checkpoints / f"{name}.safetensors").exists() for name in CHECKPOINTS)

    def check_new(self, overwrite: bool = False) -> None:
        """Raise FileExistsError if the folder holds something, but for what a kill left of a run that had not begun.

        ``overwrite``: or but for a run.
        """
        if not self.folder.exists():
            return
        if self.folder.is_dir() and all(map(_is_left_over, self.folder.iterdir())):
            return
        ways = "; --resume continues the run in it, --overwrite replaces it"
        try:
            self.config()  # others have files of this name, too
        except FileNotFoundError:
            ways = ""
        except ValueError:
            ways = "; its config.json is no run's"
        else:
            if overwrite:
                return
        raise FileExistsError(f"{self.folder}: expected a new or empty folder{ways}")

    def create(self, config: dict[str, Any], overwrite: bool = False) -> "Run":
        """Start a run in a new or empty folder, or in place of the run in it.

        Raises:
            FileExistsError: the folder holds something else.
        """
        self.check_new(overwrite)
        for pattern in WRITTEN if overwrite else ():
            for path in self.folder.glob(pattern):
                path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.folder)
        self.write_config(config)
        return self

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json."""
        write_atomic(self.folder / "config.json", (json.dumps(config, indent=2, allow_nan=False) + "\n").encode())

    def config(self) -> dict[str, Any]:
        """Read config.json.

        Raises:
            FileNotFoundError: the folder holds no run.
            ValueError: the file is not what was written.
        """
        path = self.folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder}: expected the folder of a run, with a config.json; there is none")
        try:
            config = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: corrupted: {error}") from error
        for part, kinds in CONFIG.items():
            found = config.get(part) if isinstance(config, dict) else None
            for key, kind in kinds.items():
                if not isinstance(found, dict) or not isinstance(found.get(key), kind):
                    raise ValueError(f"{path}: corrupted: expected {part} with {key}, of type {kind.__name__}")
        return config

    def metrics(self) -> list[Record]:
        """Read the lines of metrics.jsonl, but for a last one that a killed process left unfinished.

        Raises:
            ValueError: a line is not what was written; the message names it.
        """
        path = self.folder / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [_record(line, f"{path}, line {i}") for i, line in enumerate(lines, start=1) if line.endswith(b"\n")]

    def add_metrics(self, record: Record) -> None:
        """Append a line to metrics.jsonl, down to the disk."""
        self.check_there()
        path = self.folder / "metrics.jsonl"
        with errors_name(path), open(path, "a") as file:
            file.write(as_json(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind(self, epoch: int) -> None:
        """Forget what came after ``epoch``, which will be run again: no epoch is ever listed twice.

        What a killed process left half written goes too.
        """
        self.check_there()
        lines = [as_json(record) + "\n" for record in self.metrics() if record["epoch"] <= epoch]
        write_atomic(self.folder / "metrics.jsonl", "".join(lines).encode())
        for folder in (self.folder, self.samples, self.checkpoints):
            remove_temporaries(folder)
        for later in self.samples.glob("epoch-*.png"):
            if later.stem.removeprefix("epoch-").isdecimal() and int(later.stem.removeprefix("epoch-")) > epoch:
                later.unlink()


def as_json(record: Record) -> str:
    """One line of JSON; a number that is not one (the standard error over one image) is null."""
    known = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}
    return json.dumps(known, allow_nan=False)


def _is_left_over(path: Path) -> bool:
    return path.name == NAME or (path.name.startswith(".config.json.") and path.suffix == ".tmp")


def _record(line: bytes, where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: corrupted: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
        raise ValueError(f"{where}: corrupted: expected the metrics of an epoch, got {line.decode().strip()}")
    return record


def load_model(folder: str | Path, checkpoint: str = "best", device: torch.device | str = "cpu") -> Any:
    """The trained model of a run, ready: with averaged weights where it has these, in eval mode.

    ``fastgen.load("runs/digits").sample(4, seed=0)`` draws from it.

    Args:
        folder: of the run.
        checkpoint: "best" or "last".
        device: where to put it.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: its config.json is not what was written, or describes a model that there is not.
        CheckpointError: the checkpoint cannot be read, or is another model's.
    """
    check_option("checkpoint", checkpoint, CHECKPOINTS)
    model = build_model(Run(folder))
    load_weights(folder, model, checkpoint)
    return model.to(device).eval()


def build_model(run: Run) -> Any:
    """The model of a run, with random weights.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: its config.json is not what was written, or describes a model that there is not.
    """
    about = run.config()["model"]
    try:
        return models.build(about["name"], **about["config"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{run.folder / 'config.json'}: {error}") from error


def load_weights(folder: str | Path, model: Any, checkpoint: str = "best") -> None:
    """Give ``model`` the weights of a run's checkpoint, averaged where it has these.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is another model's: the message names a weight that differs.
    """
    run = Run(folder)
    run.config()
    loaded = load(run.checkpoints, checkpoint)
    loaded.restore(model, "ema" if "ema" in loaded.weights else "model")
