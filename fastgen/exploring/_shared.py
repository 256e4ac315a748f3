"""What the pictures of a latent space share: from codes to colours, and words."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import pictures
from .._checks import check_finite, check_instance, check_integer
from .latent import BATCH, MOST


def count(name: str, value: int) -> int:
    return check_integer(name, value, 1, MOST)


def rgb(model: Any, values: Tensor) -> np.ndarray:
    return pictures.to_rgb(values, model.levels)


@torch.no_grad()
def decode(model: Any, codes: Tensor, labels: Tensor | None) -> Tensor:
    labels = labels if labels is None or model.classes is None else labels.to(codes.device)
    parts = [
        model.decode(codes[i : i + BATCH], labels[i : i + BATCH] if labels is not None and model.classes else None)
        for i in range(0, len(codes), BATCH)
    ]
    return check_finite("model", torch.cat(parts).cpu(), "finite images")


def drawn_in_turn(model: Any, n: int, seed: int, labels: Tensor | None, columns: int) -> Tensor:
    if model.classes is not None and labels is None:
        labels = torch.arange(n) % columns % model.classes
    device = next(model.parameters()).device
    return model.sample(n, seed=seed, labels=labels if labels is None else labels.to(device)).cpu()


def repeat(label: int | None, n: int) -> Tensor | None:
    return None if label is None else torch.full((n,), label)


def called_by(of: str | None, model: Any) -> str:
    return type(model).__name__ if of is None else check_instance("of", of, str, "text")


def signed(value: float) -> str:
    """Two digits, with a minus that is as wide as a plus; zero has no sign."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".").replace("-", "−")
