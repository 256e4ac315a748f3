"""``fastgen evaluate``: likelihood, or other losses, of held-out images."""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from .._checks import check_integer
from .._console import several
from ..conditions import FeatureMap, kind_said
from ..data import Dataset
from ..measures import plus_minus, words
from ..models import Autoencoder
from ..training import Evaluation, Measures, Run, as_json, distributed, evaluate, load_model
from ..training.checks import check_data, told_to
from ..training.objective import objective_of
from . import check_seed, parse, pick_device
from .beside import pca_squared_error, pca_words
from .condition_file import is_told_more
from .drawing import PATIENCE
from .drawn import Drawn, check_draws, measure_drawn, wants_drawn
from .images import load_images, say_notes


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Losses of images under a run's averaged weights, with standard errors, and what each of them is."""

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
    seed: int = 0
    """Of what a model draws to be evaluated; an exact likelihood draws nothing."""
    importance_samples: int | None = None
    """Estimate the likelihood of a model with latent variables by so many importance samples for each image."""
    quality: bool = False
    """Also draw images and hold them against as many test images: feature_fid, precision, recall, copies and others,
    beside their floors; a model without a likelihood does so unasked. The classifier that this needs is trained once,
    on the data's training split, and kept."""
    samples: int | None = None
    """Draw so many images for that; default: 1,000 of an autoregressive model, 10,000 of others, or all that there are
    real ones; 0 draws none."""
    inception: Path | None = None
    """Also FID, KID and inception score, by the weights of torch-fidelity's extractor in this file."""
    json: bool = False
    """Print JSON."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is CUDA where there is one."""


def main(arguments: list[str]) -> str:
    """Evaluate as the arguments say."""
    options = parse(Evaluate, "evaluate", arguments)
    check_seed(options.seed)
    if options.limit is not None:
        check_integer("limit", options.limit, 1)
    check_integer("batch_size", options.batch_size, 1)
    if options.samples == 0 and (options.quality or options.inception is not None):
        asked = "--quality" if options.quality else "--inception"
        raise ValueError(f"samples: expected 2 or more with {asked}, which measures drawn images, got 0")
    device = distributed.local_device(pick_device(options.device))
    with distributed.processes(device, PATIENCE):
        said = _evaluate(options, device)
        return said if distributed.rank() == 0 else ""


def _evaluate(options: Evaluate, device: torch.device) -> str:
    """Processes share the images; drawn ones, and what PCA leaves, are the first one's."""
    model = load_model(options.run, options.checkpoint, device)
    images = load_images(Run(options.run), options.split, options.data, options.data_root)
    if distributed.speaks():
        say_notes(images)
    if options.limit is not None:
        images = images.subset(options.limit)
    if is_told_more(model):
        check_data(model, images, "data")
    k, about = options.importance_samples, None
    asked = measures(model, options)
    if options.quality or options.samples or options.inception:
        check_draws(model, options)
    if k is not None:
        about = model.measures_by(k)
    found = evaluate(model, images, options.batch_size, asked, options.seed, about, title=f"{options.split} images")
    shuffled = _of_others(model, images, options, asked) if k is None else None
    of_the_first: list[tuple[dict[str, Any] | None, Drawn | None]] = []

    def look() -> None:
        beside = _beside(model, images, options) if k is None else None
        draws = wants_drawn(model, options, "nats" in found.means)
        drawn = measure_drawn(model, options, "nats" in found.means) if draws else None
        of_the_first.append((beside, drawn))

    distributed.first_only(look)
    beside, drawn = of_the_first[0] if of_the_first else (None, None)
    if options.json:
        head = {"run": str(options.run), "checkpoint": options.checkpoint, "data": images.name, "split": options.split}
        foot = {"images": found.images, "dims": found.dims, "images_are": images.description}
        foot |= {"measures": words(found.about), **({"pca": beside} if beside else {})}
        foot |= {"shuffled": {"nats": shuffled.nats, "nats_error": shuffled.nats_error}} if shuffled else {}
        foot |= {} if drawn is None else drawn.as_dict()
        return as_json(head | found.numbers(all_errors=True) | foot)
    which = "" if images.description == images.name else f" ({images.description})"
    said = (
        f"{images.name}, {options.split} split{which}, {several(len(images), 'image')}: {found} (mean ± standard error)"
    )
    if shuffled is not None:
        said += f"; {shuffled.nats:.2f}{plus_minus(shuffled.nats_error, '.2f')} nats given the map of another image"
    said += f"; {pca_words(beside)}" if beside else ""
    return said if drawn is None else f"{said}\n{drawn}"


def _of_others(model: Any, images: Dataset, options: Evaluate, asked: Measures) -> Evaluation | None:
    """What the images cost given the map of another one each: more, where the model makes use of it."""
    told = told_to(model, images).condition
    names = [name for name, kind in _kinds(model).items() if isinstance(kind, FeatureMap)]
    if not names or told is None or len(images) < 2 or "nats" not in getattr(model, "measures", {"nats": None}):
        return None
    order = torch.from_numpy(np.random.default_rng(options.seed).permutation(len(images)))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    condition = (
        {name: part[other] if name in names else part for name, part in told.items()}
        if isinstance(told, dict)
        else told[other]
    )
    shuffled = replace(images, condition=condition)
    return evaluate(model, shuffled, options.batch_size, asked, options.seed, title="maps of other images")


def _kinds(model: Any) -> dict[str, Any]:
    kind = kind_said(model)
    return kind if isinstance(kind, dict) else {"": kind}


def _beside(model: Any, images: Dataset, options: Evaluate) -> dict[str, Any] | None:
    """What PCA, fitted to the images that the run was trained on, leaves of the evaluated ones."""
    if not isinstance(model, Autoencoder):
        return None
    try:
        train = load_images(Run(options.run), "train", root=options.data_root)
    except (OSError, ValueError) as error:  # other images can be evaluated wherever the run's are now
        sys.stderr.write(f"PCA does not stand beside it, for want of the images that the run was trained on: {error}\n")
        return None
    return pca_squared_error(model, train, images)


def measures(model: Any, options: Evaluate) -> Measures:
    """What the options ask of the model: its losses, or its likelihood by importance sampling."""
    k = options.importance_samples
    if k is None:
        objective = objective_of(model)  # of a game, what is measured is not what a player minimises
        return partial(objective.evaluate, model)
    if not hasattr(model, "importance_log_prob"):
        raise ValueError(
            f"importance_samples: expected none, since {type(model).__name__} has no latent variables, got {k}"
        )
    if k < 1:
        raise ValueError(f"importance_samples: expected 1 or more, got {k}")

    def nats(values: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        return {"nats": -model.importance_log_prob(values, None if model.classes is None else labels, k)}

    return nats
