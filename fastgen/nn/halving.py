"""Convolutions that halve an image, in a sequence of modules, as ``fastgen.ops.winograd`` computes them on a CPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..ops import _conv2d_product, activation, conv2d_image, conv2d_weight, winograd
from ..ops._dtypes import in_dtype, layer_dtype, lowered
from ..ops._layouts import is_channels_last, is_vectorized
from ..ops._records import NONE, Activation, result_sides
from ._records import activation_of
from .sequence import is_layout_free, laid_out, may_be_overwritten, observed


def is_conv2d(layer: nn.Module) -> bool:
    """Whether this is torch's convolution, its weight perhaps made by a parametrization, and convolves without more."""
    kind = type(layer)
    if kind is not nn.Conv2d and not (kind.__mro__[1] is nn.Conv2d and parametrize.is_parametrized(layer)):
        return False
    found: Any = layer
    _ = found._conv_forward  # as observed reads forward
    return found.groups == 1 and found.padding_mode == "zeros" and not observed(layer)


def follower(modules: Sequence[nn.Module], i: int, kept: bool = True) -> tuple[Activation, int]:
    """The activation at ``i`` that an op takes along, and where it ends; ``NONE`` and ``i`` if there is none.

    kept: whether the op keeps its result for its gradients, which nobody may then write over.
    """
    if i == len(modules):
        return NONE, i
    activation = activation_of(modules[i])
    if activation is None or observed(modules[i]) or (kept and may_be_overwritten(modules, i)):
        return NONE, i
    return activation, i + 1


def halves(layer: nn.Module) -> bool:
    """Whether the ops take it, of images large enough: kernel 4, stride 2, padding 1, of channels by 16, on a CPU."""
    if not is_conv2d(layer):
        return False
    conv: Any = layer
    weight = _numbers(layer)
    if weight is None or weight.dim() != 4 or weight.device.type != "cpu":
        return False
    return winograd.halves(weight.shape[2:], (conv.stride, conv.padding, 0, conv.dilation, 1), weight.shape[:2])


def _numbers(conv: nn.Module, name: str = "weight") -> Tensor | None:
    """Its weight or bias, or what a parametrization makes it of: to make it counts, for spectral norm."""
    if name in conv._parameters:  # past __getattr__
        return conv._parameters[name]
    if parametrize.is_parametrized(conv, name):
        made: Any = getattr(conv.parametrizations, name)
        found = getattr(made, "original", None)  # None: it is made of several
    else:
        found = getattr(conv, name)
    return found if isinstance(found, Tensor) else None


def _parameters(conv: nn.Module) -> list[Tensor]:
    """What its weight and its bias are made of."""
    return [each for each in (_numbers(conv), _numbers(conv, "bias")) if each is not None]


def run_halving(modules: Sequence[nn.Module], i: int, x: Any) -> tuple[Any, int] | None:
    """The convolution at ``i``, perhaps with its activation, and where it ends, where something else than calling it is
    the fastest.

    The first, of an image of a few colours, is an op of its own, in the layout of the second; others between two that
    halve are torch's, in the layout of those. In bfloat16 it is one of products of pixels, with a gradient to the
    weight that adds them. What sees the whole image at once is a product.
    """
    conv: Any = modules[i]
    if not is_conv2d(conv) or not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] != conv.in_channels:
        return None
    if x.device.type != "cpu" or x.layout != torch.strided or is_vectorized():
        return None
    few = x.shape[1] <= conv2d_image.COLORS
    whole = _conv2d_product.is_product(x, conv.kernel_size, conv.padding, conv.dilation)
    if whole and layer_dtype(x, _parameters(conv)) is not None:
        weight, bias = conv.weight, conv.bias
        if weight.shape[1:] != x.shape[1:] or (bias is not None and bias.shape != weight.shape[:1]):  # put there since
            return conv._conv_forward(x, weight, bias), i + 1
        return _conv2d_product.conv2d_product(x, weight, bias), i + 1
    lower = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    trains = torch.is_grad_enabled()
    pairs = lower and conv2d_weight.runs(x, layer_dtype(x, _parameters(conv)))
    if pairs and not few and (is_channels_last(x) or not trains) and _multiplies_pairs(conv, x.shape):
        weight, bias = conv.weight, conv.bias
        if layer_dtype(x, [weight] if bias is None else [weight, bias]) is None:  # of a parametrization
            return conv._conv_forward(x, weight, bias), i + 1
        stride, padding = map(winograd.pair_of, (conv.stride, conv.padding))
        kind, end = follower(modules, i + 1)
        return conv2d_weight.conv2d_bfloat16(lowered(x), weight, bias, stride, padding, kind), end
    if few and _reads_colors(conv, x):
        lowers = layer_dtype(x, _parameters(conv)) == torch.bfloat16
        last = is_channels_last(x) or lowers or _leads(modules, i, x)
        if conv2d_image.fits(conv.out_channels, last):
            kind, end = follower(modules, i + 1)
            return _convolved(conv, x, last, kind, lowers), end
    if pairs and few and trains and not x.requires_grad and _leads_to_pairs(modules, i, x):  # a gradient would lie so
        return with_activation(modules, i, laid_out(x, torch.channels_last))
    even = x.dtype == torch.float32 and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
    if not few and even and _pays(x, 2, conv) and halves(conv):
        kind, end = follower(modules, i + 1)
        return winograd.to_small(x, conv.weight, conv.bias, kind), end  # once: a parametrization counts
    if is_channels_last(x) and (x.dtype == torch.float32 or (lower and not trains)):
        return with_activation(modules, i, x)
    return None


def with_activation(modules: Sequence[nn.Module], i: int, x: Tensor) -> tuple[Tensor, int]:
    """The module at ``i``, called as it is, and where it ends; in a compiled training step with its activation."""
    y = modules[i](x)
    kind, end = follower(modules, i + 1) if activation.pays(y) else (NONE, i + 1)
    return activation.activated(y, kind), end


def _convolved(conv: Any, x: Tensor, last: bool, kind: Activation, lowers: bool) -> Tensor:
    """An image of a few colours by ``conv2d_image``; ``lowers``: to bfloat16, in which it multiplies if that pays."""
    sizes = winograd.pair_of(conv.stride), winograd.pair_of(conv.padding)
    weight, bias = conv.weight, conv.bias
    if not lowers:
        return conv2d_image.conv2d_image(x, weight, bias, *sizes, last, kind)
    weight, bias = in_dtype(torch.float32, weight, bias)
    image = x.to(torch.bfloat16 if conv2d_image.multiplies_pairs(weight.shape[2:]) else torch.float32)
    return conv2d_image.conv2d_image(image, weight, bias, *sizes, last, kind).to(torch.bfloat16)


def _reads_colors(conv: nn.Module, image: Tensor) -> bool:
    layer: Any = conv
    weight = _numbers(conv)
    sizes = [layer.stride, layer.padding, layer.dilation]
    if weight is None or weight.dim() != 4 or any(isinstance(size, str) for size in sizes):
        return False
    stride, padding, dilation = map(winograd.pair_of, sizes)
    known = dilation == (1, 1) and weight.shape[1] == image.shape[1]
    return known and conv2d_image.pays(image, _parameters(conv), weight.shape[2:], stride, padding)


def _pays(image: Tensor, smaller: int, conv: nn.Module) -> bool:
    return winograd.pays(image, (image.shape[2] // smaller, image.shape[3] // smaller), _parameters(conv))


def _multiplies_pairs(layer: nn.Module, image: Sequence[int]) -> bool:
    """Whether it is the fastest as ``conv2d_bfloat16``, of an image of these sizes in bfloat16: for its gradient to the
    weight, or where no gradient is asked for.
    """
    conv: Any = layer
    weight = _numbers(conv)
    if weight is None or (torch.is_grad_enabled() and not weight.requires_grad):
        return False
    if isinstance(conv.padding, str) or winograd.pair_of(conv.dilation) != (1, 1):
        return False
    return conv2d_weight.pays(
        image, conv.out_channels, conv.kernel_size, *map(winograd.pair_of, (conv.stride, conv.padding))
    )


def _leads_to_pairs(modules: Sequence[nn.Module], i: int, x: Tensor) -> bool:
    """Whether what convolves the result of the convolution at ``i`` next is such a layer."""
    first: Any = modules[i]
    if isinstance(first.padding, str) or winograd.pair_of(first.dilation) != (1, 1):
        return False
    sizes = map(winograd.pair_of, (first.kernel_size, first.stride, first.padding))
    sides = result_sides(x.shape[2:], *sizes)
    for layer in modules[i + 1 :]:
        if is_layout_free(type(layer)) and not observed(layer):
            continue
        return (
            is_conv2d(layer) and min(sides) > 0 and _multiplies_pairs(layer, (x.shape[0], first.out_channels, *sides))
        )
    return False


def _leads(modules: Sequence[nn.Module], i: int, x: Tensor) -> bool:
    """Whether the convolution of an image halves it for one that is faster in channels_last."""
    first: Any = modules[i]
    if [*map(winograd.pair_of, (first.kernel_size, first.stride, first.padding))] != [(4, 4), (2, 2), (1, 1)]:
        return False
    for layer in modules[i + 1 :]:
        if is_layout_free(type(layer)) and not observed(layer):
            continue
        divides = x.shape[2] % 4 == 0 and x.shape[3] % 4 == 0
        return divides and is_conv2d(layer) and _pays(x, 4, layer) and halves(layer)
    return False
