"""Batch normalisation around a transposed convolution: statistics → scale, scale → activation, running → folded."""

from typing import Any

import torch
from torch import Tensor

from ._registry import define_op

KERNELS = {"CUDA": "fastgen/ops/conv_transpose2d_bn_triton.py"}

#: The dimensions that statistics run over.
PIXELS = (0, 2, 3)


def layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics and of all per-channel vectors: float32, but float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def activate_(pre: Tensor, activation: str, slope: float) -> Tensor:
    """In place: ``pre`` is the caller's own and has not been seen by autograd."""
    if activation == "relu":
        return torch.relu_(pre)
    if activation == "leaky_relu":
        return torch.nn.functional.leaky_relu_(pre, slope)
    if activation == "tanh":
        return torch.tanh_(pre)
    return pre


def activate_backward(grad: Tensor, result: Tensor, activation: str, slope: float) -> Tensor:
    """Gradient of the activation, from its result: the mask is recomputed, never stored."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward.default(grad, result, 0)
    if activation == "leaky_relu":
        return torch.ops.aten.leaky_relu_backward.default(grad, result, slope, True)
    if activation == "tanh":
        return torch.ops.aten.tanh_backward.default(grad, result)
    return grad


def combine(counts: Tensor, means: Tensor, m2s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and M2 of a whole from those of its parts, (P,), (P, C), (P, C), as Chan et al. 1979 combine them."""
    count = counts.sum()
    weights = counts[:, None]
    mean = (weights * means).sum(0) / count
    return count, mean, m2s.sum(0) + (weights * (means - mean).square()).sum(0)


def per_channel(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1)


def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and M2 = Σ(y − mean)² of every channel, each (C,), of the values as they are stored; corrected two passes.

    ``sum`` adds in cascades; the accumulation inside torch's own batch norm loses a digit per thousand pixels.
    """
    count = max(y.shape[0] * y.shape[2] * y.shape[3], 1)
    mean = y.sum(PIXELS, dtype=accumulator(y.dtype)) / count
    difference = y - per_channel(mean)
    error = difference.sum(PIXELS) / count
    return mean + error, difference.mul_(difference).sum(PIXELS) - count * error.square()


def finalize_reference(
    mean: Tensor,
    m2: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    count: int | Tensor,
    momentum: float | None,
    eps: float,
) -> Tensor:
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            factor = 1 / num_batches_tracked.to(mean.dtype) if momentum is None else momentum  # type: ignore[union-attr]
            running_mean.copy_(factor * mean + (1 - factor) * running_mean.to(mean.dtype))
            running_var.copy_(factor * m2 / (count - 1) + (1 - factor) * running_var.to(mean.dtype))
    rstd = torch.rsqrt(m2 / count + eps)
    return rstd if weight is None else weight.to(mean.dtype) * rstd


def finalize_backward_reference(
    grad_scale: Tensor, m2: Tensor, weight: Tensor | None, count: int, eps: float
) -> tuple[Tensor, Tensor]:
    rstd = torch.rsqrt(m2 / count + eps)
    grad_rstd = grad_scale if weight is None else grad_scale * weight.to(m2.dtype)
    grad_m2 = grad_rstd * rstd**3 / (-2 * count)
    return grad_m2, grad_m2.new_empty(0) if weight is None else (grad_scale * rstd).to(weight.dtype)


def _finalize_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _mean, m2, weight, _running_mean, _running_var, _num_batches_tracked, ctx.count, _momentum, ctx.eps = inputs
    ctx.save_for_backward(m2, weight)


def _finalize_backward(ctx: Any, grad_scale: Tensor) -> tuple[Tensor | None, ...]:
    m2, weight = ctx.saved_tensors
    backward = torch.ops.fastgen.conv_transpose2d_bn_finalize_backward.default
    grad_m2, grad_weight = backward(grad_scale, m2, weight, ctx.count, ctx.eps)
    return None, grad_m2, None if weight is None else grad_weight, None, None, None, None, None, None


define_op(
    "conv_transpose2d_bn_finalize(Tensor mean, Tensor m2, Tensor? weight, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, Tensor(c!)? num_batches_tracked, SymInt count, float? momentum, float eps) -> Tensor",
    kernels=KERNELS,
    reference=finalize_reference,
    fake=lambda mean, *_: torch.empty_like(mean),
    setup_context=_finalize_setup,
    backward=_finalize_backward,
)
define_op(
    "conv_transpose2d_bn_finalize_backward(Tensor grad_scale, Tensor m2, Tensor? weight, SymInt count, float eps) "
    "-> (Tensor, Tensor)",
    kernels=KERNELS,
    reference=finalize_backward_reference,
    fake=lambda grad_scale, m2, weight, *_: (
        torch.empty_like(m2),
        m2.new_empty(0) if weight is None else torch.empty_like(weight),
    ),
    backward=None,
)


def apply_reference(
    y: Tensor, center: Tensor, scale: Tensor, shift: Tensor | None, activation: str, slope: float, channels_last: bool
) -> Tensor:
    shift = shift if shift is None else shift.to(scale.dtype)
    one = torch.ones_like(scale)
    affine = torch.ops.aten.native_batch_norm.default  # (y - center) / sqrt(1 + 0) · scale + shift, in one pass
    z = affine(y, scale, shift, center, one, False, 0.0, 0.0)[0]
    return activate_(z, activation, slope).contiguous(memory_format=layout(channels_last))


def apply_backward_reference(
    grad_z: Tensor, y: Tensor, center: Tensor, scale: Tensor, shift: Tensor | None, activation: str, slope: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients to y, center, scale, shift."""
    return normalize_backward(
        grad_z, apply_reference(y, center, scale, shift, activation, slope, True), y, center, scale, activation, slope
    )


def normalize_backward(
    grad_z: Tensor, z: Tensor, y: Tensor, center: Tensor, scale: Tensor, activation: str, slope: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same, for who has the result ``z`` already."""
    grad_z = grad_z.contiguous(memory_format=torch.channels_last)
    grad = activate_backward(grad_z, z, activation, slope)
    grad_shift = grad.sum(PIXELS, dtype=scale.dtype)
    grad_scale = (y - per_channel(center)).mul_(grad).sum(PIXELS)
    in_place = grad.mul_ if grad is not grad_z and grad.dtype == scale.dtype else grad.mul
    grad_y = in_place(per_channel(scale)).to(y.dtype)
    return grad_y.contiguous(memory_format=torch.channels_last), -scale * grad_shift, grad_scale, grad_shift


def _apply_fake(y, center, scale, shift, activation, slope, channels_last):  # type: ignore[no-untyped-def]
    return torch.empty(y.shape, dtype=y.dtype, device=y.device, memory_format=layout(channels_last))


def _apply_backward_fake(grad_z, y, center, scale, shift, activation, slope):  # type: ignore[no-untyped-def]
    grad_y = torch.empty(y.shape, dtype=y.dtype, device=y.device, memory_format=torch.channels_last)
    return grad_y, torch.empty_like(scale), torch.empty_like(scale), torch.empty_like(scale)


def _apply_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.activation, ctx.slope, _channels_last = inputs
    ctx.save_for_backward(*tensors)


def _apply_backward(ctx: Any, grad_z: Tensor) -> tuple[Tensor | None, ...]:
    backward = torch.ops.fastgen.conv_transpose2d_bn_apply_backward.default
    grad_y, grad_center, grad_scale, grad_shift = backward(grad_z, *ctx.saved_tensors, ctx.activation, ctx.slope)
    shift = ctx.saved_tensors[3]
    return grad_y, grad_center, grad_scale, None if shift is None else grad_shift.to(shift.dtype), None, None, None


define_op(
    "conv_transpose2d_bn_apply(Tensor y, Tensor center, Tensor scale, Tensor? shift, str activation, float slope, "
    "bool channels_last) -> Tensor",
    kernels=KERNELS,
    reference=apply_reference,
    fake=_apply_fake,
    setup_context=_apply_setup,
    backward=_apply_backward,
    contiguous=False,
)
define_op(
    "conv_transpose2d_bn_apply_backward(Tensor grad_z, Tensor y, Tensor center, Tensor scale, Tensor? shift, "
    "str activation, float slope) -> (Tensor, Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=apply_backward_reference,
    fake=_apply_backward_fake,
    backward=None,
    contiguous=False,
)
