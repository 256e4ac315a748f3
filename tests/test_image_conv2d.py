"""image_conv2d: the first layer of a PixelCNN, answered in channels_last, on the CPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoregressive import assert_same_without
from fastgen.models import PixelCNN, RowLSTM
from fastgen.nn import MaskedConv2d
from fastgen.nn._as_made import first_layer
from fastgen.ops import masked_conv2d_mask
from fastgen.ops.image_conv2d import image_conv2d_reference, pays
from ops import (
    assert_compiles,
    assert_gradients,
    assert_op_parity,
    assert_opcheck,
    assert_runs,
    assert_second_order,
    ops_run,
    with_threads,
)
from parity import channels_last, contiguous, sliced

OP = torch.ops.fastgen.image_conv2d.default
# N, I, O, H, W, KH, KW, mask, color_groups
SHAPES = {
    "as in the paper": (3, 1, 32, 9, 11, 7, 7, "A", 1),
    "of three colours": (2, 3, 66, 8, 7, 7, 7, "A", 3),
    "channels and a rest": (2, 2, 9, 5, 6, 5, 3, "A", 1),
    "colours see themselves": (2, 3, 21, 4, 5, 3, 5, "B", 3),
    "along the row": (2, 1, 5, 3, 8, 1, 7, "A", 1),
    "by itself": (2, 2, 16, 3, 4, 1, 1, "B", 2),
    "nothing to see": (2, 1, 5, 3, 4, 1, 1, "A", 1),
    "one pixel": (4, 1, 8, 1, 1, 7, 7, "A", 1),
    "wider than the image": (2, 3, 6, 2, 3, 9, 11, "B", 1),
    "no image": (0, 1, 3, 2, 2, 3, 3, "A", 1),
}
ORDERS = ("contiguous", "interleaved")


def arguments(shape: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    N, I, O, H, W, KH, KW, *_ = shape
    return torch.randn(N, I, H, W), torch.randn(O, I, KH, KW) / (I * KH * KW) ** 0.5, torch.randn(O)


def eager(x: Tensor, weight: Tensor, bias: Tensor | None, mask: str, groups: int, order: str) -> Tensor:
    live = weight * masked_conv2d_mask(weight, mask, "none", groups, order)
    return F.conv2d(x, live, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: tuple[Any, ...], order: str) -> None:
    """Of every layout, with a bias and without, the same by any number of threads."""
    (x, weight, bias), options = arguments(shape), (*shape[7:], order)
    for layout in (contiguous, channels_last, sliced):
        assert_op_parity(
            OP, image_conv2d_reference, layout(x), layout(weight), bias.repeat_interleave(2)[::2], *options
        )
    assert_op_parity(OP, eager, x, weight, None, *options)
    found = [with_threads(threads, lambda: OP(x, weight, bias, *options)) for threads in (1, 2, 7)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_rows_are_spread_over_threads() -> None:
    """A thread begins within an image, and ends within another."""
    x, weight, bias = arguments((3, 1, 64, 37, 41, 7, 7))
    found = [with_threads(threads, lambda: OP(x, weight, bias, "A", 1, "contiguous")) for threads in (1, 2, 5)]
    for each in found[1:]:
        assert torch.equal(each, found[0])
    torch.testing.assert_close(found[0], eager(x, weight, bias, "A", 1, "contiguous"))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["as in the paper", "of three colours", "colours see themselves", "one pixel"])
def test_gradients(name: str, order: str) -> None:
    shape = SHAPES[name]
    (x, weight, bias), options = arguments(shape), (*shape[7:], order)
    assert_gradients([OP], lambda *args: OP(*args, *options), lambda *args: eager(*args, *options), x, weight, bias)
    for i in range(3):  # the only one that asks
        leaves = [t.clone().requires_grad_(i == j) for j, t in enumerate((x, weight, bias))]
        grads = [torch.autograd.grad(f(*leaves, *options).square().sum(), leaves[i])[0] for f in (OP, eager)]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_second_order() -> None:
    x, weight, bias = (t.double() for t in arguments((2, 3, 6, 3, 4, 3, 3)))
    assert_second_order(lambda *args: image_conv2d_reference(*args, "A", 3, "contiguous"), x, weight, bias)
    leaves = [t.float().requires_grad_() for t in (x, weight, bias)]

    def twice(f: Any, double: bool) -> tuple[Tensor, ...]:
        inputs = [t.double() if double else t for t in leaves]
        once = torch.autograd.grad(f(*inputs, "A", 3, "contiguous").pow(3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(torch.stack([g.square().sum() for g in once]).sum(), leaves)

    for one, two in zip(twice(OP, False), twice(eager, True), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-3)


def test_torch_knows_it() -> None:
    inputs = [t.requires_grad_() for t in arguments((2, 3, 6, 4, 5, 3, 3))]
    assert_opcheck(OP, (*inputs, "A", 3, "interleaved"), (*inputs[:2], None, "B", 1, "contiguous"))
    assert_compiles([OP], lambda *args: OP(*args, "A", 3, "contiguous").tanh(), *inputs)


def test_what_does_not_fit_is_refused() -> None:
    x, weight, bias = arguments((2, 3, 6, 4, 5, 3, 3))
    for args, message in (
        ((x.double(), weight, bias, "A", 3, "contiguous"), "x: expected"),
        ((x[:, :2], weight, bias, "A", 3, "contiguous"), "x: expected another shape"),
        ((x, weight.double(), bias, "A", 3, "contiguous"), "weight: expected another dtype"),
        ((x, weight[:, :, :2], bias, "A", 3, "contiguous"), "weight: expected shape"),
        ((x, weight, bias[:2], "A", 3, "contiguous"), "bias: expected another shape"),
        ((x, weight, bias, "C", 3, "contiguous"), "mask: expected"),
        ((x, weight, bias, "A", 2, "contiguous"), "color_groups: expected"),
        ((x, weight, bias, "A", 0, "contiguous"), "color_groups: expected"),
        ((x, weight, bias, "A", 3, "random"), "groups_order: expected"),
    ):
        with pytest.raises((RuntimeError, ValueError), match=message):
            OP(*args)


# ---- in models


@pytest.mark.parametrize("make", [PixelCNN, RowLSTM])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_model_computes_the_same_without_it(make: Any, in_channels: int) -> None:
    assert_same_without(OP, make(in_channels, 3, channels=12, layers=1, image_size=None))


def test_layers_that_are_not_as_made_run_themselves() -> None:
    x = torch.randn(2, 1, 4, 5)

    def runs(layer: nn.Module, x: Tensor = x) -> bool:
        with ops_run() as ran:
            y = first_layer(layer, x)
        torch.testing.assert_close(y, layer(x))
        return "image_conv2d" in ran

    layer = MaskedConv2d(1, 6, 3, "A")
    with assert_runs(OP, backward=False):
        assert first_layer(layer, x).is_contiguous(memory_format=torch.channels_last)
    assert runs(layer)
    assert not runs(MaskedConv2d(1, 6, 3, "A", activation="relu"))
    assert not runs(MaskedConv2d(5, 6, 3, "A"), torch.randn(2, 5, 4, 5))
    assert not runs(layer.double(), x.double())
    hooked = MaskedConv2d(1, 6, 3, "A")
    hooked.register_forward_hook(lambda *_: None)
    assert not runs(hooked)
    weight = MaskedConv2d(1, 6, 3, "A").weight
    assert pays(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert pays(x, weight)
        assert first_layer(MaskedConv2d(1, 6, 3, "A"), x).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.float16):
        assert not pays(x, weight)
    assert not pays(x.to("meta"), weight)
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 1, H, W\)"):
        first_layer(MaskedConv2d(1, 6, 3, "A"), torch.randn(2, 2, 4, 5))
