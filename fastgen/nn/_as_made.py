"""Whether layers that one op can replace are still those that a model was made of."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ops._layouts import together
from ..ops._masked_conv2d_checks import GROUPS_ORDERS
from ..ops.image_conv2d import image_conv2d
from ..ops.image_conv2d import pays as image_conv2d_pays
from ..ops.pixel_head import pays as pixel_head_pays
from ..ops.pixel_head import pixel_head
from .halving import is_conv2d
from .masked_conv2d import MaskedConv2d
from .sequence import globally_observed, observed


def nobody_looks(layers: Iterable[nn.Module]) -> bool:
    """Whether calling each of these does no more than its class's forward."""
    return not globally_observed() and not any(observed(layer) for layer in layers)


def are_masked(layers: Iterable[nn.Module], activations: Iterable[str], mask: str = "B") -> bool:
    """Whether these are masked convolutions of one mask and one colouring, with these activations."""
    found: list[Any] = list(layers)
    if not all(
        type(each) is MaskedConv2d and (each.mask, each.activation) == (mask, activation) and has_its_bias(each)
        for each, activation in zip(found, activations, strict=True)
    ):
        return False
    groups, order = found[0].color_groups, found[0].groups_order
    if type(groups) is not int or groups < 1 or order not in GROUPS_ORDERS:
        return False
    return all(
        (each.color_groups, each.groups_order) == (groups, order)
        and not any(channels % groups for channels in each.weight.shape[:2])
        for each in found
    )


def has_its_bias(layer: nn.Module) -> bool:
    """Whether weight and bias are such as go together; what is wrong with others is told by the layer itself."""
    weight, bias = layer.weight, layer.bias
    if not isinstance(weight, torch.Tensor) or weight.layout != torch.strided:
        return False
    if bias is None:
        return True
    fits = isinstance(bias, torch.Tensor) and bias.layout == torch.strided and bias.shape == weight.shape[:1]
    return fits and (bias.dtype, bias.device) == (weight.dtype, weight.device)


def first_layer(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``layer(x)``, a masked convolution of an image, in the layout that what follows is fastest in: ``together``."""
    if are_masked((layer,), ("none",), "A") and nobody_looks((layer,)):
        found: Any = layer
        if image_conv2d_pays(x, found.weight):
            return image_conv2d(x, found.weight, found.bias, found.mask, found.color_groups, found.groups_order)
    return together(layer(x))


def last_layers(hidden: nn.Module, output: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``output(hidden(relu(x)))``, of two masked convolutions of which the first has a ReLU of its own."""
    if are_masked((hidden, output), ("relu", "none")) and nobody_looks((hidden, output)):
        first: Any = hidden
        last: Any = output
        if pixel_head_pays(x, first.weight, last.weight):
            weights = (first.weight, first.bias, last.weight, last.bias)
            return pixel_head(x, weights, last.color_groups, last.groups_order)
    found: torch.Tensor = output(hidden(F.relu(x)))
    return found


def is_normed_conv2d(layer: nn.Module) -> bool:
    """Whether this is torch's convolution of every pixel, its weight perhaps made by a parametrization."""
    if not is_conv2d(layer) or globally_observed():
        return False
    found: Any = layer
    return (found.dilation, found.stride, found.padding) == ((1, 1), (1, 1), (0, 0))


def drops_nothing(layer: nn.Module) -> bool:
    """Whether this is torch's dropout, and is not dropping: it may train on its own, as Monte Carlo dropout has it."""
    return type(layer) is nn.Dropout and not (layer.training and layer.p)


def are_plain(layers: Iterable[nn.Module]) -> bool:
    """Whether these are torch's convolutions, with a stride of one and zeros beside their input."""
    return all(
        type(each) is nn.Conv2d
        and each.stride == each.dilation == (1, 1)
        and each.groups == 1
        and each.padding_mode == "zeros"
        and has_its_bias(each)
        for each in layers
    )
