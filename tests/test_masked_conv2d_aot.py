"""masked_conv2d's Triton kernels, compiled for GPUs that need not be here: no spills, matrix units, shared memory."""

import pytest
import torch

from aot import TARGETS, assert_gates
from fastgen.ops.masked_conv2d_triton import masked_conv2d_backward_triton, masked_conv2d_triton

PRODUCTS = ("masked_conv2d_kernel", "masked_conv2d_grad_weight_kernel")
HALF, FULL = torch.bfloat16, torch.float32
#: N, I, O, side, kernel; mask, activation, colours; dtype and precision; layout. A + compiles the backward too.
CASES = {
    "64 to 64": ((64, 64, 64, 28, 3), ("B", "relu", 1), torch.float16, "ieee", torch.channels_last),
    "128 to 128": ((128, 128, 128, 32, 3), ("B", "elu", 1), HALF, "ieee", torch.channels_last),
    "128 to 256, gated +": ((128, 128, 256, 32, 3), ("B", "gated", 1), HALF, "ieee", torch.channels_last),
    "120 to 240, gated, in colours": ((128, 120, 240, 32, 3), ("B", "gated", 3), HALF, "ieee", torch.channels_last),
    "concat_elu": ((64, 128, 128, 32, 3), ("B", "concat_elu", 1), HALF, "ieee", torch.channels_last),
    "contiguous +": ((64, 64, 64, 28, 3), ("B", "relu", 1), HALF, "ieee", torch.contiguous_format),
    "first layer, one channel": ((64, 1, 64, 28, 7), ("A", "none", 1), HALF, "ieee", torch.channels_last),
    "first layer, colours +": ((128, 3, 128, 32, 7), ("A", "relu", 3), HALF, "ieee", torch.channels_last),
    "tf32 +": ((128, 128, 256, 32, 3), ("B", "gated", 1), FULL, "tf32", torch.channels_last),
    "ieee +": ((128, 128, 128, 32, 3), ("B", "relu", 1), FULL, "ieee", torch.channels_last),
    "more than 2^31 elements": ((40000, 64, 64, 32, 1), ("B", "none", 1), HALF, "ieee", torch.channels_last),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("capability", TARGETS)
def test_gates(capability: tuple[int, int], case: str) -> None:
    (N, I, O, side, kernel), (mask, activation, groups), dtype, precision, layout = CASES[case]
    channels = {"concat_elu": 2 * O, "gated": O // 2}.get(activation, O)
    x, residual, pre, weight = (
        torch.empty(size, dtype=dtype, device="meta", memory_format=layout)
        for size in ((N, I, side, side), (N, channels, side, side), (N, O, side, side), (O, I, kernel, kernel))
    )
    bias = torch.empty(O, dtype=dtype, device="meta")
    options = (mask, activation, groups, "interleaved")
    products = PRODUCTS if (dtype, precision) != (FULL, "ieee") else ()
    conv = torch.backends.cudnn.conv
    before, conv.fp32_precision = conv.fp32_precision, precision
    try:
        args = (x, weight, bias, residual, *options, True)
        assert_gates(capability, masked_conv2d_triton, *args, products=products[:1])
        if case.endswith("+"):
            args = (residual, pre, x, weight, *options, [I > 3, True, True])
            assert_gates(capability, masked_conv2d_backward_triton, *args, products=products[I <= 3 :])
    finally:
        conv.fp32_precision = before
