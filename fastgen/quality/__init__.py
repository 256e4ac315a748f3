"""How good drawn images are: numbers of a set of them beside real ones, by features that the data themselves teach."""

from typing import Any

from torch import Tensor

from ..data import Dataset
from .classifier import FeatureClassifier, Identity
from .drawing import default_samples, draw
from .inception import Inception, InceptionNumbers
from .numbers import ClassCounts, Copies, Quality
from .reference import MOST, Reference
from .training import feature_classifier

__all__ = [
    "ClassCounts",
    "Copies",
    "FeatureClassifier",
    "Identity",
    "Inception",
    "InceptionNumbers",
    "Quality",
    "Reference",
    "draw",
    "feature_classifier",
    "score",
]


def score(
    model_or_images: Any,
    test: Dataset,
    train: Dataset,
    *,
    n: int | None = None,
    seed: int = 0,
    classifier: FeatureClassifier | None = None,
    trained_on: Dataset | None = None,
) -> Quality:
    """The numbers of what a model draws, or of images that were drawn, with their floors and what they are found by.

    Args:
        model_or_images: a model with ``sample``, in eval mode; or integers (N, C, H, W) in [0, levels).
        test: real images that were not trained on.
        train: images of the data's training split.
        n: N, drawn and real; by default as many as there are images, or real ones where they are fewer, at most 10,000,
            and of an autoregressive model 1,000.
        seed: of what is drawn, and of which real images are taken.
        classifier: whose features count; by default the one of ``train`` and ``test``, ``feature_classifier``.
        trained_on: the images that the model was trained on, where these are not ``train``.

    Raises:
        ValueError: there are not so many images, or they are of another size; see ``feature_classifier`` and ``draw``.
        TypeError: it is neither a model that draws nor integers.
    """
    images = model_or_images if isinstance(model_or_images, Tensor) else None
    if n is None:
        n = default_samples(model_or_images) if images is None else len(images)
        n = n if n is None else min(n, len(test), len(train), MOST)
    classifier = classifier or feature_classifier(train, test)
    reference = Reference(test, train, classifier, n, seed, trained_on)
    drawn = draw(model_or_images, reference.images, seed)[0] if images is None else images[: reference.n]
    return reference.score(drawn)
