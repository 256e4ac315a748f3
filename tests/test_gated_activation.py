"""gated_activation: y = tanh(a)·σ(b)."""

import pytest
import torch
from torch import Tensor

from fastgen.nn import GatedActivation
from fastgen.ops import gated_activation
from fastgen.ops.gated_activation import gated_activation_backward_reference, gated_activation_reference
from ops import (
    assert_compiles,
    assert_gradcheck,
    assert_gradients,
    assert_no_forward_mode,
    assert_op_parity,
    assert_opcheck,
    assert_raises,
    assert_runs,
    assert_second_order,
)
from parity import DTYPES, LAYOUTS, channels_last

OP = torch.ops.fastgen.gated_activation.default
BACKWARD = torch.ops.fastgen.gated_activation_backward.default
SHAPES = ((0, 4, 3, 3), (2, 0, 5), (1, 2), (3, 22, 7, 5), (5, 14), (2, 6, 1, 13), (4, 256, 28, 28))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape: tuple[int, ...], layout, dtype: torch.dtype, device: str) -> None:
    x = layout(3 * torch.randn(shape, device=device, dtype=dtype))
    grad_y = layout(torch.randn((shape[0], shape[1] // 2, *shape[2:]), device=device, dtype=dtype))
    assert_op_parity(OP, gated_activation_reference, x)
    assert_op_parity(BACKWARD, gated_activation_backward_reference, grad_y, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype: torch.dtype, device: str) -> None:
    x = torch.randn(3, 10, 7, device=device, dtype=dtype)
    assert_gradients([OP], gated_activation, gated_activation_reference, x)


def test_gradcheck(device: str) -> None:
    assert_gradcheck([OP], gated_activation, torch.randn(2, 6, 5, 3, dtype=torch.float64, device=device))


def test_opcheck(device: str) -> None:
    x, grad_y = torch.randn(2, 6, 4, 5, device=device), torch.randn(2, 3, 4, 5, device=device)
    assert_opcheck(OP, (x.requires_grad_(),), (channels_last(x.detach()).requires_grad_(),))
    assert_opcheck(BACKWARD, (grad_y, x.detach()), (channels_last(grad_y), channels_last(x.detach())))


def test_compile(device: str) -> None:
    assert_compiles([OP], gated_activation, torch.randn(2, 6, 4, 5, device=device))


def test_second_order_but_not_forward_mode() -> None:
    assert_second_order(gated_activation, torch.randn(2, 6, dtype=torch.float64))
    assert_no_forward_mode(gated_activation, torch.randn(2, 6))


def test_errors() -> None:
    assert_raises(
        [
            (lambda: gated_activation(torch.randn(4)), ValueError, r"x: expected shape \(N, 2C, \*\), got \(4,\)"),
            (lambda: gated_activation(torch.randn(2, 3, 4)), ValueError, r"x: expected .* got \(2, 3, 4\)"),
            (lambda: gated_activation(torch.ones(2, 4).int()), TypeError, "x: expected float32, .* got torch.int32"),
        ]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes(dtype: torch.dtype, device: str) -> None:
    """Saturation is exact, infinities are no NaN, and NaN is not swallowed."""
    inf, big = float("inf"), torch.finfo(dtype).max
    a = torch.tensor([[inf, -inf, big, -big, 50.0, -50.0, 0.0]], dtype=dtype, device=device)
    assert gated_activation(torch.cat((a, a.abs()), 1)).tolist() == [[1, -1, 1, -1, 1, -1, 0]]
    assert gated_activation(torch.cat((a, torch.full_like(a, -inf)), 1)).abs().max().item() <= 1e-38
    nan = torch.full((1, 2), float("nan"), dtype=dtype, device=device)
    assert gated_activation(nan).isnan().all()


def test_module_replaces_the_formula() -> None:
    x = torch.randn(2, 8, 3, 3, requires_grad=True)
    module = GatedActivation()
    assert not module.state_dict()
    with assert_runs(OP):
        y = module(x)
        y.sum().backward()
    assert torch.equal(y, gated_activation(x))


def test_every_element_alone_agrees_with_the_batch(device: str) -> None:
    """Vector body and remainder of the loop compute the same function."""
    x = torch.randn(1, 2 * 67, device=device)
    whole = gated_activation(x)[0]

    def one(i: int) -> Tensor:
        return gated_activation(x[:, [i, 67 + i]])[0, 0]

    assert (torch.stack([one(i) for i in range(67)]) - whole).abs().max() <= torch.finfo(torch.float32).eps
