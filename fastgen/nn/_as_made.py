"""Whether layers that one op can replace are still those that a model was made of."""

from collections.abc import Iterable

from torch import nn

from .masked_conv2d import MaskedConv2d
from .sequence import globally_observed, observed


def nobody_looks(layers: Iterable[nn.Module]) -> bool:
    """Whether calling each of these does no more than its class's forward."""
    return not globally_observed() and not any(observed(layer) for layer in layers)


def are_masked(layers: Iterable[nn.Module], activations: Iterable[str]) -> bool:
    """Whether these are masked convolutions of mask B and of one colouring, with these activations."""
    found = list(layers)
    colors = {(getattr(each, "color_groups", None), getattr(each, "groups_order", None)) for each in found}
    return len(colors) == 1 and all(
        type(each) is MaskedConv2d and (each.mask, each.activation) == ("B", activation)
        for each, activation in zip(found, activations, strict=True)
    )


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
        for each in layers
    )
