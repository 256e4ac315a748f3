"""masked_conv2d: what NaN gives, and words that no option has."""

import math

import pytest
import torch

from fastgen.ops import masked_conv2d, masked_conv2d_mask
from fastgen.ops._masked_conv2d_activations import activate
from fastgen.ops.masked_conv2d import masked_conv2d_backward_reference, masked_conv2d_reference
from ops import assert_op_parity
from parity import DTYPES


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


@pytest.mark.parametrize(
    ("N", "I", "O", "H", "W"), [(2, 8, 19, 9, 31), (18, 9, 16, 3, 5), (9, 8, 5, 5, 40), (1, 8, 1, 2, 1)]
)
@pytest.mark.parametrize(("width", "mask", "activation"), [(1, "B", "none"), (3, "B", "relu"), (5, "A", "none")])
@pytest.mark.parametrize("told", [True, False])
def test_few_taps_of_one_row_where_channels_lie_together(
    N: int, I: int, O: int, H: int, W: int, width: int, mask: str, activation: str, told: bool, device: str
) -> None:
    """Where a CPU multiplies pixels: beside a row are zeros, and blocks of pixels begin and end anywhere."""
    x, weight, bias, residual = (
        torch.randn(size, device=device) for size in ((N, I, H, W), (O, I, 1, width), (O,), (N, O, H, W))
    )
    x, grad_y = x.contiguous(memory_format=torch.channels_last), torch.randn_like(residual)
    options = mask, activation, 1, "contiguous"
    added = (bias, residual) if told else (None, None)
    forward = torch.ops.fastgen.masked_conv2d.default
    assert_op_parity(forward, masked_conv2d_reference, x, weight, *added, *options, True)
    pre = forward(x, weight, *added, *options, True)[1]
    backward = torch.ops.fastgen.masked_conv2d_backward.default
    assert_op_parity(
        backward, masked_conv2d_backward_reference, grad_y, pre, x, weight, *options, [told, True, not told]
    )


@pytest.mark.parametrize(
    ("N", "I", "H", "W", "KH", "KW"), [(2, 1, 9, 31, 7, 7), (18, 1, 3, 5, 3, 5), (1, 3, 7, 2, 5, 3)]
)
@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize("told", [True, False])
def test_weights_of_a_first_layer(
    N: int, I: int, H: int, W: int, KH: int, KW: int, mask: str, told: bool, device: str
) -> None:
    """Where a CPU multiplies pixels though rows above are read; one channel lies in both layouts at once."""
    x, weight = torch.randn(N, I, H, W, device=device), torch.randn(18, I, KH, KW, device=device)
    grad_y = torch.randn(N, 18, H, W, device=device).contiguous(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    options = mask, "none", I, "contiguous", [False, True, told]
    assert_op_parity(
        torch.ops.fastgen.masked_conv2d_backward.default, masked_conv2d_backward_reference, grad_y,
        x.new_empty(0), x, weight, *options,
    )  # fmt: skip


def test_products_of_pixels_by_two_threads_are_those_of_one() -> None:
    """The same bits: threads share pixels and parts of the images, and parts are added in their order."""
    N, I, O, H, W = 18, 9, 16, 11, 13
    x, weight, bias, residual = (torch.randn(size) for size in ((N, I, H, W), (O, I, 1, 3), (O,), (N, O, H, W)))
    x, grad_y = x.contiguous(memory_format=torch.channels_last), torch.randn_like(residual)
    options = "B", "relu", 1, "contiguous"
    forward, backward = torch.ops.fastgen.masked_conv2d.default, torch.ops.fastgen.masked_conv2d_backward.default
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            y, pre = forward(x, weight, bias, residual, *options, True)
            results.append((y, pre, *backward(grad_y, pre, x, weight, *options, [True] * 3)))
            assert_op_parity(forward, masked_conv2d_reference, x, weight, bias, residual, *options, True)
            given = grad_y, pre, x, weight, *options, [True] * 3
            assert_op_parity(backward, masked_conv2d_backward_reference, *given)
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("activation", "kept"), [("none", 0), ("relu", 1), ("elu", 1)])
def test_what_a_gradient_keeps(activation: str, kept: int, layout: torch.memory_format) -> None:
    """Beside image and weight one image, or none: a ReLU's result is what comes next keeps anyway."""
    x = torch.randn(2, 8, 5, 6).contiguous(memory_format=layout).requires_grad_()
    weight, saved = torch.randn(8, 8, 3, 3, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = masked_conv2d(x, weight, None, "B", activation)  # type: ignore[arg-type]
    inner = [t for t in saved if t.numel() and t.data_ptr() not in (x.data_ptr(), weight.data_ptr())]
    assert len(inner) == kept
    assert [t.data_ptr() == y.data_ptr() for t in inner] == [activation == "relu"] * kept


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_relu_whose_preactivation_nobody_keeps(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x = torch.randn(2, 9, 5, 6, dtype=dtype).contiguous(memory_format=layout)
    weight = torch.randn(7, 9, 3, 3, dtype=dtype)
    assert_op_parity(
        torch.ops.fastgen.masked_conv2d.default, masked_conv2d_reference,
        x, weight / 9, None, None, "B", "relu", 1, "contiguous", False,
    )  # fmt: skip


@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (3, 1), (1, 5), (5, 1), (3, 3), (3, 5)])
@pytest.mark.parametrize("mask", ["A", "B"])
def test_gradients_of_products_of_any_kernel(kernel: tuple[int, int], mask: str) -> None:
    """Of channels that lie together: one tap beside the pixel, none at all, colours; with the image's and without."""
    for groups in (1, 3):
        x, weight = torch.randn(2, 9, 4, 5), torch.randn(18, 9, *kernel)
        grad_y, x = (t.contiguous(memory_format=torch.channels_last) for t in (torch.randn(2, 18, 4, 5), x))
        for wanted in ([True, True, True], [False, True, True], [False, True, False]):
            assert_op_parity(
                torch.ops.fastgen.masked_conv2d_backward.default, masked_conv2d_backward_reference,
                grad_y, x.new_empty(0), x, weight, mask, "none", groups, "contiguous", wanted,
            )  # fmt: skip
