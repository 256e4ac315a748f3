"""Pictures of codes from a prior, of a model that draws codes and encodes none: numbered images, paths, arithmetic.

Image i of a seed has the same code in all of them: numbers read in the grid name images in the others.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import pictures
from .._checks import check_instance, check_integer, check_number
from .._console import several
from ..pictures.sheet import sheet
from ._shared import called_by, count, decode, repeat, rgb, signed
from .latent import combine, lerp, slerp, traversal_codes

NEAR = 0.25
"""Half the width of the noise around a result (arXiv:1511.06434, figure 7)."""


def draw_grid(model: Any, n: int = 100, columns: int = 10, seed: int = 0, *, of: str | None = None) -> np.ndarray:
    """Images of the first ``n`` codes of a seed, each with its number, by which groups of them are chosen.

    ``of``: what to call the model in the title; its type by default.
    """
    n, columns = count("n", n), count("columns", columns)
    return sheet(
        _drawn(model, model.draw_codes(n, check_integer("seed", seed)), _in_turn(model, n)),
        f"{several(n, 'sample')} by number: {called_by(of, model)}",
        columns=min(columns, n),
        below=[str(index) for index in range(n)],
        gap=8,
    )


def draw_code_interpolations(
    model: Any, rows: int = 5, steps: int = 10, seed: int = 0, *, of: str | None = None
) -> np.ndarray:
    """From each of ``rows`` drawn codes to another: the arc between them, and below it the straight line.

    Codes of N(0, I) lie at about √latent from the origin, as the arc does; the line passes nearer to it. The ends of
    row i are images 2i and 2i + 1 of the seed. With classes both ends of a row are of one.
    """
    rows, steps = count("rows", rows), count("steps", steps)
    z = model.draw_codes(2 * rows, check_integer("seed", seed))
    ways = [torch.cat([way(a, b, steps) for a, b in z.view(rows, 2, -1)]) for way in (slerp, lerp)]
    labels = _in_turn(model, rows)
    labels = None if labels is None else labels.repeat_interleave(steps)
    middle = [way.view(rows, steps, -1)[:, steps // 2].norm(dim=1).mean().item() for way in ways]
    return sheet(
        pictures.in_turn([_drawn(model, way, labels) for way in ways], steps),
        f"From one drawn image to another: {called_by(of, model)}",
        columns=steps,
        note="codes on the arc between the ends', and on the straight line; beside them their length midway, "
        f"the ends' being {z.norm(dim=1).mean().item():.2f}; above, the part of the way",
        rows=[f"{name}\n{length:.2f}" for name, length in zip(("arc", "line"), middle, strict=True)],
        above=["start", *(f"{step / (steps - 1):.2f}" for step in range(1, steps - 1)), "end"],
    )


def draw_code_arithmetic(
    model: Any,
    a: Sequence[int],
    b: Sequence[int],
    c: Sequence[int],
    seed: int = 0,
    *,
    near: float = NEAR,
    of: str | None = None,
) -> np.ndarray:
    """Arithmetic of mean codes of three groups of drawn images, a − b + c, and images around the result.

    As "smiling woman" − "neutral woman" + "neutral man" (arXiv:1511.06434, figure 7): single codes are unsteady there,
    the mean of three or more is not. Around the result: its code and noise, uniform in ±``near``.

    Args:
        model: with ``draw_codes`` and ``decode``, without classes.
        a: numbers of images of the seed, as ``draw_grid`` shows them.
        b: likewise.
        c: likewise.
        seed: of the images, and of the noise.
        near: half the width of the noise.
        of: what to call the model in the title; its type by default.

    Raises:
        ValueError: the model has classes; a group is empty, or a number negative.
    """
    if model.classes is not None:
        raise ValueError("model: expected one without classes, whose codes tell all of an image, got a conditional one")
    near = check_number("near", near, 0)
    groups = [_numbers(name, group) for name, group in (("a", a), ("b", b), ("c", c))]
    codes = [torch.cat([model.draw_codes(1, seed, first=number) for number in group]) for group in groups]
    result = combine(*codes)
    width = max(4, *map(len, groups))
    noise = torch.rand(width, model.latent, generator=torch.Generator().manual_seed(seed % 2**63)).to(result)
    around = result + near * (2 * noise - 1)
    images, names = [], []
    empty = np.full((1, *_drawn(model, result[None], None).shape[1:]), pictures.EMPTY, np.uint8)
    for name, group, z in zip(("a", "b", "c"), groups, codes, strict=True):
        row = [_drawn(model, torch.cat([z.mean(0, keepdim=True), z]), None), *[empty] * (width - len(group))]
        images += row
        names += [{"a": "a", "b": "− b", "c": "+ c"}[name], *map(str, group), *[""] * (width - len(group))]
    images.append(_drawn(model, torch.cat([result[None], around]), None))
    names += ["= a − b + c", *[f"± {near:g}"] * width]
    return sheet(
        np.concatenate(images),
        f"Arithmetic of mean codes of drawn images: {called_by(of, model)}",
        columns=width + 1,
        note="on the left the image of each mean, then the images by number; below, the result and codes near it",
        below=names,
        gap=12,
    )


def draw_prior_traversals(
    model: Any, rows: int = 10, steps: int = 11, seed: int = 0, reach: float | None = None, *, of: str | None = None
) -> np.ndarray:
    """What each latent dimension does to a drawn image: a row for each dimension, the one that changes most on top.

    Args:
        model: with ``draw_codes`` and ``decode``.
        rows: dimensions to draw.
        steps: images in a row.
        seed: of the image; it is number 0 of the grid.
        reach: from −reach to reach; by default 3, or all of a uniform prior, √3.
        of: what to call the model in the title; its type by default.
    """
    rows, steps = min(count("rows", rows), model.latent), count("steps", steps)
    if reach is None:
        reach = math.sqrt(3) if getattr(model, "prior", None) == "uniform" else 3.0
    z = model.draw_codes(1, check_integer("seed", seed))[0]
    ends = traversal_codes(z, torch.arange(model.latent), 2, check_number("reach", reach, 0, 1e6))
    label = None if model.classes is None else 0
    low, high = decode(model, ends, repeat(label, len(ends))).double().view(model.latent, 2, -1).unbind(1)
    moved = (high - low).square().mean(1).sqrt() / (model.levels - 1)
    dims = moved.argsort(descending=True)[:rows]
    codes = traversal_codes(z, dims, steps, reach)
    return sheet(
        _drawn(model, codes, repeat(label, len(codes))),
        f"One drawn image, a dimension of its code changed in each row: {called_by(of, model)}",
        columns=steps,
        note="beside each dimension how far its ends' pixels, in [0, 1], are apart, root mean square; above, z",
        rows=[f"z{dim}\n{moved[dim].item():.3f}" for dim in dims.tolist()],
        above=[signed(tick) for tick in torch.linspace(-reach, reach, steps).tolist()],
    )


def _numbers(name: str, group: Sequence[int]) -> list[int]:
    found = [check_integer(name, number, 0) for number in check_instance(name, group, Sequence, "numbers of images")]
    if not found:
        raise ValueError(f"{name}: expected one number of an image or more, got none")
    return found


def _in_turn(model: Any, n: int) -> Tensor | None:
    return None if model.classes is None else torch.arange(n) % model.classes


def _drawn(model: Any, codes: Tensor, labels: Tensor | None) -> np.ndarray:
    return rgb(model, decode(model, codes, labels).round())
