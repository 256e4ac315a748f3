"""tests/aot.py: kernels that spill, take too much shared memory or do not use matrix units do not pass its gates."""

from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from aot import TARGETS, assert_gates
from fastgen.ops._triton import launch


@triton.jit
def scale_by_sum_kernel(x, y, N: tl.constexpr):
    at = tl.arange(0, N)
    values = tl.load(x + at)
    tl.store(y + at, values * tl.sum(values, 0))


@triton.jit
def square_kernel(x, y, N: tl.constexpr):
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    values = tl.load(x + at)
    tl.store(y + at, tl.dot(values, values, input_precision="ieee"))


def scale(N: int) -> Any:
    x = torch.empty(N, device="meta")
    return lambda: launch(scale_by_sum_kernel, (1,), x, x, num_warps=1, N=N)


def square(N: int, dtype: torch.dtype) -> Any:
    x, y = (torch.empty(N, N, dtype=each, device="meta") for each in (dtype, torch.float32))
    return lambda: launch(square_kernel, (1,), x, y, num_warps=4, N=N)


@pytest.mark.parametrize("capability", TARGETS)
def test_what_does_not_pass(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_gates(capability, scale(1024))
    with pytest.raises(AssertionError, match=r"scale_by_sum_kernel for .*: spills"):
        assert_gates(capability, scale(32768))  # 1,024 values of a thread
    (binary,) = assert_gates(capability, square(64, torch.bfloat16), products=("square_kernel",))
    with pytest.raises(AssertionError, match=r"square_kernel for .*: no [a-z0-9\\.]*mma"):
        assert_gates(capability, square(32, torch.float32), products=("square_kernel",))
    monkeypatch.setitem(TARGETS, capability, (TARGETS[capability][0], binary.shared - 1))
    with pytest.raises(AssertionError, match=f"a block has {binary.shared - 1}"):
        assert_gates(capability, square(64, torch.bfloat16))
    with pytest.raises(AssertionError, match="nothing was launched"):
        assert_gates(capability, lambda: None)
