"""gated_residual_block: masked convolution, gate, 1×1 convolution and residual in one op."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.distributions import Bernoulli
from fastgen.nn import GatedResidualBlock, MaskedConv2d
from fastgen.ops import gated_residual_block, masked_conv2d, masked_conv2d_mask
from fastgen.sampling import compile as compile_sampler
from fastgen.sampling import verify
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
from samplers import assert_same_as_naive

OP = torch.ops.fastgen.gated_residual_block.default
BACKWARD = torch.ops.fastgen.gated_residual_block_backward.default
COLORS = ((1, "contiguous"), (3, "contiguous"), (3, "interleaved"))
# N, C, H, W, KH, KW
SHAPES = ((0, 3, 3, 3, 3, 3), (2, 6, 5, 7, 3, 5), (1, 3, 1, 1, 7, 7), (2, 3, 4, 4, 1, 3), (2, 36, 11, 13, 3, 3))


def innermost(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def arguments(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """x, weight, bias, weight_out, bias_out."""
    N, C, H, W, KH, KW = shape
    sizes = ((N, C, H, W), (2 * C, C, KH, KW), (2 * C,), (C, C, 1, 1), (C,))
    x, weight, bias, weight_out, bias_out = (torch.randn(size, device=device, dtype=dtype) for size in sizes)
    return x, weight / (C * KH * KW) ** 0.5, bias, weight_out / C**0.5, bias_out


def eager(x, weight, bias, weight_out, bias_out, mask="B", groups=1, order="contiguous", save=True):  # type: ignore[no-untyped-def]
    """The block in plain torch."""
    live = weight * masked_conv2d_mask(weight, mask, "gated", groups, order)
    pre = F.conv2d(x, live, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2))
    a, b = pre.chunk(2, 1)
    live_out = weight_out * masked_conv2d_mask(weight_out, "B", "none", groups, order)
    y = x + F.conv2d(torch.tanh(a) * torch.sigmoid(b), live_out, bias_out)
    return y, pre if save else x.new_empty(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [*LAYOUTS, innermost])
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape, layout, dtype: torch.dtype, device: str) -> None:
    x, *weights = arguments(shape, dtype, device)
    for mask in "AB":
        for colors in COLORS:
            assert_op_parity(OP, eager, layout(x), *weights, mask, *colors, True)
    weight, _, weight_out, _ = weights
    assert_op_parity(OP, eager, layout(x), weight, None, weight_out, None, "B", 1, "contiguous", False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [*LAYOUTS, innermost])
@pytest.mark.parametrize("colors", COLORS)
def test_gradients(colors: tuple[int, str], layout, dtype: torch.dtype, device: str) -> None:
    groups, order = colors
    assert_gradients(
        [OP],
        lambda x, *weights: gated_residual_block(layout(x), *weights, color_groups=groups, groups_order=order),
        lambda x, *weights: eager(x, *weights, "B", groups, order)[0],
        *arguments((2, 6, 5, 7, 3, 5), dtype, device),
    )


def test_gradcheck(device: str) -> None:
    inputs = arguments((2, 3, 3, 4, 3, 3), torch.float64, device)
    assert_gradcheck([OP], lambda *args: gated_residual_block(*args, color_groups=3), *inputs)


def test_opcheck(device: str) -> None:
    x, weight, bias, weight_out, bias_out = arguments((2, 3, 4, 5, 3, 3), torch.float32, device)
    options = ("B", 1, "contiguous")
    for layout in (Tensor.contiguous, innermost):
        inputs = [layout(x), weight, bias, weight_out, bias_out]
        pre = OP(*inputs, *options, True)[1]
        assert_opcheck(OP, (*(t.detach().requires_grad_() for t in inputs), *options, True), (*inputs, *options, False))
        for wanted in ([True] * 5, [True] + [False] * 4, [False] * 3 + [True] * 2):
            grad_y = layout(torch.randn_like(x))
            assert_opcheck(BACKWARD, (grad_y, pre, layout(x), weight, weight_out, *options, wanted))


def test_compile(device: str) -> None:
    assert_compiles([OP], gated_residual_block, *arguments((2, 4, 5, 5, 3, 3), torch.float32, device))


def test_each_input_may_be_the_only_one_with_a_gradient(device: str) -> None:
    inputs = arguments((2, 3, 4, 5, 3, 3), torch.float64, device)
    leaves = [t.clone().requires_grad_() for t in inputs]
    together = torch.autograd.grad(gated_residual_block(*leaves).sum(), leaves)
    for i, expected in enumerate(together):
        leaves = [t.clone().requires_grad_(i == j) for j, t in enumerate(inputs)]
        (grad,) = torch.autograd.grad(gated_residual_block(*leaves).sum(), leaves[i])
        assert torch.equal(grad, expected)


def test_second_order_but_not_forward_mode() -> None:
    x, *weights = arguments((1, 3, 4, 4, 3, 3), torch.float64, "cpu")
    assert_second_order(gated_residual_block, x, *weights)
    assert_second_order(lambda t: gated_residual_block(t, *weights), channels_last(x))
    assert_no_forward_mode(lambda t: gated_residual_block(t, *weights), x)


def test_errors() -> None:
    x, w, b, v, c = arguments((1, 4, 4, 4, 3, 3), torch.float32, "cpu")
    block = gated_residual_block
    assert_raises(
        [
            (lambda: block(x, w, b, v, c, "C"), ValueError, "mask: expected one of 'A', 'B', got 'C'"),
            (lambda: block(x, w[:4], None, v, c), ValueError, r"weight: expected twice the 4 channels of x, got"),
            (lambda: block(x[:, :3], w, b, v, c), ValueError, r"x: expected shape \(N, 4, H, W\)"),
            (lambda: block(x, w, b, v[:3], c), ValueError, r"weight_out: expected shape \(4, 4, 1, 1\), got \(3, 4"),
            (lambda: block(x, w, b, v, c[:1]), ValueError, r"bias_out: expected shape \(4,\), got \(1,\)"),
            (lambda: block(x, w, b, v.double(), c), TypeError, "weight_out: expected the dtype of x, torch.float32"),
            (lambda: block(x, w, b, v, c.to("meta")), ValueError, "bias_out: expected the device of x, cpu, got meta"),
            (lambda: block(x, w, b, v, c, color_groups=3), ValueError, "color_groups: expected a divisor of the 4"),
            (lambda: GatedResidualBlock(4, 2), ValueError, r"kernel_size: expected odd sizes, got \(2, 2\)"),
        ]
    )


def test_module_is_two_convolutions() -> None:
    block = GatedResidualBlock(6, (3, 5), "A", color_groups=3)
    plain = {"conv": nn.Conv2d(6, 12, (3, 5)), "out": nn.Conv2d(6, 6, 1)}
    names = [f"{name}.{key}" for name, layer in plain.items() for key in layer.state_dict()]
    assert list(block.state_dict()) == names == ["conv.weight", "conv.bias", "out.weight", "out.bias"]
    x = torch.randn(2, 6, 5, 5)
    gated = masked_conv2d(x, block.conv.weight, block.conv.bias, "A", "gated", color_groups=3)
    expected = masked_conv2d(gated, block.out.weight, block.out.bias, "B", residual=x, color_groups=3)
    with assert_runs(OP):
        y = block(x)
        y.sum().backward()
    assert torch.equal(y, expected)
    assert [name for name, _ in GatedResidualBlock(6, 3, bias=False).named_parameters()] == [
        "conv.weight",
        "out.weight",
    ]


def test_autocast_casts_as_conv2d_does() -> None:
    inputs = [t.requires_grad_() for t in arguments((2, 3, 4, 5, 3, 3), torch.float32, "cpu")]
    with torch.autocast("cpu", torch.bfloat16):
        y = gated_residual_block(*inputs)
    assert torch.equal(y, gated_residual_block(*(t.detach().bfloat16() for t in inputs)))
    (grad,) = torch.autograd.grad(y.float().sum(), inputs[1])
    assert grad.dtype == torch.float32


@pytest.mark.parametrize("colors", [1, 3])
def test_the_compiled_sampler_knows_it(colors: int) -> None:
    """A model of such blocks is sampled exactly: the images are those of one full forward for every value."""
    options = {"color_groups": colors, "groups_order": "interleaved"}
    model = nn.Sequential(
        MaskedConv2d(colors, 12, 5, "A", **options),
        GatedResidualBlock(12, 3, **options),
        GatedResidualBlock(12, (1, 3), **options),
        MaskedConv2d(12, colors, 1, "B", **options),
    ).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    assert_same_as_naive(model, (colors, 6, 7), Bernoulli())
    report = verify(compile_sampler(model, (colors, 6, 7), Bernoulli(), to_input="[-1, 1]"), n=2)
    assert report.same, str(report)
