"""Pictures of a latent space; each is 8-bit colours (height, width, 3), for ``fastgen.pictures.save``."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import pictures
from .._checks import check_integer, check_number, check_numbers
from .._console import several
from ..pictures.sheet import Axis, class_words, sheet
from ._shared import called_by, count, decode, repeat, rgb, signed
from .codes import draw_walk
from .latent import (
    arithmetic,
    check_images_and_labels,
    codes_of,
    image_shape,
    importance,
    lerp,
    manifold_codes,
    slerp,
    traversal_codes,
)


def draw_manifold(
    model: Any,
    side: int = 20,
    dims: tuple[int, int] = (0, 1),
    label: int | None = None,
    at: Tensor | None = None,
    *,
    of: str | None = None,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """The image of each code of a grid over two latent dimensions, even in probability under the prior.

    Of a prior that has parts (``walk``) they are the images on a way through each of them, and ``dims``, ``label`` and
    ``at`` are not read.

    ``of`` and ``names``: what to call the model, and its classes by label; its type and their numbers by default.
    """
    walk = model.walk(count("side", side)) if hasattr(model, "walk") else None
    if walk is not None:
        return draw_walk(model, walk, of=of, names=names)
    if label is not None:
        check_integer("label", label, 0, (model.classes or 1) - 1)
    elif model.classes is not None:
        raise ValueError(f"label: expected one in [0, {model.classes}), since the model has classes, got None")
    codes = manifold_codes(side, model.latent, dims, at).to(next(model.parameters()))
    codes[:, list(dims)], law = _of_the_prior(model, codes[:, list(dims)])
    x, y = codes.view(side, side, -1)[0, :, dims[0]].tolist(), codes.view(side, side, -1)[:, 0, dims[1]].tolist()
    title = f"Images at {side} × {side} codes: {called_by(of, model)}"
    if label is not None and model.classes is not None:
        title += f", class {class_words(names, model.classes)[label]}"
    others = "" if model.latent == 2 else f"; the other {several(model.latent - 2, 'dimension')} "
    others += "" if model.latent == 2 else "0" if at is None else "as given"
    return sheet(
        rgb(model, decode(model, codes, repeat(label, len(codes)))),
        title,
        columns=side,
        note=f"z even in probability under {law}{others}",
        x=Axis(f"z{dims[0]}", [signed(tick) for tick in x]),
        y=Axis(f"z{dims[1]}", [signed(tick) for tick in y]),
        gap=0,
    )


def _of_the_prior(model: Any, normal: Tensor) -> tuple[Tensor, str]:
    """Numbers that are even in probability under N(0, 1), made so under the law of one dimension; and this law."""
    if getattr(model, "prior", None) == "uniform":
        return math.sqrt(3) * (2 * torch.special.ndtr(normal) - 1), "U(−√3, √3)"
    std = getattr(model, "prior_std", 1.0)
    return std * normal, f"N(0, {std**2:g})"


def draw_traversals(
    model: Any,
    values: Tensor,
    labels: Tensor | None = None,
    rows: int = 10,
    steps: int = 11,
    reach: float = 3.0,
    index: int = 0,
    *,
    of: str | None = None,
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
        of: what to call the model in the title; its type by default.
    """
    rows, steps = count("rows", rows), count("steps", steps)
    codes, tells = codes_of(model, values, labels), importance(model, values, labels)
    check_integer("index", index, -len(codes), len(codes) - 1)
    check_number("reach", reach, 0, 1e6)
    dims = tells.argsort(descending=True)[:rows]
    if hasattr(model, "posterior"):
        grid = traversal_codes(codes[index], dims, steps, reach)
    else:
        mean, spread = codes.mean(0), codes.std(0).clamp(min=torch.finfo(codes.dtype).tiny)
        grid = traversal_codes((codes[index] - mean) / spread, dims, steps, reach) * spread + mean
    label = None if labels is None or model.classes is None else int(labels[index])
    prior = hasattr(model, "posterior")
    ticks = [signed(tick) + ("" if prior else " σ") for tick in torch.linspace(-reach, reach, steps).tolist()]
    how = "z{}\n{:.2f} nats" if prior else "z{}\nvariance {:.3g}"
    return sheet(
        rgb(model, decode(model, grid, repeat(label, len(grid)))),
        f"One image, a dimension of its code changed in each row: {called_by(of, model)}",
        columns=steps,
        note=f"beside each dimension {'the nats that it tells' if prior else 'the variance of codes'}, "
        f"of {several(len(values), 'image')}; above, z"
        + ("" if prior else " from the mean of codes, in their standard deviations σ"),
        rows=[how.format(dim, tells[dim].item()) for dim in dims.tolist()],
        above=ticks,
    )


def draw_interpolations(
    model: Any,
    starts: Tensor,
    ends: Tensor,
    steps: int = 10,
    labels: tuple[Tensor, Tensor] | None = None,
    *,
    of: str | None = None,
) -> np.ndarray:
    """From each of ``starts`` to the same of ``ends``: the straight line between their codes, and below it the arc.

    With classes the first half of the way has the class of the start, the second half that of the end.
    ``of``: what to call the model in the title; its type by default.
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
    rows = [rgb(model, decode(model, way, classes)) for way in ways]
    return sheet(
        pictures.in_turn(rows, steps),
        f"From one image to another: {called_by(of, model)}",
        columns=steps,
        note="codes on the straight line between the ends', and on the arc; above, the part of the way",
        rows=["line", "arc"],
        above=["start", *(f"{step / (steps - 1):.2f}" for step in range(1, steps - 1)), "end"],
    )


def draw_arithmetic(
    model: Any,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    of: str | None = None,
    called: tuple[str, str, str] | None = None,
) -> np.ndarray:
    """The mean codes of three groups of images, a, b and c, and a − b + c, as images side by side.

    ``of`` and ``called``: what to call the model, and the groups; its type and how many images they are by default.
    """
    if model.classes is not None:
        raise ValueError("model: expected one without classes, whose codes tell all of an image, got a conditional one")
    for name, group in (("a", a), ("b", b), ("c", c)):
        check_images_and_labels(model, group, None, name)
    means = [codes_of(model, group).mean(0) for group in (a, b, c)]
    images = rgb(model, decode(model, torch.stack([*means, arithmetic(model, a, b, c)]), None))
    groups = list(called or (f"mean of {several(len(group), 'image')}" for group in (a, b, c)))
    return sheet(
        images,
        f"Arithmetic of mean codes: {called_by(of, model)}",
        columns=4,
        above=["a", "− b", "+ c", "= a − b + c"],
        below=[*groups, f"{groups[0]} − {groups[1]} + {groups[2]}" if called else ""],
        gap=24,
    )
