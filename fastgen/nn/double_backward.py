"""Second derivatives of a module, asked for before training starts: a gradient penalty differentiates a gradient."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map_only

from .._checks import check_instance
from ..ops._batch_norm_sync import is_shared
from ._records import process_group_of


def check_double_backward(module: nn.Module, *inputs: Any) -> None:
    """Refuse a module that a gradient cannot be taken of twice, as a gradient penalty does.

    That is, of which ``torch.autograd.grad(module(x).sum(), x, create_graph=True)`` cannot be differentiated once more.
    Its layers are looked at; with ``inputs`` it is tried as well, in the mode it is in, which finds what a layer's
    class does not tell. Neither parameters, buffers and their gradients nor random generators are changed.

    Args:
        module: a discriminator, say: of torch's layers, of fastgen's, or of both.
        inputs: what its forward takes; tensors in floating point are what is differentiated.

    Raises:
        ValueError: it has no second derivatives; names every layer by path and class, and why. Or no input is in
            floating point.
        TypeError: ``module`` is not a module.
    """
    check_instance("module", module, nn.Module, "a torch.nn.Module")
    refused = [f"{path or 'itself'} ({type(each).__name__}) {why}" for path, each, why in _refusing(module)]
    if refused:
        raise ValueError(f"module: expected one that can be differentiated twice, but {'; '.join(refused)}")
    if inputs:
        _try(module, inputs)


def _refusing(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for path, each in module.named_modules():
        if each._compiled_call_impl is not None or "_orig_mod" in each._modules:
            yield path, each, "is compiled: torch.compile has first derivatives only"
        elif isinstance(each, nn.SyncBatchNorm) and is_shared(process_group_of(each)):
            yield path, each, "shares its batch with other processes, which is differentiated once only"


def _try(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    with torch.inference_mode(False), torch.enable_grad():
        state = {
            name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }
        given = tree_map_only(Tensor, _leaf, inputs)
        leaves = [value for value in tree_leaves(given) if _differentiable(value)]
        if not leaves:
            raise ValueError("inputs: expected at least one tensor in floating point, got none")
        devices = {tensor.get_device() for tensor in (*state.values(), *leaves) if tensor.is_cuda}
        with torch.random.fork_rng(sorted(devices)):
            results = functional_call(module, state, given)
            try:
                _differentiate_twice(results, leaves)
            except RuntimeError as error:
                raise ValueError(f"module: expected one that can be differentiated twice, got: {error}") from error


def _differentiate_twice(results: Any, leaves: list[Tensor]) -> None:
    sums = [y.sum() for y in tree_leaves(results) if _differentiable(y)]
    grads = torch.autograd.grad(sums, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
    penalty = torch.stack([grad.square().sum().double() for grad in grads]).sum()
    if penalty.requires_grad:
        penalty.backward()


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point())


def _differentiable(y: Any) -> bool:
    return isinstance(y, Tensor) and y.requires_grad
