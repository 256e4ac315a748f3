"""Convolutions that halve an image, and transposed ones that double it, in 9/16 of their multiplications on a CPU.

kernel 4, stride 2, padding 1; small (N, S, h, w), large (N, L, 2h, 2w), weight (S, L, 4, 4)
small = conv2d(large, weight), large = conv_transpose2d(small, weight)

Winograd 1980; Lavin and Gray, arXiv:1509.09308, F(2×2, 2×2), on the four phases of the stride: DCGAN's layers
(arXiv:1511.06434). Sums are float32, of sums of up to four pixels and of four taps, which are rounded as well: errors
are one to four times those of torch's convolution, in units of the largest pixels of a tile. An infinite pixel makes
NaN of what sees it, where torch has infinities.

winograd_to_small   a convolution, and the gradient of its transpose
winograd_to_large   a transposed convolution, and the gradient of a convolution
winograd_to_weight  the gradient of both to the weight
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from .._constants import is_exporting
from ._activations import activate_
from ._dtypes import layer_dtype
from ._layouts import is_vectorized, laid_as
from ._records import NONE, Activation, Convolution
from ._registry import call, define_op
from .activation import before, to_bias

KERNELS = {"CPU": "csrc/winograd_cpu.cpp"}

#: Channels are transformed so many at a time.
CHANNELS = 16
#: From so many tiles of 2×2 small pixels on, of which so many are inside of the image, the ops outrun oneDNN. One
#: thread of an AMD EPYC with AVX-512, in shares of oneDNN's time, a convolution, its transpose and the weight's
#: gradient: 64 channels of 16 64×64 images to 128, 0.67, 0.69, 0.65; of 16 16×16 images, 0.68, 0.73, 0.64; 256 of 4
#: 8×8 images to 512, 0.44, 0.70, 0.46. Of 14×14 images the last tiles are halves: 0.82, 1.04, 0.80, and a VAE's step of
#: two such layers takes 0.95 of what it does without, since what is before them answers in channels_last.
TILES, INSIDE = 16, 0.76


def winograd_to_small_reference(
    large: Tensor, weight: Tensor, bias: Tensor | None, activation: str, slope: float
) -> Tensor:
    small = activate_(F.conv2d(large, weight, bias, 2, 1), Activation(activation, slope))
    return small.contiguous(memory_format=torch.channels_last)


def winograd_to_large_reference(
    small: Tensor, weight: Tensor, bias: Tensor | None, activation: str, slope: float
) -> Tensor:
    large = activate_(F.conv_transpose2d(small, weight, bias, 2, 1), Activation(activation, slope))
    return large.contiguous(memory_format=torch.channels_last)


def winograd_to_weight_reference(large: Tensor, small: Tensor) -> Tensor:
    weight = small.new_empty(small.shape[1], large.shape[1], 4, 4)
    sizes = ([2, 2], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False])
    found: Tensor = torch.ops.aten.convolution_backward.default(small, large, weight, None, *sizes)[1]
    return found


def halves(kernel: Sequence[int], geometry: Sequence[Any], channels: Sequence[int]) -> bool:
    """Whether these ops convolve so, or transposed, and are made for it.

    Args:
        kernel: its size.
        geometry: stride, padding, output_padding and dilation, each a number or two, and the number of groups.
        channels: of the small image, and of the large one, which are no more: as many products pay back what it takes
            to transform them. 128 channels of a large image to 16 of a small one took 2 to 3 times oneDNN's time.
    """
    *sizes, groups = geometry
    known = [pair_of(size) for size in (kernel, *sizes)] == [(4, 4), (2, 2), (1, 1), (0, 0), (1, 1)]
    small, large = channels
    return known and groups == 1 and small % CHANNELS == 0 and large % CHANNELS == 0 and small >= large


def pair_of(size: Any) -> tuple[Any, ...]:
    """Of a size that may be one number for both sides."""
    return (size, size) if isinstance(size, int) else tuple(size)


def pays(image: Tensor, small: Sequence[int], parameters: Sequence[Tensor]) -> bool:
    """Whether these ops are the fastest that a CPU has, of an image, large or small, with a small one of sizes (h, w).

    Not in an exported program, which fixes no number of images, and not in transforms. parameters: what the weight and
    the bias are made of.
    """
    if not image.is_cpu or is_exporting() or is_vectorized() or forward_ad._current_level >= 0:
        return False
    N, (h, w) = image.shape[0], small
    tiles = N * ((h + 1) // 2) * ((w + 1) // 2)
    if tiles < TILES or N * h * w < 4 * INSIDE * tiles:
        return False
    return layer_dtype(image, parameters) == torch.float32


def doubles(small: Tensor, convolution: Convolution) -> bool:
    """Whether these ops are the fastest form of a transposed convolution, or of its gradients, that a CPU has."""
    weight, bias, *geometry = convolution
    known = halves(weight.shape[2:], geometry, weight.shape[:2])
    return known and pays(small, tuple(small.shape[2:]), [weight] if bias is None else [weight, bias])


def to_small(large: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = NONE) -> Tensor:
    """``F.conv2d(large, weight, bias, 2, 1)``, activated, of images with even sides, (N, S, h, w), channels_last."""
    small: Tensor = call(torch.ops.fastgen.winograd_to_small.default, large, weight, bias, *activation)
    return small


def to_large(small: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = NONE) -> Tensor:
    """``F.conv_transpose2d(small, weight, bias, 2, 1)``, activated, (N, L, 2h, 2w), channels_last."""
    large: Tensor = call(torch.ops.fastgen.winograd_to_large.default, small, weight, bias, *activation)
    return large


def to_weight(large: Tensor, small: Tensor) -> Tensor:
    """The gradient to the weight of both, (S, L, 4, 4), contiguous: of one image and the other's gradient."""
    weight: Tensor = call(torch.ops.fastgen.winograd_to_weight.default, large, small)
    return weight


def gradients_of_large(
    grad: Tensor, small: Tensor, weight: Tensor, wanted: Sequence[bool], sums: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of ``to_large``, to its three arguments, those that are wanted; an image's has its layout.

    sums: of the gradient, where they are known.
    """
    grad_weight = to_weight(grad, small) if wanted[1] else None  # before there is an image more in memory
    grad_small = laid_as(to_small(grad, weight), small) if wanted[0] else None
    return grad_small, grad_weight, to_bias(grad, sums, grad.dtype) if wanted[2] else None


def _fake_small(large: Tensor, weight: Tensor, _bias: Any, _activation: str, _slope: float) -> Tensor:
    shape = (large.shape[0], weight.shape[0], large.shape[2] // 2, large.shape[3] // 2)
    return torch.empty(shape, dtype=large.dtype, device=large.device, memory_format=torch.channels_last)


def _fake_large(small: Tensor, weight: Tensor, _bias: Any, _activation: str, _slope: float) -> Tensor:
    shape = (small.shape[0], weight.shape[1], 2 * small.shape[2], 2 * small.shape[3])
    return torch.empty(shape, dtype=small.dtype, device=small.device, memory_format=torch.channels_last)


def _fake_weight(large: Tensor, small: Tensor) -> Tensor:
    return small.new_empty(small.shape[1], large.shape[1], 4, 4)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.activation = Activation(*inputs[3:])
    ctx.save_for_backward(*inputs[:2], output if ctx.activation.name != "none" else None)  # others may write to it


def _setup_weight(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _small_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    large, weight, result = ctx.saved_tensors
    grad, sums = before(grad, result, ctx.activation)
    needs = ctx.needs_input_grad
    grad_weight = to_weight(large, grad) if needs[1] else None  # before there is an image more in memory
    grad_large = laid_as(to_large(grad, weight), large) if needs[0] else None
    return grad_large, grad_weight, to_bias(grad, sums, grad.dtype) if needs[2] else None, None, None


def _large_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    small, weight, result = ctx.saved_tensors
    grad, sums = before(grad, result, ctx.activation)
    return *gradients_of_large(grad, small, weight, ctx.needs_input_grad, sums), None, None


def _weight_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    large, small = ctx.saved_tensors
    needs = ctx.needs_input_grad
    return (
        laid_as(to_large(small, grad), large) if needs[0] else None,
        laid_as(to_small(large, grad), small) if needs[1] else None,
    )


define_op(
    "winograd_to_small(Tensor large, Tensor weight, Tensor? bias, str activation, float slope) -> Tensor",
    kernels=KERNELS,
    reference=winograd_to_small_reference,
    fake=_fake_small,
    setup_context=_setup,
    backward=_small_backward,
    contiguous=False,
)
define_op(
    "winograd_to_large(Tensor small, Tensor weight, Tensor? bias, str activation, float slope) -> Tensor",
    kernels=KERNELS,
    reference=winograd_to_large_reference,
    fake=_fake_large,
    setup_context=_setup,
    backward=_large_backward,
    contiguous=False,
)
define_op(
    "winograd_to_weight(Tensor large, Tensor small) -> Tensor",
    kernels=KERNELS,
    reference=winograd_to_weight_reference,
    fake=_fake_weight,
    setup_context=_setup_weight,
    backward=_weight_backward,
)
