"""The network whose features drawn images are measured by: small, named, and trained on the data themselves.

    x in [−1, 1] ── [ 3×3 convolution, ReLU, 2×2 max-pooling ] × stages ── linear, ReLU: features ── linear ── classes

There are 128 features; two stages, and more of images above 32 pixels. Of data without labels it learns which of four
rotations an image has (Gidaris et al. 2018, arXiv:1803.07728), and its name says so.
"""

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_finite
from ..data import Dataset
from ..measures import Measure
from ..models.model import Model

FEATURES = 128
"""Dimensions of the features."""
NAMES = {False: "cnn128-v1", True: "cnn128-rotation-v1"}
"""Of the classifier of classes, and of that of rotations. What changes the numbers changes the version."""
BATCH = 500
"""Images whose features are computed at once."""


@dataclass(frozen=True)
class Identity:
    """Which classifier a number is of: two with the same name, seed and data are the same.

    Attributes:
        name: of architecture, recipe and version; see ``NAMES``.
        seed: of weights and the order of images.
        epochs: passes over the images.
        images: how many it was trained on; of rotations, each in four.
        sha256: of the images that it was trained and tested on, and their labels.
        accuracy: share of the held-out images that it gets right.
        weights: digest of what it learnt; another machine or torch may round otherwise, and this tells it.
    """

    name: str
    seed: int
    epochs: int
    images: int
    sha256: str
    accuracy: float
    weights: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        what = "rotations" if self.name == NAMES[True] else "classes"
        return (
            f"{self.name} (seed {self.seed}, {self.epochs} epochs of {self.images:,} images, {self.accuracy:.1%} of"
            f" held-out {what} right; data {self.sha256[:12]}, weights {self.weights[:12]})"
        )


class FeatureClassifier(Model):
    """The network, with random weights until ``fastgen.quality.feature_classifier`` trains it.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        classes: number of classes.
        image_size: (H, W).
        rotations: its classes are four rotations; images that are no squares are then stretched to squares first.

    Attributes:
        identity: which one it is, once it was trained.
    """

    identity: Identity | None = None
    per_dimension = False
    """The loss of an image does not grow with its size."""

    def __init__(
        self, in_channels: int, levels: int, classes: int, image_size: tuple[int, int], rotations: bool = False
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size)
        self.rotations = rotations
        height, width = (max(self.sides),) * 2 if rotations else self.sides
        stages = max(2, math.ceil(math.log2(max(height, width) / 8)))
        layers: list[nn.Module] = []
        widths = [in_channels, 32] + [64] * (stages - 1)
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
            height, width = -(-height // 2), -(-width // 2)
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * height * width, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, classes)

    def losses(self, values: Tensor, condition: Any = None, progress: float = 1.0) -> dict[str, Tensor]:
        """{"cross_entropy": −log p(label|x) in nats, "accuracy": 1 where the likeliest class is the label}, (N,)."""
        logits = self.head(self.body(self.to_input(values)))
        right = torch.eq(logits.detach().argmax(dim=1), condition).to(logits.dtype)
        return {"cross_entropy": F.cross_entropy(logits, condition, reduction="none"), "accuracy": right}

    def to_input(self, values: Tensor) -> Tensor:
        """Values as the network reads them, in [−1, 1]."""
        return 2 * super().to_input(values) - 1

    @property
    def measures(self) -> dict[str, Measure]:
        right = Measure("share of images whose likeliest class is the label")
        return {"cross_entropy": Measure("−log p(y | x)", "nats"), "accuracy": right}

    @torch.no_grad()
    def features(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Features of images and the likeliest class of each, whatever mode the model is in.

        Args:
            values: integers (N, C, H, W) in [0, levels), on any device.

        Returns:
            (float32 (N, 128), int64 (N,)), on the CPU.

        Raises:
            ValueError: the images are not of the size, or the levels, that the classifier reads.
        """
        device, found, classes = next(self.parameters()).device, [], []
        for part in values.split(BATCH):
            part = part.to(device)
            self.check_images(part)
            features = self.body(self.to_input(squared(part) if self.rotations else part))
            found.append(check_finite("features", features).float().cpu())
            classes.append(self.head(features).argmax(dim=1).cpu())
        if not found:
            raise ValueError("values: expected one image or more, got none")
        return torch.cat(found), torch.cat(classes)


def squared(values: Tensor) -> Tensor:
    """Images stretched to squares, bilinearly and rounded; squares as they are."""
    side = max(values.shape[2:])
    if values.shape[2] == values.shape[3]:
        return values
    return F.interpolate(values.float(), (side, side), mode="bilinear").round().to(values.dtype)


def rotated(images: Dataset) -> Dataset:
    """Every image in four rotations, of which each is a class."""
    values = squared(images.values)
    turned = torch.cat([values.rot90(quarter, (2, 3)) for quarter in range(4)])
    return Dataset(turned, torch.arange(4).repeat_interleave(len(values)), images.levels, 4, images.name)
