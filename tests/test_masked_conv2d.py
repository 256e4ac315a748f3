"""masked_conv2d: only taps before the centre, fused with bias, activation and residual."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.nn import MaskedConv2d
from fastgen.ops import masked_conv2d, masked_conv2d_mask
from fastgen.ops._masked_conv2d_checks import ACTIVATIONS
from fastgen.ops.masked_conv2d import masked_conv2d_backward_reference, masked_conv2d_reference
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

OP = torch.ops.fastgen.masked_conv2d.default
BACKWARD = torch.ops.fastgen.masked_conv2d_backward.default
# N, I, O, H, W, KH, KW
SHAPES = (
    (0, 3, 6, 3, 3, 3, 3),
    (2, 6, 12, 5, 7, 3, 5),
    (1, 3, 6, 4, 4, 1, 3),
    (2, 6, 6, 3, 3, 1, 1),
    (1, 6, 6, 1, 1, 7, 7),
    (2, 12, 24, 11, 13, 5, 5),
)
REAL = (4, 3, 66, 28, 28, 7, 7)
COLORS = ((1, "contiguous"), (3, "contiguous"), (3, "interleaved"))


def result_channels(activation: str, O: int) -> int:
    return {"concat_elu": 2 * O, "gated": O // 2}.get(activation, O)


def arguments(shape: tuple[int, ...], activation: str, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """x, weight, bias, residual."""
    N, I, O, H, W, KH, KW = shape
    sizes = ((N, I, H, W), (O, I, KH, KW), (O,), (N, result_channels(activation, O), H, W))
    x, weight, bias, residual = (torch.randn(size, device=device, dtype=dtype) for size in sizes)
    return x, weight / (I * KH * KW) ** 0.5, bias, residual


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape, activation: str, layout, dtype: torch.dtype, device: str) -> None:
    x, weight, bias, residual = arguments(shape, activation, dtype, device)
    x, residual = layout(x), layout(residual)
    for mask, (groups, order) in product("AB", COLORS):
        if activation == "concat_elu" and (groups, order) == (3, "contiguous"):
            continue
        options = (mask, activation, groups, order)
        for one_bias, one_residual in ((bias, residual), (None, None), (bias, None)):
            assert_op_parity(OP, masked_conv2d_reference, x, weight, one_bias, one_residual, *options, True)
        pre = masked_conv2d_reference(x, weight, bias, None, *options, True)[1]
        grad_y = layout(torch.randn_like(residual))
        assert_op_parity(BACKWARD, masked_conv2d_backward_reference, grad_y, pre, x, weight, *options, [True] * 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_parity_at_a_real_size(activation: str, dtype: torch.dtype, device: str) -> None:
    x, weight, bias, residual = arguments(REAL, activation, dtype, device)
    options = ("A", activation, 3, "interleaved")
    assert_op_parity(OP, masked_conv2d_reference, x, weight, bias, residual, *options, False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients(activation: str, dtype: torch.dtype, device: str) -> None:
    def eager(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        live = weight * masked_conv2d_mask(weight, "B", activation)
        p = F.conv2d(x, live, bias, padding=(1, 2))
        a, b = p.chunk(2, 1)
        activated = {
            "none": lambda: p,
            "relu": lambda: F.relu(p),
            "elu": lambda: F.elu(p),
            "concat_elu": lambda: F.elu(torch.cat((p, -p), 1)),
            "gated": lambda: torch.tanh(a) * torch.sigmoid(b),
        }
        return activated[activation]() + residual

    def ours(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return masked_conv2d(x, weight, bias, "B", activation, residual)

    assert_gradients([OP], ours, eager, *arguments((2, 6, 12, 5, 7, 3, 5), activation, dtype, device))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation: str, device: str) -> None:
    inputs = arguments((2, 3, 6, 3, 4, 3, 3), activation, torch.float64, device)
    assert_gradcheck(
        [OP],
        lambda x, w, b, r: masked_conv2d(x, w, b, "A", activation, r, color_groups=3, groups_order="interleaved"),
        *inputs,
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_opcheck(activation: str, device: str) -> None:
    x, weight, bias, residual = arguments((2, 3, 6, 4, 5, 3, 3), activation, torch.float32, device)
    options = ("B", activation, 1, "contiguous")
    for layout in (Tensor.contiguous, channels_last):
        inputs = [layout(x), weight, bias, layout(residual)]
        pre = OP(*inputs, *options, True)[1]
        assert_opcheck(OP, (*(t.detach().requires_grad_() for t in inputs), *options, True), (*inputs, *options, False))
        for wanted in ([True, True, True], [True, False, False], [False, True, True]):
            assert_opcheck(BACKWARD, (layout(torch.randn_like(residual)), pre, layout(x), weight, *options, wanted))


def test_compile(device: str) -> None:
    for activation in ACTIVATIONS:
        assert_compiles(
            [OP],
            lambda x, w, b, r, kind=activation: masked_conv2d(x, w, b, "B", kind, r),
            *arguments((2, 4, 6, 5, 5, 3, 3), activation, torch.float32, device),
        )


def test_each_input_may_be_the_only_one_with_a_gradient() -> None:
    inputs = arguments((2, 3, 6, 4, 5, 3, 3), "elu", torch.float64, "cpu")
    together = torch.autograd.grad(
        masked_conv2d(*(leaves := [t.clone().requires_grad_() for t in inputs])[:3], "B", "elu", leaves[3]).sum(),
        leaves,
    )
    for i, expected in enumerate(together):
        x, weight, bias, residual = (t.requires_grad_(i == j) for j, t in enumerate(t.clone() for t in inputs))
        y = masked_conv2d(x, weight, bias, "B", "elu", residual)
        (grad,) = torch.autograd.grad(y.sum(), [(x, weight, bias, residual)[i]])
        assert torch.equal(grad, expected)


def test_second_order_but_not_forward_mode() -> None:
    x, weight, bias = (torch.randn(size, dtype=torch.float64) for size in ((1, 3, 4, 4), (6, 3, 3, 3), (6,)))
    for activation, out in (("none", 6), ("relu", 6), ("elu", 6), ("concat_elu", 12), ("gated", 3)):
        options = {"activation": activation, "color_groups": 3, "groups_order": "interleaved"}
        given = (x, weight, bias, torch.randn(1, out, 4, 4, dtype=torch.float64))
        assert_second_order(lambda x, w, b, r, o=options: masked_conv2d(x, w, b, residual=r, **o), *given)
    assert_second_order(lambda x: masked_conv2d(x, weight, activation="elu"), 999 * x)  # no exponential overflows
    weight = torch.randn(4, 2, 3, 3)
    assert_no_forward_mode(lambda x: masked_conv2d(x, weight), torch.randn(1, 2, 4, 4))


def test_errors() -> None:
    x, w, b = torch.randn(1, 2, 4, 4), torch.randn(4, 2, 3, 3), torch.randn(4)
    assert_raises(
        [
            (lambda: masked_conv2d(x, w, mask="C"), ValueError, "mask: expected one of 'A', 'B', got 'C'"),
            (
                lambda: masked_conv2d(x, w, activation="gelu"),
                ValueError,
                "activation: expected one of 'none', .* got 'gelu'",
            ),
            (lambda: masked_conv2d(x, w, groups_order="x"), ValueError, "groups_order: expected one of .* got 'x'"),
            (
                lambda: masked_conv2d(x, w[..., :2]),
                ValueError,
                r"weight: expected shape .* odd KH and KW, got \(4, 2, 3, 2\)",
            ),
            (lambda: masked_conv2d(x[:, :1], w), ValueError, r"x: expected shape \(N, 2, H, W\) .* got \(1, 1, 4, 4\)"),
            (lambda: masked_conv2d(x, w, b[:3]), ValueError, r"bias: expected shape \(4,\), got \(3,\)"),
            (
                lambda: masked_conv2d(x, w, residual=x),
                ValueError,
                r"residual: expected the shape of the result, \(1, 4, 4, 4\)",
            ),
            (
                lambda: masked_conv2d(x, w[:3], activation="gated"),
                ValueError,
                "even number of output channels .* got 3",
            ),
            (
                lambda: masked_conv2d(x, w, color_groups=3),
                ValueError,
                "color_groups: expected a divisor of the 2 input",
            ),
            (
                lambda: masked_conv2d(x, w, color_groups=0),
                ValueError,
                "color_groups: expected a positive integer, got 0",
            ),
            (
                lambda: masked_conv2d(x, w, activation="concat_elu", color_groups=2),
                ValueError,
                "groups_order: expected 'interleaved' with activation 'concat_elu'",
            ),
            (
                lambda: masked_conv2d(x, w.double()),
                TypeError,
                "weight: expected the dtype of x, torch.float32, got torch.float64",
            ),
            (lambda: masked_conv2d(x[:, :0], w[:, :0]), ValueError, r"one channel on either side, got \(4, 0\)"),
            (lambda: masked_conv2d(x.int(), w), TypeError, "x: expected float32, .* got torch.int32"),
            (lambda: MaskedConv2d(1, 1, 4), ValueError, r"kernel_size: expected odd sizes, got \(4, 4\)"),
        ]
    )


@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 3), (1, 5), (7, 7)])
def test_output_depends_on_earlier_pixels_only(mask, kernel: tuple[int, int], device: str) -> None:
    """The Jacobian is zero at and after the pixel (mask "A"), after the pixel (mask "B"), and only there."""
    H, W = 5, 6
    weight = torch.rand(1, 1, *kernel, device=device) + 0.5
    jacobian = torch.autograd.functional.jacobian(
        lambda x: masked_conv2d(x, weight, mask=mask), torch.randn(1, 1, H, W, device=device)
    ).view(H * W, H * W)
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    near = ((rows.reshape(-1, 1) - rows.reshape(-1)).abs() <= kernel[0] // 2) & (
        (columns.reshape(-1, 1) - columns.reshape(-1)).abs() <= kernel[1] // 2
    )
    order = torch.arange(H * W)
    before = order[None, :] < order[:, None] if mask == "A" else order[None, :] <= order[:, None]
    assert torch.equal(jacobian.cpu() != 0, near & before)


@pytest.mark.parametrize("order", ["contiguous", "interleaved"])
@pytest.mark.parametrize("activation", ["none", "gated"])
def test_colors_see_earlier_colors_only(order, activation: str) -> None:
    I, C = 6, 9  # channels of x and of the result
    O = 2 * C if activation == "gated" else C
    x, weight = torch.randn(1, I, 1, 1), torch.randn(O, I, 3, 3)
    color = (lambda c, n: c % 3) if order == "interleaved" else (lambda c, n: c * 3 // n)
    for mask in "AB":
        jacobian = torch.autograd.functional.jacobian(
            lambda t, m=mask: masked_conv2d(t, weight, None, m, activation, color_groups=3, groups_order=order), x
        ).view(C, I)
        for c, i in product(range(C), range(I)):
            sees = color(i, I) < color(c, C) or (mask == "B" and color(i, I) == color(c, C))
            assert (jacobian[c, i] != 0).item() == sees


def test_dead_taps_have_no_gradient_and_no_influence(device: str) -> None:
    x, weight, bias, _ = arguments((2, 3, 6, 5, 5, 5, 5), "none", torch.float32, device)
    mask = masked_conv2d_mask(weight, "B")
    weight.requires_grad_()
    (grad,) = torch.autograd.grad(masked_conv2d(x, weight, bias).square().sum(), weight)
    assert (grad[mask == 0] == 0).all()
    assert (grad[mask == 1] != 0).all()
    poisoned = torch.where(mask == 0, float("nan"), weight)
    assert torch.equal(masked_conv2d(x, poisoned, bias), masked_conv2d(x, weight, bias))


def test_module_is_a_conv2d_with_a_mask() -> None:
    torch.manual_seed(3)
    plain = nn.Conv2d(3, 6, 5, padding=2)
    torch.manual_seed(3)
    masked = MaskedConv2d(3, 6, 5, mask="A")
    assert all(torch.equal(masked.state_dict()[key], value) for key, value in plain.state_dict().items())
    masked.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 8, 8)
    expected = F.conv2d(x, plain.weight * masked_conv2d_mask(plain.weight, "A"), plain.bias, padding=2)
    with assert_runs(OP):
        y = masked(x)
        y.sum().backward()
    torch.testing.assert_close(y, expected)
    assert torch.equal(masked.live_weight(), plain.weight * masked_conv2d_mask(plain.weight, "A"))
    colors = {"color_groups": 3, "groups_order": "interleaved"}
    gated, x = MaskedConv2d(6, 12, (1, 3), "A", activation="gated", **colors), torch.randn(2, 6, 5, 4)
    expected = masked_conv2d(x, gated.weight, gated.bias, "A", "gated", x, **colors)
    assert torch.equal(gated(x, residual=x), expected)
    assert torch.equal(
        gated.live_weight(), gated.weight * masked_conv2d_mask(gated.weight, "A", "gated", *colors.values())
    )
    assert "mask='A', activation='gated', color_groups=3, groups_order='interleaved'" in repr(gated)


def test_autocast_casts_as_conv2d_does() -> None:
    x, weight, bias, residual = (
        t.requires_grad_() for t in arguments((2, 3, 6, 4, 5, 3, 3), "relu", torch.float32, "cpu")
    )
    with torch.autocast("cpu", torch.bfloat16):
        y = masked_conv2d(x, weight, bias, "B", "relu", residual)
    halves = [t.detach().bfloat16() for t in (x, weight, bias, residual)]
    assert torch.equal(y, masked_conv2d(*halves[:3], "B", "relu", halves[3]))
    (grad,) = torch.autograd.grad(y.float().sum(), weight)
    assert grad.dtype == torch.float32
    wide = [t.detach().double() for t in (x, weight, bias)]  # which it leaves as they are
    with torch.autocast("cpu", torch.bfloat16):
        y = masked_conv2d(*wide, "B", "relu")
    assert torch.equal(y, masked_conv2d(*wide, "B", "relu"))
