"""What ``fastgen evaluate`` and ``fastgen compare`` measure drawn images by: the real ones of a run, a reference."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from .._checks import check_integer
from .._console import duration
from ..conditions import Classes, kind_said
from ..data import Dataset, load
from ..data.identity import content, in_classes_of
from ..models.drawing import draws_images
from ..quality import Inception, InceptionNumbers, Quality, Reference, draw, feature_classifier
from ..quality.drawing import default_samples
from ..quality.reference import MOST
from ..training import Run
from .images import load_images
from .model_options import options_of


@dataclass(frozen=True)
class Sides:
    """The images of a run's data.

    Attributes:
        train: all of the training split, at the run's levels.
        test: all of the test split.
        trained_on: those that the run was trained on.
    """

    train: Dataset
    test: Dataset
    trained_on: Dataset

    @property
    def sha256(self) -> str:
        """What tells these data from others, whatever part of them a run was trained on."""
        return content(self.train, self.test)["sha256"]


def sides_of(run: Run, data: str | None = None, root: str | None = None, *, own: bool = False) -> Sides:
    """Load the images that a run's samples are held against.

    Args:
        run: whose data, or for whose model.
        data: other data than the run's; or with ``own`` the run's in another place.
        root: of the data; the run's by default.
        own: ``data`` are the run's.

    Raises:
        ValueError: they are not what they were when the run began, or of another size.
    """
    config, options = run.config(), options_of(run)
    _check_whole(run)
    test = load_images(run, "test", data, root, own=own)
    name, where = data or options.data, f"the run in {run.folder}"
    train = load(name, root=root or options.data_root, split="train", **options.preparation())
    train = replace(in_classes_of(train.quantise(config["data"]["levels"]), config, where), notes=())
    trained_on = load_images(run, "train", data, root, own=own) if own or data is None else train
    return Sides(train, test, trained_on)


def reference_for(sides: Sides, samples: int | None, default: int | None, seed: int) -> Reference:
    """What drawn images are held against; its classifier is trained where it is not yet kept.

    Args:
        sides: the images.
        samples: how many of either side; None takes
        default: of which None is as many as there are, 10,000 at most.
        seed: of the real images, and of what else is random.

    Raises:
        ValueError: there are not so many.
    """
    most = min(len(sides.test), len(sides.train))
    if samples is None:
        samples = min(most, MOST if default is None else default)
    elif samples > most:
        raise ValueError(f"samples: expected at most {most:,}, the images there are of either split, got {samples:,}")
    check_integer("samples", samples, 2)
    return Reference(sides.test, sides.train, feature_classifier(sides.train, sides.test), samples, seed)


@dataclass(frozen=True)
class Drawn:
    """What was found of the images that a run's model has drawn."""

    model: str
    quality: Quality
    inception: InceptionNumbers | None
    seconds: float
    has_nats: bool
    told: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = self.quality.as_dict() | {"seconds_per_image": self.seconds / self.quality.samples, "told": self.told}
        return found | ({} if self.inception is None else {"inception": vars(self.inception)})

    def __str__(self) -> str:
        none = [] if self.has_nats else [f"no nats and no bits/dim: {self.model} draws images and knows no likelihood"]
        told = "" if self.told is None else f", each told {self.told} of a test image"
        time = f"{duration(self.seconds / self.quality.samples)} an image to draw{told}"
        return "\n".join([*none, str(self.quality), *([str(self.inception)] if self.inception else []), time])


class Asked(Protocol):
    """The options that say what is drawn."""

    @property
    def run(self) -> Path: ...
    @property
    def split(self) -> str: ...
    @property
    def data(self) -> str | None: ...
    @property
    def data_root(self) -> str | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def quality(self) -> bool: ...
    @property
    def samples(self) -> int | None: ...
    @property
    def inception(self) -> Path | None: ...


def wants_drawn(model: Any, asked: Asked, has_nats: bool) -> bool:
    """Whether images are drawn: where that is asked for, and of a model that is known by nothing else."""
    if asked.samples == 0 or not draws_images(model):
        return False
    told = asked.quality or asked.samples is not None or asked.inception is not None
    return told or (not has_nats and asked.split == "test")


def check_draws(model: Any, asked: Asked) -> None:
    """Raise ValueError where images are asked for and cannot be drawn, or not be held against test images."""
    if asked.samples is not None:
        check_integer("samples", asked.samples, 0)
    if not draws_images(model):
        raise ValueError(f"samples: expected none, since {type(model).__name__} draws no images by itself")
    _check_whole(Run(asked.run))
    if asked.split != "test":
        raise ValueError(f"split: expected test, which drawn images are held against, got {asked.split}")


def _check_whole(run: Run) -> None:
    if (form := options_of(run).form) is not None:
        raise ValueError(f"run: expected one that draws images whole, got {run.folder}, {form.words}")


def measure_drawn(model: Any, asked: Asked, has_nats: bool) -> Drawn:
    """Draw as the options say, and measure what comes."""
    extractor = None if asked.inception is None else Inception(asked.inception, next(model.parameters()).device)
    sides = sides_of(Run(asked.run), asked.data, asked.data_root)
    reference = reference_for(sides, asked.samples, default_samples(model), asked.seed).of_model(sides.trained_on)
    images, seconds = draw(model, reference.images, asked.seed, title="images")
    found = reference.score(images)
    inception = None if extractor is None else extractor.score(reference.images, images, asked.seed)
    return Drawn(type(model).__name__, found, inception, seconds, has_nats, told_words(model))


def told_words(model: Any) -> str | None:
    """What a model is told of each image that it draws, in words."""
    kind = kind_said(model)
    return None if kind is None else "the label" if isinstance(kind, Classes) else "the condition"
