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
from ._dtypes import has_dot_product
from ._records import Activation, Convolution
from ._registry import call, define_op, evaluates

KERNELS = {"CPU": "csrc/conv_transpose2d_products_cpu.cpp"}

#: Products outrun oneDNN where the border is so much of an image that no more than this share of the work is left, for
#: so many pixels, of so many channels and of the result. One thread, AVX2, kernel 4, stride 2: 512 to 256 channels of
#: 16 4×4 images take 0.75 of its time, 1024 to 512 0.55, 256 to 128 of 8×8 0.95; of 16×16 it would be 1.1. AVX-512: 64
#: to 32 channels of 16 7×7 images 0.76 to 0.81, 32 to 32 0.62 to 0.73. AVX512-BF16, one thread and two: 128 to 64 of
#: 16×16 0.92 to 0.99, 64 to 64 of 32×32 1.06, 256 to 128 of 8×8 0.85 to 0.91, 64 to 32 of 7×7 0.70 to 0.73.
LEFT, LEFT_OF_HALVES, PIXELS, CHANNELS = 0.89, 0.95, 64, 32
#: Up to so many channels of the result are an image. 64 to 3 channels of 16 32×32 images, kernel 4, stride 2, tanh, in
#: bfloat16 on two threads of an AMD EPYC with AVX-512 take 1.4 ms, torch 2.3.
FEW = 4
#: Taps of a kernel, phases of a stride and numbers of a block that the ops take: lists of them are made at each call.
MOST_TAPS, MOST_NUMBERS = 4096, 256


def result_size(size: int, kernel: int, stride: int, padding: int, output_padding: int, dilation: int = 1) -> int:
    """Of one side, as ``nn.ConvTranspose2d`` states it."""
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1


def conv_transpose2d_products_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], output_padding: list[int]
) -> Tensor:
    y = F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    return y.contiguous(memory_format=torch.channels_last)


def pays(x: Tensor, convolution: Convolution) -> bool:
    """Whether ``conv_transpose2d_products`` takes these, and is the fastest that a CPU has."""
    weight, _, stride, padding, output_padding, dilation, groups = convolution
    N, I, *size = x.shape
    if x.device.type != "cpu" or not _pairs(x.dtype, I) or groups != 1 or list(dilation) != [1, 1]:
        return False
    if not _is_listed(convolution) or min(I, weight.shape[1]) < CHANNELS or N * size[0] * size[1] < PIXELS:
        return False
    rows, columns = (_left(size[i], weight.shape[2 + i], stride[i], padding[i], output_padding[i]) for i in range(2))
    return rows * columns <= (LEFT if x.dtype == torch.float32 else LEFT_OF_HALVES)


def _pairs(dtype: torch.dtype, channels: int) -> bool:
    """Whether a CPU's products are as fast as any: of float32, or of bfloat16, which are of two channels at once."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and channels % 2 == 0 and has_dot_product())


def _is_listed(convolution: Convolution) -> bool:
    return math.prod(convolution.weight.shape[2:]) <= MOST_TAPS and math.prod(convolution.stride) <= MOST_TAPS


def _left(size: int, kernel: int, stride: int, padding: int, output_padding: int) -> float:
    """The share of the taps of an axis' pixels that are inside of the result."""
    result = result_size(size, kernel, stride, padding, output_padding)
    inside = 0
    for before in (padding - tap for tap in range(kernel)):  # sizes may be symbols
        first, last = max(0, -(-before // stride)), min(size - 1, (before + result - 1) // stride)
        inside += max(0, last - first + 1)
    return inside / (size * kernel)


def conv_transpose2d_products(x: Tensor, convolution: Convolution) -> Tensor:
    """``F.conv_transpose2d`` in float32 or bfloat16, without dilation and groups; (N, O, H', W'), channels_last."""
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
    listed = _is_listed(convolution) and weight.shape[1] * math.prod(stride) <= MOST_NUMBERS
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
    convolution = Convolution(weight, None, stride, padding, output_padding, [1, 1], 1)
    own = gradients(grad, x, convolution, wanted)
    if own is not None:
        grads: Any = (*own, grad.sum((0, 2, 3)) if wanted[2] else None)
    else:
        backward = torch.ops.aten.convolution_backward.default
        grads = backward(grad, x, weight, ctx.bias_sizes, stride, padding, [1, 1], True, output_padding, 1, wanted)
    return *grads, *[None] * (len(ctx.needs_input_grad) - 3)


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
