"""residual_block: the three masked convolutions of a PixelCNN's block in one op, on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoregressive import assert_same_without
from fastgen.models import PixelCNN
from fastgen.models.pixelcnn import ResidualBlock
from fastgen.nn import MaskedConv2d
from fastgen.ops import masked_conv2d_mask
from fastgen.ops._dtypes import in_dtype
from fastgen.ops.residual_block import pays, residual_block_backward_reference, residual_block_reference
from ops import (
    assert_compiles,
    assert_gradients,
    assert_op_parity,
    assert_opcheck,
    assert_raises,
    assert_runs,
    ops_run,
    with_threads,
)
from parity import assert_parity, channels_last, contiguous, sliced

OP = torch.ops.fastgen.residual_block.default
BACKWARD = torch.ops.fastgen.residual_block_backward.default
COLORS = ((1, "contiguous"), (3, "contiguous"), (3, "interleaved"))
# N, C, M, H, W, KH, KW
SHAPES = {
    "as in the paper": (3, 24, 12, 7, 9, 3, 3),
    "panels and a rest": (2, 90, 39, 5, 6, 3, 3),
    "more in the middle": (2, 6, 15, 4, 5, 5, 3),
    "along the row": (2, 9, 3, 3, 8, 1, 5),
    "by itself": (2, 3, 6, 3, 4, 1, 1),
    "one pixel": (5, 6, 3, 1, 1, 7, 7),
    "more images than parts": (19, 3, 3, 2, 3, 3, 3),
    "no image": (0, 3, 3, 2, 2, 3, 3),
}


def arguments(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """x, down, bias_down, weight, bias, up, bias_up."""
    N, C, M, H, W, KH, KW = shape
    sizes: tuple[tuple[int, ...], ...]
    sizes = ((N, C, H, W), (M, C, 1, 1), (M,), (M, M, KH, KW), (M,), (C, M, 1, 1), (C,))
    x, down, bias_down, weight, bias, up, bias_up = (torch.randn(size) for size in sizes)
    return x, down / C**0.5, bias_down, weight / (M * KH * KW) ** 0.5, bias, up / M**0.5, bias_up


def eager(x, down, bias_down, weight, bias, up, bias_up, groups=1, order="contiguous"):  # type: ignore[no-untyped-def]
    """y, below and around in plain torch."""
    down, bias_down, weight, bias, up, bias_up = in_dtype(x.dtype, down, bias_down, weight, bias, up, bias_up)
    live = [each * masked_conv2d_mask(each, "B", "none", groups, order) for each in (down, weight, up)]
    below = F.relu(F.conv2d(F.relu(x), live[0], bias_down))
    around = F.relu(F.conv2d(below, live[1], bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2)))
    return x + F.conv2d(around, live[2], bias_up), below, around


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("colors", COLORS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: tuple[int, ...], colors: tuple[int, str], dtype: torch.dtype) -> None:
    """Forward and backward, of every layout, with biases and without, the same by any number of threads."""
    x, *weights = arguments(shape)
    x = x.to(dtype)
    for layout in (contiguous, channels_last, sliced):
        told = [layout(each) if each.dim() == 4 else each.repeat_interleave(2)[::2] for each in weights]
        assert_op_parity(OP, eager, layout(x), *told, *colors)
    down, _, weight, _, up, _ = weights
    bare = (x, down, None, weight, None, up, None)
    assert_op_parity(OP, eager, *bare, *colors)
    assert_op_parity(OP, residual_block_reference, *bare, *colors)
    _, below, around = OP(x, *weights, *colors)
    backward = (torch.randn_like(x), x, below, around, down, weight, up, *colors)
    assert_op_parity(BACKWARD, residual_block_backward_reference, *backward)
    for op, args in ((OP, (x, *weights, *colors)), (BACKWARD, backward)):
        found = [with_threads(threads, lambda op=op, args=args: op(*args)) for threads in (1, 2, 7)]
        for one, two, three in zip(*found, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    x, *weights = arguments((5, 24, 12, 9, 11, 3, 3))
    whole = OP(x, *weights, 1, "contiguous")
    for n in (0, 2, 4):
        for one, every in zip(OP(x[n : n + 1], *weights, 1, "contiguous"), whole, strict=True):
            assert torch.equal(one[0], every[n])


@pytest.mark.parametrize("colors", COLORS)
def test_gradients(colors: tuple[int, str]) -> None:
    """To all results: what lies between is kept, and read by a gradient that is differentiated."""
    inputs = arguments((3, 24, 12, 5, 6, 3, 3))
    y_alone: list[Callable[..., Any]] = [lambda *args, f=f: f(*args, *colors)[0] for f in (OP, eager)]
    assert_gradients((OP,), *y_alone, *inputs)
    with ops_run() as ran:
        leaves = [t.clone().requires_grad_() for t in inputs]
        OP(*leaves, *colors)[0].sum().backward()
    assert "residual_block_backward" in ran

    def every(op: Any, double: bool) -> tuple[Tensor, ...]:
        leaves = [(t.double() if double else t.clone()).requires_grad_() for t in inputs]
        return torch.autograd.grad([y.square().sum() for y in op(*leaves, *colors)], leaves)

    for one, two, exact in zip(every(OP, False), every(eager, False), every(eager, True), strict=True):
        assert_parity(one, two, exact)


def test_second_order() -> None:
    """A gradient of a gradient, as accurate as torch's; it has float32 alone, so finite differences say nothing."""
    inputs = arguments((2, 9, 6, 4, 5, 3, 3))

    def twice(op: Any, double: bool) -> tuple[Tensor, ...]:
        leaves = [(t.double() if double else t.clone()).requires_grad_() for t in inputs]
        once = torch.autograd.grad(op(*leaves, 3, "contiguous")[0].square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(torch.stack([g.square().sum() for g in once]).sum(), leaves)

    for one, two, exact in zip(twice(OP, False), twice(eager, False), twice(eager, True), strict=True):
        assert_parity(one, two, exact)


def test_each_input_may_be_the_only_one_with_a_gradient() -> None:
    inputs = arguments((2, 6, 3, 3, 4, 3, 3))
    leaves = [t.clone().requires_grad_() for t in inputs]
    together = torch.autograd.grad(OP(*leaves, 1, "contiguous")[0].square().sum(), leaves)
    for i, expected in enumerate(together):
        leaves = [t.clone().requires_grad_(i == j) for j, t in enumerate(inputs)]
        (grad,) = torch.autograd.grad(OP(*leaves, 1, "contiguous")[0].square().sum(), leaves[i])
        assert torch.equal(grad, expected)


def test_registration() -> None:
    x, *weights = arguments((2, 6, 3, 3, 4, 3, 3))
    for layout in (contiguous, channels_last):
        args = (layout(x), *weights, 3, "interleaved")
        assert_opcheck(OP, args, tuple(t.clone().requires_grad_() if isinstance(t, Tensor) else t for t in args))
    _, below, around = OP(x, *weights, 1, "contiguous")
    assert_opcheck(BACKWARD, (x, x, below, around, *weights[::2], 1, "contiguous"))
    assert_compiles([OP], lambda *args: OP(*args, 1, "contiguous")[0], x, *weights)


def test_a_direct_call_is_checked() -> None:
    x, down, b, w, c, up, d = arguments((1, 6, 4, 3, 3, 3, 3))
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((x.double(), down, b, w, c, up, d, 1, "contiguous"), "x: expected"),
        ((x[0], down, b, w, c, up, d, 1, "contiguous"), "x: expected"),
        ((x, down[:3], b, w, c, up, d, 1, "contiguous"), "down: expected"),
        ((x, down, b[:1], w, c, up, d, 1, "contiguous"), "bias_down: expected"),
        ((x, down, b, w[:, :, :2], c, up, d, 1, "contiguous"), "weight: expected"),
        ((x, down, b, w.double(), c, up, d, 1, "contiguous"), "weight: expected"),
        ((x, down, b, w, c[:1], up, d, 1, "contiguous"), "bias: expected"),
        ((x, down, b, w, c, up[:, :3], d, 1, "contiguous"), "up: expected"),
        ((x, down, b, w, c, up, d[:1], 1, "contiguous"), "bias_up: expected"),
        ((x, down, b, w, c, up, d, 3, "contiguous"), "color_groups: expected"),
        ((x, down, b, w, c, up, d, 0, "contiguous"), "color_groups: expected"),
        ((x, down, b, w, c, up, d, 1, "sorted"), "groups_order: expected"),
    ]
    assert_raises((lambda args=args: OP(*args), RuntimeError, message) for args, message in wrong)
    between = x[:, :4]
    assert_raises(
        (lambda args=args: BACKWARD(*args, down, w, up, 1, "contiguous"), RuntimeError, message)
        for args, message in (
            ((x[:, :3], x, between, between), "grad_y: expected"),
            ((x, x, x, between), "below: expected"),
            ((x, x, between, x), "around: expected"),
        )
    )


def test_it_runs_where_it_pays() -> None:
    """In float32 or bfloat16, channels_last, with weights that stay in the caches; elsewhere layers run one by one."""
    x, down, _, weight, _, up, _ = arguments((2, 64, 32, 4, 4, 3, 3))
    last = channels_last(x)
    assert pays(last, down, weight, up)
    for other in (x, last.double(), last.to("meta"), last[:, :32], last[0]):
        assert not pays(other, down, weight, up)
    assert not pays(last, down, weight.double(), up)
    assert pays(last.bfloat16(), down.bfloat16(), weight.bfloat16(), up.bfloat16())
    assert not pays(last.bfloat16(), down, weight, up)
    assert not pays(last, down.bfloat16(), weight.bfloat16(), up.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert pays(last, down, weight, up)
        assert not pays(last.half(), down, weight, up)
    with torch.autocast("cpu", torch.float16):
        assert not pays(last, down, weight, up)
    for C, M, K in ((16, 7, 3), (16, 256, 3), (2**13, 33, 3)):
        x, down, _, weight, _, up, _ = arguments((1, C, M, 2, 2, K, K))
        assert not pays(channels_last(x), down, weight, up)


def test_a_block_is_one_op_unless_somebody_looks_between() -> None:
    """Whatever its layers have become, a block computes what they do."""
    block, x = ResidualBlock(16, 1), channels_last(torch.randn(2, 32, 5, 6)).requires_grad_()

    def layers(h: Tensor) -> Tensor:
        return block.up(block.context(block.down(F.relu(h))), residual=h)

    with assert_runs(OP):
        y = block(x)
        y.sum().backward()
    torch.testing.assert_close(y, layers(x))
    seen: list[Any] = []
    handle = block.context.register_forward_hook(lambda *args: seen.append(args[2].shape))
    with ops_run() as ran:
        block(x)
    assert seen == [(2, 16, 5, 6)]
    assert "residual_block" not in ran
    handle.remove()
    for change in (
        lambda: setattr(block.dropout, "p", 0.5),
        lambda: setattr(block.dropout, "p", 0.0) or nn.utils.parametrizations.weight_norm(block.down),
        lambda: nn.utils.parametrize.remove_parametrizations(block.down, "weight") and setattr(block.up, "mask", "A"),
        lambda: setattr(block.up, "mask", "B") or setattr(block.context, "activation", "elu"),
        lambda: setattr(block.context, "activation", "relu") or setattr(block.down, "color_groups", 2),
        lambda: setattr(block, "context", nn.Conv2d(16, 16, 3, padding=1)),
    ):
        change()
        with ops_run() as ran:
            found = block(x)
        if not block.dropout.p:
            torch.testing.assert_close(found, layers(x))
        assert "residual_block" not in ran


@pytest.mark.parametrize("colors", [1, 3])
def test_a_model_runs_it_and_is_the_same_without(colors: int) -> None:
    model = PixelCNN(colors, channels=24, layers=2, image_size=6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    assert_same_without(OP, model, atol=1e-5)


def test_a_vectorized_model_runs_its_layers() -> None:
    model, x = PixelCNN(1, channels=8, layers=1), torch.rand(3, 2, 1, 5, 5)
    with torch.no_grad():
        found = torch.func.vmap(model)(x)
        torch.testing.assert_close(found.flatten(0, 1), model(x.flatten(0, 1)))


def test_a_dropout_that_drops_or_is_another_layer_runs() -> None:
    block, x = ResidualBlock(16, 1, 0.5).eval(), channels_last(torch.randn(2, 32, 5, 6))
    with torch.no_grad(), ops_run() as ran:
        block.dropout.train()  # alone: Monte Carlo dropout
        assert not torch.equal(block(x), block(x))
        for other in (nn.Tanh(), nn.Identity()):
            block.dropout = other
            for mode in (False, True):
                block.train(mode)
                found = block.up(other(block.context(block.down(F.relu(x)))), residual=x)
                torch.testing.assert_close(block(x), found)
    assert "residual_block" not in ran


def test_layers_of_other_widths_run_one_by_one() -> None:
    x = channels_last(torch.randn(2, 32, 5, 6))
    for change in (
        {"context": MaskedConv2d(16, 24, 3, activation="relu"), "up": MaskedConv2d(24, 32, 1)},
        {"up": MaskedConv2d(16, 32, 3)},
    ):
        block = ResidualBlock(16, 1)
        for name, layer in change.items():
            setattr(block, name, layer)
        torch.testing.assert_close(block(x), block.up(block.context(block.down(F.relu(x))), residual=x))


def test_second_order_where_two_inputs_are_one_tensor() -> None:
    block, x = ResidualBlock(16, 1), channels_last(torch.randn(2, 32, 4, 5)).requires_grad_()
    block.context.bias = block.down.bias
    leaves = [x, *dict.fromkeys(block.parameters())]

    def one_by_one(x: Tensor) -> Tensor:
        return block.up(block.context(block.down(F.relu(x))), residual=x)

    found = []
    for f in (block, one_by_one):
        once = torch.autograd.grad(f(x).square().mean(), leaves, create_graph=True)
        twice = torch.autograd.grad(torch.stack([g.square().sum() for g in once]).sum(), leaves)
        found.append([*once, *twice])
    torch.testing.assert_close(*found)
