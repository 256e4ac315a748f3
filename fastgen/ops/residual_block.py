"""The residual block of a PixelCNN on a CPU: three masked convolutions, through which an image passes as one.

y = up(relu(conv(relu(down(relu(x)))))) + x, all masked, mask B                      arXiv:1601.06759, figure 5, left

Images are float32 or bfloat16, weights and their gradients float32: sums are, and results are rounded once.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dtypes import in_dtype, layer_dtype, lowered, widened
from ._layouts import is_channels_last, is_vectorized
from ._masked_conv2d_checks import check_taps
from ._recomputed import gradients_by
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/residual_block_cpu.cpp"}

#: Up to so many weights in a convolution, and from so few channels on, products of pixels outrun oneDNN. One thread of
#: an AMD EPYC with AVX-512, 16 images of 28×28: blocks of 256 channels train in 0.74 of plain torch's time.
MOST_WEIGHTS, FEWEST = 2**18, 8


def residual_block_reference(
    x: Tensor,
    down: Tensor,
    bias_down: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    up: Tensor,
    bias_up: Tensor | None,
    color_groups: int,
    groups_order: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Three masked convolutions; y and both results between, (N, M, H, W), channels_last."""
    down, bias_down, weight, bias, up, bias_up = in_dtype(x.dtype, down, bias_down, weight, bias, up, bias_up)
    convolve, colors = torch.ops.fastgen.masked_conv2d.default, (color_groups, groups_order, False)
    x = x.contiguous(memory_format=torch.channels_last)
    below = F.relu(convolve(F.relu(x), down, bias_down, None, "B", "none", *colors)[0])
    around = F.relu(convolve(below, weight, bias, None, "B", "none", *colors)[0])
    y, _ = convolve(around, up, bias_up, x, "B", "none", *colors)
    return tuple(t.contiguous(memory_format=torch.channels_last) for t in (y, below, around))  # type: ignore[return-value]


def residual_block_backward_reference(
    grad_y: Tensor,
    x: Tensor,
    below: Tensor,
    around: Tensor,
    down: Tensor,
    weight: Tensor,
    up: Tensor,
    color_groups: int,
    groups_order: str,
) -> tuple[Tensor, ...]:
    backward, every = torch.ops.fastgen.masked_conv2d_backward.default, [True, True, True]
    nothing, options = x.new_empty(0), ("B", "none", color_groups, groups_order, every)
    dtype, (down, weight, up) = down.dtype, in_dtype(x.dtype, down, weight, up)
    grad, grad_up, grad_bias_up = backward(grad_y, nothing, around, up, *options)
    grad, grad_weight, grad_bias = backward(grad * (around > 0), nothing, below, weight, *options)
    grad, grad_down, grad_bias_down = backward(grad * (below > 0), nothing, F.relu(x), down, *options)
    grad_x = (grad * (x > 0) + grad_y).contiguous(memory_format=torch.channels_last)
    weights = (grad_down, grad_bias_down, grad_weight, grad_bias, grad_up, grad_bias_up)
    return grad_x, *in_dtype(dtype, *weights)


def pays(x: Tensor, down: Tensor, weight: Tensor, up: Tensor) -> bool:
    """Whether ``residual_block`` takes these, and is the fastest that a CPU has."""
    if is_vectorized() or x.device.type != "cpu" or layer_dtype(x, (down, weight, up)) is None:
        return False
    M, C, *point = down.shape
    KH, KW = weight.shape[2:]
    if weight.shape[:2] != (M, M) or up.shape != (C, M, 1, 1) or KH % 2 == 0 or KW % 2 == 0:
        return False
    if point != [1, 1] or x.dim() != 4 or x.shape[1] != C or not is_channels_last(x):
        return False
    most = max(M * M * (KH // 2 * KW + KW // 2 + 1), M * C)
    return min(M, C) >= FEWEST and most <= MOST_WEIGHTS


def residual_block(x: Tensor, weights: tuple[Tensor | None, ...], color_groups: int, groups_order: str) -> Tensor:
    """Of x (N, C, H, W), and down, bias_down, weight, bias, up, bias_up; (N, C, H, W), channels_last."""
    op, x = torch.ops.fastgen.residual_block.default, lowered(x)
    y: Tensor = call(op, x, *widened(weights), color_groups, groups_order)[0]
    return y


def _fake(x, down, _bias_down, weight, *_rest):  # type: ignore[no-untyped-def]
    *_, color_groups, groups_order = _rest
    check_taps(weight, "B", "relu", color_groups, groups_order)
    N, _, H, W = x.shape
    between = (N, down.shape[0], H, W)
    like = {"dtype": x.dtype, "device": x.device, "memory_format": torch.channels_last}
    return tuple(torch.empty(shape, **like) for shape in (x.shape, between, between))


def _fake_backward(_grad_y, x, _below, _around, down, weight, up, *_colors):  # type: ignore[no-untyped-def]
    weights = [
        grad for each in (down, weight, up) for grad in (each.new_empty(each.shape), each.new_empty(each.shape[0]))
    ]
    return torch.empty_like(x, memory_format=torch.channels_last), *weights


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, color_groups, groups_order = inputs
    ctx.colors = color_groups, groups_order
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, grad_y: Tensor | None, *grads_between: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, below, around = ctx.saved_tensors
    needs = ctx.needs_input_grad[:7]
    between = any(grad is not None for grad in grads_between)
    grads: list[Tensor | None] = [None] * 7
    if grad_y is not None and not between and not torch.is_grad_enabled():
        x, down, _, weight, _, up, _ = inputs
        run = torch.ops.fastgen.residual_block_backward.default
        grads = list(call(run, grad_y, x, below, around, down, weight, up, *ctx.colors))
    elif grad_y is not None or between:
        grads = gradients_by(residual_block_reference, inputs, ctx.colors, needs, (grad_y, *grads_between))
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None


define_op(
    "residual_block(Tensor x, Tensor down, Tensor? bias_down, Tensor weight, Tensor? bias, Tensor up, Tensor? bias_up, "
    "int color_groups, str groups_order) -> (Tensor y, Tensor below, Tensor around)",
    kernels=KERNELS,
    reference=residual_block_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "residual_block_backward(Tensor grad_y, Tensor x, Tensor below, Tensor around, Tensor down, Tensor weight, "
    "Tensor up, int color_groups, str groups_order) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=residual_block_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
)
