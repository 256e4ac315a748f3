"""What PixelCNN++ has for masks, on a CPU: a convolution over this row and those above, as products of pixels.

y[r, c] = Σ w[k, l] · x[r − (KH − 1) + k, c − left + l] + b + residual[r, c]        arXiv:1701.05517, section 2.4 and
its published code, openai/pixel-cnn, down_shifted_conv2d (left = KW // 2) and down_right_shifted_conv2d (left = KW − 1)

What lies outside of the image is zero, and need not be there; what is added to the result is added where it is made.
Images are float32 or bfloat16, weights and their gradients float32.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from .._constants import is_exporting
from ._dtypes import in_dtype, layer_dtype, lowered, widened
from ._layouts import is_channels_last, is_vectorized
from ._recomputed import gradients_by
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/shifted_conv2d_cpu.cpp"}

#: Up to so many weights, from so few channels and so few pixels on, products of pixels outrun oneDNN. One thread of an
#: AMD EPYC with AVX-512: 64 to 64 channels, 2×3, of one image of 16×16, in 0.83 of its time, of 4×4 in 1.3; of 320 to
#: 160 channels, 1×1, a model of 160 channels takes as long.
MOST_WEIGHTS, FEWEST, FEWEST_PIXELS = 2**15, 16, 256


def padding(kernel_size: Sequence[int], left: int) -> tuple[int, int, int, int]:
    """What is read outside of the image, as ``F.pad`` takes it."""
    KH, KW = kernel_size
    return left, KW - 1 - left, KH - 1, 0


def shifted_conv2d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, left: int
) -> Tensor:
    y = F.conv2d(F.pad(x, padding(weight.shape[2:], left)), *in_dtype(x.dtype, weight, bias))
    y = y if residual is None else y + residual
    return y.contiguous(memory_format=torch.channels_last)


def shifted_conv2d_backward_reference(
    grad_y: Tensor, x: Tensor, weight: Tensor, left: int, output_mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; empty where ``output_mask`` leaves one out."""
    ones, padded = [1, 1], F.pad(x, padding(weight.shape[2:], left))
    options = ([weight.shape[0]], ones, [0, 0], ones, False, [0, 0], 1, output_mask)
    grads = torch.ops.aten.convolution_backward.default(grad_y, padded, weight.to(x.dtype), *options)
    grad_x, grad_weight, grad_bias = (x.new_empty(0) if grad is None else grad for grad in grads)
    if output_mask[0]:
        H, W = x.shape[2:]
        above = weight.shape[2] - 1
        inside = grad_x[:, :, above : above + H, left : left + W]
        grad_x = inside.contiguous(memory_format=torch.channels_last)
    return grad_x, grad_weight.contiguous().to(weight.dtype), grad_bias.to(weight.dtype)


def pays(x: Tensor, weight: tuple[int, ...], parameters: Sequence[Tensor]) -> bool:
    """Whether ``shifted_conv2d`` is the fastest that a CPU has for an image like x and such a weight, (O, I, KH, KW).

    Not in an exported program, which fixes no number of images, and not in transforms. parameters: what the weight and
    the bias are made of.
    """
    if x.device.type != "cpu" or x.dim() != 4 or layer_dtype(x, parameters) is None or is_exporting():
        return False
    if is_vectorized() or forward_ad._current_level >= 0 or not is_channels_last(x):
        return False
    fits = min(weight[:2]) >= FEWEST and math.prod(weight) <= MOST_WEIGHTS
    return fits and x.shape[0] * x.shape[2] * x.shape[3] >= FEWEST_PIXELS


def shifted_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, left: int) -> Tensor:
    """Of x (N, I, H, W) and weight (O, I, KH, KW), (N, O, H, W), channels_last; residual like the result.

    left: the kernel's column that is the pixel's own.
    """
    y: Tensor = call(torch.ops.fastgen.shifted_conv2d.default, lowered(x), *widened((weight, bias)), residual, left)
    return y


def _fake(x: Tensor, weight: Tensor, _bias: Any, _residual: Any, left: int) -> Tensor:
    if not 0 <= left < weight.shape[3]:
        raise ValueError(f"left: expected a column of the kernel, from 0 to {weight.shape[3] - 1}, got {left}")
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _fake_backward(
    _grad_y: Tensor, x: Tensor, weight: Tensor, _left: int, output_mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    grads = (
        torch.empty_like(x, memory_format=torch.channels_last),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[0]),
    )
    first, second, third = (g if wanted else g.new_empty(0) for g, wanted in zip(grads, output_mask, strict=True))
    return first, second, third


def _setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
    *tensors, _, ctx.left = inputs
    ctx.save_for_backward(*tensors)


def _without_residual(x: Tensor, weight: Tensor, bias: Tensor | None, left: int) -> tuple[Tensor]:
    return (shifted_conv2d_reference(x, weight, bias, None, left),)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    inputs, needs = ctx.saved_tensors, ctx.needs_input_grad[:3]
    grads: Sequence[Tensor | None] = [None] * 3
    if any(needs) and torch.is_grad_enabled():
        grads = gradients_by(_without_residual, inputs, (ctx.left,), needs, (grad_y,))
    elif any(needs):
        x, weight, _ = inputs
        op = torch.ops.fastgen.shifted_conv2d_backward.default
        grads = call(op, grad_y, x, weight, ctx.left, list(needs))
    grads = [*grads, grad_y]  # the last is the residual's
    return *(grad if need else None for grad, need in zip(grads, ctx.needs_input_grad[:4], strict=True)), None


define_op(
    "shifted_conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int left) -> Tensor",
    kernels=KERNELS,
    reference=shifted_conv2d_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "shifted_conv2d_backward(Tensor grad_y, Tensor x, Tensor weight, int left, bool[3] output_mask) -> "
    "(Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=shifted_conv2d_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
)
