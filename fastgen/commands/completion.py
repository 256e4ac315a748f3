"""Images that ``fastgen sample --complete`` is given a part of."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..conditions import Condition, kind_said
from ..data.formats import read_npz
from ..training import Run
from .images import load_images, say_notes

DRAWN = 64
"""Images that are drawn where nobody says how many."""

HALVES = ("top-half", "bottom-half", "left-half", "right-half")


class Partial(NamedTuple):
    """Images to complete: values (N, C, H, W); mask, true where they are given; what the model is told beside them, if
    that is known; whole if the rest is known too.
    """

    values: Tensor
    mask: Tensor
    told: Condition | None
    whole: bool


def images_to_complete(options: Any, model: Any, shape: tuple[int, int, int]) -> Partial:
    """What ``--complete`` says, of a model's images (C, H, W); ``options``: of ``fastgen sample``."""
    if options.complete in HALVES:
        images = load_images(Run(options.run), data=options.data, root=options.data_root, own=True)
        say_notes(images)
        n = options.n or min(DRAWN, len(images))
        if n > len(images):
            raise ValueError(f"n: expected at most {len(images)}, the images of {images.name}, got {n}")
        images = images.subset(n, options.seed)
        _, height, width = shape
        parts = {
            "top-half": (slice(height // 2), slice(None)),
            "bottom-half": (slice(height // 2, None), slice(None)),
            "left-half": (slice(None), slice(width // 2)),
            "right-half": (slice(None), slice(width // 2, None)),
        }
        mask = torch.zeros(images.values.shape, dtype=torch.bool)
        rows, columns = parts[options.complete]
        mask[..., rows, columns] = True
        kind = kind_said(model)
        told = None if kind is None else images.told_to(kind).told
        return Partial(images.values, mask, told, whole=True)
    path = Path(str(options.complete))
    if path.suffix.lower() != ".npz":
        raise ValueError(f"complete: expected {', '.join(HALVES)} or an .npz, got {path}")
    arrays = read_npz(path)
    if not {"known", "known_mask"} <= arrays.keys():
        raise ValueError(f"{path}: expected known, and known_mask of bool, got {', '.join(arrays) or 'no arrays'}")
    if arrays["known_mask"].dtype != bool:
        raise ValueError(f"{path}: expected known_mask to be bool, got {arrays['known_mask'].dtype}")
    if arrays["known"].dtype.kind not in "biu" or not arrays["known"].size:
        got = f"{arrays['known'].dtype} {arrays['known'].shape}"
        raise ValueError(f"{path}: expected known to be integers, of one image or more, got {got}")
    known, mask = torch.from_numpy(arrays["known"].astype(np.int64)), torch.from_numpy(arrays["known_mask"])
    there = [len(each) for each in (known, mask) if each.dim() == 4]
    n = options.n or (max(there) if there else DRAWN)
    if there and n > max(there):
        raise ValueError(f"n: expected at most {max(there)}, the images of {path}, got {n}")
    known, mask = (each[:n] if each.dim() == 4 else each for each in (known, mask))
    size = (n, *shape)
    try:
        return Partial(known.expand(size), mask.expand(size), None, whole=False)
    except RuntimeError as error:
        got = f"{tuple(known.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"{path}: expected known and known_mask that fit images {size}, got {got}") from error
