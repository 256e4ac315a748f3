"""Two linear layers with an activation between them, in a sequence of modules, as ``fastgen.ops.mlp`` has them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._constants import constant
from ..ops import _dense, activation, mlp
from ..ops._composites import is_program
from ..ops._records import Activation
from ._records import activation_by
from .halving import run_halving, with_activation
from .normalizing import run_batch_norm
from .sequence import are_hooked, is_called_plainly, observed, observed_itself

#: Layers that a program of torch's compiler has as one op.
DENSE = {nn.Linear: "linear", nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Tanh: "tanh", nn.Identity: "none"}

_RUN = torch.ops.fastgen.dense.default

#: What is run as one op: weight and bias of both layers, the activation, and where in the sequence it ends.
Perceptron = tuple[tuple[Any, Any, Any, Any], Activation, int]


def perceptron_at(modules: Sequence[nn.Module], i: int) -> Perceptron | None:
    """What begins with the module at ``i``, of enough weights on a CPU; None if nothing does."""
    if i + 3 > len(modules) or type(modules[i]) is not nn.Linear or type(modules[i + 2]) is not nn.Linear:
        return None
    inner, between, outer = modules[i : i + 3]
    kind = activation_by(between)
    if kind is None or observed(inner) or observed(between) or observed(outer):
        return None
    first, last = inner._parameters, outer._parameters  # past __getattr__
    weight: Any = first.get("weight")
    weight_out: Any = last.get("weight")
    if not _is_dense(weight) or not _is_dense(weight_out) or "bias" not in first or "bias" not in last:
        return None  # pruned, or packed
    if weight.shape[0] != weight_out.shape[1] or not mlp.takes(weight, weight_out):
        return None
    return (weight, first["bias"], weight_out, last["bias"]), kind, i + 3


def _is_dense(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.is_cpu


def run_perceptron(modules: Sequence[nn.Module], i: int, x: Any) -> tuple[Tensor, int] | None:
    """The perceptron's result of ``x`` and where it ends; where the op does not pay, of torch's functions, without the
    calls of three modules. In a compiled training step, also a linear layer with its activation.
    """
    if type(modules[i]) is not nn.Linear or not _is_dense(x) or x.dim() != 2:
        return None
    found = perceptron_at(modules, i)
    if found is None:
        return with_activation(modules, i, x) if activation.pays(x) else None
    parameters, kind, end = found
    if x.shape[1] != parameters[0].shape[1]:
        return None
    run = torch.ops.fastgen.perceptron.default if is_program() else _dense.perceptron
    return run(x, *parameters, *kind), end


@constant
def _dense_layer(kind: type[nn.Module]) -> str | None:
    """Its name, if calling a module of this kind runs its forward, and nothing registered for all modules."""
    return DENSE.get(kind) if is_called_plainly(kind) and not are_hooked() else None


def run_dense(modules: Sequence[nn.Module], x: Any) -> Tensor | None:
    """Linear layers and activations that torch's compiler traces, as one name in its graph; None of others, or if it
    does not.

    It reads only what changes the program if it changes: kinds, what watches a call, parameters and slopes.
    """
    if not is_program():
        return None
    layers: list[str] = []
    parameters: list[Any] = []
    slopes: list[float] = []
    for module in modules:
        layer, held = _dense_layer(type(module)), module._parameters
        slope = 0.0
        if layer is None or observed_itself(module):
            return None
        if layer == "linear":
            if "weight" not in held or "bias" not in held:
                return None  # pruned, or packed
            parameters += [held["weight"], held["bias"]]
        elif not layers:
            return None  # it may write over its input
        elif layer == "leaky_relu":
            kind = activation_by(module)
            if kind is None:
                return None
            slope = kind.slope
        layers.append(layer)
        slopes.append(slope)
    if not layers:
        return None
    y: Tensor = _RUN(x, parameters, layers, slopes)
    return y


def run_faster(modules: Sequence[nn.Module], i: int, x: Any) -> tuple[Any, int] | None:
    """A convolution that halves an image, a batch norm, or a perceptron."""
    kind = type(modules[i])
    if kind is nn.BatchNorm2d:
        return run_batch_norm(modules, i, x)
    return run_perceptron(modules, i, x) if kind is nn.Linear else run_halving(modules, i, x)
