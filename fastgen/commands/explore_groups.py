"""Groups of images of ``fastgen explore``: held-out ones, or drawn ones of a model that has no encoder."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import exploring
from ..data import Dataset
from ..data.identity import class_number
from ..pictures.sheet import class_words

FROM_PRIOR = ("grid", "traversals", "interpolations", "arithmetic")
"""Pictures that begin with drawn images where a model has no encoder."""


def draws_codes(model: Any) -> bool:
    """Whether pictures begin with drawn images: the model knows their codes, and encodes no other."""
    return hasattr(model, "draw_codes") and hasattr(model, "decode") and not hasattr(model, "encode")


def draw_from_prior(kind: str, model: Any, n: int, seed: int, groups: tuple[str, ...] | None, of: str) -> np.ndarray:
    """A picture of ``FROM_PRIOR``, ``n`` images wide.

    Raises:
        ValueError: the groups of the arithmetic are not numbers of drawn images.
    """
    if kind == "grid":
        return exploring.draw_grid(model, n * n, n, seed, of=of)
    if kind == "interpolations":
        return exploring.draw_code_interpolations(model, max(1, n // 2), max(2, n), seed, of=of)
    if kind == "traversals":
        if hasattr(model, "code_traversals"):
            return exploring.draw_code_traversals(model, steps=n, seed=seed, of=of)
        return exploring.draw_prior_traversals(model, n, seed=seed, of=of)
    a, b, c = drawn_groups(groups, n)
    return exploring.draw_code_arithmetic(model, a, b, c, seed, of=of)


def drawn_groups(groups: tuple[str, ...] | None, n: int) -> list[list[int]]:
    """The numbers of drawn images of a, b and c, of those that the picture grid, ``n`` wide, shows.

    Raises:
        ValueError: they are others, or there are none.
    """
    found = []
    for group in groups or [None]:
        try:
            found.append([int(number) for number in str(group).split(",")])
        except ValueError:
            found.append([-1])
        if not all(0 <= number < n * n for number in found[-1]):
            raise ValueError(
                "groups: expected three, each numbers of drawn images that the picture grid shows, as 3,14,15, from 0"
                f" to {n * n - 1}, got {group!r}"
            )
    return found


def groups_of(groups: tuple[str, ...] | None, images: Dataset, device: torch.device) -> list[tuple[Tensor, str | None]]:
    """The images of a, b and c, and what their class is called where they are all images of one."""
    found = []
    there = classes_of(images)
    if groups is None and len(there) < 3:
        raise ValueError(f"groups: expected three, since there are held-out images of {len(there)} classes, got none")
    words = [] if images.classes is None else class_words(images.class_names, images.classes)
    for group in groups or there[:3]:
        label = group if isinstance(group, int) else None
        try:
            name, _, number = str(group).partition("=")
            if label is None and name == "class" and images.labels is not None:
                label = class_number("groups", number, images.class_names, images.classes or 0)
            if label is not None and images.labels is not None:
                chosen = torch.nonzero(images.labels == label).flatten()
            else:
                chosen = torch.tensor([int(index) for index in str(group).split(",")])
        except ValueError as error:
            what = (
                "class=NAME, class=K or"
                if images.labels is not None
                else "no classes, since the data have no labels, but"
            )
            raise ValueError(f"groups: expected {what} numbers of images, as 3,14,15, got {group!r}") from error
        if not len(chosen) or int(chosen.min()) < 0 or int(chosen.max()) >= len(images):
            raise ValueError(f"groups: expected images of {images.name}, 0 to {len(images) - 1}, got {group!r}")
        found.append((images.values[chosen].to(device, torch.int64), None if label is None else words[label]))
    return found


def classes_of(images: Dataset) -> list[int]:
    """The classes that some of the images are of."""
    return [] if images.labels is None else images.labels.unique().tolist()
