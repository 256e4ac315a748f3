"""The arguments that the GPU tests share: complete, and good on the CPU."""

import pytest
import torch

import fastgen
import gpu_smoke
from fastgen.ops._registry import HAS_TRITON
from op_arguments import ARGUMENTS, FUNCTIONS
from op_cases import CUDA_OPS, TRITON_OPS, as_tuple, assert_autocast, call, reference, results_and_gradients
from ops import cuda_kernel, exact
from parity import DTYPES, assert_parity, assert_same_layout


def test_every_op_with_a_cuda_kernel_has_arguments() -> None:
    assert sorted(ARGUMENTS) == CUDA_OPS
    assert set(FUNCTIONS) == {op for op in CUDA_OPS if hasattr(fastgen.ops, op)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", CUDA_OPS)
def test_arguments_are_what_the_op_takes(op: str, dtype: torch.dtype) -> None:
    for make in ARGUMENTS[op]:
        args = make(dtype)
        results, eager, truth = call(op, *args), as_tuple(reference(op)(*args)), call(op, *exact(args))
        for result, one_eager, one_truth in zip(results, eager, truth, strict=True):
            assert_parity(result, one_eager, one_truth)
            assert_same_layout(result, one_truth)


@pytest.mark.skipif(not HAS_TRITON, reason="no Triton kernel is registered")
@pytest.mark.parametrize("op", [op for op in TRITON_OPS if not op.startswith("discretized_logistic_mixture")])
def test_on_a_gpu_float64_is_left_to_the_reference(op: str) -> None:
    """Which runs anywhere; a Triton kernel would not, on these tensors."""
    kernel = cuda_kernel(getattr(torch.ops.fastgen, op).default)
    for make in ARGUMENTS[op]:
        args = make(torch.float64)
        assert all(map(torch.equal, as_tuple(kernel(*args)), as_tuple(reference(op)(*args))))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_under_autocast(name: str, dtype: torch.dtype) -> None:
    assert_autocast(name, dtype, "cpu")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast_leaves_float64(name: str) -> None:
    function = FUNCTIONS[name]
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in function.shapes]
    expected = results_and_gradients(function.ours, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = results_and_gradients(function.ours, inputs)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other)


def test_what_compute_sanitizer_runs() -> None:
    gpu_smoke.main("cpu")
