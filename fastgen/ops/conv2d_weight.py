"""Convolutions in bfloat16 on a CPU, and the gradient of any of them to its weight.

image (N, I, H, W), weight (O, I, KH, KW), result and its gradient (N, O, h, w)

conv2d_weight    the gradient of a convolution, or of its transpose, to the weight, in float32
conv2d_bfloat16  the convolution, with that gradient

What oneDNN takes longest for in a training step in bfloat16 is the weights' gradients: of 256 channels of 16 8×8 images
to 512, kernel 4, stride 2, twice what its convolution takes. As outer products of pixels, in pairs of images, they take
1.1 to 1.5 times what their multiplications do. An infinite gradient makes NaN of what would be read beside the image.

The convolution multiplies no zeros of the border, and packs its weight from where it lies, in bfloat16 or float32. The
gradient to the image is a transposed one, by products as well where those pay.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from .._constants import is_exporting
from ._activations import activate_
from ._conv_transpose2d_left import pays as leaves_out
from ._dtypes import Rounded, in_dtype, layer_dtype, pairs_pay
from ._layouts import in_channels_last, is_vectorized
from ._records import NONE, Activation, Convolution, result_sides
from ._registry import call, define_op
from .activation import before, to_bias

KERNELS = {"CPU": "csrc/conv2d_weight_cpu.cpp"}

#: Fewest channels on either side, pixels of all results, and taps: of fewer, to lay out weighs more than products.
CHANNELS, PIXELS, TAPS, MOST_TAPS = 16, 64, 16, 4096


def conv2d_weight_reference(
    image: Tensor, grad: Tensor, kernel: list[int], stride: list[int], padding: list[int]
) -> Tensor:
    image, grad = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (image, grad))
    weight = grad.new_empty(grad.shape[1], image.shape[1], *kernel)
    sizes = (stride, padding, [1, 1], False, [0, 0], 1, [False, True, False])
    found: Tensor = torch.ops.aten.convolution_backward.default(grad, image, weight, None, *sizes)[1]
    return found


def conv2d_bfloat16_reference(
    image: Tensor,
    _weight: Tensor,
    read: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    activation: str,
    slope: float,
) -> Tensor:
    read, bias = in_dtype(image.dtype, read, bias)
    y = activate_(F.conv2d(image, read, bias, stride, padding), Activation(activation, slope))
    return y.contiguous(memory_format=torch.channels_last)


def runs(image: Tensor, dtype: torch.dtype | None) -> bool:
    """Whether the ops outrun torch's at all, of an image computed in this dtype: in bfloat16 on a CPU.

    Not in an exported program, and not in transforms.
    """
    if dtype != torch.bfloat16 or not image.is_cpu or not pairs_pay():
        return False
    return not (is_exporting() or is_vectorized() or forward_ad._current_level >= 0)


def pays(
    image: Sequence[int], channels: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> bool:
    """Whether they do of an image of sizes (N, I, H, W) and a result of so many channels."""
    if len(image) != 4 or min(stride) < 2 or min(image[1], channels) < CHANNELS or image[1] % 2:
        return False
    if not TAPS <= math.prod(kernel) <= MOST_TAPS:
        return False
    sides = result_sides(image[2:], kernel, stride, padding)
    read = [(side - 1) * step + tap for side, step, tap in zip(sides, stride, kernel, strict=True)]
    most = all(number <= 2 * size for number, size in zip(read, image[2:], strict=True))  # with the border
    return min(sides) > 0 and most and image[0] * math.prod(sides) >= PIXELS


def to_weight(
    image: Tensor, grad: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """(O, I, KH, KW) in float32, contiguous."""
    weight: Tensor = call(torch.ops.fastgen.conv2d_weight.default, image, grad, kernel, stride, padding)
    return weight


def conv2d_bfloat16(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    activation: Activation = NONE,
) -> Tensor:
    """``F.conv2d``, activated, of an image in bfloat16; weight and bias in bfloat16 or float32, as their gradients are.

    (N, O, h, w), channels_last.
    """
    op = torch.ops.fastgen.conv2d_bfloat16.default
    read = weight.detach()  # which is rounded where it is read
    if torch.is_grad_enabled():  # before, as autocast keeps it: an optimiser may step before the backward
        read = read.to(image.dtype)
    y: Tensor = call(op, in_channels_last(image), weight, read, bias, stride, padding, *activation)
    return y


def gradients_of_transposed(
    grad: Tensor, x: Tensor, convolution: Convolution, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None] | None:
    """To the input and the weight of a transposed convolution, where they are wanted; None: torch's are as fast."""
    weight, _, stride, padding, output_padding, dilation, groups = convolution
    kernel = list(weight.shape[2:])
    if not wanted[1] or groups != 1 or list(dilation) != [1, 1] or list(output_padding) != [0, 0]:
        return None
    dtype = layer_dtype(x, [weight])
    if x.dtype != grad.dtype or dtype != x.dtype or not runs(x, dtype):
        return None
    if not pays(grad.shape, x.shape[1], kernel, stride, padding):
        return None
    grad, x = in_channels_last(grad), in_channels_last(x)
    grad_weight = to_weight(grad, x, kernel, stride, padding).to(weight.dtype)
    return conv2d_bfloat16(grad, weight, None, stride, padding) if wanted[0] else None, grad_weight


def _to_image(grad: Tensor, image: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    sides = zip(image.shape[2:], weight.shape[2:], stride, padding, strict=True)
    rest = [(size + 2 * border - kernel) % step for size, kernel, step, border in sides]  # read by no tap
    if leaves_out(grad, Convolution(weight, None, list(stride), list(padding), rest, [1, 1], 1)):
        op = torch.ops.fastgen.conv_transpose2d_products.default
        y: Tensor = call(op, grad, weight, None, stride, padding, rest)
        return y
    sizes = (stride, padding, [1, 1], False, [0, 0], 1, [True, False, False])
    found: Tensor = torch.ops.aten.convolution_backward.default(grad, image, weight, None, *sizes)[0]
    return found


def _fake_weight(image: Tensor, grad: Tensor, kernel: list[int], _stride: Any, _padding: Any) -> Tensor:
    return grad.new_empty(grad.shape[1], image.shape[1], *kernel, dtype=torch.promote_types(grad.dtype, torch.float32))


def _fake(image, weight, _read, _bias, stride, padding, *_activation):  # type: ignore[no-untyped-def]
    sides = result_sides(image.shape[2:], weight.shape[2:], stride, padding)
    shape = (image.shape[0], weight.shape[0], *sides)
    return torch.empty(shape, dtype=image.dtype, device=image.device, memory_format=torch.channels_last)


def _setup_weight(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
    image, grad, _, *ctx.sizes = inputs
    ctx.save_for_backward(image, grad)


def _weight_backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
    """Of a gradient that arrives at a weight's gradient."""
    image, grad = ctx.saved_tensors
    needs, taps = ctx.needs_input_grad, weight.to(image.dtype)
    return (
        _to_image(grad, image, taps, *ctx.sizes) if needs[0] else None,
        F.conv2d(image, taps, None, *ctx.sizes) if needs[1] else None,
        None,
        None,
        None,
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, weight, read, bias, *ctx.sizes, activation, slope = inputs
    ctx.activation, ctx.bias_dtype = Activation(activation, slope), bias if bias is None else bias.dtype
    ctx.rounded = Rounded(weight)
    ctx.save_for_backward(image, read, output if activation != "none" else None)  # others may write to it


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    image, taps, y = ctx.saved_tensors
    weight, needs = ctx.rounded.weight, ctx.needs_input_grad
    grad, sums = before(in_channels_last(grad) if y is None else grad, y, ctx.activation)
    grad_image = grad_weight = grad_bias = None
    if needs[1]:
        grad_weight = to_weight(image, grad, list(weight.shape[2:]), *ctx.sizes).to(weight.dtype)
    if needs[0]:
        grad_image = _to_image(grad, image, ctx.rounded.read(taps).to(image.dtype), *ctx.sizes)
    if needs[3]:
        grad_bias = to_bias(grad, sums, ctx.bias_dtype)
    return grad_image, grad_weight, None, grad_bias, *[None] * 4


define_op(
    "conv2d_weight(Tensor image, Tensor grad, int[2] kernel, int[2] stride, int[2] padding) -> Tensor",
    kernels=KERNELS,
    reference=conv2d_weight_reference,
    fake=_fake_weight,
    setup_context=_setup_weight,
    backward=_weight_backward,
)
define_op(
    "conv2d_bfloat16(Tensor image, Tensor weight, Tensor read, Tensor? bias, int[2] stride, int[2] padding, "
    "str activation, float slope) -> Tensor",
    kernels=KERNELS,
    reference=conv2d_bfloat16_reference,
    fake=_fake,
    setup_context=_setup,
    backward=_backward,
    contiguous=False,
)
