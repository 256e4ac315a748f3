"""``fastgen evaluate``: the exact likelihood of held-out images."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..training import Run, as_json, evaluate, load_model, nats_per_image
from . import load_images, parse, pick_device


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Exact negative log-likelihood of images, with its standard error, under a run's averaged weights."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    split: Literal["test", "valid", "train"] = "test"
    """Images to evaluate on; test images were not trained on."""
    data: str | None = None
    """Other data than the run's, of the same image size."""
    data_root: str | None = None
    """Folder of the data set's files; default: the run's, else FASTGEN_DATA."""
    limit: int | None = None
    """Evaluate on so many images, drawn from all."""
    checkpoint: Literal["best", "last"] = "best"
    """Weights to evaluate; the best are those of the epoch with the best held-out likelihood."""
    batch_size: int = 128
    """Images at a time."""
    json: bool = False
    """Print JSON."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is CUDA where there is one."""


def main(arguments: list[str]) -> str:
    """Evaluate as the arguments say."""
    options = parse(Evaluate, "evaluate", arguments)
    model = load_model(options.run, options.checkpoint, pick_device(options.device))
    images = load_images(Run(options.run), options.split, options.data, options.data_root)
    if options.limit is not None:
        images = images.subset(options.limit)
    likelihood = evaluate(model, nats_per_image, images, options.batch_size)
    if options.json:
        about = {"run": str(options.run), "checkpoint": options.checkpoint, "data": images.name, "split": options.split}
        bits = {"bits_per_dim": likelihood.bits_per_dim, "bits_per_dim_error": likelihood.bits_per_dim_error}
        return as_json(about | asdict(likelihood) | bits)
    return f"{images.name}, {options.split} split, {len(images):,} images: {likelihood} (mean ± standard error)"
