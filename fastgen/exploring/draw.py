"""Pictures of a latent space; each is 8-bit colours (height, width, 3), for ``fastgen.pictures.save``."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import pictures
from .._checks import check_finite, check_integer, check_number, check_numbers
from ..distributions import check_values
from .latent import (
    BATCH,
    MOST,
    arithmetic,
    check_images_and_labels,
    codes_of,
    image_shape,
    importance,
    lerp,
    manifold_codes,
    nearest,
    slerp,
    traversal_codes,
)


def draw_reconstructions(model: Any, values: Tensor, labels: Tensor | None = None, columns: int = 10) -> np.ndarray:
    """Images in the upper row of each pair, what the model makes of their codes in the lower."""
    columns = _count("columns", columns)
    rebuilt = _decode(model, codes_of(model, values, labels), labels)
    rows = [_rgb(model, values), _rgb(model, rebuilt)]
    return pictures.grid(pictures.in_turn(rows, columns), columns)


def draw_samples(
    model: Any, n: int = 100, columns: int = 10, seed: int = 0, labels: Tensor | None = None
) -> np.ndarray:
    """Images drawn from the prior; of a conditional model a class in each column, unless ``labels`` are given."""
    n, columns, seed = _count("n", n), _count("columns", columns), check_integer("seed", seed)
    columns = columns if model.classes is None or labels is not None else min(model.classes, 16)
    return pictures.grid(_rgb(model, _sample(model, n, seed, labels, columns)), columns)


def draw_manifold(
    model: Any, side: int = 20, dims: tuple[int, int] = (0, 1), label: int | None = None, at: Tensor | None = None
) -> np.ndarray:
    """The image of each code of a grid over two latent dimensions, even in probability under the prior."""
    if label is not None:
        check_integer("label", label, 0, (model.classes or 1) - 1)
    elif model.classes is not None:
        raise ValueError(f"label: expected one in [0, {model.classes}), since the model has classes, got None")
    codes = manifold_codes(side, model.latent, dims, at).to(next(model.parameters()))
    return pictures.grid(_rgb(model, _decode(model, codes, _repeat(label, len(codes)))), side, gap=0)


def draw_traversals(
    model: Any,
    values: Tensor,
    labels: Tensor | None = None,
    rows: int = 10,
    steps: int = 11,
    reach: float = 3.0,
    index: int = 0,
) -> np.ndarray:
    """What each latent dimension does to one image: a row for each dimension, the one that tells most on top.

    Args:
        model: with an encoder.
        values: images that say how much each dimension tells; number ``index`` of them is changed.
        labels: theirs, for a model with classes.
        rows: dimensions to draw.
        steps: images in a row.
        reach: from −reach to reach; for a model without a prior in standard deviations of the codes around their mean.
        index: of the image to change.
    """
    rows, steps = _count("rows", rows), _count("steps", steps)
    codes, order = codes_of(model, values, labels), importance(model, values, labels).argsort(descending=True)
    check_integer("index", index, -len(codes), len(codes) - 1)
    check_number("reach", reach, 0, 1e6)
    dims = order[:rows]
    if hasattr(model, "posterior"):
        grid = traversal_codes(codes[index], dims, steps, reach)
    else:
        mean, spread = codes.mean(0), codes.std(0).clamp(min=torch.finfo(codes.dtype).tiny)
        grid = traversal_codes((codes[index] - mean) / spread, dims, steps, reach) * spread + mean
    label = None if labels is None or model.classes is None else int(labels[index])
    return pictures.grid(_rgb(model, _decode(model, grid, _repeat(label, len(grid)))), steps)


def draw_interpolations(
    model: Any, starts: Tensor, ends: Tensor, steps: int = 10, labels: tuple[Tensor, Tensor] | None = None
) -> np.ndarray:
    """From each of ``starts`` to the same of ``ends``: the straight line between their codes, and below it the arc.

    With classes the first half of the way has the class of the start, the second half that of the end.
    """
    check_numbers("starts", starts, image_shape(model))
    check_numbers("ends", ends, tuple(starts.shape))
    for name, images in (("starts", starts), ("ends", ends)):
        check_images_and_labels(model, images, None if labels is None else labels[name == "ends"], name)
    first, last = labels if labels is not None and model.classes is not None else (None, None)
    a, b = codes_of(model, starts, first), codes_of(model, ends, last)
    ways = [torch.cat([way(a[i], b[i], steps) for i in range(len(a))]) for way in (lerp, slerp)]
    classes = None
    if first is not None and last is not None:
        early = (torch.arange(steps) * 2 < steps).expand(len(a), -1)
        classes = torch.where(early, first[:, None], last[:, None]).flatten()
    rows = [_rgb(model, _decode(model, way, classes)) for way in ways]
    return pictures.grid(pictures.in_turn(rows, steps), steps)


def draw_arithmetic(model: Any, a: Tensor, b: Tensor, c: Tensor) -> np.ndarray:
    """The mean codes of three groups of images, a, b and c, and a − b + c, as images side by side."""
    if model.classes is not None:
        raise ValueError("model: expected one without classes, whose codes tell all of an image, got a conditional one")
    for name, group in (("a", a), ("b", b), ("c", c)):
        check_images_and_labels(model, group, None, name)
    means = [codes_of(model, group).mean(0) for group in (a, b, c)]
    images = _rgb(model, _decode(model, torch.stack([*means, arithmetic(model, a, b, c)]), None))
    scale = max(1, round(64 / max(images.shape[1:3])))
    sums = [pictures.grid(image[None], 1, scale) for image in images]
    page = pictures.Page(sum(part.shape[1] for part in sums) + 3 * 24, sums[0].shape[0])
    x = 0
    for part, sign in zip(sums, "-+=", strict=False):
        page.picture(x, 0, part)
        x += part.shape[1]
        page.text(x + 12, part.shape[0] // 2, sign, 18, anchor="mm")
        x += 24
    page.picture(x, 0, sums[-1])
    return page.pixels()


def draw_nearest(
    model: Any, train: Tensor, n: int = 10, k: int = 4, seed: int = 0, labels: Tensor | None = None
) -> np.ndarray:
    """Drawn images in the top row, and below each the ``k`` images it was trained on that are nearest to it."""
    n, k, seed = _count("n", n), _count("k", k), check_integer("seed", seed)
    check_numbers("train", train, image_shape(model))
    check_values(train, getattr(model, "levels", 256), "train")
    if k > len(train):
        raise ValueError(f"k: expected 1 to {len(train)}, the number of images to choose from, got {k}")
    drawn = _sample(model, n, seed, labels, n)
    indices, _ = nearest(drawn, train, k)
    rows = [_rgb(model, drawn), *(_rgb(model, train[indices[:, place]]) for place in range(k))]
    return pictures.grid(pictures.in_turn(rows, n), n)


def _count(name: str, value: int) -> int:
    return check_integer(name, value, 1, MOST)


def _rgb(model: Any, values: Tensor) -> np.ndarray:
    return pictures.to_rgb(values, model.levels)


@torch.no_grad()
def _decode(model: Any, codes: Tensor, labels: Tensor | None) -> Tensor:
    labels = labels if labels is None or model.classes is None else labels.to(codes.device)
    parts = [
        model.decode(codes[i : i + BATCH], labels[i : i + BATCH] if labels is not None and model.classes else None)
        for i in range(0, len(codes), BATCH)
    ]
    return check_finite("model", torch.cat(parts).cpu(), "finite images")


def _sample(model: Any, n: int, seed: int, labels: Tensor | None, columns: int) -> Tensor:
    if model.classes is not None and labels is None:
        labels = torch.arange(n) % columns % model.classes
    device = next(model.parameters()).device
    return model.sample(n, seed=seed, labels=labels if labels is None else labels.to(device)).cpu()


def _repeat(label: int | None, n: int) -> Tensor | None:
    return None if label is None else torch.full((n,), label)
