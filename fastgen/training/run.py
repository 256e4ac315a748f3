"""The folder of a training run.

config.json                  everything that defines the run
metrics.jsonl                one line per epoch
samples/epoch-0001.png
checkpoints/                 see fastgen.training.checkpoint
"""

import json
import os
from pathlib import Path
from typing import Any

from .._files import remove_temporaries, write_atomic


class Run:
    """A run's folder; nothing is read or written until asked for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self.samples = self.folder / "samples"

    @classmethod
    def create(cls, folder: str | Path, config: dict[str, Any]) -> "Run":
        """Start a run in a new or empty folder.

        Raises:
            FileExistsError: the folder holds something.
        """
        run = cls(folder)
        if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
            raise FileExistsError(
                f"{run.folder}: expected a new or empty folder; use --resume to continue the run in it"
            )
        run.samples.mkdir(parents=True)
        write_atomic(run.folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        return run

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
            return json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: corrupted: {error}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """Read the lines of metrics.jsonl, but for a last one that a killed process left unfinished."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def add_metrics(self, record: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl, down to the disk."""
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind(self, epoch: int) -> None:
        """Forget what came after ``epoch``, which will be run again: no epoch is ever listed twice."""
        lines = [json.dumps(record) + "\n" for record in self.metrics() if record["epoch"] <= epoch]
        write_atomic(self.folder / "metrics.jsonl", "".join(lines).encode())
        remove_temporaries(self.folder)
