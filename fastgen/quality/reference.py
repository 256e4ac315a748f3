"""Real images as what drawn ones are held against: their features are computed once, for any number of sets."""

import math
from copy import copy
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_instance, check_integer, check_values, describe
from ..data import Dataset
from ..metrics import (
    Neighbourhoods,
    class_histogram,
    copy_rate,
    frechet_distance,
    histogram_divergence,
    kernel_distance,
)
from .classifier import FEATURES, FeatureClassifier
from .numbers import ClassCounts, Copies, Quality

MOST = 10_000
"""Images of either side, by default at most."""
SUBSETS, SUBSET = 50, 1000
"""Of the kernel distance; a subset is at most half of a set, so that they differ."""
PRECISION_NEIGHBOURS, COVERAGE_NEIGHBOURS = 3, 5
"""The k of precision and recall, and that of density and coverage: their papers'."""
COPIES = 1000
"""Drawn images, and test images, whose nearest training image is looked for, at most."""
NOISE, BLUR = 0.1, 3
"""σ of the noisy floor, of values in [0, 1]; side of the blurred one's box."""
TRAIN = "train"


class Reference:
    """Real images that were not trained on, N of them, and what drawn images are held against them by.

    Args:
        test: real images that were not trained on.
        train: those of the data's training split: as many of them are the first floor.
        classifier: whose features count.
        n: N of either side; by default as many as there are, 10,000 at most.
        seed: which of the test images are taken, and noise and subsets.
        trained_on: the images that a model was trained on, among which copies are looked for; ``train`` by default.

    Attributes:
        images: the N real images; what a conditional model is told is theirs.

    Raises:
        ValueError: there are no N images on both sides, fewer than two, or they are not what the classifier reads.
    """

    def __init__(
        self,
        test: Dataset,
        train: Dataset,
        classifier: FeatureClassifier,
        n: int | None = None,
        seed: int = 0,
        trained_on: Dataset | None = None,
    ) -> None:
        check_instance("classifier", classifier, FeatureClassifier, "a FeatureClassifier")
        if classifier.identity is None:
            raise ValueError("classifier: expected one that feature_classifier has trained, got random weights")
        most = min(len(test), len(train))
        self.n = min(most, MOST) if n is None else check_integer("samples", n, 2)
        if not 2 <= self.n <= most:
            few = "test" if len(test) == most else "training"
            raise ValueError(f"samples: expected 2 to {most}, the {few} images there are, got {self.n}")
        self.seed = check_integer("seed", seed, 0, 2**63 - 1)
        self.classifier = classifier
        self.images, self.train = test.subset(self.n, self.seed), train.subset(self.n, self.seed)
        self.trained_on = train if trained_on is None else trained_on
        self.about = test.description
        self.names = [str(name) for name in test.class_names or range(classifier.classes or 0)]

    def of_model(self, trained_on: Dataset) -> "Reference":
        """The same for a model that was trained on these images; what is known of the real ones is shared."""
        if torch.equal(trained_on.values, self.trained_on.values):
            return self
        _, _ = self.floors, self._real
        other = copy(self)
        other.trained_on = trained_on
        other.__dict__.pop("_trained_on", None)
        return other

    @cached_property
    def _real(self) -> tuple[Tensor, Tensor]:
        return self.classifier.features(self.images.values)

    @cached_property
    def floors(self) -> dict[str, dict[str, float | None]]:
        """The numbers of images that nobody drew: training images, and noisy, blurred and averaged ones."""
        found: dict[str, dict[str, float | None]] = {}
        for name, values in self._floor_images().items():
            features = self.classifier.features(values)[0]
            found[name] = self._distances(features) | (self._shares(features) if name == TRAIN else {})
        return found

    def score(self, drawn: Tensor) -> Quality:
        """The numbers of N drawn images.

        Args:
            drawn: integers (N, C, H, W) in [0, levels), as they would be saved.

        Raises:
            ValueError: they are not N, of another size, or a value is out of range.
            TypeError: they are no integers.
        """
        expected = (self.n, *self.images.shape)
        if not isinstance(drawn, Tensor) or tuple(drawn.shape) != expected:
            raise ValueError(f"drawn: expected images {expected}, got {describe(drawn)}")
        check_values(drawn, self.images.levels, "drawn")
        drawn = drawn.cpu()
        features, classes = self.classifier.features(drawn)
        identity = self.classifier.identity
        assert identity is not None  # the constructor has looked
        numbers: dict[str, Any] = self._distances(features) | self._shares(features)
        return Quality(
            samples=self.n, seed=self.seed, features=str(identity), real=self.about, **numbers,
            classes=None if self.classifier.rotations else self._classes(classes),
            copies=self._copies(drawn, features), floors=self.floors, identity=identity.as_dict(),
            left_out=self._left_out(),
        )  # fmt: skip

    def _left_out(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.n <= FEATURES:
            found["feature_fid"] = f"since a covariance of {FEATURES} features needs more images than {self.n}"
        if self.n <= COVERAGE_NEIGHBOURS:
            why = f"since {self.n} images have no {COVERAGE_NEIGHBOURS} neighbours each"
            found |= dict.fromkeys(("precision", "recall", "density", "coverage"), why)
        if self.n < 4:
            found["feature_kid"] = f"since halves of {self.n} images are too few"
        if self.classifier.rotations:
            found["classes"] = "since the data have no labels"
        return found

    def _distances(self, features: Tensor) -> dict[str, float | None]:
        real, size = self._real[0], min(SUBSET, self.n // 2)
        kid = kernel_distance(real, features, SUBSETS, size, self.seed) if size >= 2 else (None, None)
        fid = frechet_distance(real, features) if self.n > FEATURES else None
        return {"feature_fid": fid, "feature_kid": kid[0], "feature_kid_error": kid[1]}

    def _shares(self, features: Tensor) -> dict[str, float | None]:
        names = ("precision", "recall", "density", "coverage")
        if self.n <= COVERAGE_NEIGHBOURS:
            return dict.fromkeys(names)
        return dict(zip(names, self._neighbourhoods.of(features), strict=True))

    @cached_property
    def _neighbourhoods(self) -> Neighbourhoods:
        return Neighbourhoods(self._real[0], PRECISION_NEIGHBOURS, COVERAGE_NEIGHBOURS)

    def _classes(self, drawn: Tensor) -> ClassCounts:
        K = self.classifier.classes or 0
        shares, real = class_histogram(drawn, K), class_histogram(self._real[1], K)
        kl = histogram_divergence(shares, real)
        there = [k for k in range(K) if real[k] > 0]
        counts = [
            {self.names[k]: round(float(part[k]) * self.n) for k in range(K) if part[k] or real[k]}
            for part in (shares, real)
        ]
        missing = tuple(self.names[k] for k in there if shares[k] == 0)
        rare = tuple(self.names[k] for k in there if 0 < shares[k] < real[k] / 5)
        return ClassCounts(counts[0], counts[1], missing, rare, kl if math.isfinite(kl) else None)

    @cached_property
    def _trained_on(self) -> tuple[Tensor, Tensor]:
        """What copies are looked for among: pixels, and features."""
        values = self.trained_on.values
        return values.flatten(1), self.classifier.features(values)[0]

    def _copies(self, drawn: Tensor, features: Tensor) -> Copies:
        pixels, deep = self._trained_on
        some = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.seed))[
            :COPIES
        ]  # files may be sorted
        return Copies(
            pixels=copy_rate(drawn[some].flatten(1), self.images.values[some].flatten(1), pixels),
            features=copy_rate(features[some], self._real[0][some], deep),
            drawn=len(some),
            among=len(self.trained_on),
        )

    def _floor_images(self) -> dict[str, Tensor]:
        top, generator = self.images.levels - 1, torch.Generator().manual_seed(self.seed)
        x = self.images.values.float() / top
        noisy = x + NOISE * torch.randn(x.shape, generator=generator)
        blurred = F.avg_pool2d(x, BLUR, 1, BLUR // 2, count_include_pad=False)
        mean = self.train.values.double().mean(dim=0, keepdim=True).float() / top
        others = {"noisy": noisy, "blurred": blurred, "mean": mean.expand_as(x)}
        rounded = {name: (each.clamp(0, 1) * top).round().to(torch.uint8) for name, each in others.items()}
        return {TRAIN: self.train.values, **rounded}
