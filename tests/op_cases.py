"""What the GPU tests do with the arguments of ``op_arguments``, and the CPU's with the same."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastgen.ops._registry import OPS
from op_arguments import FUNCTIONS
from ops import assert_runs, exact
from parity import assert_parity

#: The ops that a GPU runs kernels of.
#: But those of sampling plans, whose arguments are programs: test_sample_gpu.py.
CUDA_OPS = sorted(op for op, kernels in OPS.items() if "CUDA" in kernels and not op.startswith("sample"))
TRITON_OPS = [op for op in CUDA_OPS if OPS[op]["CUDA"].endswith("_triton.py")]


def call(op: str, *args: Any) -> tuple[Tensor, ...]:
    """The results of ``op``, through the dispatcher."""
    return as_tuple(getattr(torch.ops.fastgen, op).default(*args))


def reference(op: str) -> Callable[..., Any]:
    """The op in plain torch."""
    modules = [module for name, module in sys.modules.items() if name.startswith("fastgen.ops")]
    (found,) = {vars(module)[f"{op}_reference"] for module in modules if f"{op}_reference" in vars(module)}
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
        with assert_runs(getattr(torch.ops.fastgen, name).default):
            results = results_and_gradients(function.ours, inputs)
        eager = results_and_gradients(function.plain, inputs)
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
