"""Batch normalisation in stages, each an op with its backward, so that a convolution can take two of them along.

statistics   y (N, C, H, W) → mean and M2 = Σ(y − mean)², each (C,)
synchronize  those of every process's part of a batch → those of the whole          _batch_norm_sync.py
finalize     M2 → scale = weight / √(M2 / count + eps); the running statistics go along
apply        activation((y − mean) · scale + bias): a ``Deferred`` until somebody wants it
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._activations import activate_, activate_backward
from ._layouts import layout
from ._records import Activation, BatchNorm
from ._registry import call, define_op, evaluates

KERNELS = {"CPU": "csrc/batch_norm_cpu.cpp", "CUDA": "fastgen/ops/batch_norm_triton.py"}
#: Of vectors, which are a few small ops on a CPU.
VECTOR_KERNELS = {"CUDA": KERNELS["CUDA"]}

#: The dimensions that statistics run over.
PIXELS = (0, 2, 3)


class Deferred(NamedTuple):
    """A batch-normalised activation that has not been computed: whoever loads ``raw`` computes it.

    It stands for activation((raw − center) · scale + shift). ``raw`` (N, C, H, W) is as it was stored; ``center`` and
    ``scale`` (C,) are float32 (float64 for float64); ``shift`` is the bias of the batch norm, or None. Without them it
    stands for ``raw`` as it is: what an op takes where no batch norm came before. In the order of every schema.
    """

    raw: Tensor
    center: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    activation: str = "none"
    negative_slope: float = 0.0

    def materialize(self, channels_last: bool = False) -> Tensor:
        """The activation itself: (N, C, H, W), dtype of ``raw``, channels_last if asked for, else contiguous."""
        return torch.ops.fastgen.batch_norm_apply.default(*self, channels_last)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics and of all per-channel vectors: float32, but float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def per_channel(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1)


def finalize(mean: Tensor, m2: Tensor, count: int | Tensor, batch_norm: BatchNorm) -> Tensor:
    """The scale of every channel, (C,), from the batch's statistics, which go into the running ones, too.

    ``count``: values per channel; a tensor where several processes share the batch.
    """
    weight, _bias, *buffers = batch_norm[:5]
    run: Any = torch.ops.fastgen.batch_norm_finalize.default
    if isinstance(count, Tensor):  # the gather costs more than the few vectors of plain torch around it
        run = batch_norm_finalize_reference
    return run(mean, m2, weight, *buffers, count, batch_norm.momentum, batch_norm.eps)


def finalize_running(batch_norm: BatchNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Center and scale by the running statistics, for a result of ``dtype``."""
    assert batch_norm.running_mean is not None
    assert batch_norm.running_var is not None
    mean, variance = (v.to(accumulator(dtype)) for v in (batch_norm.running_mean, batch_norm.running_var))
    run: Any = torch.ops.fastgen.batch_norm_finalize.default
    if torch.compiler.is_compiling():  # Inductor has no code for an op that may write, and here has nothing to write to
        run = batch_norm_finalize_reference
    return mean, run(mean, variance, batch_norm.weight, None, None, None, 1, 0.0, batch_norm.eps)


def batch_norm_finalize_reference(
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


def batch_norm_finalize_backward_reference(
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
    backward = torch.ops.fastgen.batch_norm_finalize_backward.default
    grad_m2, grad_weight = backward(grad_scale, m2, weight, ctx.count, ctx.eps)
    return None, grad_m2, None if weight is None else grad_weight, None, None, None, None, None, None


define_op(
    "batch_norm_finalize(Tensor mean, Tensor m2, Tensor? weight, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, Tensor(c!)? num_batches_tracked, SymInt count, float? momentum, float eps) -> Tensor",
    kernels=VECTOR_KERNELS,
    reference=batch_norm_finalize_reference,
    fake=lambda mean, *_: torch.empty_like(mean),
    setup_context=_finalize_setup,
    backward=_finalize_backward,
)
define_op(
    "batch_norm_finalize_backward(Tensor grad_scale, Tensor m2, Tensor? weight, SymInt count, float eps) "
    "-> (Tensor, Tensor)",
    kernels=VECTOR_KERNELS,
    reference=batch_norm_finalize_backward_reference,
    fake=lambda grad_scale, m2, weight, *_: (
        torch.empty_like(m2),
        m2.new_empty(0) if weight is None else torch.empty_like(weight),
    ),
    backward=None,
    composite=True,
)


def batch_norm_apply_reference(
    y: Tensor, center: Tensor, scale: Tensor, shift: Tensor | None, activation: str, slope: float, channels_last: bool
) -> Tensor:
    shift = shift if shift is None else shift.to(scale.dtype)
    one = torch.ones_like(scale)
    affine = torch.ops.aten.native_batch_norm.default  # (y - center) / sqrt(1 + 0) · scale + shift, in one pass
    z = affine(y, scale, shift, center, one, False, 0.0, 0.0)[0]
    return activate_(z, Activation(activation, slope)).contiguous(memory_format=layout(channels_last))


def normalize_running(y: Tensor, batch_norm: BatchNorm, activation: Activation, channels_last: bool) -> Tensor:
    """By the running statistics, and activated; in one call where nobody asks for gradients on a CPU."""
    if y.device.type == "cpu" and evaluates():
        run = torch.ops.fastgen.batch_norm_running.default
        z: Tensor = call(run, y, *batch_norm[:4], batch_norm.eps, *activation, channels_last)
        return z
    center, scale = finalize_running(batch_norm, y.dtype)
    return Deferred(y, center, scale, batch_norm.bias, *activation).materialize(channels_last)


def batch_norm_running_reference(
    y: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    eps: float,
    activation: str,
    slope: float,
    channels_last: bool,
) -> Tensor:
    """Both stages at once, for who takes no gradients: between products that fill the caches, each call is dear."""
    center, scale = finalize_running(BatchNorm(weight, bias, running_mean, running_var, eps=eps), y.dtype)
    return Deferred(y, center, scale, bias, activation, slope).materialize(channels_last)


def batch_norm_apply_backward_reference(
    grad_z: Tensor, y: Tensor, center: Tensor, scale: Tensor, shift: Tensor | None, activation: str, slope: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients to y, center, scale, shift."""
    kind = Activation(activation, slope)
    apply: Any = batch_norm_apply_reference
    if torch.is_grad_enabled():  # torch's batch norm has no gradient to a mean that it is given
        apply = torch.ops.fastgen.batch_norm_apply.default
    z = apply(y, center, scale, shift, *kind, True)
    grad_z = grad_z.contiguous(memory_format=torch.channels_last)
    grad = activate_backward(grad_z, z, kind)
    grad_shift = grad.sum(PIXELS, dtype=scale.dtype)
    grad_scale = (y - per_channel(center)).mul_(grad).sum(PIXELS)
    own = grad is not grad_z and not grad.requires_grad and grad.dtype == scale.dtype
    in_place = grad.mul_ if own else grad.mul
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
    backward = torch.ops.fastgen.batch_norm_apply_backward.default
    *tensors, shift = ctx.saved_tensors
    grad_y, grad_center, grad_scale, grad_shift = backward(grad_z, *tensors, shift, ctx.activation, ctx.slope)
    return grad_y, grad_center, grad_scale, None if shift is None else grad_shift.to(shift.dtype), None, None, None


define_op(
    "batch_norm_apply(Tensor y, Tensor center, Tensor scale, Tensor? shift, str activation, float slope, "
    "bool channels_last) -> Tensor",
    kernels=KERNELS,
    reference=batch_norm_apply_reference,
    fake=_apply_fake,
    setup_context=_apply_setup,
    backward=_apply_backward,
    contiguous=False,
)
define_op(
    "batch_norm_apply_backward(Tensor grad_z, Tensor y, Tensor center, Tensor scale, Tensor? shift, "
    "str activation, float slope) -> (Tensor, Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=batch_norm_apply_backward_reference,
    fake=_apply_backward_fake,
    backward=None,
    composite=True,
    contiguous=False,
)
define_op(
    "batch_norm_running(Tensor y, Tensor? weight, Tensor? bias, Tensor running_mean, Tensor running_var, float eps, "
    "str activation, float slope, bool channels_last) -> Tensor",
    kernels={"CPU": KERNELS["CPU"]},
    reference=batch_norm_running_reference,
    fake=lambda y, *rest: _apply_fake(y, *rest[2:]),
    backward=None,
    contiguous=False,
)
