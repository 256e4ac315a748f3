"""How a feature classifier is made: the same one for the same data and seed, whatever else the process does."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from .._checks import check_instance, check_integer
from .._console import several
from ..data import Dataset
from ..data.identity import content
from ..training import Recipe, Trainer, distributed
from ..training.checkpoint import digest
from ..training.randomness import set_aside
from .classifier import NAMES, FeatureClassifier, Identity, rotated
from .kept import cache_folder, place, read, write

BATCH_SIZE = 64
EPOCHS = 3
STEPS = 300
"""Steps at least; of small data they are more epochs."""
PIXELS = 2**26
"""Pixels of the images that are trained on, at most: all of MNIST and CIFAR-10, a part of what is larger."""
HELD_OUT = 10_000
"""Images that the accuracy is of, at most."""


def feature_classifier(
    train: Dataset, held_out: Dataset, *, seed: int = 0, folder: str | Path | None = None
) -> FeatureClassifier:
    """The classifier of ``train`` whose features drawn images are measured by, trained once and then kept.

    It is trained on the CPU by one thread, so that neither a machine's cores nor what else runs there change it; for
    the sixty thousand images of Fashion-MNIST that takes minutes, for small data seconds. Of data without labels, or of
    one class, it learns rotations.

    Args:
        train: images to train on.
        held_out: images its accuracy is of; a data set's test images, which what is drawn is held against.
        seed: of its weights, and of the order of images.
        folder: where it is kept; by default what the environment's FASTGEN_CACHE says, or else the user's cache folder.

    Returns:
        The classifier, on the CPU, in eval mode; ``classifier.identity`` says which it is.

    Raises:
        ValueError: the images of the two differ in size or levels; it would be trained by one of several processes.
        TypeError: these are no data sets.
    """
    for name, given in (("train", train), ("held_out", held_out)):
        check_instance(name, given, Dataset, "a Dataset")
    seed = check_integer("seed", seed, 0, 2**63 - 1)
    if (train.shape, train.levels) != (held_out.shape, held_out.levels):
        raise ValueError(f"held_out: expected images as in train, {train!r}, got {held_out!r}")
    rotations = not _has_classes(train) or not _has_classes(held_out) or train.classes != held_out.classes
    shown = train.subset(max(1, PIXELS // math.prod(train.shape[1:]) // (4 if rotations else 1)))
    tested = held_out.subset(HELD_OUT // (4 if rotations else 1))
    images = len(shown) * (4 if rotations else 1)
    epochs = max(EPOCHS, math.ceil(STEPS / math.ceil(images / BATCH_SIZE)))
    sha256 = content(train, held_out)["sha256"]
    wanted = Identity(NAMES[rotations], seed, epochs, len(shown), sha256, accuracy=0.0, weights="")
    classes = 4 if rotations else int(train.classes or 0)
    with _alone(seed):
        model = FeatureClassifier(train.shape[0], train.levels, classes, train.shape[1:], rotations)
        path = place(cache_folder() if folder is None else Path(folder), wanted)
        found = read(path, model, wanted)
        if found is None:
            if distributed.size() > 1:
                why = "since one of several processes cannot train it"
                raise ValueError(f"folder: expected the classifier in it, {path}, {why}, got none")
            sys.stderr.write(f"training the feature classifier {wanted.name} on {several(images, 'image')}: {path}\n")
            pair = (rotated(shown), rotated(tested)) if rotations else (shown, tested)
            found = _train(model, *pair, wanted)
            write(path, model, found)
    model.identity = found
    return model.eval()


def _train(model: FeatureClassifier, train: Dataset, held_out: Dataset, wanted: Identity) -> Identity:
    recipe = Recipe(
        epochs=wanted.epochs, batch_size=BATCH_SIZE, optimizer="adam", lr=1e-3, ema=0.0, clip=0.0, deterministic=True,
        seed=wanted.seed,
    )  # fmt: skip
    accuracies: list[float] = []
    Trainer(model, recipe).fit(train, held_out, lambda record: accuracies.append(record["held_out_accuracy"]))
    return replace(wanted, accuracy=accuracies[-1], weights=digest(model.state_dict()))


def _has_classes(images: Dataset) -> bool:
    return images.labels is not None and images.classes is not None and images.classes > 1


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread, float32, gradients and random numbers of their own; outside everything stays as it was."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    cpu = torch.device("cpu")
    try:
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        plain = torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False)
        with cpu, set_aside(seed, cpu), plain[0], plain[1], plain[2]:
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
