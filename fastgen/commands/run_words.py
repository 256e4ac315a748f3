"""What pictures and pages call a run: its model and data, and the epoch that its weights are of."""

import math
import shlex
from pathlib import Path
from typing import Any

from ..models import VQVAE
from ..models.drawing import draws_images
from ..training import CheckpointError, Run, checkpoint
from ..training.epoch_words import watched
from ..training.run import Record


def command(*words: object) -> str:
    """A command of fastgen as a shell reads it, whatever is in the names of folders."""
    return shlex.join(["fastgen", *map(str, words)])


def by_prior(folder: Path) -> str:
    """How images are drawn by the VQ-VAE of the run in ``folder``, which needs a prior over its codes."""
    return (
        f"{command('encode', folder, '--out', 'codes.npz')} writes its codes, fastgen train gated-pixelcnn --data"
        f" codes.npz --run PRIOR trains a prior of them, and {command('sample', 'PRIOR', '--decoder', folder)} draws"
    )


def ways_on(model: Any, folder: Path) -> list[str]:
    """What to do with a trained run."""
    ways = [f"{command('sample', folder)} draws from it"] if draws_images(model) else []
    ways += [by_prior(folder)] if isinstance(model, VQVAE) else []
    return [*ways, f"{command('report', folder)} sums it up"]


def name_of(config: dict[str, Any]) -> str:
    """As "vae on mnist"."""
    return f"{config['model']['name']} on {data_of(config)}"


def data_of(config: dict[str, Any]) -> str:
    """The data set's name, or that of its folder or file."""
    path = Path(config["options"]["data"])
    return path.stem if path.suffix.lower() in (".npz", ".npy") else path.name


def best(metrics: list[Record]) -> Record | None:
    """The record of the epoch that the best weights are of."""
    key = watched(metrics)

    def loss(record: Record) -> float:
        value = record.get(key or "")
        return math.inf if value is None else value

    return min(metrics, key=loss, default=None) if key else None


def called(run: Run, name: str = "best") -> str:
    """As "vae on mnist, epoch 20", of a checkpoint's weights; without the epoch where nothing else is left of it."""
    try:
        here = checkpoint.load_state(run.checkpoints, name)["position"]  # its weights were read by whoever draws
        return f"{name_of(run.config())}, {so_far(here['epoch'], here['batch'])}"
    except CheckpointError:
        return name_of(run.config())


def where(run: Run, name: str = "last") -> str:
    """How far a checkpoint is, in words.

    Raises:
        CheckpointError: it cannot be read.
    """
    here = checkpoint.load(run.checkpoints, name, with_state=True).state["position"]
    return so_far(here["epoch"], here["batch"])


def so_far(epoch: int, batch: int) -> str:
    """How far a run is, in words."""
    batches = f"{batch} batch{'es' * (batch != 1)}"
    if epoch == 0:
        return f"{batches} of the first epoch"
    return f"epoch {epoch}" + (f" and {batches} of the next" if batch else "")
