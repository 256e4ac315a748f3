"""batch_norm's Triton kernels, called directly, against their references."""

import pytest
import torch
from torch import Tensor

from fastgen.ops import batch_norm_triton as kernels
from fastgen.ops._batch_norm_statistics import batch_norm_statistics_reference
from fastgen.ops.batch_norm import (
    batch_norm_apply_backward_reference,
    batch_norm_apply_reference,
    batch_norm_finalize_backward_reference,
    batch_norm_finalize_reference,
)
from ops import assert_op_parity
from parity import channels_last, contiguous

NAMES = torch.ops.fastgen
APPLY, APPLY_BACKWARD = NAMES.batch_norm_apply.default, NAMES.batch_norm_apply_backward.default
HALVES = (torch.float16, torch.bfloat16)


def vectors(C: int, device: str) -> list[Tensor]:
    """Center, scale and shift."""
    return [torch.randn(C, device=device), torch.rand(C, device=device) + 0.5, torch.randn(C, device=device)]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("size", [(0, 3, 2, 2), (1, 1, 1, 1), (3, 37, 5, 7), (2, 19, 16, 16)])
def test_statistics(size: tuple[int, ...], dtype: torch.dtype, triton_device: str) -> None:
    y = torch.randn(size, device=triton_device).to(dtype)
    for layout in (channels_last, contiguous):
        op, kernel = NAMES.batch_norm_statistics.default, kernels.batch_norm_statistics_triton
        assert_op_parity(op, batch_norm_statistics_reference, layout(y), kernel=kernel)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("size", [(0, 3, 2, 2), (1, 1, 1, 1), (3, 37, 5, 7), (2, 19, 16, 16)])
def test_normalisation(size: tuple[int, ...], dtype: torch.dtype, triton_device: str) -> None:
    y = torch.randn(size, device=triton_device).to(dtype)
    center, scale, shift = vectors(size[1], triton_device)
    middle = "relu" if dtype == torch.float32 else "tanh"
    for activation, given in (("none", shift), (middle, None), ("leaky_relu", shift.to(dtype))):
        for layout in (channels_last, contiguous):
            args = (layout(y), center, scale, given, activation, 0.2)
            for last in (True, False):
                apply = kernels.batch_norm_apply_triton
                assert_op_parity(APPLY, batch_norm_apply_reference, *args, last, kernel=apply)
            backward = kernels.batch_norm_apply_backward_triton
            grad = layout(torch.randn_like(y))
            assert_op_parity(APPLY_BACKWARD, batch_norm_apply_backward_reference, grad, *args, kernel=backward)


def test_tanh_in_float32(triton_device: str) -> None:
    y = channels_last(torch.randn(2, 19, 16, 16, device=triton_device))
    args = (y, *vectors(19, triton_device), "tanh", 0.0, True)
    assert_op_parity(APPLY, batch_norm_apply_reference, *args, kernel=kernels.batch_norm_apply_triton)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("C", [1, 37, 1030])
def test_vectors(C: int, momentum: float | None, dtype: torch.dtype, triton_device: str) -> None:
    mean, m2, weight = vectors(C, triton_device)
    weight = weight.to(dtype)
    buffers = [mean.flip(0).to(dtype), m2.flip(0).to(dtype), torch.tensor(3, device=triton_device)]
    given = [b.clone() for b in buffers]
    finalize = kernels.batch_norm_finalize_triton
    args = (mean, m2, weight, *given, 30, momentum, 1e-5)
    result = finalize(*args), *given
    expected = batch_norm_finalize_reference(mean, m2, weight, *buffers, 30, momentum, 1e-5), *buffers
    torch.testing.assert_close(result, expected)
    without = (mean, m2, None, None, None, None, 30, momentum, 1e-5)
    assert_op_parity(NAMES.batch_norm_finalize.default, batch_norm_finalize_reference, *without, kernel=finalize)
    for one in (weight, None):
        op = NAMES.batch_norm_finalize_backward.default
        backward = kernels.batch_norm_finalize_backward_triton
        assert_op_parity(op, batch_norm_finalize_backward_reference, mean, m2, one, 30, 1e-5, kernel=backward)
