"""What ``fastgen train classifier`` is told beyond its constructor's arguments: a run to begin with, and labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .. import models
from ..data import Dataset
from ..models.networks import Encoder
from ..training import Run, load_model
from .train_options import Train


@dataclass(frozen=True, kw_only=True)
class TrainClassifier(Train):
    """Classifier that begins with the encoder of a run, to be trained with few labels."""

    data: str = "auto"
    """As for the other models; auto is the data of the run that the encoder is from."""
    crop: str = "auto"
    """As for the other models; auto is that of the run that the encoder is from, and so are image size and grey."""
    source: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Folder of the autoencoder's or VAE's run whose encoder it begins with; by default random weights."""
    labels: int | None = None
    """Train on so many labelled images, as many of each class as can be; default: all."""
    scratch: bool = False
    """Take the encoder's sizes only, and begin with random weights: what fine-tuning is compared with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source is not None:
            object.__setattr__(self, "source", str(Path(self.source).resolve()))
        if self.data == "auto":
            options = Run(self.source).config()["options"] if self.source is not None else {"data": "digits"}
            object.__setattr__(self, "data", options["data"])
            object.__setattr__(self, "data_root", self.data_root or options.get("data_root"))
            object.__setattr__(self, "levels", self.levels or options.get("levels"))
        if self.crop == "auto":
            options = Run(self.source).config()["options"] if self.source is not None else {}
            size = self.image_size or options.get("image_size")
            self._prepare(size, options.get("crop", "none"), self.grey or options.get("grey", False))

    def load_data(self) -> tuple[Dataset, Dataset]:
        train, held_out = super().load_data()
        if train.labels is None or train.classes is None:
            raise ValueError(f"data: expected data with labels, got {train.name}, which has none")
        if self.labels is None:
            return train, held_out
        try:
            return train.balanced(self.labels, self.seed), held_out
        except ValueError as error:  # of its n
            raise ValueError(f"labels{str(error).removeprefix('n')}") from error

    def build(self, name: str, data: Dataset) -> Any:
        if self.source is None:
            for option in ("frozen", "scratch"):
                if getattr(self, option):
                    raise ValueError(f"{option}: expected it with --from RUN, whose encoder it is about")
            return super().build(name, data)
        source = load_model(self.source)
        encoder = getattr(source, "encoder", None)
        if not isinstance(encoder, Encoder) or encoder.classes is not None:
            reads = ", which reads their classes too" if isinstance(encoder, Encoder) else ""
            raise ValueError(
                "from: expected a run with an encoder of images alone, as those of autoencoder and vae, got"
                f" {self.source}, of {type(source).__name__}{reads}"
            )
        classifier = models.Classifier.from_encoder(source, data.classes or 0, self.model_config(data)["frozen"])
        return models.build(name, **classifier.config) if self.scratch else classifier
