"""Images of codes, some at a time, as every model draws them that is no walk over pixels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._checks import check_finite, check_integer, check_number
from .._philox import seed_or_any
from .._shadow import evaluated

STEP = 256
"""Images that are drawn at once."""


def draws_images(model: Any) -> bool:
    """Whether a model draws images by itself: by ``sample``, unless that ``needs_prior``, a model of its codes."""
    return hasattr(model, "sample") and not getattr(model, "needs_prior", False)


def draw_in_parts(
    model: Any,
    n: int,
    seed: int | None,
    labels: Tensor | None,
    temperature: float,
    first: int,
    draw: Callable[..., Tensor],
) -> Tensor:
    """``n`` images of ``model`` in eval mode, of ``STEP`` at a time.

    Args:
        model: what ``draw`` is given, in eval mode.
        n: how many.
        seed: any 64-bit integer; None is one from torch's generator.
        labels: of all of them, if any.
        temperature: 0 or more.
        first: index of the first.
        draw: (model, count, seed, first, labels, temperature) → the images of ``count`` codes, floating point in
            [0, levels − 1].

    Returns:
        int64 (n, C, H, W).

    Raises:
        ValueError: an argument does not fit, or an image is not finite.
    """
    n, first = check_integer("n", n, 1), check_integer("first", first, 0)
    temperature = check_number("temperature", temperature, 0)
    seed, images = seed_or_any(seed), []
    with evaluated(model) as shadow:
        for done in range(0, n, STEP):
            count = min(STEP, n - done)
            some = None if labels is None else labels[done : done + count]
            drawn = draw(shadow, count, seed, first + done, some, temperature)
            images.append(check_finite("model", drawn, "finite images").round().to(torch.int64))
    return torch.cat(images)
