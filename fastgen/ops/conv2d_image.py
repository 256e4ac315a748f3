"""Convolution of an image of a few colours on a CPU: an encoder's first, or a discriminator's.

image (N, I, H, W), weight (O, I, KH, KW), result (N, O, h, w)

conv2d_image         the convolution, and the gradient of ``conv_transpose2d_image`` to its input
conv2d_image_weight  the gradients of both to the weight, and of the convolution to the bias

The gradient to the image is ``conv_transpose2d_image``. Sums are float32, as torch's. The ops differentiate each other,
so gradients of all orders exist. An image may be bfloat16, and weight and bias float32, which are then rounded as they
are read. Then the gradients to the weight are products of pairs, too, by ``conv2d_weight``.
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
from ._dtypes import Rounded, in_dtype, layer_dtype, pairs_pay
from ._layouts import is_channels_last, is_vectorized, laid_as, layout
from ._records import NONE, Activation, Convolution, result_sides
from ._registry import call, define_op
from .activation import before, to_bias

KERNELS = {"CPU": "csrc/conv2d_image_cpu.cpp"}

#: Most colours of an image: of more channels a convolution's reads are long, wherever they lie.
COLORS = 4
#: Most channels of a result in planes; of more torch takes as long. One thread of an AMD EPYC with AVX-512, kernel 4,
#: stride 2, in shares of torch's time in planes, the convolution and the gradients to weight and bias: one colour of 16
#: 28×28 images to 32 channels 0.68 and 0.58, in channels_last 0.54 and 0.49; three of 16 64×64 images to 64 channels
#: 1.06 and 1.17, in channels_last 0.83 and 0.78, with the gradient to the image 0.38.
PLANES = 32
#: Taps of all colours, and pixels of a stride in all colours, that the ops take: lists of them are made at each call.
MOST_TAPS, MOST_NUMBERS = 4096, 256


def conv2d_image_reference(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    channels_last: bool,
    activation: str,
    slope: float,
) -> Tensor:
    weight, bias = in_dtype(image.dtype, weight, bias)
    y = activate_(F.conv2d(image, weight, bias, stride, padding), Activation(activation, slope))
    return y.contiguous(memory_format=layout(channels_last))


def conv2d_image_weight_reference(
    image: Tensor, grad: Tensor, kernel: list[int], stride: list[int], padding: list[int]
) -> tuple[Tensor, Tensor]:
    weight = grad.new_empty(grad.shape[1], image.shape[1], *kernel)
    sizes = (stride, padding, [1, 1], False, [0, 0], 1, [False, True, False])
    found: Tensor = torch.ops.aten.convolution_backward.default(grad, image, weight, None, *sizes)[1]
    return found, grad.sum((0, 2, 3))


def pays(
    image: Tensor, parameters: Sequence[Tensor], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> bool:
    """Whether these ops are the fastest that a CPU has: of an image of a few colours, by kernels of whole strides.

    Not in an exported program, and not in transforms. parameters: what the weight and the bias are made of. In
    bfloat16, in channels_last, with a ReLU, forward and to weight and bias: two threads of an AMD EPYC (Zen 5), commit
    6e27002, three colours of 16 64×64 images to 64 channels 0.70 of torch's time, one of 128 28×28 images to 32
    channels 0.36; to these images 0.41 and 0.35.
    """
    dtype = layer_dtype(image, parameters)
    gray = image.shape[1] == 1 and not torch.is_grad_enabled()  # and faster than torch's halves in float32, too
    if dtype == torch.bfloat16 and not (gray or multiplies_pairs(kernel)):
        return False
    return dtype in (torch.float32, torch.bfloat16) and _takes(image, kernel, stride, padding)


def multiplies_pairs(kernel: Sequence[int]) -> bool:
    """Whether ``conv2d_image`` of an image in bfloat16 takes the kernel, and outruns the one in float32."""
    return kernel[1] % 2 == 0 and pairs_pay()


def _takes(image: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> bool:
    if image.device.type != "cpu" or is_exporting() or is_vectorized() or forward_ad._current_level >= 0:
        return False
    colors = image.shape[1]
    if not 0 < colors <= COLORS or colors * math.prod(kernel) > MOST_TAPS or colors * math.prod(stride) > MOST_NUMBERS:
        return False
    sides = zip(image.shape[2:], kernel, stride, padding, strict=True)
    return all(step > 1 and tap % step == 0 and 0 < tap <= size + 2 * rim and size for size, tap, step, rim in sides)


def fits(channels: int, channels_last: bool) -> bool:
    """Whether these ops outrun torch's, of so many channels beside the colours, in this layout."""
    return channels_last or channels <= PLANES


def reads(grad: Tensor, x: Tensor, convolution: Convolution) -> bool:
    """Whether the gradients of a transposed convolution are these ops': of a result of a few colours.

    In bfloat16 of one colour: 32 channels of 16 14×14 images, one thread of an AMD EPYC (Zen 5), commit 9b868ee, 51 µs
    where torch takes 123, of 128 images 274 and 555.
    """
    weight, _, stride, padding, _, dilation, groups = convolution
    known = groups == 1 and list(dilation) == [1, 1] and x.dtype == grad.dtype
    if not known or not fits(weight.shape[0], is_channels_last(x)):
        return False
    if x.dtype == torch.bfloat16:
        halves = grad.shape[1] == 1 and layer_dtype(grad, [weight]) == torch.bfloat16
        return halves and _takes(grad, weight.shape[2:], stride, padding)
    return pays(grad, [weight], weight.shape[2:], stride, padding)


def conv2d_image(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    channels_last: bool,
    activation: Activation = NONE,
) -> Tensor:
    """``F.conv2d(image, weight, bias, stride, padding)``, activated, (N, O, h, w), channels_last or contiguous.

    image: float32 or, of a kernel of even width, bfloat16, which is the result's dtype; weight and bias: float32.
    """
    sizes = (stride, padding, channels_last)
    y: Tensor = call(torch.ops.fastgen.conv2d_image.default, image, weight, bias, *sizes, *activation)
    return y


def to_weight(
    image: Tensor, grad: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Gradients to the weight, (O, I, KH, KW), and to the bias, (O,), both contiguous, of that to the result."""
    found: tuple[Tensor, Tensor] = call(
        torch.ops.fastgen.conv2d_image_weight.default, image, grad, kernel, stride, padding
    )
    return found


def _pairs_to_weight(*args: Any) -> Tensor:
    found: Tensor = call(torch.ops.fastgen.conv2d_weight.default, *args)
    return found


def gradients_of_transposed(
    grad: Tensor, x: Tensor, convolution: Convolution, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """To the input and the weight of a transposed convolution, where they are wanted."""
    weight, _, stride, padding, *_ = convolution
    last, dtype, kernel = is_channels_last(x), x.dtype, weight.shape[2:]
    taps = weight.to(torch.float32)
    if dtype == torch.bfloat16 and multiplies_pairs(kernel):
        grad_weight = _pairs_to_weight(grad, x, kernel, stride, padding).to(weight.dtype) if wanted[1] else None
        return conv2d_image(grad, taps, None, stride, padding, last) if wanted[0] else None, grad_weight
    grad, x = in_dtype(torch.float32, grad, x)
    grad_weight = to_weight(grad, x, kernel, stride, padding)[0].to(weight.dtype) if wanted[1] else None
    grad_x = conv2d_image(grad, taps, None, stride, padding, last).to(dtype) if wanted[0] else None
    return grad_x, grad_weight


def _to_image(grad: Tensor, weight: Tensor, image: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    sides = zip(image.shape[2:], weight.shape[2:], stride, padding, strict=True)
    rest = [(size + 2 * border - kernel) % step for size, kernel, step, border in sides]  # read by no tap
    op = torch.ops.fastgen.conv_transpose2d_image.default
    found: Tensor = call(op, grad, weight, None, stride, padding, rest, "none", 0.0)
    return laid_as(found, image)


def _fake(image, weight, _bias, stride, padding, last, _activation, _slope):  # type: ignore[no-untyped-def]
    sides = result_sides(image.shape[2:], weight.shape[2:], stride, padding)
    shape = (image.shape[0], weight.shape[0], *sides)
    return torch.empty(shape, dtype=image.dtype, device=image.device, memory_format=layout(last))


def _fake_weight(
    image: Tensor, grad: Tensor, kernel: list[int], _stride: list[int], _padding: list[int]
) -> tuple[Tensor, Tensor]:
    return grad.new_empty(grad.shape[1], image.shape[1], *kernel), grad.new_empty(grad.shape[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, weight, _, *ctx.sizes, _, activation, slope = inputs
    ctx.activation = Activation(activation, slope)
    kept: Tensor | None = weight
    if image.dtype == torch.bfloat16:
        ctx.rounded = Rounded(weight)
        kept = weight.to(image.dtype) if ctx.needs_input_grad[0] else None
    ctx.save_for_backward(image, kept, output if activation != "none" else None)  # others may write to it


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    image, weight, y = ctx.saved_tensors
    grad, sums = before(grad, y, ctx.activation)
    needs = ctx.needs_input_grad
    grad_image = grad_weight = grad_bias = None
    if image.dtype == torch.bfloat16:
        if needs[1]:
            grad_weight = _pairs_to_weight(image, grad, list(ctx.rounded.weight.shape[2:]), *ctx.sizes)
        if needs[0]:
            grad_image = _to_image(grad, ctx.rounded.read(weight), image, *ctx.sizes)
        return grad_image, grad_weight, to_bias(grad, sums, torch.float32) if needs[2] else None, *[None] * 5
    if needs[1] or needs[2]:
        grad_weight, grad_bias = to_weight(image, grad, list(weight.shape[2:]), *ctx.sizes)
    if needs[0]:
        grad_image = _to_image(grad, weight, image, *ctx.sizes)
    return grad_image, grad_weight if needs[1] else None, grad_bias if needs[2] else None, *[None] * 5


def _setup_weight(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
    image, grad, _, *ctx.sizes = inputs
    ctx.save_for_backward(image, grad)


def _weight_backward(ctx: Any, weight: Tensor, bias: Tensor) -> tuple[Tensor | None, ...]:
    """Of gradients that arrive at a weight's and a bias' gradient."""
    image, grad = ctx.saved_tensors
    needs, (stride, padding) = ctx.needs_input_grad, ctx.sizes
    return (
        _to_image(grad, weight, image, stride, padding) if needs[0] else None,
        conv2d_image(image, weight, bias, stride, padding, is_channels_last(grad)) if needs[1] else None,
        *[None] * 3,
    )


define_op(
    "conv2d_image(Tensor image, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, bool channels_last, "
    "str activation, float slope) -> Tensor",
    kernels=KERNELS,
    reference=conv2d_image_reference,
    fake=_fake,
    setup_context=_setup,
    backward=_backward,
    contiguous=False,
)
define_op(
    "conv2d_image_weight(Tensor image, Tensor grad, int[2] kernel, int[2] stride, int[2] padding) -> (Tensor, Tensor)",
    kernels=KERNELS,
    reference=conv2d_image_weight_reference,
    fake=_fake_weight,
    setup_context=_setup_weight,
    backward=_weight_backward,
)
