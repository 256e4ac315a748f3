"""Transposed convolution in plain torch, in the form that suits its geometry, and its gradients."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Up to as many output channels, four 2×2 convolutions outrun torch's transposed one on a CPU: images, not features.
FEW = 4


def result_shape(
    x: Tensor, weight: Tensor, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int
) -> tuple[int, ...]:
    """Shape of the transposed convolution, as ``nn.ConvTranspose2d`` states it."""
    H, W = (
        (x.shape[2 + i] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[2 + i] - 1)
        + output_padding[i]
        + 1
        for i in range(2)
    )
    return x.shape[0], weight.shape[1] * groups, H, W


def is_product(x: Tensor, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int) -> bool:
    """Whether a matrix product is all there is: one pixel, which every pixel of the result sees through its own tap."""
    return (
        x.shape[2:] == (1, 1)
        and (list(padding), list(output_padding), list(dilation)) == ([0, 0], [0, 0], [1, 1])
        and groups == 1
    )


def _is_doubling(weight: Tensor, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int) -> bool:
    geometry = (list(stride), list(padding), list(output_padding), list(dilation), groups)
    return weight.shape[2:] == (4, 4) and geometry == ([2, 2], [1, 1], [0, 0], [1, 1], 1)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    """``F.conv_transpose2d``; its result may be laid out in any way."""
    O, KH, KW = weight.shape[1:]
    if is_product(x, *geometry):
        offset = None if bias is None else bias.repeat_interleave(KH * KW)
        return F.linear(x.flatten(1), weight.flatten(1).t(), offset).view(-1, O, KH, KW)
    if O <= FEW and _is_doubling(weight, *geometry):
        return _doubled(x, weight, bias)
    stride, padding, output_padding, dilation, groups = geometry
    x = x.contiguous(memory_format=_cheaper_layout(x, weight, *geometry))
    return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)


def _cheaper_layout(x: Tensor, weight: Tensor, *geometry: Any) -> torch.memory_format:
    """Contiguous tensors are converted for oneDNN, which works in channels_last: images, unless the weight is more.

    Its grouped gradient to the weight loses digits in channels_last.
    """
    pixels = x.numel() + math.prod(result_shape(x, weight, *geometry))
    heavy = weight.is_contiguous() and weight.numel() > pixels
    return torch.contiguous_format if heavy or geometry[-1] > 1 else torch.channels_last


def _doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Kernel 4, stride 2, padding 1: pixel (2h + p, 2w + q) sees 2×2 pixels, and phase (p, q) has 2×2 taps of its own.

    One convolution answers all four phases; with padding 1, phase (p, q) of (h, w) stands at (h + p, w + q).
    """
    (N, _, H, W), (I, O) = x.shape, weight.shape[:2]
    taps = weight.flip(2, 3).view(I, O, 2, 2, 2, 2).permute(3, 5, 1, 0, 2, 4).reshape(4 * O, I, 2, 2)
    phases = F.conv2d(x, taps, None if bias is None else bias.repeat(4), padding=1).view(N, 2, 2, O, H + 1, W + 1)
    y = x.new_empty(N, O, H, 2, W, 2)
    for p in range(2):
        for q in range(2):
            y[:, :, :, p, :, q] = phases[:, p, q, :, p : p + H, q : q + W]
    return y.view(N, O, 2 * H, 2 * W)


def convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: list[Any], output_mask: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients to x, weight and bias, where ``output_mask`` asks for them.

    ``sum`` adds the bias's in cascades; oneDNN adds it pixel by pixel where it has no AVX-512, and loses digits.
    """
    grad_bias = grad.sum((0, 2, 3)) if output_mask[2] else None
    if is_product(x, *geometry):
        flat = grad.flatten(1)
        return (
            (flat @ weight.flatten(1).t()).view(x.shape) if output_mask[0] else None,
            (x.flatten(1).t() @ flat).view(weight.shape) if output_mask[1] else None,
            grad_bias,
        )
    stride, padding, output_padding, dilation, groups = geometry
    channels = [weight.shape[1] * groups]
    cheaper = _cheaper_layout(x, weight, *geometry)
    grad, x = grad.contiguous(memory_format=cheaper), x.contiguous(memory_format=cheaper)
    wanted = [*output_mask[:2], False]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward.default(
        grad, x, weight, channels, stride, padding, dilation, True, output_padding, groups, wanted
    )
    return grad_x, grad_weight, grad_bias
