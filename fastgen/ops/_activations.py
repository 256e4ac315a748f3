"""Activations that a convolution or a batch norm can take along."""

import torch
from torch import Tensor

from .._checks import check_number, check_option
from ._layouts import laid_as
from ._records import Activation

ACTIVATIONS = ("none", "relu", "leaky_relu", "tanh")


def check_activation(activation: Activation) -> None:
    check_option("activation", activation.name, ACTIVATIONS)
    if check_number("negative_slope", activation.slope) < 0:
        raise ValueError(
            f"negative_slope: expected at least 0 (its gradient is taken from the result), got {activation.slope}"
        )


def activate_(pre: Tensor, activation: Activation) -> Tensor:
    """In place: ``pre`` is the caller's own and has not been seen by autograd."""
    if activation.name == "relu":
        return torch.relu_(pre)
    if activation.name == "leaky_relu":
        return torch.nn.functional.leaky_relu_(pre, activation.slope)
    if activation.name == "tanh":
        return torch.tanh_(pre)
    return pre


def activate(pre: Tensor, activation: Activation) -> Tensor:
    """As torch's modules do it; of "none" what it is given."""
    if activation.name == "relu":
        return torch.relu(pre)
    if activation.name == "leaky_relu":
        return torch.nn.functional.leaky_relu(pre, activation.slope)
    return torch.tanh(pre) if activation.name == "tanh" else pre


def activate_backward(grad: Tensor, result: Tensor, activation: Activation) -> Tensor:
    """Gradient of the activation, from its result, and laid out as it: the mask is recomputed, never stored."""
    grad = laid_as(grad, result)
    if activation.name == "relu":
        return torch.ops.aten.threshold_backward.default(grad, result, 0)
    if activation.name == "leaky_relu":
        return torch.ops.aten.leaky_relu_backward.default(grad, result, activation.slope, True)
    if activation.name == "tanh":
        return torch.ops.aten.tanh_backward.default(grad, result)
    return grad
