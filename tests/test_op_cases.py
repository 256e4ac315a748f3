"""The arguments that the GPU tests share: complete, and good on the CPU."""

import pytest
import torch

import gpu_smoke
from op_cases import ARGUMENTS, CUDA_OPS, FUNCTIONS, as_tuple, assert_autocast, call, reference
from ops import exact
from parity import DTYPES, assert_parity, assert_same_layout


def test_every_op_with_a_cuda_kernel_has_arguments() -> None:
    assert sorted(ARGUMENTS) == CUDA_OPS
    assert {op for op in CUDA_OPS if not op.endswith("_backward")} == set(FUNCTIONS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", CUDA_OPS)
def test_arguments_are_what_the_op_takes(op: str, dtype: torch.dtype) -> None:
    for make in ARGUMENTS[op]:
        args = make(dtype)
        results, eager, truth = call(op, *args), as_tuple(reference(op)(*args)), call(op, *exact(args))
        for result, one_eager, one_truth in zip(results, eager, truth, strict=True):
            assert_parity(result, one_eager, one_truth)
            assert_same_layout(result, one_truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_under_autocast(name: str, dtype: torch.dtype) -> None:
    assert_autocast(name, dtype, "cpu")


def test_what_compute_sanitizer_runs() -> None:
    gpu_smoke.main("cpu")
