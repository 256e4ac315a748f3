"""Pictures of images beside others: real ones and reconstructions, drawn ones and the nearest real ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import pictures
from .._checks import check_instance, check_integer, check_numbers, check_values
from .._console import several
from ..baselines import PCA
from ..metrics import nearest
from ..pictures.sheet import Names, class_words, of_classes, sheet
from ._shared import called_by, count, decode, drawn_in_turn, rgb
from .latent import BATCH, codes_of, image_shape


def draw_reconstructions(
    model: Any,
    values: Tensor,
    labels: Tensor | None = None,
    columns: int = 10,
    *,
    shown: int | None = None,
    pca: PCA | None = None,
    of: str | None = None,
) -> np.ndarray:
    """Images in the upper row of each pair, what the model makes of their codes in the lower, and the error beside it.

    Args:
        model: with an encoder.
        values: images; the errors ‖x − x̂‖², of x in [0, 1], are means over all of them.
        labels: theirs, for a model with classes.
        columns: images in a row.
        shown: how many of the images are in the picture, the first ones; all by default.
        pca: fitted to images in [0, 1]; a third row is what it makes of the images.
        of: what to call the model in the title; its type by default.
    """
    columns = count("columns", columns)
    shown = len(values) if shown is None else min(count("shown", shown), len(values))
    rebuilt, levels = decode(model, codes_of(model, values, labels), labels), model.levels
    rows, names = [rgb(model, values[:shown]), rgb(model, rebuilt[:shown])], ["given"]
    error = reconstruction_error(model, values, labels)
    names.append(f"reconstructed\nerror {error:.4g}")
    if pca is not None:
        check_instance("pca", pca, PCA, "a fitted PCA")
        x = values.cpu().double() / (levels - 1)
        rows.append(rgb(model, pca.decode(pca.encode(x[:shown])).clamp(0, 1) * (levels - 1)))
        names.append(f"PCA, {pca.components}\nerror {pca.squared_error(x).mean().item():.4g}")
    theirs = "" if pca is None else f", and PCA's of {pca.components} dimensions"
    title = f"{several(shown, 'image')}, their reconstructions{theirs}: {called_by(of, model)}"
    note = f"error: ‖x − x̂‖² of an image x in [0, 1], mean of {len(values):,}"
    columns = min(columns, shown)
    return sheet(pictures.in_turn(rows, columns), title, columns=columns, note=note, rows=names)


def reconstruction_error(model: Any, values: Tensor, labels: Tensor | None = None) -> float:
    """‖x − x̂‖² of images x in [0, 1] and what the model makes of their codes: a mean of the images."""
    device, total = next(model.parameters()).device, 0.0
    for i in range(0, len(values), BATCH):
        some, y = values[i : i + BATCH].to(device), None if labels is None else labels[i : i + BATCH].to(device)
        if "squared_error" in getattr(model, "measures", {}):  # what it is trained by, before values are cut to [0, 1]
            with torch.no_grad():
                total += model.losses(some, y)["squared_error"].double().sum().item()
            continue
        rebuilt = decode(model, codes_of(model, some, y), y).double()
        total += ((rebuilt - some.cpu()) / (model.levels - 1)).square().sum().item()
    return total / len(values)


def draw_samples(
    model: Any,
    n: int = 100,
    columns: int = 10,
    seed: int = 0,
    labels: Tensor | None = None,
    *,
    of: str | None = None,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Images drawn from the prior; of a conditional model a class in each column, unless ``labels`` are given.

    ``of`` and ``names``: what to call the model, and its classes by label; its type and their numbers by default.
    """
    n, columns, seed = count("n", n), count("columns", columns), check_integer("seed", seed)
    columns = columns if model.classes is None or labels is not None else min(model.classes, 16)
    images = rgb(model, drawn_in_turn(model, n, seed, labels, columns))
    title, given = f"{several(n, 'sample')} of {called_by(of, model)}", None if labels is None else labels.tolist()
    columns = min(columns, n)
    if model.classes is None:
        return sheet(images, title, columns=columns)
    words = class_words(names, model.classes)
    if given is None:
        return sheet(images, title, columns=columns, above=of_classes(range(columns), words))
    return sheet(images, title, columns=columns, below=of_classes(given, words))


def draw_nearest(
    model: Any,
    train: Tensor,
    n: int = 10,
    k: int = 4,
    seed: int = 0,
    labels: Tensor | None = None,
    *,
    of: str | None = None,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Drawn images in the top row, and below each the ``k`` images it was trained on that are nearest to it.

    ``of`` and ``names``: what to call the model, and its classes by label; its type and their numbers by default.
    """
    n, k, seed = count("n", n), count("k", k), check_integer("seed", seed)
    check_numbers("train", train, image_shape(model))
    check_values(train, getattr(model, "levels", 256), "train")
    if k > len(train):
        raise ValueError(f"k: expected 1 to {len(train)}, the number of images to choose from, got {k}")
    drawn = drawn_in_turn(model, n, seed, labels, n)
    indices, distances = nearest(drawn, train, k)
    rows = [rgb(model, drawn), *(rgb(model, train[indices[:, place]]) for place in range(k))]
    far = (distances / (model.levels - 1)).T.flatten().tolist()
    above: Names | tuple[str, ...] = ()
    if model.classes is not None:
        given = [i % model.classes for i in range(n)] if labels is None else labels.tolist()
        above = of_classes(given, class_words(names, model.classes))
    return sheet(
        pictures.in_turn(rows, n),
        f"{several(n, 'sample')} of {called_by(of, model)}, and the nearest of {len(train):,} images to train on",
        columns=n,
        note="below each its Euclidean distance, values in [0, 1]",
        rows=["drawn", *(f"nearest {place + 1}" for place in range(k))],
        above=above,
        below=[*[""] * n, *(f"{distance:.2f}" for distance in far)],
    )
