"""Batch norm by the batch's own statistics and the activation behind it on a CPU, as one op with one backward.

z = activation((x − mean) · weight / √(M2 / n + eps) + bias), mean and M2 = Σ(x − mean)² of a channel's n numbers

Of all that a backward reads, x alone is as large as an image: an activation's mask and what is normalised are found
again. Forward are two passes over memory, backward two more; torch's functions take four, and three.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

from .._constants import is_exporting
from ._batch_norm_statistics import batch_norm_statistics_reference
from ._batch_norm_sync import is_shared
from ._layouts import is_channels_last, is_vectorized, layout_of
from ._records import Activation, BatchNorm
from ._registry import call, define_op
from .batch_norm import (
    accumulator,
    batch_norm_apply_backward_reference,
    batch_norm_apply_reference,
    batch_norm_finalize_backward_reference,
    batch_norm_finalize_reference,
    per_channel,
)

KERNELS = {"CPU": "csrc/batch_norm_train_cpu.cpp"}

#: Fewest numbers of an image in channels_last, of one in planes, and of one with a tanh behind it: a call costs more
#: than torch's two. One thread of an AMD EPYC with AVX-512, float32, forward and backward, in shares of torch's time,
#: with a leaky relu and with a tanh: 16 images of 32 channels of 8×8 pixels, 1.33 and 1.00 in channels_last, 1.08 and
#: 0.84 in planes; of 128 channels 1.05 and 0.69, 0.63 and 0.53; 32 images of these 0.85 and 0.56, 0.45 and 0.43.
PIXELS, PLANES, TANH = 1 << 18, 1 << 16, 1 << 15


def batch_norm_train_reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: str, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, mean and M2."""
    mean, m2 = batch_norm_statistics_reference(x)
    scale = batch_norm_finalize_reference(mean, m2, weight, None, None, None, _count(x), None, eps)
    return batch_norm_apply_reference(x, mean, scale, bias, activation, slope, is_channels_last(x)), mean, m2


def batch_norm_train_backward_reference(
    grad_z: Tensor,
    grad_mean: Tensor | None,
    grad_m2: Tensor | None,
    x: Tensor,
    mean: Tensor,
    m2: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to x, weight and bias; what arrives at mean and M2 goes on to x."""
    n = _count(x)
    scale = batch_norm_finalize_reference(mean, m2, weight, None, None, None, n, None, eps)
    through = batch_norm_apply_backward_reference(grad_z, x, mean, scale, bias, activation, slope)
    grad_x, to_mean, grad_scale, grad_bias = through
    to_m2 = batch_norm_finalize_backward_reference(grad_scale, m2, weight, n, eps)[0]
    grad_weight = grad_scale * torch.rsqrt(m2 / n + eps)
    to_mean = to_mean if grad_mean is None else to_mean + grad_mean
    to_m2 = to_m2 if grad_m2 is None else to_m2 + grad_m2
    grad_x = (grad_x + per_channel(to_mean / n) + per_channel(2 * to_m2) * (x - per_channel(mean))).to(x.dtype)
    return grad_x.contiguous(memory_format=layout_of(x)), grad_weight, grad_bias


def batch_norm_track_reference(
    mean: Tensor, m2: Tensor, running_mean: Tensor, running_var: Tensor, count: int, momentum: float
) -> None:
    """The running statistics, of any floating dtype, go along; their variance is the unbiased one."""
    running_mean.copy_(momentum * mean + (1 - momentum) * running_mean.to(mean.dtype))
    running_var.copy_(momentum * m2 / (count - 1) + (1 - momentum) * running_var.to(mean.dtype))


def trains_at_once(x: Tensor, batch_norm: BatchNorm) -> bool:
    """Whether the op can run: on a CPU, by a fixed momentum, for the batch of one process, which holds something.

    Not in an exported program, which runs without fastgen, not in transforms, and not under forward mode.
    """
    if x.device.type != "cpu" or batch_norm.momentum is None or is_shared(batch_norm.process_group):
        return False
    if x.numel() == 0:
        return False
    return not (is_exporting() or is_vectorized() or forward_ad._current_level >= 0)


def outruns(x: Tensor, activation: Activation) -> bool:
    """Whether the op is faster than torch's two functions, where these can run as well."""
    if activation.name == "tanh":
        return x.numel() >= TANH
    return x.numel() >= (PIXELS if is_channels_last(x) else PLANES)


def _count(x: Tensor) -> int:
    return max(x.shape[0] * x.shape[2] * x.shape[3], 1)


def normalize_batch(x: Tensor, batch_norm: BatchNorm, activation: Activation) -> Tensor:
    """Normalised by the batch and activated, laid out as ``x``; the running statistics go along."""
    weight, bias, running_mean, running_var, num_batches_tracked = batch_norm[:5]
    run = torch.ops.fastgen.batch_norm_train.default
    z: Tensor
    z, mean, m2 = call(run, x, weight, bias, batch_norm.eps, *activation)
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    if running_mean is not None:
        args: Any = (mean, m2, running_mean, running_var, _count(x), batch_norm.momentum)
        with torch.no_grad():
            if torch.compiler.is_compiling():  # it fuses plain torch, and copies what another op writes into
                batch_norm_track_reference(*args)
            else:
                torch.ops.fastgen.batch_norm_track.default(*args)
                increment_version((running_mean, running_var))  # type: ignore[arg-type]
    return z


def _fake(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty(x.shape[1], dtype=accumulator(x.dtype))
    z = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))
    return z, mean, torch.empty_like(mean)


def _backward_fake(grad_z: Tensor, grad_mean: Tensor | None, grad_m2: Tensor | None, x: Tensor, *_: Any) -> Any:
    return _fake(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, *ctx.options = inputs
    ctx.save_for_backward(x, *output[1:], weight, bias)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_z: Tensor | None, grad_mean: Tensor | None, grad_m2: Tensor | None
) -> tuple[Tensor | None, ...]:
    kept = x, *_, weight, bias = ctx.saved_tensors
    grad_z = torch.zeros_like(x) if grad_z is None else grad_z
    run: Any = torch.ops.fastgen.batch_norm_train_backward.default
    grad_x, *grads = call(run, grad_z, grad_mean, grad_m2, *kept, *ctx.options)
    vectors = (None if of is None else grad.to(of.dtype) for of, grad in zip((weight, bias), grads, strict=True))
    return grad_x, *vectors, None, None, None


define_op(
    "batch_norm_train(Tensor x, Tensor? weight, Tensor? bias, float eps, str activation, float slope) "
    "-> (Tensor z, Tensor mean, Tensor m2)",
    kernels=KERNELS,
    reference=batch_norm_train_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "batch_norm_train_backward(Tensor grad_z, Tensor? grad_mean, Tensor? grad_m2, Tensor x, Tensor mean, Tensor m2, "
    "Tensor? weight, Tensor? bias, float eps, str activation, float slope) "
    "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
    kernels=KERNELS,
    reference=batch_norm_train_backward_reference,
    fake=_backward_fake,
    backward=None,
    composite=True,
    contiguous=False,
)
define_op(
    "batch_norm_track(Tensor mean, Tensor m2, Tensor(a!) running_mean, Tensor(b!) running_var, SymInt count, "
    "float momentum) -> ()",
    kernels=KERNELS,
    reference=batch_norm_track_reference,
    fake=lambda *_: None,
    backward=None,
)
