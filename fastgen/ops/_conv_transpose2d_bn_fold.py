"""Batch normalisation by running statistics, folded into the weight and bias of the convolution before it."""

import torch
from torch import Tensor

from ._conv_transpose2d_bn_norm import accumulator


def fold(
    weight: Tensor,
    bias: Tensor | None,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of BN(conv_transpose2d(·, weight, bias)); the output channels of a transposed weight are its
    second dimension, once per group.
    """
    dtype = accumulator(weight.dtype)
    scale = torch.rsqrt(running_var.to(dtype) + eps)
    if bn_weight is not None:
        scale = scale * bn_weight.to(dtype)
    shift = -running_mean.to(dtype) if bias is None else bias.to(dtype) - running_mean.to(dtype)
    shift = shift * scale
    if bn_bias is not None:
        shift = shift + bn_bias.to(dtype)
    I, O, KH, KW = weight.shape
    scaled = weight.view(groups, I // groups, O, KH, KW) * scale.view(groups, 1, O, 1, 1)
    return scaled.view(weight.shape).to(weight.dtype), shift.to(weight.dtype)
