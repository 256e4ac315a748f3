"""conv_transpose2d_bn's Triton kernels, called directly, against their references."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.ops import conv_transpose2d_bn_triton as kernels
from fastgen.ops._conv_transpose2d_bn_convolve import (
    conv_transpose2d_bn_backward_reference,
    conv_transpose2d_bn_reference,
)
from fastgen.ops._conv_transpose2d_bn_fold import conv_transpose2d_bn_fold_reference
from fastgen.ops.batch_norm_triton import batch_norm_apply_triton
from ops import assert_op_parity, assert_op_parity_over, cuda_kernel
from parity import channels_last, contiguous, sliced

NAMES = torch.ops.fastgen
OP, BACKWARD = NAMES.conv_transpose2d_bn.default, NAMES.conv_transpose2d_bn_backward.default
HALVES = (torch.float16, torch.bfloat16)
# N, I, O, H, W; kernel, stride, padding, output_padding, dilation, groups
CASES = {
    "empty": ((0, 3, 5, 2, 2), ([4, 4], [2, 2], [1, 1], [0, 0], [1, 1], 1)),
    "one": ((1, 1, 1, 1, 1), ([4, 4], [2, 2], [1, 1], [0, 0], [1, 1], 1)),
    "primes": ((3, 19, 23, 5, 3), ([4, 4], [2, 2], [1, 1], [0, 0], [1, 1], 1)),
    "to an image": ((2, 18, 3, 7, 5), ([4, 4], [2, 2], [1, 1], [0, 0], [1, 1], 1)),
    "product": ((13, 20, 17, 1, 1), ([4, 4], [1, 1], [0, 0], [0, 0], [1, 1], 1)),
    "any": ((3, 5, 19, 4, 5), ([3, 5], [2, 3], [1, 2], [1, 0], [1, 1], 1)),
    "grouped": ((5, 8, 22, 5, 3), ([3, 3], [2, 2], [1, 1], [1, 1], [1, 1], 2)),
    "dilated": ((5, 4, 3, 5, 4), ([3, 3], [1, 1], [2, 2], [0, 0], [2, 2], 1)),
    "real": ((2, 64, 32, 8, 8), ([4, 4], [2, 2], [1, 1], [0, 0], [1, 1], 1)),
}


def vectors(C: int, device: str) -> list[Tensor]:
    """Center, scale and shift."""
    return [torch.randn(C, device=device), torch.rand(C, device=device) + 0.5, torch.randn(C, device=device)]


def check(
    case: Any, prologue: Any, activation: str, dtype: torch.dtype, device: str, layout: Any = channels_last
) -> None:
    """Forward and backward; statistics where there is no activation, as layers do."""
    batches = 2 if dtype == torch.float32 else 1  # whose errors are rounding alone
    forward = [arguments(case, prologue, activation, dtype, device, layout) for _ in range(batches)]
    assert_op_parity_over(forward, OP, conv_transpose2d_bn_reference, _kernel(OP, dtype))
    for mask in ([True] * 3, [False, case[0][0] > 1, False]):
        backward = [backward_arguments(args, layout, mask) for args in forward]
        assert_op_parity_over(backward, BACKWARD, conv_transpose2d_bn_backward_reference, _kernel(BACKWARD, dtype))


def _kernel(op: Any, dtype: torch.dtype) -> Any:
    return cuda_kernel(op) if dtype == torch.float64 else getattr(kernels, f"{op._opname}_triton")


def arguments(
    case: Any, prologue: Any, activation: str, dtype: torch.dtype, device: str, layout: Any
) -> tuple[Any, ...]:
    (N, I, O, H, W), (kernel, *geometry) = case
    x = layout(torch.randn(N, I, H, W, device=device).to(dtype))
    weight = (torch.randn(I, O // geometry[-1], *kernel, device=device) / I**0.5).to(dtype)
    bias, statistics = torch.randn(O, device=device).to(dtype), activation == "none"
    return x, *prologue, weight, bias, *geometry, activation, 0.2, statistics, layout is channels_last


def backward_arguments(args: tuple[Any, ...], layout: Any, mask: list[bool]) -> tuple[Any, ...]:
    x, *prologue, weight, _bias = args[:8]
    *geometry, activation, slope, statistics, _layout = args[8:]
    y, mean, m2 = conv_transpose2d_bn_reference(*args)
    grads = [layout(torch.randn_like(y)), torch.randn_like(mean), torch.randn_like(m2) / 99]
    grads = grads if statistics else [grads[0], None, None]
    return *grads, y, mean, x, *prologue, weight, *geometry, activation, slope, mask


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name", CASES)
def test_parity(name: str, dtype: torch.dtype, triton_device: str) -> None:
    """A layer inside a chain: it normalises what it loads and takes statistics of what it stores."""
    case = CASES[name]
    kind = "leaky_relu" if dtype == torch.float32 else "tanh"  # a half may round to the other side of a kink
    check(case, (*vectors(case[0][1], triton_device), kind, 0.2), "none", dtype, triton_device)


@pytest.mark.parametrize("layout", [contiguous, channels_last, sliced])
@pytest.mark.parametrize("name", ["primes", "product", "grouped"])
def test_parity_of_a_first_and_of_a_last_layer(name: str, layout: Any, triton_device: str) -> None:
    case = CASES[name]
    check(case, (None, None, None, "none", 0.0), "none", torch.float32, triton_device, layout)
    prologue = (*vectors(case[0][1], triton_device)[:2], None, "relu", 0.0)
    check(case, prologue, "leaky_relu", torch.float32, triton_device, layout)
    check(case, prologue, "tanh", torch.float16, triton_device, layout)


def test_float64_is_the_reference(triton_device: str) -> None:
    prologue = (*(v.double() for v in vectors(19, triton_device)), "tanh", 0.0)
    check(CASES["primes"], prologue, "none", torch.float64, triton_device)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize(("groups", "layout"), [(1, contiguous), (3, channels_last), (1, channels_last)])
def test_folding(groups: int, layout: Any, dtype: torch.dtype, triton_device: str) -> None:
    weight = layout(torch.randn(6, 5, 4, 3, device=triton_device).to(dtype))
    given = [torch.randn(5 * groups, device=triton_device) for _ in range(4)] + [vectors(5 * groups, triton_device)[1]]
    op, reference = NAMES.conv_transpose2d_bn_fold.default, conv_transpose2d_bn_fold_reference
    kernel = kernels.conv_transpose2d_bn_fold_triton
    for there in ((True, True, True), (False, False, False)):
        some = [v if t else None for v, t in zip(given, there, strict=False)]
        assert_op_parity(op, reference, weight, *some, *given[3:], groups, 1e-5, kernel=kernel)


def test_a_large_mean_costs_no_digits(triton_device: str) -> None:
    """Tiles of rows whose mean is 1000 and whose deviation is 0.01, combined."""
    x = channels_last(1000 + 0.01 * torch.randn(5, 3, 16, 16, device=triton_device))
    weight = torch.eye(3, device=triton_device).view(3, 3, 1, 1)
    geometry = ([1, 1], [0, 0], [0, 0], [1, 1], 1)
    y, mean, m2 = kernels.conv_transpose2d_bn_triton(
        x, None, None, None, "none", 0.0, weight, None, *geometry, "none", 0.0, True, True
    )
    assert torch.equal(y, x)
    exact = x.double().var((0, 2, 3), correction=0)
    count = x.numel() // 3
    naive = x.square().mean((0, 2, 3)) - x.mean((0, 2, 3)).square()
    assert ((m2 / count - exact) / exact).abs().max() < 1e-2 < ((naive - exact) / exact).abs().max()
    z = batch_norm_apply_triton(y, mean, (m2 / count).rsqrt(), None, "none", 0.0, True)
    assert z.double().var((0, 2, 3), correction=0).sub(1).abs().max() < 1e-2


def test_the_same_input_gives_the_same_bits(triton_device: str) -> None:
    (N, I, O, H, W), (kernel, *geometry) = CASES["primes"]
    x, weight = torch.randn(N, I, H, W, device=triton_device), torch.randn(I, O, *kernel, device=triton_device)
    args = (x, *vectors(I, triton_device), "relu", 0.0, weight, None, *geometry, "none", 0.0, True, True)
    runs = [kernels.conv_transpose2d_bn_triton(*args) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
