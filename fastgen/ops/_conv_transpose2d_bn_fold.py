"""Batch normalisation by running statistics, folded into the weight and bias of the convolution before it."""

from typing import Any

import torch
from torch import Tensor

from ._conv_transpose2d_bn_convolve import KERNELS
from ._records import BatchNorm, Convolution
from ._registry import define_op
from .batch_norm import accumulator


def _scale(weight: Tensor, bn_weight: Tensor | None, running_var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """1 / √(var + eps), and that times ``bn_weight``."""
    rstd = torch.rsqrt(running_var.to(accumulator(weight.dtype)) + eps)
    return rstd, rstd if bn_weight is None else rstd * bn_weight.to(rstd.dtype)


def _by_group(weight: Tensor, groups: int) -> Tensor:
    """(groups, I / groups, O / groups, taps): a transposed weight has its output channels second, once per group."""
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def conv_transpose2d_bn_fold_reference(
    weight: Tensor,
    bias: Tensor | None,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    groups: int,
    eps: float,
    layout: torch.memory_format = torch.channels_last,
) -> tuple[Tensor, Tensor]:
    """Weight, channels_last as convolutions want it, and bias of batch_norm(conv_transpose2d(·, weight, bias))."""
    _, scale = _scale(weight, bn_weight, running_var, eps)
    shift = -running_mean.to(scale.dtype) if bias is None else bias.to(scale.dtype) - running_mean.to(scale.dtype)
    shift = shift * scale if bn_bias is None else shift * scale + bn_bias.to(scale.dtype)
    by_input = scale.view(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1) if groups > 1 else scale
    folded = torch.empty_like(weight, memory_format=layout)
    torch.mul(weight, by_input.reshape(-1, weight.shape[1], 1, 1), out=folded)
    return folded, shift.to(weight.dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.groups, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_folded: Tensor, grad_shift: Tensor) -> tuple[Tensor | None, ...]:
    weight, bias, bn_weight, bn_bias, running_mean, running_var = ctx.saved_tensors
    rstd, scale = _scale(weight, bn_weight, running_var, ctx.eps)
    by_group = _by_group(grad_folded, ctx.groups)
    grad_weight = (by_group * scale.view(ctx.groups, 1, -1, 1)).view(weight.shape).to(weight.dtype)
    grad_bias, grad_bn_weight = None, None
    if bias is not None:
        grad_bias = (grad_shift * scale).to(bias.dtype)
    if bn_weight is not None:
        mean = running_mean.to(rstd.dtype)
        offset = -mean if bias is None else bias.to(rstd.dtype) - mean
        grad_scale = (by_group * _by_group(weight, ctx.groups)).sum((1, 3), dtype=rstd.dtype).flatten()
        grad_bn_weight = ((grad_scale + grad_shift * offset) * rstd).to(bn_weight.dtype)
    grad_bn_bias = None if bn_bias is None else grad_shift.to(bn_bias.dtype)
    return grad_weight, grad_bias, grad_bn_weight, grad_bn_bias, None, None, None, None


define_op(
    "conv_transpose2d_bn_fold(Tensor weight, Tensor? bias, Tensor? bn_weight, Tensor? bn_bias, Tensor running_mean, "
    "Tensor running_var, int groups, float eps) -> (Tensor, Tensor)",
    kernels=KERNELS,
    reference=conv_transpose2d_bn_fold_reference,
    fake=lambda weight, _b, _w, _s, running_mean, *_: (
        torch.empty(weight.shape, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last),
        weight.new_empty(running_mean.shape),
    ),
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)


def fold(convolution: Convolution, batch_norm: BatchNorm) -> Convolution:
    """The convolution that computes both."""
    op = torch.ops.fastgen.conv_transpose2d_bn_fold.default
    weight, bias = op(*convolution[:2], *batch_norm[:4], convolution.groups, batch_norm.eps)
    return Convolution(weight, bias, *convolution.geometry)
