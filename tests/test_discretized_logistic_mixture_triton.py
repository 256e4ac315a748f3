"""discretized_logistic_mixture's Triton kernels, called directly."""

import math

import pytest
import torch

from fastgen.ops.discretized_logistic_mixture import (
    discretized_logistic_mixture_backward_reference,
    discretized_logistic_mixture_reference,
)
from fastgen.ops.discretized_logistic_mixture_triton import (
    discretized_logistic_mixture_backward_triton,
    discretized_logistic_mixture_triton,
)
from mixtures import pixels
from ops import assert_op_parity
from parity import DTYPES, channels_last, contiguous, sliced

OP = torch.ops.fastgen.discretized_logistic_mixture.default
BACKWARD = torch.ops.fastgen.discretized_logistic_mixture_backward.default


def assert_kernels(params, values, grad, levels: int) -> None:
    assert_op_parity(
        OP, discretized_logistic_mixture_reference, params, values, levels, kernel=discretized_logistic_mixture_triton
    )
    assert_op_parity(
        BACKWARD, discretized_logistic_mixture_backward_reference, grad, params, values, levels,
        kernel=discretized_logistic_mixture_backward_triton,
    )  # fmt: skip


def torch_channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last, sliced, torch_channels_last])
def test_parity(layout, dtype: torch.dtype, triton_device: str) -> None:
    params, values, grad = pixels((2, 3, 3, 5, 7), dtype, triton_device)
    values = layout(values.double()).to(torch.uint8 if dtype == torch.bfloat16 else torch.int64)
    assert_kernels(layout(params), values, grad, 256)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(0, 3, 2, 3, 3), (2, 1, 3, 0, 4), (1, 1, 1, 1, 1), (1, 3, 1, 1, 1), (2, 1, 5, 13, 11), (1, 3, 10, 32, 32)]
)
def test_parity_of_shapes(shape: tuple[int, int, int, int, int], dtype: torch.dtype, triton_device: str) -> None:
    params, values, grad = pixels(shape, dtype, triton_device)
    assert_kernels(params, values, grad, 256)


@pytest.mark.parametrize("levels", [2, 3, 65536])
def test_parity_of_other_levels(levels: int, triton_device: str) -> None:
    params, values, grad = pixels((1, 3, 2, 3, 5), torch.float32, triton_device, levels)
    assert_kernels(params, values, grad, levels)


def test_extremes_are_finite(triton_device: str) -> None:
    extremes = torch.tensor([0.0, 1e-3, -8.0, -7.0, 3.0, 50.0, 1e30, -1e30], device=triton_device)
    params = extremes[torch.randint(8, (2, 30, 8, 8), device=triton_device)]
    values = torch.tensor([0, 1, 254, 255], device=triton_device)[torch.randint(4, (2, 3, 8, 8), device=triton_device)]
    result = discretized_logistic_mixture_triton(params, values, 256)
    assert result.isfinite().all()
    assert (result <= 0).all()
    ones = torch.ones_like(result)
    assert discretized_logistic_mixture_backward_triton(ones, params, values, 256).isfinite().all()


def test_nan_and_values_out_of_range_spoil_their_own_pixel_only(triton_device: str) -> None:
    params, values, grad = pixels((1, 3, 2, 2, 3), torch.float32, triton_device)
    values[0, 1, 0, 1], values[0, 2, 1, 0], params[0, 7, 1, 2] = 256, -1, math.nan
    spoilt = torch.tensor([[[False, True, False], [True, False, True]]], device=triton_device)
    assert torch.equal(discretized_logistic_mixture_triton(params, values, 256).isnan(), spoilt)
    grads = discretized_logistic_mixture_backward_triton(grad, params, values, 256)
    assert torch.equal(grads.isnan().any(1), spoilt)


def test_clamp_has_no_gradient(triton_device: str) -> None:
    params, values, grad = pixels((1, 1, 2, 2, 2), torch.float32, triton_device)
    params[:, 4] = -7.5
    grads = discretized_logistic_mixture_backward_triton(grad, params, values, 256)
    assert (grads[:, 4] == 0).all()
    assert (grads[:, 5] != 0).all()
