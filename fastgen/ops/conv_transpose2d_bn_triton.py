"""conv_transpose2d_bn, Triton: the ops of a layer, from the kernels of its convolution and of its batch norm."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import conv_transpose2d_triton
from ._conv_transpose2d_backward_triton import Operands, grad_bias, grad_image, grad_weight
from ._conv_transpose2d_bn_convolve import Backward, Forward, total_gradient
from ._layouts import is_channels_last, layout, layout_of
from ._triton import launch
from .batch_norm import Deferred
from .batch_norm_triton import (
    BLOCK,
    batch_norm_apply_backward_triton,
    batch_norm_apply_triton,
    batch_norm_statistics_triton,
    combined,
    pixels_last,
    rounded,
)
from .conv_transpose2d import conv_transpose2d, conv_transpose2d_backward
from .conv_transpose2d_triton import covered


def conv_transpose2d_bn_triton(*args) -> tuple[Tensor, Tensor, Tensor]:
    x, convolution, activation, take_statistics, channels_last = Forward.of(args)
    if covered(convolution):
        y, parts = conv_transpose2d_triton.convolve(x, convolution, activation, take_statistics)
        if take_statistics:
            mean, m2 = combined(parts)
    else:
        y = pixels_last(conv_transpose2d(_loaded(x), convolution, activation))
        if take_statistics:
            mean, m2 = batch_norm_statistics_triton(y)
    y = y.contiguous(memory_format=layout(channels_last))
    return (y, mean, m2) if take_statistics else (y, y.new_empty(0), y.new_empty(0))


def _loaded(x: Deferred) -> Tensor:
    return x.raw if x.scale is None else batch_norm_apply_triton(*x, True)  # type: ignore[arg-type]


def conv_transpose2d_bn_backward_triton(*args) -> tuple[Tensor, ...]:
    stored, x, convolution, activation, output_mask = Backward.of(args)
    empty = stored.mean.new_empty
    grads = [x.raw.new_empty(0), empty(0), empty(0), empty(0), x.raw.new_empty(0), x.raw.new_empty(0)]
    if covered(convolution):
        stored = stored._replace(y=pixels_last(stored.y), grad_y=pixels_last(stored.grad_y))
        operands = Operands(stored, x._replace(raw=pixels_last(x.raw)), convolution, activation)
        if output_mask[0]:
            to_x = grad_image(operands)
            grads[: len(to_x)] = to_x
        if output_mask[1]:
            grads[4] = grad_weight(operands)
        if output_mask[2]:
            grads[5] = grad_bias(operands)
    else:  # dilated or grouped: torch's convolution, the kernels for what is around it
        grad = total_gradient(stored, activation)
        results = conv_transpose2d_backward(grad, _loaded(x), convolution, output_mask)
        for i, result in zip((0, 4, 5), results, strict=True):
            grads[i] = grads[i] if result is None else result
        if output_mask[0] and x.scale is not None:
            grads[:4] = batch_norm_apply_backward_triton(grads[0], *x)  # type: ignore[arg-type]
        if output_mask[1]:
            grads[4] = grads[4].contiguous(memory_format=layout_of(convolution.weight))
    if output_mask[0]:
        grads[0] = grads[0].contiguous(memory_format=layout_of(x.raw))
    return tuple(grads)


@triton.jit
def fold_kernel(
    w_ptr, bias_ptr, bn_weight_ptr, bn_bias_ptr, mean_ptr, var_ptr, folded_ptr, shift_ptr, TOTAL, PER_GROUP, O, TAPS, C,
    O_STRIDE, TAP_STRIDE, eps, BLOCK: tl.constexpr,
):  # fmt: skip
    """conv_transpose2d_bn_fold: running statistics into weight and bias.

    Math      s = bn_weight / √(var + eps);  folded = w · s;  shift = (bias − mean) · s + bn_bias
    Shapes    w (I, O, TAPS) or (I, TAPS, O), by its strides, folded (I, TAPS, O), PER_GROUP elements per group; the
              vectors (C,), C = groups · O
    Launch    grid ⌈max(TOTAL, C) / BLOCK⌉
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = i // PER_GROUP * O + i % O
    variance = tl.load(var_ptr + channel, mask=i < TOTAL, other=1.0).to(tl.float32)
    scale = 1 / tl.sqrt(variance + eps)
    if bn_weight_ptr is not None:
        scale *= tl.load(bn_weight_ptr + channel, mask=i < TOTAL, other=0.0).to(tl.float32)
    source = i // (O * TAPS) * (O * TAPS) + i % O * O_STRIDE + i // O % TAPS * TAP_STRIDE
    w = tl.load(w_ptr + source, mask=i < TOTAL, other=0.0).to(tl.float32)
    tl.store(folded_ptr + i, rounded(w * scale, folded_ptr.dtype.element_ty), mask=i < TOTAL)

    scale = 1 / tl.sqrt(tl.load(var_ptr + i, mask=i < C, other=1.0).to(tl.float32) + eps)
    if bn_weight_ptr is not None:
        scale *= tl.load(bn_weight_ptr + i, mask=i < C, other=0.0).to(tl.float32)
    shift = -tl.load(mean_ptr + i, mask=i < C, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        shift += tl.load(bias_ptr + i, mask=i < C, other=0.0).to(tl.float32)
    shift *= scale
    if bn_bias_ptr is not None:
        shift += tl.load(bn_bias_ptr + i, mask=i < C, other=0.0).to(tl.float32)
    tl.store(shift_ptr + i, rounded(shift, shift_ptr.dtype.element_ty), mask=i < C)


def conv_transpose2d_bn_fold_triton(
    weight: Tensor,
    bias: Tensor | None,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    tensors = (bias, bn_weight, bn_bias, running_mean, running_var)
    folded = torch.empty_like(weight, memory_format=torch.channels_last)
    shift = weight.new_empty(running_mean.shape)
    total, C = weight.numel(), running_mean.shape[0]
    I, O, KH, KW = weight.shape
    per_group = I // groups * O * KH * KW
    weight = weight.contiguous(memory_format=layout_of(weight))
    strides = (1, O) if is_channels_last(weight) else (KH * KW, 1)
    launch(
        fold_kernel, (triton.cdiv(max(total, C), BLOCK),), weight, *tensors, folded, shift,
        total, per_group, O, KH * KW, C, *strides, eps, BLOCK=BLOCK,
    )  # fmt: skip
    return folded, shift
