"""gated_residual_block's Triton kernels, compiled for GPUs that need not be here."""

import pytest
import torch

from aot import TARGETS, assert_gates, recorded
from fastgen.ops.gated_residual_block_triton import gated_residual_block_backward_triton, gated_residual_block_triton

FORWARD, BACKWARD = "gated_residual_block_kernel", "gated_residual_block_grad_pre_kernel"
#: N, C, side, kernel; colours; dtype and precision; layout. What masked_conv2d's own gates compile is not here again.
CASES = {
    "64 channels": ((64, 64, 28, 3), 1, torch.bfloat16, "ieee", torch.channels_last),
    "128 channels": ((128, 128, 32, 3), 1, torch.float16, "ieee", torch.channels_last),
    "128 channels, contiguous": ((128, 128, 32, 3), 1, torch.bfloat16, "ieee", torch.contiguous_format),
    "120 channels in colours, 5 x 5": ((128, 120, 32, 5), 3, torch.bfloat16, "ieee", torch.channels_last),
    "tf32": ((64, 64, 28, 3), 1, torch.float32, "tf32", torch.channels_last),
    "ieee": ((64, 64, 28, 3), 1, torch.float32, "ieee", torch.channels_last),
}


def arguments(C: int, side: int, kernel: int, N: int, dtype: torch.dtype, layout: torch.memory_format):  # type: ignore[no-untyped-def]
    """x, weight, bias, weight_out, bias_out; and the pre-activation."""
    sizes = ((N, C, side, side), (2 * C, C, kernel, kernel), (C, C, 1, 1), (N, 2 * C, side, side))
    x, weight, weight_out, pre = (torch.empty(size, dtype=dtype, device="meta", memory_format=layout) for size in sizes)
    bias, bias_out = (torch.empty(size, dtype=dtype, device="meta") for size in (2 * C, C))
    return (x, weight, bias, weight_out, bias_out), pre


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("capability", TARGETS)
def test_gates(capability: tuple[int, int], case: str) -> None:
    (N, C, side, kernel), groups, dtype, precision, layout = CASES[case]
    inputs, pre = arguments(C, side, kernel, N, dtype, layout)
    x, weight, _, weight_out, _ = inputs
    options = ("B", groups, "contiguous")
    products = (dtype, precision) != (torch.float32, "ieee")
    conv = torch.backends.cudnn.conv
    before, conv.fp32_precision = conv.fp32_precision, precision
    try:
        assert_gates(capability, gated_residual_block_triton, *inputs, *options, True, products=[FORWARD] * products)
        grads = [x, pre, x, weight, weight_out, *options, [False] * 5]  # what is not shared with masked_conv2d
        assert_gates(capability, gated_residual_block_backward_triton, *grads, products=[BACKWARD] * products)
    finally:
        conv.fp32_precision = before


@pytest.mark.parametrize(("C", "dtype", "launches"), [
    (128, torch.bfloat16, 1), (64, torch.float32, 1), (128, torch.float32, 2), (256, torch.bfloat16, 2),
])  # fmt: skip
def test_one_launch_where_it_fits(C: int, dtype: torch.dtype, launches: int) -> None:
    inputs, _ = arguments(C, 32, 3, 16, dtype, torch.channels_last)
    args = (*inputs, "B", 1, "contiguous", False)
    assert len(recorded((9, 0), gated_residual_block_triton, *args)) == launches


def test_launches_of_the_backward() -> None:
    """Six in all: grad_pre; two sums of two launches each; grad_x, with the residual in its epilogue."""
    inputs, pre = arguments(128, 32, 3, 16, torch.bfloat16, torch.channels_last)
    args = (inputs[0], pre, inputs[0], inputs[1], inputs[3], "B", 1, "contiguous", [True] * 5)
    assert len(recorded((9, 0), gated_residual_block_backward_triton, *args)) == 6
