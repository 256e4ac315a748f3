"""The first layer of a PixelCNN on a CPU: a masked convolution of an image of a few colours, answered in channels_last.

Of one colour no memory format tells channels_last from contiguous, and ``masked_conv2d`` answers an image that is both
with contiguous. What follows reads channels together, and this is written so at once: the product has a pixel's
channels beside each other anyway.
"""

from typing import Any

import torch
from torch import Tensor

from ._dtypes import autocast_dtype, layer_dtype, lowered
from ._layouts import is_vectorized
from ._masked_conv2d_checks import check_taps
from ._registry import call, define_op
from .masked_conv2d import masked_conv2d_reference

KERNELS = {"CPU": "csrc/image_conv2d_cpu.cpp"}

#: Most colours: of more channels a convolution's reads are long, wherever they lie.
MOST_COLORS = 4


def image_conv2d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: str, color_groups: int, groups_order: str
) -> Tensor:
    y, _ = masked_conv2d_reference(x, weight, bias, None, mask, "none", color_groups, groups_order, False)
    return y.contiguous(memory_format=torch.channels_last)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether ``image_conv2d`` takes these, which are a masked convolution's, and is the fastest that a CPU has."""
    if is_vectorized() or x.device.type != "cpu" or x.dim() != 4 or weight.dim() != 4:
        return False
    if any((each.dtype, each.layout) != (torch.float32, torch.strided) for each in (x, weight)):
        return False
    fits = x.shape[1] == weight.shape[1] and all(size % 2 for size in weight.shape[2:])
    autocast = autocast_dtype(x)
    told = autocast is None or layer_dtype(x, (weight,)) == autocast
    return fits and weight.shape[1] <= MOST_COLORS and told


def image_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    """(N, O, H, W), channels_last; ``options``: mask, color_groups and groups_order of ``masked_conv2d``.

    Under autocast an image's levels are read in float32, and the result is rounded.
    """
    y: Tensor = call(torch.ops.fastgen.image_conv2d.default, x, weight, bias, *options)
    return lowered(y)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, mask: str, color_groups: int, groups_order: str) -> Tensor:
    check_taps(weight, mask, "none", color_groups, groups_order)
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *ctx.options = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    mask, *colors = ctx.options
    needs = list(ctx.needs_input_grad[:3])
    x = x.contiguous(memory_format=torch.channels_last)  # as the gradient is
    op = torch.ops.fastgen.masked_conv2d_backward.default
    grads = call(op, grad_y, x.new_empty(0), x, weight, mask, "none", *colors, needs)
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None, None


define_op(
    "image_conv2d(Tensor x, Tensor weight, Tensor? bias, str mask, int color_groups, str groups_order) -> Tensor",
    kernels=KERNELS,
    reference=image_conv2d_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
