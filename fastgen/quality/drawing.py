"""Images drawn from a model of any family, as many as are wanted, and the time that it took."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._checks import check_instance, check_integer, describe
from .._extras import require
from .._philox import uniforms
from ..conditions import Classes, apply, kind_said, select
from ..data import Dataset
from ..data.storage import dtype_of
from ..models import AutoregressiveModel, MultiScale
from ..models.drawing import draws_images
from ..sampling import compile as compile_sampler
from ..training.checks import told_to

BATCH = 250
"""Images that are drawn at once."""
WALKED = 1000
"""Images that are drawn by default of a model that walks over their pixels."""


def default_samples(model: Any) -> int | None:
    """Images that are drawn where nobody says how many: 1,000 of a model that walks over pixels; None is all."""
    return WALKED if isinstance(model, AutoregressiveModel | MultiScale) else None


def draw(model: Any, like: Dataset, seed: int = 0, title: str | None = None) -> tuple[Tensor, float]:
    """As many images as there are real ones, image i by the seed and i alone.

    Args:
        model: with ``sample(n, seed=, first=)``, or an autoregressive one, which draws with the compiled sampler. One
            that is told a class, or something else, is told what each of the real images is.
        like: the real images.
        seed: of what is drawn.
        title: of a progress bar on a terminal; none by default.

    Returns:
        (integers (N, C, H, W) on the CPU, of ``Dataset.values``' dtype, seconds that drawing took).

    Raises:
        TypeError: the model draws no images.
        ValueError: the real images are not what the model is told of; what comes is no image of their size.
    """
    check_instance("like", like, Dataset, "a Dataset")
    seed = check_integer("seed", seed, 0, 2**63 - 1)
    if not draws_images(model):
        raise TypeError(f"model: expected one that draws images, by sample, got {type(model).__name__}")
    kind, device = kind_said(model), next(model.parameters()).device
    told = None if kind is None else told_to(model, like).told
    if kind is not None and told is None:
        what = f"what {type(model).__name__} is told, labels or a condition"
        raise ValueError(f"like: expected images with {what}, got none")
    name = "labels" if isinstance(kind, Classes) else "condition"
    step, parts, seconds = _stepper(model, like.shape, seed), [], 0.0
    with require("tqdm").tqdm(
        total=len(like), desc=title, unit="image", leave=False, disable=True if title is None else None
    ) as bar:
        for first in range(0, len(like), BATCH):
            part = slice(first, min(first + BATCH, len(like)))
            given = {} if kind is None else {name: apply(lambda each: each.to(device), select(told, part))}
            started = time.perf_counter()
            values = step(first, part.stop - first, given, bar.update).cpu()
            seconds += time.perf_counter() - started
            bar.update(part.stop - bar.n)
            parts.append(_checked(values, (part.stop - first, *like.shape), like.levels))
    return torch.cat(parts), seconds


def _stepper(model: Any, shape: tuple[int, int, int], seed: int) -> Callable[..., Tensor]:
    """(first, n, what is told, what advances the bar) → images ``first`` to ``first + n``."""
    if not isinstance(model, AutoregressiveModel):
        return lambda first, n, given, _: model.sample(n, seed=seed, first=first, **given)
    sampler = compile_sampler(model, shape)

    def step(first: int, n: int, given: dict[str, Any], advance: Callable[[float], object]) -> Tensor:
        done = 0

        def progress(rows: int, _: object) -> None:
            nonlocal done
            advance((rows - done) * n / shape[1])
            done = rows

        u = uniforms(seed, n, sampler.uniforms_shape, first=first)
        return sampler.sample(uniforms=u, progress=progress, **given)

    return step


def _checked(values: Tensor, shape: tuple[int, ...], levels: int) -> Tensor:
    good = tuple(values.shape) == shape and not values.is_floating_point()
    if not good or int(values.min()) < 0 or int(values.max()) >= levels:
        raise ValueError(f"model: expected to draw integers {shape} in [0, {levels}), got {describe(values)}")
    return values.to(dtype_of(levels))
