"""Codes: where they lie, and the paths and grids among them."""

from typing import Any

import torch
from torch import Tensor

from .._checks import (
    check_finite,
    check_floating,
    check_integer,
    check_number,
    check_numbers,
    check_pair,
    check_same,
    check_values,
)
from ..ops.rsample_kl import LOGVAR_MAX, LOGVAR_MIN

BATCH = 512
MOST = 2**16
"""Steps of a path, or codes along a side: what is more is a slip."""


@torch.no_grad()
def codes_of(model: Any, values: Tensor, labels: Tensor | None = None) -> Tensor:
    """The code of each image, (N, latent), a batch at a time; labels count where the model has classes."""
    device = next(model.parameters()).device
    labels = check_images_and_labels(model, values, labels)
    parts = [
        model.encode(values[i : i + BATCH].to(device), labels if labels is None else labels[i : i + BATCH].to(device))
        for i in range(0, len(values), BATCH)
    ]
    return check_finite("model", torch.cat(parts), "finite codes")


def check_images_and_labels(
    model: Any, values: Tensor, labels: Tensor | None, name: str = "values", labels_name: str = "labels"
) -> Tensor | None:
    """The labels that a model with classes reads of images (N, C, H, W), at least one, else None.

    Raises:
        TypeError: images or labels are no integers.
        ValueError: there is no image, or their shape, number or range is not the model's.
    """
    check_numbers(name, values, image_shape(model))
    if values.is_floating_point():
        raise TypeError(f"{name}: expected an integer tensor, got {values.dtype}")
    if not len(values):
        raise ValueError(f"{name}: expected one image or more, got none")
    check_values(values, getattr(model, "levels", 256), name)
    if labels is None or model.classes is None:
        if labels is not None:
            check_numbers(labels_name, labels)
        elif model.classes is not None:
            raise ValueError(f"{labels_name}: expected integers in [0, {model.classes}), one for each image, got None")
        return None
    check_numbers(labels_name, labels, (len(values),))
    check_values(labels, model.classes, labels_name)
    return labels


def image_shape(model: Any) -> tuple[str | int, ...]:
    """(N, C, H, W) of the images that a model reads, with words for what it leaves free."""
    return ("N", getattr(model, "in_channels", "C"), *(getattr(model, "image_size", None) or ("H", "W")))


@torch.no_grad()
def importance(model: Any, values: Tensor, labels: Tensor | None = None) -> Tensor:
    """How much each latent dimension tells of an image, (latent,), on average over ``values``.

    For a model with a posterior the nats by which a code tells images apart: the mean of KL(q(z_j|x) ‖ N(m, s²)), with
    m and s² mean and variance of z_j over all images; that is ½ (log s² − E log σ²), at least the mutual information of
    z_j and x. A dimension whose posterior is the same for every image has none, wherever it lies: its KL to the prior
    would count the distance. For a model without a posterior, the variance of the code.
    """
    if not hasattr(model, "posterior"):
        return codes_of(model, values, labels).var(dim=0)
    device = next(model.parameters()).device
    labels = check_images_and_labels(model, values, labels)
    means, logvars = [], []
    for i in range(0, len(values), BATCH):
        y = labels if labels is None else labels[i : i + BATCH].to(device)
        q = model.posterior(values[i : i + BATCH].to(device), y)
        means.append(q.mean.double())
        logvars.append(q.logvar.double().clamp(LOGVAR_MIN, LOGVAR_MAX))
    mean, logvar = torch.cat(means), torch.cat(logvars)
    spread = mean.var(0, correction=0) + logvar.exp().mean(0)
    return check_finite("model", 0.5 * (spread.log() - logvar.mean(0)).clamp(min=0), "finite codes")


def lerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Points on the straight line from ``a`` to ``b``, (D,) each: (steps, D), both ends included."""
    _check_ends(a, b)
    t = _fractions(steps, a)
    return (1 - t) * a + t * b


def slerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Points on the arc from ``a`` to ``b``, (D,) each: (steps, D), both ends included.

    sin((1 − t)·Ω)/sin Ω · a + sin(t·Ω)/sin Ω · b, with Ω the angle between them (Shoemake 1985; White 2016,
    arXiv:1609.04468). Between points of N(0, I) in many dimensions it keeps to their usual distance from the origin,
    which the straight line cuts short. Parallel vectors have no arc: between them it is the straight line.
    """
    _check_ends(a, b)
    t = _fractions(steps, a)
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp(min=torch.finfo(a.dtype).tiny)
    angle = torch.acos(cosine.clamp(-1, 1))
    if torch.sin(angle) < 1e-4:
        return lerp(a, b, steps)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def manifold_codes(side: int, latent: int, dims: tuple[int, int] = (0, 1), at: Tensor | None = None) -> Tensor:
    """A grid of codes, even in probability: z = Φ⁻¹((i + ½) / side) along two dimensions (arXiv:1312.6114, figure 4).

    Args:
        side: codes along each dimension.
        latent: dimensions of the latent space.
        dims: the two that vary: the first from left to right, the second from top (high) to bottom (low).
        at: (latent,), what the others are; zero by default.

    Returns:
        (side², latent), row by row.
    """
    side = check_integer("side", side)
    if side < 1:
        raise ValueError(f"side: expected 1 or more, got {side}")
    check_integer("side", side, 1, MOST)
    check_integer("latent", latent, 1, 2**20)
    dims = check_pair("dims", dims, 0)
    if at is not None:
        check_floating("at", at, (latent,))
    if dims[0] == dims[1] or not all(0 <= dim < latent for dim in dims):
        raise ValueError(f"dims: expected two different ones of {latent}, got {dims}")
    ticks = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side).float()
    codes = (torch.zeros(latent) if at is None else at.cpu()).repeat(side, side, 1)
    codes[:, :, dims[0]] = ticks[None, :]
    codes[:, :, dims[1]] = ticks.flip(0)[:, None]
    return codes.view(side * side, latent)


def traversal_codes(code: Tensor, dims: Tensor, steps: int, reach: float = 3.0) -> Tensor:
    """For each of ``dims``, ``code`` (latent,) with that dimension from −reach to reach: (dims · steps, latent)."""
    check_floating("code", code, ("D",))
    check_numbers("dims", dims, ("M",))
    if dims.is_floating_point() or dims.dtype == torch.bool:
        raise TypeError(f"dims: expected integers, got {dims.dtype}")
    check_values(dims, len(code), "dims")
    check_integer("steps", steps, 1, MOST)
    check_number("reach", reach, 0, 1e6)
    codes = code.repeat(len(dims), steps, 1)
    ticks = torch.linspace(-reach, reach, steps, dtype=code.dtype, device=code.device)
    for row, dim in enumerate(dims.tolist()):
        codes[row, :, dim] = ticks
    return codes.flatten(0, 1)


def combine(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Mean of ``a`` − mean of ``b`` + mean of ``c``: (·, latent) each → (latent,) (arXiv:1511.06434, section 6.3.2)."""
    for name, group in (("a", a), ("b", b), ("c", c)):
        check_floating(name, group, ("N", "D"))
        check_same(name, group, "a", a)
        if group.shape[1] != a.shape[1] or not len(group):
            raise ValueError(f"{name}: expected shape (N, {a.shape[1]}) as a has, got {tuple(group.shape)}")
    return a.mean(0) - b.mean(0) + c.mean(0)


def arithmetic(model: Any, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``combine`` for the codes of three groups of images."""
    for name, group in (("a", a), ("b", b), ("c", c)):
        check_numbers(name, group)
        if not group.dim() or not len(group):
            raise ValueError(f"{name}: expected at least one image, got none")
        check_images_and_labels(model, group, None, name)
    return combine(*(codes_of(model, group) for group in (a, b, c)))


def _check_ends(a: Tensor, b: Tensor) -> None:
    check_floating("a", a, ("D",))
    check_floating("b", b, a.shape)
    check_same("b", b, "a", a)


def _fractions(steps: int, like: Tensor) -> Tensor:
    if check_integer("steps", steps) < 2:
        raise ValueError(f"steps: expected 2 or more, got {steps}")
    check_integer("steps", steps, 2, MOST)
    return torch.linspace(0, 1, steps, dtype=like.dtype, device=like.device)[:, None]
