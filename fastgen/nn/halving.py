"""Convolutions that halve an image, in a sequence of modules, as ``fastgen.ops.winograd`` computes them on a CPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..ops import winograd
from ..ops._layouts import is_channels_last, is_vectorized
from .sequence import LAYOUT_FREE, laid_out, observed

#: Channels of a result up to which torch's own convolution of an image is the faster one.
COLORS = 4


def is_conv2d(layer: nn.Module) -> bool:
    """Whether this is torch's convolution, its weight perhaps made by a parametrization, and convolves without more."""
    kind = type(layer).__mro__[1] if parametrize.is_parametrized(layer) else type(layer)
    if kind is not nn.Conv2d:
        return False
    found: Any = layer
    return found.groups == 1 and found.padding_mode == "zeros" and not observed(layer)


def halves(layer: nn.Module) -> bool:
    """Whether the ops take it, of images large enough: kernel 4, stride 2, padding 1, of channels by 16, on a CPU."""
    if not is_conv2d(layer):
        return False
    conv: Any = layer
    weight = _numbers(layer)
    if weight is None or weight.dim() != 4 or weight.device.type != "cpu":
        return False
    return winograd.halves(weight.shape[2:], (conv.stride, conv.padding, 0, conv.dilation, 1), weight.shape[:2])


def _numbers(conv: nn.Module) -> Tensor | None:
    """Its weight, or what a parametrization makes it of: to make it counts, for spectral norm."""
    made: Any = conv
    if parametrize.is_parametrized(conv, "weight"):
        weight = getattr(made.parametrizations.weight, "original", None)  # None: it is made of several
    else:
        weight = made.weight
    return weight if isinstance(weight, Tensor) else None


def run_halving(modules: Sequence[nn.Module], i: int, x: Any) -> tuple[Any, int] | None:
    """The convolution at ``i`` and where it ends, where something else than calling it is the fastest.

    The first of an image, and others between two that halve, are torch's own, in the layout of those.
    """
    conv: Any = modules[i]
    if not is_conv2d(conv) or not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] != conv.in_channels:
        return None
    if x.device.type != "cpu" or x.layout != torch.strided or x.dtype != torch.float32 or is_vectorized():
        return None
    even = x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
    if even and halves(conv) and _pays(x, 2, conv):
        return winograd.to_small(x, conv.weight, conv.bias), i + 1  # once: a parametrization counts
    if is_channels_last(x):
        return conv(x), i + 1
    if _leads(modules, i, x):
        return conv(laid_out(x, torch.channels_last)), i + 1
    return None


def _pays(image: Tensor, smaller: int, conv: nn.Module) -> bool:
    weight, bias = _numbers(conv), conv.bias
    parameters = [each for each in (weight, bias) if isinstance(each, Tensor)]
    return winograd.pays(image, (image.shape[2] // smaller, image.shape[3] // smaller), parameters)


def _leads(modules: Sequence[nn.Module], i: int, x: Tensor) -> bool:
    """Whether the convolution of an image halves it for one that is faster in channels_last."""
    first: Any = modules[i]
    if first.in_channels > COLORS or first.kernel_size != (4, 4) or first.stride != (2, 2) or first.padding != (1, 1):
        return False
    for layer in modules[i + 1 :]:
        if type(layer) in LAYOUT_FREE and not observed(layer):
            continue
        return halves(layer) and x.shape[2] % 4 == 0 and x.shape[3] % 4 == 0 and _pays(x, 4, layer)
    return False
