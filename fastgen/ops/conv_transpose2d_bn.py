"""Transposed convolution, batch normalisation and activation, without normalised activations in memory (DCGAN).

A layer that trains, from top to bottom; what it is goes along in three records:

    convolve       x → y with its mean and M2; what the layer before deferred, it normalises on its load
    synchronize    the statistics of a batch that several processes share
    finalize       M2 → one scale per channel; the running statistics
    materialize    activation((y − mean) · scale + bias), where no layer does it on its load

and backward from the bottom: batch_norm_apply_backward, batch_norm_finalize_backward, Synchronize.backward,
conv_transpose2d_bn_backward. By running statistics a layer is ``fold`` and ``convolve``, or ``convolve`` and
``materialize``; on a CPU, without gradients, ``_without_gradients``. A layer that trains alone there is ``_in_torch``,
a convolution and what ``normalize_alone`` runs; in halves, ``convolve`` and the same.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_flag
from .._constants import is_exporting
from ._activations import check_activation
from ._batch_norm_checks import check_batch_norm, check_count
from ._batch_norm_sync import is_shared, synchronize
from ._conv_transpose2d_bn_convolve import KERNELS
from ._conv_transpose2d_bn_fold import conv_transpose2d_bn_fold_reference, fold
from ._dtypes import autocast_dtype, check_dense, layer_dtype, lowered, multiplies
from ._layouts import is_channels_last, layout
from ._records import NONE, Activation, BatchNorm, Convolution
from ._registry import evaluates
from .batch_norm import Deferred, finalize, finalize_running, normalize_running
from .batch_norm_activation import in_torch, is_torchs_own, normalize_alone
from .batch_norm_train import trains_at_once
from .conv_transpose2d import (
    check_convolution,
    check_dtypes,
    conv_transpose2d,
    form_of,
    outruns,
    result_shape,
    runs_in_float32,
)

__all__ = ["KERNELS", "conv_transpose2d_bn", "run_layer"]

#: Results that are normalised in the time in which a weight is scaled and rounded, in halves. Two threads, AVX512-BF16:
#: 655,360 weights of two layers take 1.1 ms, their 1,572,864 results 0.24 ms.
HALVES = 8


def conv_transpose2d_bn(
    x: Tensor | Deferred,
    weight: Tensor,
    bias: Tensor | None,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    activation: Literal["none", "relu", "leaky_relu", "tanh"] = "none",
    negative_slope: float = 0.01,
    num_batches_tracked: Tensor | None = None,
    process_group: Any = None,
) -> Tensor:
    """Convolve transposed, normalise every channel over the batch, activate.

    y = conv_transpose2d(x, weight) + bias;  result = activation((y − mean(y)) / √(var(y) + eps) · bn_weight + bn_bias)

    With ``training`` the statistics are those of the batch, taken while y is stored, and the running ones are updated;
    otherwise the running ones are folded into weight and bias, unless the weight is larger than y.

    Equivalent to::

        y = F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
        y = F.batch_norm(y, running_mean, running_var, bn_weight, bn_bias, training, momentum, eps)
        y = activation(y)

    Args:
        x: (N, I, H, W), float32, float64, float16 or bfloat16; or the ``Deferred`` of the layer before.
        weight: (I, O / groups, KH, KW) as ``nn.ConvTranspose2d``'s, dtype of ``x``.
        bias: (O,) or None.
        bn_weight: (O,) or None; like the three that follow, of any floating dtype.
        bn_bias: (O,) or None.
        running_mean: (O,) or None, updated in place when ``training``.
        running_var: as ``running_mean``; the variance that goes into it is unbiased.
        training: normalise by the batch instead of the running statistics.
        momentum: share of the batch in the running statistics; None: their average over all batches so far, which
            ``num_batches_tracked`` counts.
        eps: added to the variance.
        stride: like the four that follow, as ``nn.ConvTranspose2d``'s. A CUDA kernel computes every geometry without
            dilation and groups: kernel 4, stride 2, padding 1 as four 2×2 convolutions, a 1×1 image without padding as
            a matrix product. Dilated, grouped or in float64 the convolution is ``torch.conv_transpose2d``.
        padding: of the result, zeros.
        output_padding: added to one side of the result.
        dilation: distance of taps.
        groups: of channels.
        activation: "none", "relu", "leaky_relu" or "tanh".
        negative_slope: of "leaky_relu", at least 0.
        num_batches_tracked: int64 scalar, incremented when ``training``; or None.
        process_group: processes that share the batch, as ``nn.SyncBatchNorm``'s; None: this one alone.

    Returns:
        (N, O, H', W'), dtype of ``x``. channels_last if ``x`` is, else contiguous.

    Raises:
        ValueError: a shape or an option does not fit, or there is one value per channel; says what was expected.
        TypeError: dtypes differ or are others. Under autocast x, weight and bias are cast, as nn.ConvTranspose2d does.

    Gradients: first and second order, to x, weight, bias, bn_weight and bn_bias, through the statistics; first only
    where processes share the batch.

    Source: Radford et al. 2016, arXiv:1511.06434; Ioffe and Szegedy 2015, arXiv:1502.03167; statistics of parts are
    combined as in Chan, Golub and LeVeque 1979.
    """
    convolution = Convolution(weight, bias, stride, padding, output_padding, dilation, groups)
    batch_norm = BatchNorm(
        bn_weight, bn_bias, running_mean, running_var, num_batches_tracked, check_flag("training", training), momentum,
        eps, process_group,
    )  # fmt: skip
    y = run_layer(x, convolution, batch_norm, Activation(activation, negative_slope))
    assert isinstance(y, Tensor)
    return y


def run_layer(
    x: Tensor | Deferred,
    convolution: Convolution,
    batch_norm: BatchNorm | None,
    activation: Activation,
    deferred: bool = False,
    channels_last: bool | None = None,
) -> Tensor | Deferred:
    """A layer, with a batch norm or without, as ``conv_transpose2d_bn`` states it.

    Args:
        x: (N, I, H, W), or the ``Deferred`` of the layer before.
        convolution: kernel, bias and geometry as they come.
        batch_norm: None for none.
        activation: that follows.
        deferred: the next layer can normalise on its load: answer a ``Deferred`` unless the batch norm is folded.
        channels_last: layout of the result; None: that of ``x``, the contract of every op.
    """
    image = x.raw if isinstance(x, Deferred) else check_dense("x", x)
    if channels_last is None:
        channels_last = is_channels_last(image)
    check_activation(activation)
    convolution = check_convolution(image, convolution)
    if batch_norm is not None:
        check_batch_norm(image, convolution.channels, batch_norm)
    if isinstance(x, Tensor) and _takes_no_gradients(x) and (batch_norm is None or not batch_norm.training):
        if autocast_dtype(x) is None:
            check_dtypes(x, *convolution[:2])
            return _without_gradients(x, convolution, batch_norm, activation, channels_last)
        parameters = [each for each in convolution[:2] if each is not None]
        if layer_dtype(x, parameters) == torch.bfloat16 and multiplies(torch.bfloat16):
            return _without_gradients(lowered(x), convolution, batch_norm, activation, channels_last)
    if batch_norm is None:
        return convolve(x, convolution, activation, False, channels_last)[0]
    size = result_shape(image, convolution)
    if batch_norm.training:
        count = size[0] * size[2] * size[3]
        if not is_shared(batch_norm.process_group):
            check_count(size, count)
        if not deferred and is_torchs_own(x, batch_norm):
            return _in_torch(image, convolution, batch_norm, activation).contiguous(memory_format=layout(channels_last))
        if not deferred and trains_at_once(image, batch_norm):
            y = convolve(x, convolution, NONE, False, True)[0]
            return normalize_alone(y, batch_norm, activation).contiguous(memory_format=layout(channels_last))
        y, mean, m2 = convolve(x, convolution, NONE, True, True)
        mean, m2, shared = synchronize(mean, m2, count, batch_norm.process_group)
        scale = finalize(mean, m2, shared, batch_norm)
    elif is_exporting() or _folds(image, convolution, math.prod(size)):  # an export fixes no N
        return convolve(x, fold(convolution, batch_norm), activation, False, channels_last)[0]
    else:
        y = convolve(x, convolution, NONE, False, True)[0]
        mean, scale = finalize_running(batch_norm, y.dtype)
    result = Deferred(y, mean, scale, batch_norm.bias, *activation)
    return result if deferred else result.materialize(channels_last)


def _takes_no_gradients(x: Tensor) -> bool:
    """Whether a CPU evaluates."""
    return evaluates() and x.device.type == "cpu"


def _without_gradients(
    x: Tensor, convolution: Convolution, batch_norm: BatchNorm | None, activation: Activation, channels_last: bool
) -> Tensor:
    """A layer by running statistics in as few calls as there can be, see ``call``."""
    if batch_norm is None:
        return conv_transpose2d(x, convolution, activation).contiguous(memory_format=layout(channels_last))
    if _folds(x, convolution, math.prod(result_shape(x, convolution))):
        # Winograd's form transforms a weight as it is: in channels_last it took a generator's step of 16 images a
        # thirtieth more, two passes of each weight from one layout to the other
        lies = torch.preserve_format if form_of(x, convolution) == "winograd" else torch.channels_last
        args: tuple[Any, ...] = (*convolution[:2], *batch_norm[:4], convolution.groups, batch_norm.eps, lies)
        folded = conv_transpose2d_bn_fold_reference(*args)
        y = conv_transpose2d(x, Convolution(*folded, *convolution.geometry), activation)
        return y.contiguous(memory_format=layout(channels_last))
    return normalize_running(conv_transpose2d(x, convolution), batch_norm, activation, channels_last)


def _folds(x: Tensor, convolution: Convolution, results: int) -> bool:
    """Whether running statistics go into the weight, rather than over so many results.

    A CPU that multiplies halves normalises a result in an eighth of the time that it takes to scale and round a weight.
    """
    halves = x.device.type == "cpu" and x.dtype.itemsize == 2 and not runs_in_float32(x)
    return convolution.weight.numel() * (HALVES if halves else 1) <= results


def convolve(
    x: Tensor | Deferred, convolution: Convolution, activation: Activation, take_statistics: bool, channels_last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The convolution's result, activated, and its mean and M2, (O,), or two empty vectors."""
    x = x if isinstance(x, Deferred) else Deferred(x)
    dtype = autocast_dtype(x.raw)
    if dtype is not None:  # as nn.ConvTranspose2d does
        weight, bias = (v if v is None else v.to(dtype) for v in convolution[:2])
        convolution = Convolution(weight, bias, *convolution.geometry)  # type: ignore[arg-type]
        if x.center is not None and x.raw.dtype != dtype:  # what is rounded is the activation
            x = Deferred(x.materialize(True))
        x = x._replace(raw=x.raw.to(dtype))
    check_dtypes(x.raw, *convolution[:2])
    op = torch.ops.fastgen.conv_transpose2d_bn.default
    return op(*x, *convolution, *activation, take_statistics, channels_last)


def _in_torch(x: Tensor, convolution: Convolution, batch_norm: BatchNorm, activation: Activation) -> Tensor:
    """The formula as ``conv_transpose2d_bn`` states it; the result may be laid out in any way."""
    weight, bias, stride, padding, output_padding, dilation, groups = convolution
    check_dtypes(x, weight, bias)
    if outruns(x, convolution):
        y = conv_transpose2d(x, convolution)
    else:
        y = F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return (normalize_alone if trains_at_once(y, batch_norm) else in_torch)(y, batch_norm, activation)
