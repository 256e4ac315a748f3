"""conv_transpose2d_bn's Triton kernels, compiled for GPUs that are not here: DCGAN's layers."""

import pytest
import torch
from torch import Tensor

from aot import TARGETS, assert_gates
from fastgen.ops.conv_transpose2d_bn_triton import (
    conv_transpose2d_bn_backward_triton,
    conv_transpose2d_bn_fold_triton,
    conv_transpose2d_bn_triton,
)

HALF = torch.bfloat16
# x, weight, stride, padding, activation of the layer before, activation of this one without batch norm
LAYERS = {
    "first": ((128, 100, 1, 1), (100, 512, 4, 4), 1, 0, None, None),
    "inner": ((128, 256, 8, 8), (256, 128, 4, 4), 2, 1, "relu", None),
    "last": ((128, 64, 32, 32), (64, 3, 4, 4), 2, 1, "leaky_relu", "tanh"),
}


def meta(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(size, dtype=dtype, device="meta")


def layer(name: str, dtype: torch.dtype) -> tuple[list, list]:
    """Arguments of the op and of its backward."""
    size, weight_size, stride, padding, before, last = LAYERS[name]
    x, weight, O = meta(*size, dtype=dtype), meta(*weight_size, dtype=dtype), weight_size[1]
    prologue = [None] * 3 if before is None else [meta(size[1]), meta(size[1]), meta(size[1], dtype=dtype)]
    prologue += [before or "none", 0.2]
    options = [[stride] * 2, [padding] * 2, [0, 0], [1, 1], 1, last or "none", 0.0]
    H = (size[2] - 1) * stride - 2 * padding + 4
    y, statistics = meta(size[0], O, H, H, dtype=dtype), [meta(O), meta(O)] if last is None else [None, None]
    forward = [x, *prologue, weight, meta(O, dtype=dtype), *options, last is None, True]
    return forward, [y, *statistics, y, meta(O), x, *prologue, weight, *options, [True] * 3]


CASES = [*(("inner", one) for one in TARGETS), ("first", (9, 0)), ("last", (9, 0))]
PRECISIONS = [*(("tf32", one) for one in TARGETS), ("ieee", (8, 0)), ("ieee", (9, 0))]


@pytest.mark.parametrize(("name", "capability"), CASES)
def test_convolution(name: str, capability: tuple[int, int]) -> None:
    forward, backward = layer(name, HALF)
    assert_gates(capability, conv_transpose2d_bn_triton, *forward, products=["conv_transpose2d_kernel"])
    products = ["grad_image_kernel", "grad_weight_kernel"]
    assert_gates(capability, conv_transpose2d_bn_backward_triton, *backward, products=products)


@pytest.mark.parametrize(("precision", "capability"), PRECISIONS)
def test_convolution_in_float32(precision: str, capability: tuple[int, int]) -> None:
    conv = torch.backends.cudnn.conv
    before, conv.fp32_precision = conv.fp32_precision, precision
    try:
        forward, backward = layer("inner", torch.float32)
        products = ["conv_transpose2d_kernel"] if precision == "tf32" else []
        assert_gates(capability, conv_transpose2d_bn_triton, *forward, products=products)
        products = ["grad_image_kernel", "grad_weight_kernel"] if precision == "tf32" else []
        assert_gates(capability, conv_transpose2d_bn_backward_triton, *backward, products=products)
    finally:
        conv.fp32_precision = before


@pytest.mark.parametrize("capability", TARGETS)
def test_folding(capability: tuple[int, int]) -> None:
    vector, weight = meta(128), meta(256, 128, 4, 4, dtype=HALF)
    assert_gates(capability, conv_transpose2d_bn_fold_triton, weight, *([vector] * 5), 1, 1e-5)
