"""What ``fastgen train adversarial-autoencoder`` is told beyond its constructor's arguments: how many labels to see."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..data import Dataset
from .train_options import Train

UNLABELLED = "unlabelled"
"""The class of images whose label is left out."""


@dataclass(frozen=True, kw_only=True)
class TrainAdversarialAutoencoder(Train):
    """Adversarial autoencoder: codes that follow a prior of one's choice."""

    labelled: int | None = None
    """With --conditional and a mixture or a roll: see the labels of so many training images, as many of each class as
    can be, and of the others none; default: of all."""

    def load_data(self) -> tuple[Dataset, Dataset]:
        if self.labelled is not None and not getattr(self, "conditional", True):
            raise ValueError(f"labelled: expected it with --conditional, which reads labels, got {self.labelled}")
        train, held_out = super().load_data()
        if self.labelled is None:
            return train, held_out
        if train.labels is None or train.classes is None:
            raise ValueError(f"labelled: expected data with labels, got {train.name}, which has none")
        classes = train.classes
        try:
            seen = torch.from_numpy(train.balanced_indices(self.labelled, self.seed))
        except ValueError as error:  # of its n
            raise ValueError(f"labelled{str(error).removeprefix('n')}") from error
        labels = torch.full_like(train.labels, classes)
        labels[seen] = train.labels[seen]
        names = (*(train.class_names or map(str, range(classes))), UNLABELLED)
        with_one_more: dict[str, Any] = {"classes": classes + 1, "class_names": names}
        note = f"{train.name}: {len(seen):,} of {len(train):,} images to train on have a label that is seen"
        train = replace(train, labels=labels, notes=(*train.notes, note), **with_one_more)
        return train, replace(held_out, **with_one_more)

    def model_config(self, data: Dataset) -> dict[str, Any]:
        return super().model_config(data) | {"unlabelled": self.labelled is not None}
