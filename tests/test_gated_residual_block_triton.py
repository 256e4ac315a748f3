"""The Triton kernels of gated_residual_block: interpreted where there is no GPU, as they are where there is one."""

from itertools import cycle

import pytest
import torch
from torch import Tensor

from fastgen.ops import gated_residual_block_triton as kernels
from fastgen.ops.gated_residual_block import gated_residual_block_backward_reference, gated_residual_block_reference
from fastgen.ops.gated_residual_block_triton import gated_residual_block_backward_triton, gated_residual_block_triton
from ops import assert_op_parity, cuda_kernel
from parity import LAYOUTS

OP = torch.ops.fastgen.gated_residual_block.default
BACKWARD = torch.ops.fastgen.gated_residual_block_backward.default
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def innermost(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


#: N, C, H, W, KH, KW; mask, colours: few channels or many, one launch or two, and hardly a power of two
CASES = (
    ((0, 3, 3, 3, 3, 3), ("B", 1, "contiguous")),
    ((1, 1, 1, 1, 1, 1), ("A", 1, "contiguous")),
    ((2, 3, 5, 7, 3, 5), ("B", 3, "contiguous")),
    ((1, 17, 5, 3, 3, 3), ("A", 1, "contiguous")),
    ((2, 48, 3, 7, 3, 3), ("B", 3, "interleaved")),
    ((1, 68, 1, 3, 1, 3), ("B", 2, "contiguous")),
)


def arguments(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """x, weight, bias, weight_out, bias_out."""
    N, C, H, W, KH, KW = shape
    sizes = ((N, C, H, W), (2 * C, C, KH, KW), (2 * C,), (C, C, 1, 1), (C,))
    x, weight, bias, weight_out, bias_out = (torch.randn(size, device=device, dtype=dtype) for size in sizes)
    return x, weight / (C * KH * KW) ** 0.5, bias, weight_out / C**0.5, bias_out


@pytest.mark.parametrize(("case", "layout"), list(zip(CASES, cycle((innermost, *LAYOUTS)), strict=False)))
@pytest.mark.parametrize("dtype", DTYPES)
def test_parity(case, layout, dtype: torch.dtype, triton_device: str) -> None:
    shape, options = case
    x, weight, bias, weight_out, bias_out = arguments(shape, dtype, triton_device)
    x = layout(x)
    args = (x, weight, bias, weight_out, bias_out, *options, True)
    assert_op_parity(OP, gated_residual_block_reference, *args, kernel=gated_residual_block_triton)
    pre = gated_residual_block_reference(*args)[1]
    args = (layout(torch.randn_like(x)), pre, x, weight, weight_out, *options)
    assert_op_parity(
        BACKWARD, gated_residual_block_backward_reference, *args, [True] * 5,
        kernel=gated_residual_block_backward_triton,
    )  # fmt: skip


def test_only_what_is_asked_for(triton_device: str) -> None:
    x, weight, _, weight_out, _ = arguments((2, 6, 4, 5, 3, 3), torch.float32, triton_device)
    options = ("B", 1, "contiguous")
    args = (x, weight, None, weight_out, None, *options, False)
    assert_op_parity(OP, gated_residual_block_reference, *args, kernel=gated_residual_block_triton)
    pre = gated_residual_block_reference(*args[:-1], True)[1]
    for i in range(5):
        wanted = [i == j for j in range(5)]
        args = (torch.randn_like(x), pre, x, weight, weight_out, *options, wanted)
        assert_op_parity(
            BACKWARD, gated_residual_block_backward_reference, *args, kernel=gated_residual_block_backward_triton
        )


@pytest.mark.parametrize("launches", [1, 2])
def test_parity_in_one_launch_and_in_two(launches: int, triton_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "fits", lambda C, dtype: launches == 1)
    args = (*arguments((2, 24, 5, 4, 3, 3), torch.float32, triton_device), "B", 3, "interleaved", True)
    assert_op_parity(OP, gated_residual_block_reference, *args, kernel=gated_residual_block_triton)


def test_parity_where_one_launch_does_not_fit(triton_device: str) -> None:
    args = (*arguments((1, 132, 1, 3, 1, 3), torch.bfloat16, triton_device), "B", 3, "contiguous", True)
    assert_op_parity(OP, gated_residual_block_reference, *args, kernel=gated_residual_block_triton)


def test_float64_is_the_reference(triton_device: str) -> None:
    args = (*arguments((1, 6, 4, 5, 3, 3), torch.float64, triton_device), "B", 3, "contiguous", True)
    assert all(map(torch.equal, cuda_kernel(OP)(*args), gated_residual_block_reference(*args)))


def test_the_same_call_gives_the_same_bits(triton_device: str) -> None:
    inputs = arguments((2, 16, 9, 7, 3, 3), torch.float32, triton_device)
    x, weight, _, weight_out, _ = inputs
    options = ("B", 1, "contiguous")
    runs = []
    for _ in range(2):
        y, pre = gated_residual_block_triton(*inputs, *options, True)
        runs.append(
            (y, pre, *gated_residual_block_backward_triton(y, pre, x, weight, weight_out, *options, [True] * 5))
        )
    assert all(map(torch.equal, *runs))
