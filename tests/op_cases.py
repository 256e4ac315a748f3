"""Small arguments for every op that has a CUDA kernel: what the GPU tests iterate over.

A new op adds a line to each of ``ARGUMENTS`` and ``FUNCTIONS``.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import fastgen.ops as ops
from fastgen._registry import OPS
from fastgen.ops.gated_activation import gated_activation_reference
from fastgen.ops.masked_conv2d import masked_conv2d_reference
from fastgen.ops.rsample_kl import rsample_kl_reference
from ops import exact
from parity import assert_parity, channels_last

Make = Callable[[torch.dtype], tuple[Any, ...]]

#: The ops that a GPU runs kernels of.
CUDA_OPS = sorted(op for op, kernels in OPS.items() if "CUDA" in kernels)


def _randn(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape).to(dtype) for shape in shapes]


def _accumulated(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _seed() -> Tensor:
    return torch.randint(-(2**62), 2**62, (1,))


def _gated_activation(dtype: torch.dtype, run: int) -> tuple[Any, ...]:
    return tuple(_randn(dtype, (3, 2, run)))


def _gated_activation_backward(dtype: torch.dtype, run: int) -> tuple[Any, ...]:
    return tuple(_randn(dtype, (3, 1, run), (3, 2, run)))


def _rsample_kl(dtype: torch.dtype, N: int, R: int) -> tuple[Any, ...]:
    return *_randn(dtype, (N, R), (N, R)), _seed()


def _rsample_kl_backward(dtype: torch.dtype, N: int, R: int) -> tuple[Any, ...]:
    grad_z, mu, logvar = _randn(dtype, (N, R), (N, R), (N, R))
    return grad_z, torch.randn(N).to(_accumulated(dtype)), mu, logvar, _seed()


def _masked_conv2d(
    dtype: torch.dtype, mask: str, activation: str, groups: int, layout: Callable[[Tensor], Tensor]
) -> tuple[Any, ...]:
    channels = {"concat_elu": 24, "gated": 6}.get(activation, 12)
    x, weight, bias, residual = _randn(dtype, (2, 6, 7, 5), (12, 6, 3, 3), (12,), (2, channels, 7, 5))
    return layout(x), weight / 6, bias, layout(residual), mask, activation, groups, "interleaved", True


def _masked_conv2d_backward(
    dtype: torch.dtype, mask: str, activation: str, groups: int, layout: Callable[[Tensor], Tensor]
) -> tuple[Any, ...]:
    x, weight, bias, residual, *options, _ = _masked_conv2d(dtype, mask, activation, groups, layout)
    op = torch.ops.fastgen.masked_conv2d.default
    _, preactivation = op(x, weight, bias, residual, *options, True)
    return torch.randn_like(residual), preactivation, x, weight, *options, [True, True, True]


_CONVOLUTIONS = (
    ("A", "none", 1, Tensor.contiguous),
    ("B", "relu", 3, channels_last),
    ("B", "elu", 1, channels_last),
    ("B", "concat_elu", 1, channels_last),
    ("B", "gated", 1, channels_last),
)
_ROWS = ((5, 21), (3, 1021), (2, 8200), (2, 65543))  # a warp, a block, a wide block, several blocks to a row


def _for_each(make: Callable[..., tuple[Any, ...]], *options: tuple[Any, ...]) -> list[Make]:
    return [lambda dtype, one=one: make(dtype, *one) for one in options]


#: Op → its argument sets, each made for a dtype, on the CPU, from torch's generator.
ARGUMENTS: dict[str, list[Make]] = {
    "gated_activation": _for_each(_gated_activation, (37,), (1024,)),
    "gated_activation_backward": _for_each(_gated_activation_backward, (37,), (1024,)),
    "masked_conv2d": _for_each(_masked_conv2d, *_CONVOLUTIONS),
    "masked_conv2d_backward": _for_each(_masked_conv2d_backward, *_CONVOLUTIONS),
    "rsample_kl": _for_each(_rsample_kl, *_ROWS),
    "rsample_kl_backward": _for_each(_rsample_kl_backward, *_ROWS),
}


@dataclass(frozen=True)
class Function:
    """A public function of some differentiable inputs, the same in plain torch, and shapes to call them on."""

    ours: Callable[..., Any]
    plain: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]


def _five(like: Tensor) -> Tensor:
    return torch.tensor([5], device=like.device)


#: By the name of the op.
FUNCTIONS: dict[str, Function] = {
    "gated_activation": Function(ops.gated_activation, gated_activation_reference, ((3, 6, 5),)),
    "masked_conv2d": Function(
        lambda x, weight, bias: ops.masked_conv2d(x, weight, bias, mask="B", activation="relu"),
        lambda x, weight, bias: masked_conv2d_reference(x, weight, bias, None, "B", "relu", 1, "contiguous", False)[0],
        ((2, 6, 7, 5), (8, 6, 3, 3), (8,)),
    ),
    "rsample_kl": Function(
        lambda mu, logvar: ops.rsample_kl(mu, logvar, _five(mu)),
        lambda mu, logvar: rsample_kl_reference(mu, logvar, _five(mu)),
        ((5, 21), (5, 21)),
    ),
}


def call(op: str, *args: Any) -> tuple[Tensor, ...]:
    """The results of ``op``, through the dispatcher."""
    return as_tuple(getattr(torch.ops.fastgen, op).default(*args))


def reference(op: str) -> Callable[..., Any]:
    """The op in plain torch."""
    modules = [module for name, module in sys.modules.items() if name.startswith("fastgen.ops")]
    name = f"{op}_reference"
    (found,) = {vars(module)[name] for module in modules if name in vars(module)}
    return found


def as_tuple(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def moved(args: Any, device: str | torch.device) -> Any:
    """The same arguments on ``device``, in the same memory layout."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), args)


def results_and_gradients(function: Callable[..., Any], inputs: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The results of ``function``, and the gradients of its inputs for the sum of the results' mean squares."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    results = as_tuple(function(*leaves))
    loss = torch.stack([result.double().square().mean() for result in results]).sum()
    return (*(result.detach() for result in results), *torch.autograd.grad(loss, leaves))


def assert_autocast(name: str, dtype: torch.dtype, device: str) -> None:
    """Under autocast a function answers in the dtypes of plain torch, as accurately."""
    function = FUNCTIONS[name]
    inputs = [torch.randn(shape, device=device) for shape in function.shapes]
    with torch.autocast(device, dtype):
        results, eager = (results_and_gradients(f, inputs) for f in (function.ours, function.plain))
    for result, one, two in zip(results, eager, results_and_gradients(function.plain, exact(inputs)), strict=True):
        assert_parity(result, one, two)


def assert_compiles_to_the_same(name: str, device: str) -> None:
    """``torch.compile`` with its usual backend: the op stays one node, and what surrounds it may be fused."""
    function = FUNCTIONS[name]
    inputs = [torch.randn(shape, device=device) for shape in function.shapes]
    compiled = torch.compile(lambda *args: tree_map_only(Tensor, lambda t: t * 2, function.ours(*args)), fullgraph=True)
    results = results_and_gradients(compiled, inputs)
    eager, truth = (
        results_and_gradients(lambda *args: tree_map_only(Tensor, lambda t: t * 2, function.plain(*args)), one)
        for one in (inputs, exact(inputs))
    )
    for result, one, two in zip(results, eager, truth, strict=True):
        assert_parity(result, one, two)
