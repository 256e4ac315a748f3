"""Batch normalisation and activation of an image that is there: what follows a convolution that is not fastgen's."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_flag
from ._activations import activate_, check_activation
from ._batch_norm_checks import check_batch_norm, check_count
from ._batch_norm_sync import is_shared, synchronize
from ._dtypes import autocast_dtype, check_floating
from ._layouts import is_channels_last, layout_of
from ._records import Activation, BatchNorm
from .batch_norm import Deferred, finalize, normalize_running
from .batch_norm_train import normalize_batch, outruns, trains_at_once

__all__ = ["batch_norm_activation"]


def batch_norm_activation(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    activation: Literal["none", "relu", "leaky_relu", "tanh"] = "none",
    negative_slope: float = 0.01,
    num_batches_tracked: Tensor | None = None,
    process_group: Any = None,
) -> Tensor:
    """Normalise every channel over the batch, activate: of a DCGAN discriminator's layers what follows the convolution.

    activation((x − mean(x)) / √(var(x) + eps) · weight + bias)

    With ``training`` the statistics are those of the batch, and the running ones are updated; otherwise those are used.

    Equivalent to::

        activation(F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps))

    Args:
        x: (N, C, H, W), float32, float64, float16 or bfloat16.
        weight: (C,) or None; like the three that follow, of any floating dtype.
        bias: (C,) or None.
        running_mean: (C,) or None, updated in place when ``training``.
        running_var: as ``running_mean``; the variance that goes into it is unbiased.
        training: normalise by the batch instead of the running statistics.
        momentum: share of the batch in the running statistics; None: their average over all batches so far, which
            ``num_batches_tracked`` counts.
        eps: added to the variance.
        activation: "none", "relu", "leaky_relu" or "tanh".
        negative_slope: of "leaky_relu", at least 0.
        num_batches_tracked: int64 scalar, incremented when ``training``; or None.
        process_group: processes that share the batch, as ``nn.SyncBatchNorm``'s; None: this one alone.

    Returns:
        (N, C, H, W), dtype of ``x``. channels_last if ``x`` is, else contiguous.

    Raises:
        ValueError: a shape or an option does not fit, or there is one value per channel; says what was expected.
        TypeError: ``x`` or a vector is of another dtype.

    Gradients: first and second order, to x, weight and bias, through the statistics; first only where processes share
    the batch.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
    """
    kind = Activation(activation, negative_slope)
    check_activation(kind)
    batch_norm = BatchNorm(
        weight, bias, running_mean, running_var, num_batches_tracked, check_flag("training", training), momentum, eps,
        process_group,
    )  # fmt: skip
    check_floating("x", x)
    if x.dim() != 4:
        raise ValueError(f"x: expected shape (N, C, H, W), got {tuple(x.shape)}")
    N, C, H, W = x.shape
    check_batch_norm(x, C, batch_norm, prefix="")
    if not batch_norm.training:
        return normalize_running(x, batch_norm, kind, is_channels_last(x))
    if not is_shared(process_group):
        check_count(tuple(x.shape), N * H * W)
    if trains_at_once(x, batch_norm):
        return normalize_alone(x, batch_norm, kind).contiguous(memory_format=layout_of(x))
    if is_torchs_own(x, batch_norm):
        return in_torch(x, batch_norm, kind).contiguous(memory_format=layout_of(x))
    center, m2 = torch.ops.fastgen.batch_norm_statistics.default(x)
    center, m2, count = synchronize(center, m2, N * H * W, process_group)
    scale = finalize(center, m2, count, batch_norm)
    return Deferred(x, center, scale, bias, *kind).materialize(is_channels_last(x))


def is_torchs_own(x: Tensor | Deferred, batch_norm: BatchNorm) -> bool:
    """Whether torch's batch norm can run in training, on a CPU, where it is faster than ops of one stage each.

    It takes float32 or float64 throughout, a fixed momentum, no autocast, and the batch of one process. An op that
    takes statistics and another that applies them pay where the next layer normalises on its load.
    """
    return (
        isinstance(x, Tensor)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and all(vector is None or vector.dtype == x.dtype for vector in batch_norm[:4])
        and batch_norm.momentum is not None
        and autocast_dtype(x) is None
        and not is_shared(batch_norm.process_group)
    )


def normalize_alone(x: Tensor, batch_norm: BatchNorm, activation: Activation) -> Tensor:
    """By the one op or by torch's two functions, of which ``trains_at_once``; the result may be laid out in any way."""
    run = in_torch if is_torchs_own(x, batch_norm) and not outruns(x, activation) else normalize_batch
    return run(x, batch_norm, activation)


def in_torch(y: Tensor, batch_norm: BatchNorm, activation: Activation) -> Tensor:
    """Normalised and activated by torch's two functions; the result may be laid out in any way."""
    weight, bias, running_mean, running_var, num_batches_tracked, training = batch_norm[:6]
    if training and num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    momentum, eps = batch_norm.momentum, batch_norm.eps
    y = F.batch_norm(y, running_mean, running_var, weight, bias, training, momentum or 0.0, eps)
    return activate_(y, activation)
