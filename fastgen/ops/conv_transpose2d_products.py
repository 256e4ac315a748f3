"""Transposed convolution on a CPU as products of pixels, in two forms, and its weight as torch's wants it.

conv_transpose2d_products  few pixels of many channels: leaves out what would be read outside of the image
conv_transpose2d_image     to an image of few channels: all phases of the result at once, with the activation
conv_transpose2d_weight    channels_last for oneDNN, which would have torch copy it
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._activations import activate_, activate_backward
from ._conv_transpose2d_gradients import gradients
from ._conv_transpose2d_left import CHANNELS, MOST_NUMBERS, is_listed, pays, result_size
from ._dtypes import in_dtype
from ._layouts import laid_as
from ._records import Activation, Convolution
from ._registry import call, define_op, evaluates

__all__ = ["conv_transpose2d_image", "conv_transpose2d_products", "has_forms", "in_channels_last", "is_image", "pays"]

KERNELS = {"CPU": "csrc/conv_transpose2d_products_cpu.cpp"}

#: Up to so many channels of the result are an image. 64 to 3 channels of 16 32×32 images, kernel 4, stride 2, tanh, in
#: bfloat16 on two threads of an AMD EPYC with AVX-512 take 1.4 ms, torch 2.3.
FEW = 4


def conv_transpose2d_products_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], output_padding: list[int]
) -> Tensor:
    weight, bias = in_dtype(x.dtype, weight, bias)
    y = F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    return y.contiguous(memory_format=torch.channels_last)


def conv_transpose2d_products(x: Tensor, convolution: Convolution) -> Tensor:
    """``F.conv_transpose2d`` in float32 or bfloat16, without dilation and groups; (N, O, H', W'), channels_last.

    Weight and bias may be float32 where x is bfloat16: they are rounded where they are read. 512×256×4×4 with 16 4×4
    images, two threads of an AMD EPYC with AVX512-BF16: 3.1 ms, 4.3 with a copy of the weight.
    """
    weight, bias, stride, padding, output_padding, *_ = convolution
    op = torch.ops.fastgen.conv_transpose2d_products.default
    y: Tensor = call(op, x, weight, bias, stride, padding, output_padding)
    return y


def conv_transpose2d_image_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    activation: str,
    slope: float,
) -> Tensor:
    y = F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    return activate_(y, Activation(activation, slope)).contiguous()


def is_image(x: Tensor, convolution: Convolution) -> bool:
    """Whether ``conv_transpose2d_image`` takes these: kernels of whole strides, as all of its products then count."""
    weight, _, stride, _, _, dilation, groups = convolution
    if x.device.type != "cpu" or x.dtype == torch.float64 or groups != 1 or list(dilation) != [1, 1]:
        return False
    whole = all(size % step == 0 and step > 1 for size, step in zip(weight.shape[2:], stride, strict=True))
    listed = is_listed(convolution) and weight.shape[1] * math.prod(stride) <= MOST_NUMBERS
    return whole and listed and 0 < weight.shape[1] <= FEW


def conv_transpose2d_image(x: Tensor, convolution: Convolution, activation: Activation) -> Tensor:
    """Convolved and activated, without dilation and groups; (N, O, H', W'), contiguous."""
    op = torch.ops.fastgen.conv_transpose2d_image.default
    y: Tensor = call(op, x, *convolution[:5], *activation)
    return y


def has_forms(convolution: Convolution) -> bool:
    """Whether a transposed convolution may outrun torch's as products, of small images or to few channels."""
    weight, _, stride, *_, dilation, groups = convolution
    sides = list(zip(weight.shape[2:], stride, strict=False))
    few = weight.shape[1] <= FEW and all(kernel % step == 0 and step > 1 for kernel, step in sides)
    wide = min(weight.shape[:2]) >= CHANNELS and any(kernel > step for kernel, step in sides)
    return (
        weight.dtype in (torch.float32, torch.bfloat16) and groups == 1 and list(dilation) == [1, 1] and (few or wide)
    )


def conv_transpose2d_weight_reference(weight: Tensor) -> Tensor:
    return weight.clone(memory_format=torch.channels_last)


def in_channels_last(weight: Tensor) -> Tensor:
    """``weight``, or where nobody asks for gradients its copy in channels_last.

    512×256×4×4, two threads of an AMD EPYC with AVX-512: 0.16 ms in bfloat16, torch's copy 0.56; float32 0.84 and 1.2.
    """
    if weight.device.type != "cpu" or weight.is_contiguous(memory_format=torch.channels_last) or not evaluates():
        return weight
    converted: Tensor = call(torch.ops.fastgen.conv_transpose2d_weight.default, weight)
    return converted


def _fake_of(layout: torch.memory_format) -> Callable[..., Tensor]:
    def fake(x, weight, _bias, stride, padding, output_padding, *_activation):  # type: ignore[no-untyped-def]
        sides = zip(x.shape[2:], weight.shape[2:], stride, padding, output_padding, strict=True)
        shape = (x.shape[0], weight.shape[1], *(result_size(*side) for side in sides))
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)

    return fake


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, *sizes = inputs
    ctx.sizes, ctx.activation = sizes[:3], Activation(*sizes[3:])
    ctx.save_for_backward(x, weight, output if sizes[3:] and sizes[3] != "none" else None)  # others may write to it
    ctx.bias_sizes = None if bias is None else list(bias.shape)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, y = ctx.saved_tensors
    grad = grad if y is None else activate_backward(grad, y, ctx.activation)
    stride, padding, output_padding = ctx.sizes
    wanted = list(ctx.needs_input_grad[:3])
    stored, weight = weight.dtype, weight.to(x.dtype)
    convolution = Convolution(weight, None, stride, padding, output_padding, [1, 1], 1)
    own = gradients(grad, x, convolution, wanted)
    if own is not None:
        grads: Any = (*own, grad.sum((0, 2, 3)) if wanted[2] else None)
    else:
        backward = torch.ops.aten.convolution_backward.default
        grads = backward(grad, x, weight, ctx.bias_sizes, stride, padding, [1, 1], True, output_padding, 1, wanted)
    grad_x, *parameters = grads
    if grad_x is not None and x.shape[0] == 1:
        grad_x = laid_as(grad_x, x)  # torch's instance norm misreads one image's in channels_last, beside planes
    return grad_x, *in_dtype(stored, *parameters), *[None] * (len(ctx.needs_input_grad) - 3)


define_op(
    "conv_transpose2d_products(Tensor x, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, "
    "int[2] output_padding) -> Tensor",
    kernels=KERNELS,
    reference=conv_transpose2d_products_reference,
    fake=_fake_of(torch.channels_last),
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "conv_transpose2d_image(Tensor x, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, "
    "int[2] output_padding, str activation, float slope) -> Tensor",
    kernels=KERNELS,
    reference=conv_transpose2d_image_reference,
    fake=_fake_of(torch.contiguous_format),
    setup_context=_setup_context,
    backward=_backward,
)
define_op(
    "conv_transpose2d_weight(Tensor weight) -> Tensor",
    kernels=KERNELS,
    reference=conv_transpose2d_weight_reference,
    fake=lambda weight: torch.empty_like(weight, memory_format=torch.channels_last),
    backward=None,
    contiguous=False,
)
