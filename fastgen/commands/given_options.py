"""What ``fastgen train`` is told of a model that draws images from images."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import tyro

from ..data import Dataset, Given, Subsampled, given_by
from .train_options import Train


@dataclass(frozen=True, kw_only=True)
class TrainGiven(Train):
    """Model that may be told a part of each image, and draws the rest."""

    given: Annotated[str | None, tyro.conf.arg(metavar="grey|downsampled:K|subsampled:K")] = None
    """Of each image give this, and draw the rest: grey, the luma, of which chroma is drawn; downsampled:K, the means of
    KxK pixels; subsampled:K, every K-th pixel of every K-th row, of which the others are drawn. With --conditional the
    class is given as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form is not None:
            object.__setattr__(self, "given", str(self.form))
        if self.flip and isinstance(self.form, Subsampled):
            raise ValueError("flip: expected it without --given subsampled, whose pixels are elsewhere in a mirror")

    @property
    def form(self) -> Given | None:
        return None if self.given is None else given_by(self.given)

    def as_told(self, images: Dataset) -> Dataset:
        if self.form is None:
            return images
        found = self.form.prepare(images)
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
        return config
