"""Transposed convolution, batch normalisation and activation, without normalised activations in memory (DCGAN)."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .._checks import check_flag, check_number
from . import _conv_transpose2d_bn_checks as checks
from ._conv_transpose2d_bn_conv import is_channels_last
from ._conv_transpose2d_bn_eager import in_torch, is_torchs_own
from ._conv_transpose2d_bn_fold import fold
from ._conv_transpose2d_bn_forms import result_shape
from ._conv_transpose2d_bn_norm import KERNELS, accumulator, finalize_reference, layout
from ._conv_transpose2d_bn_sync import Synchronize, synchronized
from ._dtypes import autocast_dtype, check_dense

__all__ = ["KERNELS", "Deferred", "conv_transpose2d_activation", "conv_transpose2d_bn", "conv_transpose2d_bn_deferred"]

Activation = Literal["none", "relu", "leaky_relu", "tanh"]


class Deferred(NamedTuple):
    """A batch-normalised activation that has not been computed: whoever loads ``raw`` computes it.

    It stands for activation((raw − center) · scale + shift). ``raw`` (N, C, H, W) is channels_last; ``center`` and
    ``scale`` (C,) are float32 (float64 for float64); ``shift`` is the bias of the batch norm, or None.
    """

    raw: Tensor
    center: Tensor
    scale: Tensor
    shift: Tensor | None
    activation: str
    negative_slope: float

    def materialize(self, channels_last: bool = False) -> Tensor:
        """The activation itself: (N, C, H, W), dtype of ``raw``, channels_last if asked for, else contiguous."""
        return torch.ops.fastgen.conv_transpose2d_bn_apply.default(*self, channels_last)


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
    activation: Activation = "none",
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
        x: (N, I, H, W), float32, float64, float16 or bfloat16; or what ``conv_transpose2d_bn_deferred`` answered.
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

    Gradients: first order, to x, weight, bias, bn_weight and bn_bias, through the statistics; double backward raises,
    but for float32 and float64 in training on a CPU, where the formula runs as it stands above.

    Source: Radford et al. 2016, arXiv:1511.06434; Ioffe and Szegedy 2015, arXiv:1502.03167; statistics of parts are
    combined as in Chan, Golub and LeVeque 1979.
    """
    channels_last = is_channels_last(x.raw if isinstance(x, Deferred) else check_dense("x", x))
    y = conv_transpose2d_bn_deferred(
        x, weight, bias, bn_weight, bn_bias, running_mean, running_var, training=training, momentum=momentum, eps=eps,
        stride=stride, padding=padding, output_padding=output_padding, dilation=dilation, groups=groups,
        activation=activation, negative_slope=negative_slope, num_batches_tracked=num_batches_tracked,
        process_group=process_group, channels_last=channels_last, at_once=True,
    )  # fmt: skip
    return y.materialize(channels_last) if isinstance(y, Deferred) else y


def conv_transpose2d_bn_deferred(
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
    activation: Activation = "none",
    negative_slope: float = 0.01,
    num_batches_tracked: Tensor | None = None,
    process_group: Any = None,
    channels_last: bool = True,
    at_once: bool = False,
) -> Tensor | Deferred:
    """``conv_transpose2d_bn`` for a consumer that normalises while it loads: in training, a ``Deferred``.

    Without ``training``, and unless the weight is larger than the result, the batch norm is folded into it: then the
    result is the activation, channels_last or contiguous as ``channels_last`` says. So it is in training on a CPU where
    ``at_once`` says that nothing will defer it.
    """
    checks.check_activation(activation, negative_slope)
    geometry = _geometry(stride, padding, output_padding, dilation, groups)
    checks.check_shapes(x.raw if isinstance(x, Deferred) else x, weight, bias, geometry)
    channels = weight.shape[1] * groups
    vectors = {"bn_weight": bn_weight, "bn_bias": bn_bias, "running_mean": running_mean, "running_var": running_var}
    checks.check_batch_norm(
        x.raw if isinstance(x, Deferred) else x, channels, vectors, training, momentum, num_batches_tracked
    )
    check_number("eps", eps, 0)
    training = check_flag("training", training)
    finalize = torch.ops.fastgen.conv_transpose2d_bn_finalize.default
    N, O, H, W = size = result_shape(x.raw if isinstance(x, Deferred) else x, weight, *geometry)
    if training:
        checks.check_count(size, N * H * W, synchronized(process_group))
        if at_once and is_torchs_own(x, vectors.values(), momentum) and not synchronized(process_group):
            checks.check_dtypes(x, weight, bias)  # type: ignore[arg-type]
            buffers = (running_mean, running_var, num_batches_tracked)
            y = in_torch(
                x, weight, bias, bn_weight, bn_bias, *buffers, momentum, eps, geometry, activation, negative_slope
            )
            return y.contiguous(memory_format=layout(channels_last))
    elif torch.compiler.is_exporting() or weight.numel() <= N * O * H * W:  # an exported program fixes no N
        weight, bias = fold(weight, bias, bn_weight, bn_bias, running_mean, running_var, groups, eps)
        return _convolve(x, weight, bias, geometry, activation, negative_slope, False, channels_last)[0]
    raw, mean, m2 = _convolve(x, weight, bias, geometry, "none", 0.0, training, True)
    if not training:
        assert running_mean is not None
        assert running_var is not None
        dtype = accumulator(raw.dtype)
        mean, variance = running_mean.to(dtype), running_var.to(dtype)
        scale = finalize(mean, variance, bn_weight, None, None, None, 1, 0.0, eps)
        return Deferred(raw, mean, scale, bn_bias, activation, negative_slope)

    buffers = (running_mean, running_var, num_batches_tracked)
    if synchronized(process_group):  # the gather costs more than the few vectors of plain torch around it
        mean, m2, total = Synchronize.apply(mean, m2, N * H * W, process_group)
        scale = finalize_reference(mean, m2, bn_weight, *buffers, total, momentum, eps)
    else:
        scale = finalize(mean, m2, bn_weight, *buffers, N * H * W, momentum, eps)
    return Deferred(raw, mean, scale, bn_bias, activation, negative_slope)


def conv_transpose2d_activation(
    x: Tensor | Deferred,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    activation: Activation = "none",
    negative_slope: float = 0.01,
    channels_last: bool | None = None,
) -> Tensor:
    """Convolve transposed and activate, without batch norm: the last layer of a chain. As ``conv_transpose2d_bn``.

    ``channels_last``: the layout of the result; None: that of ``x``.
    """
    checks.check_activation(activation, negative_slope)
    geometry = _geometry(stride, padding, output_padding, dilation, groups)
    checks.check_shapes(x.raw if isinstance(x, Deferred) else x, weight, bias, geometry)
    if channels_last is None:
        channels_last = is_channels_last(x.raw if isinstance(x, Deferred) else x)
    return _convolve(x, weight, bias, geometry, activation, negative_slope, False, channels_last)[0]


def _geometry(stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int) -> list[Any]:
    named = (("stride", stride, 1), ("padding", padding, 0), ("output_padding", output_padding, 0))
    return [*(checks.pair(*one) for one in named), checks.pair("dilation", dilation, 1), groups]


def _convolve(
    x: Tensor | Deferred,
    weight: Tensor,
    bias: Tensor | None,
    geometry: list[Any],
    activation: str,
    slope: float,
    take_statistics: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    raw, *prologue = x if isinstance(x, Deferred) else (x, None, None, None, "none", 0.0)
    dtype = autocast_dtype(raw)
    if dtype is not None:  # as nn.ConvTranspose2d does
        weight, bias = weight.to(dtype), bias if bias is None else bias.to(dtype)
        if isinstance(x, Deferred) and raw.dtype != dtype:  # what is rounded is the activation
            raw, prologue = x.materialize(True), [None, None, None, "none", 0.0]
        raw = raw.to(dtype)
    checks.check_dtypes(raw, weight, bias)
    return torch.ops.fastgen.conv_transpose2d_bn.default(
        raw, *prologue, weight, bias, *geometry, activation, slope, take_statistics, channels_last
    )
