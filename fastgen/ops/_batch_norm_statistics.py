"""Mean and M2 of every channel: of an image as it is stored, and of a whole from those of its parts."""

from typing import Any

import torch
from torch import Tensor

from ._layouts import is_channels_last
from ._registry import define_op
from .batch_norm import KERNELS, PIXELS, accumulator, per_channel


def combine(counts: Tensor, means: Tensor, m2s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and M2 of a whole from those of its parts, (P,), (P, C), (P, C), as Chan et al. 1979 combine them."""
    count = counts.sum()
    weights = counts[:, None]
    mean = (weights * means).sum(0) / count
    return count, mean, m2s.sum(0) + (weights * (means - mean).square()).sum(0)


def batch_norm_statistics_reference(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and M2 = Σ(y − mean)² of every channel, each (C,), of the values as they are stored; corrected two passes.

    ``sum`` adds in cascades; the accumulation inside torch's own batch norm loses a digit per thousand pixels.
    """
    count = max(y.shape[0] * y.shape[2] * y.shape[3], 1)
    mean = y.sum(PIXELS, dtype=accumulator(y.dtype)) / count
    difference = y - per_channel(mean)
    error = difference.sum(PIXELS) / count
    return mean + error, difference.mul_(difference).sum(PIXELS) - count * error.square()


def _fake(y: Tensor) -> tuple[Tensor, Tensor]:
    mean = y.new_empty(y.shape[1], dtype=accumulator(y.dtype))
    return mean, torch.empty_like(mean)


def _setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[0])


def _backward(ctx: Any, grad_mean: Tensor, grad_m2: Tensor) -> Tensor:
    """grad_mean / count + 2 · grad_m2 · (y − mean): of y what ``batch_norm_apply`` computes."""
    y, mean = ctx.saved_tensors
    count = max(y.shape[0] * y.shape[2] * y.shape[3], 1)
    apply = torch.ops.fastgen.batch_norm_apply.default
    return apply(y, mean, 2 * grad_m2, grad_mean / count, "none", 0.0, is_channels_last(y))


define_op(
    "batch_norm_statistics(Tensor y) -> (Tensor mean, Tensor m2)",
    kernels=KERNELS,
    reference=batch_norm_statistics_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
