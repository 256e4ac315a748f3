"""Weights that begin where the data leave every layer's outputs with mean 0 and variance 1."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm

_EPS = 1e-10


def data_dependent_init(model: nn.Module, forward: Callable[[], Any]) -> None:
    """Scale and shift weight-normed layers so that their outputs on some data have mean 0 and variance s².

    y = g · (v ∗ x) / ‖v‖ + b,  with m and σ² the mean and variance of a channel of y:  g ← s g / σ,  b ← s (b − m) / σ

    One layer after the other, in the order in which ``forward`` runs them: each reads what those before it give when
    they are changed already. Where b is missing, means stay. s is a layer's attribute ``init_scale``, or else 1.

    Args:
        model: its layers with torch's ``nn.utils.parametrizations.weight_norm`` are changed in place, where the norm
            is that of an output channel: Linear, Conv and, with ``dim=1``, ConvTranspose.
        forward: runs the model on the data, once; without gradients.

    Raises:
        ValueError: the model has no such layer, or one whose norms are not those of its output channels.

    Source: Salimans and Kingma 2016, arXiv:1602.07868, section 3, eq. 5-6.
    """
    layers = [module for module in model.modules() if _norm(module) is not None]
    if not layers:
        raise ValueError("model: expected layers with torch.nn.utils.parametrizations.weight_norm, got none")
    for layer in layers:
        g, outputs = _norm(layer), getattr(layer, "out_channels", getattr(layer, "out_features", None))
        assert g is not None
        if g.numel() != outputs:
            raise ValueError(
                f"model: expected a norm for each of the {outputs} output channels of {type(layer).__name__},"
                f" got {g.numel()}; weight_norm takes dim=1 for transposed convolutions"
            )
    hooks: dict[nn.Module, Any] = {}

    def first_time(layer: nn.Module, _: Any, y: Tensor) -> Tensor:
        hooks.pop(layer).remove()
        return _normalised(layer, y)

    try:
        for layer in layers:
            hooks[layer] = layer.register_forward_hook(first_time)
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks.values():
            hook.remove()


def is_normed(layer: nn.Module) -> bool:
    """Whether ``scale_and_shift`` can: a weight norm, of an output channel each, and a bias."""
    g, bias = _norm(layer), getattr(layer, "bias", None)
    return g is not None and isinstance(bias, Tensor) and g.numel() == bias.numel()


@torch.no_grad()
def scale_and_shift(layer: nn.Module, shift: Tensor, scale: Tensor) -> None:
    """Let a weight-normed ``layer`` answer scale · y + shift instead of y, (P,) each of its P output channels."""
    g, bias = _norm(layer), layer.bias
    assert g is not None
    assert isinstance(bias, Tensor)
    g.mul_(scale.view_as(g))
    bias.mul_(scale).add_(shift)


def _norm(module: nn.Module) -> Tensor | None:
    """G of a layer's weight; None where it has none."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    weight: Any = module.parametrizations["weight"]  # type: ignore[index]
    return weight.original0 if isinstance(weight[0], _WeightNorm) else None


def _normalised(layer: nn.Module, y: Tensor) -> Tensor:
    """What ``layer`` answers in place of ``y``, with its new scale and shift."""
    channel = -1 if isinstance(layer, nn.Linear) else 1
    rows = y.movedim(channel, 0).flatten(1)
    scale = getattr(layer, "init_scale", 1.0) * (rows.var(1, correction=0) + _EPS).rsqrt()
    g, bias = _norm(layer), layer.bias
    assert g is not None
    g.mul_(scale.view_as(g))
    y = y.movedim(channel, -1)
    if isinstance(bias, Tensor):
        mean = rows.mean(1)
        bias.sub_(mean).mul_(scale)
        y = y - mean
    return (y * scale).movedim(-1, channel)
