"""What ``fastgen train`` is told of a model that draws images from images."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import tyro
from torch import Tensor

from ..conditions import FeatureMap, kind_of_batch
from ..data import Dataset, Given, Subsampled, given_by
from .train_options import Train

OWN = "condition"
"""Word of --given for what the data themselves tell beside each image."""


@dataclass(frozen=True, kw_only=True)
class TrainGiven(Train):
    """Model that may be told a part of each image, and draws the rest."""

    given: Annotated[str | None, tyro.conf.arg(metavar=f"grey|downsampled:K|subsampled:K|{OWN}")] = None
    """Of each image give this, and draw the rest: grey, the luma, of which chroma is drawn; downsampled:K, the means of
    KxK pixels; subsampled:K, every K-th pixel of every K-th row, of which the others are drawn. Or condition: the map
    that the data have for each image, of which all is drawn. With --conditional the class is given as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form is not None:
            object.__setattr__(self, "given", str(self.form))
        if self.flip and isinstance(self.form, Subsampled):
            raise ValueError("flip: expected it without --given subsampled, whose pixels are elsewhere in a mirror")

    @property
    def form(self) -> Given | None:
        return None if self.given in (None, OWN) else given_by(self.given)

    def as_told(self, images: Dataset) -> Dataset:
        if self.given is None:
            return images
        found = images if self.form is None else self.form.prepare(images)
        if self.form is None:
            _map_of(found)
        if not getattr(self, "conditional", False) or found.labels is None or found.condition is None:
            return found
        return replace(found, condition={"labels": found.labels, "map": found.condition})  # type: ignore[dict-item]

    def load_data(self) -> tuple[Dataset, Dataset]:
        train, held_out = super().load_data()
        return self.as_told(train), self.as_told(held_out)

    def model_config(self, data: Dataset) -> dict[str, Any]:
        config = super().model_config(data)
        if self.form is not None:
            config["condition_shape"] = list(self.form.given_shape(self.form.image_shape(data.shape)))
            config["subsampled"] = self.form.factor if isinstance(self.form, Subsampled) else None
        elif self.given is not None:
            config["condition_shape"] = list(_map_of(data).shape[1:])
        return config


def _map_of(images: Dataset) -> Tensor:
    """The map (N, C', H', W') that the data tell beside each image."""
    told = images.condition
    told = told["map"] if isinstance(told, dict) and told.keys() == {"labels", "map"} else told
    if not isinstance(told, Tensor) or not isinstance(kind := kind_of_batch(told), FeatureMap):
        expected = f"data with a map, an array of floating-point numbers (N, C', H', W') called {OWN}"
        got = "nothing" if told is None else "several" if isinstance(told, dict) else str(kind)
        raise ValueError(f"given: expected {expected}, got {got} in {images.name}")
    return told
