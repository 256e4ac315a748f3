"""Two linear layers with an activation between them, in a sequence of modules, as ``fastgen.ops.mlp`` has them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import activation, mlp
from ..ops._records import Activation
from ._records import activation_of
from .halving import run_halving, with_activation
from .normalizing import run_batch_norm
from .sequence import observed


class Perceptron(NamedTuple):
    """What is run as one op: weight and bias of both layers, the activation, and where in the sequence it ends."""

    parameters: tuple[Any, Any, Any, Any]
    activation: Activation
    end: int


def perceptron_at(modules: Sequence[nn.Module], i: int) -> Perceptron | None:
    """What begins with the module at ``i``, of enough weights on a CPU; None if nothing does."""
    if i + 3 > len(modules) or type(modules[i]) is not nn.Linear or type(modules[i + 2]) is not nn.Linear:
        return None
    inner, between, outer = modules[i : i + 3]
    kind = activation_of(between)
    if kind is None or observed(inner) or observed(between) or observed(outer):
        return None
    first, last = inner._parameters, outer._parameters  # past __getattr__
    weight: Any = first.get("weight")
    weight_out: Any = last.get("weight")
    if not _is_dense(weight) or not _is_dense(weight_out) or "bias" not in first or "bias" not in last:
        return None  # pruned, or packed
    if weight.shape[0] != weight_out.shape[1] or not mlp.takes(weight, weight_out):
        return None
    return Perceptron((weight, first["bias"], weight_out, last["bias"]), kind, i + 3)


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
    if x.shape[1] != found.parameters[0].shape[1]:
        return None
    if mlp.pays(x, found.parameters):
        return mlp.mlp(x, *found.parameters, found.activation), found.end
    weight, bias, weight_out, bias_out = found.parameters
    hidden = activation.activated(F.linear(x, weight, bias), found.activation)
    return F.linear(hidden, weight_out, bias_out), found.end


def run_faster(modules: Sequence[nn.Module], i: int, x: Any) -> tuple[Any, int] | None:
    """A convolution that halves an image, a batch norm, or a perceptron."""
    kind = type(modules[i])
    if kind is nn.BatchNorm2d:
        return run_batch_norm(modules, i, x)
    return run_perceptron(modules, i, x) if kind is nn.Linear else run_halving(modules, i, x)
