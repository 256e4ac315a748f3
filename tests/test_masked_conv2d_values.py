"""masked_conv2d: what NaN gives, and words that no option has."""

import math

import pytest
import torch

from fastgen.ops import masked_conv2d_mask
from fastgen.ops._masked_conv2d_activations import activate
from fastgen.ops.masked_conv2d import masked_conv2d_backward_reference


@pytest.mark.parametrize(
    ("activation", "value"), [("relu", math.nan), ("gated", math.nan), ("relu", 0.0), ("elu", 0.0)]
)
def test_gradients_at_nan_and_zero_are_those_of_torch(activation: str, value: float) -> None:
    """Relu passes the gradient at a NaN, in the kernel and in the reference, and none at zero; the gate makes it NaN.

    Of elu at a NaN torch itself says both, by whether the element was part of a whole vector.
    """
    pre = torch.full((1, 2, 2, 3), value)
    grad_y = torch.ones(1, 1 if activation == "gated" else 2, 2, 3)
    x, weight = torch.ones(1, 2, 2, 3), torch.ones(2, 2, 1, 1)
    args = (grad_y, pre, x, weight, "B", activation, 1, "contiguous", [False, False, True])
    leaf = pre.clone().requires_grad_()
    (plain,) = torch.autograd.grad(activate(leaf, activation), leaf, grad_y)
    for op in (torch.ops.fastgen.masked_conv2d_backward.default, masked_conv2d_backward_reference):
        torch.testing.assert_close(op(*args)[2], plain.sum((0, 2, 3)), equal_nan=True)


def test_the_mask_takes_no_other_word() -> None:
    weight = torch.ones(2, 2, 3, 3)
    for call, message in (
        (lambda: masked_conv2d_mask(weight, "C"), "mask: expected one of 'A', 'B', got 'C'"),
        (lambda: masked_conv2d_mask(weight, "A", "swish"), "activation: expected one of"),
        (lambda: masked_conv2d_mask(weight, "A", "none", 2, "random"), "groups_order: expected one of"),
        (lambda: masked_conv2d_mask(weight[0], "A"), "weight: expected shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
