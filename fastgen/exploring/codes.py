"""Pictures of codes that a model has names for, each taken through its values; and ways through parts of a prior."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..pictures.sheet import class_words, sheet
from ._shared import called_by, count, decode, rgb


def draw_code_traversals(
    model: Any, rows: int = 3, steps: int = 10, seed: int = 0, *, of: str | None = None
) -> np.ndarray:
    """What each code does to drawn images: a row for one of them, a code changed from left to right, the rest kept.

    Args:
        model: with ``code_traversals``, as ``fastgen.models.InfoGAN``.
        rows: drawn images for each code.
        steps: images in a row; of the categories of the first so many.
        seed: of the images.
        of: what to call the model in the title; its type by default.
    """
    rows, steps = count("rows", rows), count("steps", max(2, steps))
    every = model.code_traversals(rows, steps, seed)
    columns = min(len(each.values) for each in every)
    every = model.code_traversals(rows, columns, seed) if columns >= 2 else every
    z = torch.cat([each.z.flatten(0, 1) for each in every])
    names = [f"{each.name}\n{each.values[0]} to {each.values[-1]}" for each in every]
    return sheet(
        rgb(model, decode(model, z, None)),
        f"A code changed in each row, the rest of z kept: {called_by(of, model)}",
        columns=columns,
        note="beside each row its code, and the values that it has from left to right",
        rows=[line for name in names for line in (name, *[""] * (rows - 1))],
    )


def draw_walk(
    model: Any, codes: torch.Tensor, *, of: str | None = None, names: Sequence[str] | None = None
) -> np.ndarray:
    """The images on a way through each component of a prior, a row for each.

    Args:
        model: whose prior it is.
        codes: (K, side, latent), as its ``walk`` gives them.
        of: what to call the model in the title; its type by default.
        names: of the classes that have the components, if any has; their numbers by default.
    """
    parts, side = codes.shape[:2]
    words = class_words(names, parts) if model.classes is not None else [f"part {part}" for part in range(parts)]
    return sheet(
        rgb(model, decode(model, codes.flatten(0, 1), None if model.classes is None else _each(parts, side))),
        f"Images on a way through each part of the prior: {called_by(of, model)}",
        columns=side,
        note=f"{model.prior} prior; from left to right even in probability",
        rows=words,
        gap=0,
    )


def _each(parts: int, side: int) -> torch.Tensor:
    return torch.arange(parts).repeat_interleave(side)
