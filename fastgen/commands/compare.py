"""``fastgen compare``: runs of all families on the same data, in one table and one picture."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from torch import Tensor

from .. import pictures
from .._console import duration, several
from .._extras import require
from .._files import check_can_write
from ..data import Dataset
from ..measures import plus_minus
from ..models.drawing import draws_images
from ..pictures.sheet import sheet
from ..quality import Quality, Reference, draw
from ..quality.drawing import default_samples
from ..quality.numbers import FLOORS, TABLED, short, table
from ..training import Evaluation, Run, evaluate, load_model
from . import check_seed, parse, pick_device
from .drawn import Sides, reference_for, sides_of, told_words

ROWS = 2
"""Rows of a run's images in the picture."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Hold runs on the same data against each other: likelihoods, how good what they draw is, and what it costs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of two runs or more, of any models that draw images."""
    samples: int | None = None
    """Draw so many images from each; default: 10,000, or 1,000 where a model is autoregressive, or all that there are
    real ones."""
    seed: int = 0
    """Of what is drawn, and of the test images that all of it is held against."""
    out: Path = Path("compare.png")
    """Picture of test images, and of images of each run, to write."""
    columns: int = 10
    """Images in a row of the picture."""
    checkpoint: Literal["best", "last"] = "best"
    """Weights to draw from."""
    data_root: str | None = None
    """Folder of the data set's files; default: the runs', else FASTGEN_DATA."""
    data: str | None = None
    """Where the runs' data are now, if they were moved; it is checked that they are the same."""
    json: bool = False
    """Print JSON."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is CUDA where there is one."""


@dataclass(frozen=True)
class Compared:
    """What is found of one run."""

    name: str
    model: str
    parameters: int
    training_seconds: float
    likelihood: Evaluation | None
    quality: Quality
    seconds_per_image: float
    told: str | None
    shown: Tensor

    def as_dict(self) -> dict[str, Any]:
        """For JSON; nats are null of a model that has none."""
        own = ("model", "parameters", "training_seconds", "seconds_per_image", "told")
        found: dict[str, Any] = {"run": self.name, **{name: getattr(self, name) for name in own}}
        known = self.likelihood
        found |= {
            "nats": None if known is None else known.nats,
            "nats_error": None if known is None else known.nats_error,
        }
        found |= {"bits_per_dim": known.bits_per_dim if known is not None and known.of_values else None}
        found |= {"nats_are": None if known is None else known.about["nats"].words}
        shared = ("samples", "seed", "floors", "features", "real")
        return found | {name: value for name, value in self.quality.as_dict().items() if name not in shared}

    def cells(self) -> dict[str, str]:
        """What the table says of it, by row."""
        known, found = self.likelihood, self.quality
        said = {
            "": self.name,
            "model": self.model,
            "parameters": f"{self.parameters:,}",
            "training": duration(self.training_seconds),
            "nats": "none" if known is None else f"{known.nats:.2f}{plus_minus(known.nats_error, '.2f')}",
            "bits/dim": f"{known.bits_per_dim:.4f}" if known is not None and known.of_values else "none",
            **{name: short(getattr(found, name)) for name in TABLED},
        }
        if found.classes is not None:
            said["classes missing"] = str(len(found.classes.missing))
        if found.copies is not None:
            said["copies, pixels"] = f"{found.copies.pixels:.1%}"
            said["copies, features"] = f"{found.copies.features:.1%}"
        return said | {"an image takes": duration(self.seconds_per_image)}


def main(arguments: list[str]) -> str:
    """Compare as the arguments say."""
    options = parse(Compare, "compare", arguments)
    check_seed(options.seed)
    if len(options.runs) < 2:
        raise ValueError(f"runs: expected the folders of two or more, got {several(len(options.runs), 'folder')}")
    if options.columns < 1:
        raise ValueError(f"columns: expected 1 or more, got {options.columns}")
    check_can_write("out", options.out, (".png",))
    models = [load_model(folder, options.checkpoint, pick_device(options.device)) for folder in options.runs]
    for folder, model in zip(options.runs, models, strict=True):
        if not draws_images(model):
            raise ValueError(f"runs: expected models that draw images, got {type(model).__name__} in {folder}")
    sides = [sides_of(Run(folder), options.data, options.data_root, own=True) for folder in options.runs]
    _check_same(options.runs, sides)
    least = min((n for model in models if (n := default_samples(model)) is not None), default=None)
    reference = reference_for(sides[0], options.samples, least, options.seed)
    compared = []
    with require("tqdm").tqdm(total=len(models), desc="runs", leave=False, disable=None) as bar:
        for folder, model, side in zip(options.runs, models, sides, strict=True):
            compared.append(_measured(folder, model, reference.of_model(side.trained_on), options))
            bar.update()
    pictures.save(_picture(compared, reference, options), options.out)
    if options.json:
        return json.dumps(_as_dict(compared, reference, options), allow_nan=False)
    return "\n".join([*_said(compared, reference), f"images of each: {options.out}"])


def _check_same(folders: tuple[Path, ...], sides: list[Sides]) -> None:
    """Raise ValueError unless the runs' data are the same images, at the same levels, with the same labels."""
    first = sides[0]
    for folder, other in zip(folders[1:], sides[1:], strict=True):
        if other.sha256 == first.sha256:
            continue
        said = [_described(side.test) for side in (first, other)]
        if said[0] == said[1]:
            said = [f"{text} (sha256 {side.sha256[:12]})" for text, side in zip(said, (first, other), strict=True)]
        raise ValueError(f"runs: expected the data of {folders[0]}, {said[0]}; {folder} has {said[1]}")


def _described(images: Dataset) -> str:
    channels, height, width = images.shape
    return f"{images.name}, {channels}x{height}x{width} images of {images.levels} levels"


def _measured(folder: Path, model: Any, reference: Reference, options: Compare) -> Compared:
    run = Run(folder)
    sys.stderr.write(f"{folder}: drawing {several(reference.n, 'image')}\n")
    declared = getattr(model, "measures", {})
    known = None
    if not declared or "nats" in declared:
        found = evaluate(model, reference.images, seed=options.seed, title=f"{folder.name}, likelihood")
        known = found if "nats" in found.means else None
    images, seconds = draw(model, reference.images, options.seed, title=f"{folder.name}, images")
    config = run.config()
    return Compared(
        name=str(folder),
        model=config["model"]["name"],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        training_seconds=sum(record.get("seconds", 0.0) for record in run.metrics()),
        likelihood=known,
        quality=reference.score(images),
        seconds_per_image=seconds / reference.n,
        told=told_words(model),
        shown=images[: ROWS * options.columns],
    )


def _as_dict(compared: list[Compared], reference: Reference, options: Compare) -> dict[str, Any]:
    shared = compared[0].quality.as_dict()
    head = {name: shared[name] for name in ("samples", "seed", "real", "features", "floors")}
    return head | {"checkpoint": options.checkpoint, "runs": [each.as_dict() for each in compared]}


def _said(compared: list[Compared], reference: Reference) -> list[str]:
    """The table, a column for each run and one for training images, and what its numbers are."""
    first = compared[0].quality
    columns = [each.cells() for each in compared]
    floor = reference.floors["train"]
    rows = [[name, *(column.get(name, "–") for column in columns), *(_floor(name, floor))] for name in columns[0]]
    lines = [
        f"{several(first.samples, 'drawn image')} of each run, seed {first.seed}, against as many of {first.real}",
        f"by {first.features}",
        *table(rows),
    ]
    for each in compared:
        nats = (
            "no likelihood, so no nats" if each.likelihood is None else f"nats: {each.likelihood.about['nats'].words}"
        )
        told = "" if each.told is None else f"; each image told {each.told} of a test image"
        lines.append(f"{each.name}: {nats}{told}")
    return lines + [f"{name}: none, {why}" for name, why in first.left_out.items()]


def _floor(name: str, floor: dict[str, float | None]) -> list[str]:
    """The last column: what the number is of images that the data's own makers drew."""
    if not name:
        return [FLOORS["train"][0]]
    return [short(floor[name]) if floor.get(name) is not None else ""]


def _picture(compared: list[Compared], reference: Reference, options: Compare) -> np.ndarray:
    """Rows of test images, and then of each run's, with what is known of it."""
    shown = min(ROWS * options.columns, reference.n)
    blocks = [reference.images.values[:shown], *(each.shown for each in compared)]
    columns = min(options.columns, shown)
    deep = -(-shown // columns)
    names: list[str] = []
    for label in ["test images", *map(_label, compared)]:
        names += [label, *[""] * (deep - 1)]
    rgb = [_filled(pictures.to_rgb(block, reference.images.levels), deep * columns) for block in blocks]
    title = f"{several(len(compared), 'run')} on {reference.about}"
    note = f"{reference.n:,} images of each, seed {reference.seed}; feature_fid of training images"
    note += f" {short(reference.floors['train']['feature_fid'])}"
    return sheet(np.concatenate(rgb), title, columns=columns, rows=names, note=note)


def _filled(images: np.ndarray, n: int) -> np.ndarray:
    """``n`` images: those that are missing are left empty."""
    blank = np.full((n - len(images), *images.shape[1:]), pictures.EMPTY, np.uint8)
    return np.concatenate([images, blank])


def _label(one: Compared) -> str:
    lines = [Path(one.name).name, f"{one.model}, {one.parameters:,} weights"]
    if one.likelihood is not None:
        lines.append(f"{one.likelihood.nats:.2f} nats")
    return "\n".join([*lines, f"feature_fid {short(one.quality.feature_fid)}"])
