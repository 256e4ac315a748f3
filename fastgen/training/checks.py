"""What must fit before the first step: the data to what the model reads, and its losses to their form."""

from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_instance
from ..conditions import Classes, as_condition, described, kind_of_batch, kind_said
from ..data import Dataset
from ..nn import SyncBatchNorm
from ..sampling.inputs import dtype_and_device_of
from . import distributed
from .recipe import Recipe


def check_data(model: Any, data: Dataset, name: str) -> Dataset:
    """Check all of ``data``, called ``name``, against the model's ``levels``, ``in_channels`` and ``condition_kind``.

    A model without one of these attributes is not checked against it; ``classes`` are a kind of condition.

    Returns:
        The data as the model is told them: see ``told_to``.

    Raises:
        ValueError: says what was expected, and what the data has.
    """
    check_instance(name, data, Dataset, "a Dataset")
    levels = getattr(model, "levels", data.levels)
    if data.levels != levels:
        hint = f"; quantise them to {levels}" if data.levels > levels else ""
        raise ValueError(
            f"{name}: expected images of {levels} levels, integers in [0, {levels}), which the model reads,"
            f" got {data.name}, of {data.levels} levels{hint}"
        )
    data = told_to(model, data)
    _check_images(model, data.values[:1], name)
    _check_told(model, data.told, len(data), name)
    return data


def told_to(model: Any, data: Dataset) -> Dataset:
    """The data as the model is told them, ``Dataset.told_to``: numbers in the dtype of its parameters."""
    return data.told_to(kind_said(model), dtype_and_device_of(model)[0] if isinstance(model, nn.Module) else None)


def check_told(model: Any, data: Dataset, name: str) -> None:
    """Check what is told of all images, as ``check_data`` does, where the model is told more than a class.

    Raises:
        ValueError: says what was expected, and what the data has.
    """
    if not isinstance(kind_said(model), Classes):
        _check_told(model, data.told, len(data), name)


def check_batch(model: Any, values: Tensor, condition: Any, name: str = "first batch") -> None:
    """Check a batch's shape, dtype, range, and labels or another condition, as ``check_data`` does.

    Raises:
        ValueError: names what does not fit, what was expected, and what came.
    """
    _check_images(model, values, name)
    _check_told(model, condition, len(values), name)


def _check_images(model: Any, values: Tensor, name: str) -> None:
    channels = getattr(model, "in_channels", None)
    if values.dim() != 4 or (channels is not None and values.shape[1] != channels):
        expected = f"(N, {'C' if channels is None else channels}, H, W)"
        raise ValueError(f"{name}: expected images of shape {expected}, got {tuple(values.shape)}")
    _check_range(f"{name}: values", values, getattr(model, "levels", None))


def _check_told(model: Any, condition: Any, n: int, name: str) -> None:
    kind = kind_said(model)
    if kind is None:
        return
    if isinstance(kind, Classes):
        if condition is None:
            raise ValueError(f"{name}: expected labels{kind.range}, since the model has classes, got none")
        if not isinstance(condition, Tensor):
            raise ValueError(f"{name}: labels: expected integers, got {described(kind_of_batch(condition))}")
        _check_range(f"{name}: labels", condition, kind.count)
        return
    if condition is None:
        raise ValueError(f"{name}: expected a condition, {described(kind)}, which the model reads, got none")
    try:
        as_condition(condition, n, kind, name=f"{name}: condition")
    except TypeError as error:
        raise ValueError(str(error)) from error


def check_losses(losses: dict[str, Tensor], n: int, player: str) -> None:
    """Check that losses are numbers of one dtype, one for each of ``n`` examples.

    Raises:
        ValueError: names the loss, what was expected, and what came.
    """
    if not isinstance(losses, dict) or not losses:
        raise ValueError(f"losses of {player}: expected a dict of one or more tensors, got {losses!r}")
    dtype = next(iter(losses.values())).dtype
    for name, loss in losses.items():
        if loss.shape != (n,) or loss.dtype != dtype or dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"losses of {player}: expected {name} of shape ({n},), one number per example, float32 (or all of them"
                f" float64), got {tuple(loss.shape)}, {loss.dtype}"
            )


def _check_range(name: str, numbers: Tensor, end: int | None) -> None:
    if numbers.is_floating_point() or numbers.is_complex():
        raise ValueError(f"{name}: expected integers, got {numbers.dtype}")
    if end is None or not numbers.numel():
        return
    low, high = (int(bound) for bound in numbers.aminmax())
    if low < 0 or high >= end:
        raise ValueError(f"{name}: expected integers in [0, {end}), got {low} to {high}")


def check_parts(recipe: Recipe) -> None:
    """Raise ValueError unless the images of a step can be divided among processes, and by each into its parts."""
    parts = distributed.size() * recipe.accumulate
    if recipe.batch_size % parts:
        raise ValueError(
            f"batch_size: expected a multiple of {parts}, {distributed.size()} processes times accumulate"
            f" {recipe.accumulate}, got {recipe.batch_size}"
        )


def check_shared(model: nn.Module, recipe: Recipe, images: int) -> None:
    """Raise ValueError where processes share a batch that has no image for one of them, or of its parts: one that stood
    in for it would count in the statistics of batch norms, and in the codebook of a VQ-VAE.
    """
    parts, last = distributed.size() * recipe.accumulate, images % recipe.batch_size
    if distributed.size() == 1 or recipe.drop_last or not 0 < last < parts:
        return
    why = "an image of every batch for each process and part of a step"
    what = f"got a last batch of {last} among {parts}; drop_last leaves it out"
    if any(isinstance(one, (SyncBatchNorm, nn.SyncBatchNorm)) for one in model.modules()):
        alone = "without sync_batch_norm each process has statistics of its own"
        raise ValueError(f"train: expected {why}, since batch norms share batches, {what}, and {alone}")
    if getattr(model, "shares_batches", False):
        raise ValueError(f"train: expected {why}, since {type(model).__name__} shares batches, {what}")
