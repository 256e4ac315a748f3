"""Linear layers and what is between them, as torch's compiler has them in its graph."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._composites import composite
from ._records import Activation
from .activation import activated
from .mlp import mlp, pays, takes


@composite(
    "perceptron(Tensor x, Tensor weight, Tensor? bias, Tensor weight_out, Tensor? bias_out, str activation, "
    "float slope) -> Tensor"
)
def perceptron(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    activation: str,
    slope: float,
) -> Tensor:
    """What ``mlp`` computes, where it does not pay by torch's functions, without the calls of three modules."""
    between = Activation(activation, slope)
    if pays(x, (weight, bias, weight_out, bias_out)):
        return mlp(x, weight, bias, weight_out, bias_out, between)
    return F.linear(activated(F.linear(x, weight, bias), between), weight_out, bias_out)


@composite("dense(Tensor x, Tensor?[] parameters, str[] layers, float[] slopes) -> Tensor")
def dense(x: Tensor, parameters: Sequence[Tensor | None], layers: Sequence[str], slopes: Sequence[float]) -> Tensor:
    """Layers one after the other, two linear ones with an activation between them as ``perceptron``.

    Args:
        x: what the first layer takes.
        parameters: weight and bias of each linear layer.
        layers: "linear", or the name of an activation.
        slopes: for each layer, of an activation that has one.
    """
    held: list[Any] = [parameters[i : i + 2] for i in range(0, len(parameters), 2)]
    i = 0
    while i < len(layers):
        if layers[i] != "linear":
            x = activated(x, Activation(layers[i], slopes[i]))
        elif len(held) > 1 and layers[i + 2 : i + 3] == ["linear"] != layers[i + 1 : i + 2] and _fit(x, *held[:2]):
            (weight, bias), (weight_out, bias_out) = held.pop(0), held.pop(0)
            x = perceptron(x, weight, bias, weight_out, bias_out, layers[i + 1], slopes[i + 1])
            i += 2
        else:
            x = F.linear(x, *held.pop(0))
        i += 1
    return x


def _fit(x: Tensor, inner: Sequence[Tensor | None], outer: Sequence[Tensor | None]) -> bool:
    """Whether these two layers take x as rows, and are large enough to be one op."""
    weight, weight_out = inner[0], outer[0]
    if weight is None or weight_out is None or any(each.layout != torch.strided for each in (x, weight, weight_out)):
        return False
    chained = x.dim() == 2 and x.shape[1] == weight.shape[1] and weight.shape[0] == weight_out.shape[1]
    return chained and takes(weight, weight_out)
