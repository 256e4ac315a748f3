"""shifted_conv2d: the convolutions of PixelCNN++, without zeros around what they read, on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autoregressive import assert_same_without
from fastgen.models import PixelCNNPP
from fastgen.models.pixelcnnpp_layers import GatedBlock, ShiftedConv2d, added, pointwise
from fastgen.ops.shifted_conv2d import (
    pays,
    shifted_conv2d,
    shifted_conv2d_backward_reference,
    shifted_conv2d_reference,
)
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

OP = torch.ops.fastgen.shifted_conv2d.default
BACKWARD = torch.ops.fastgen.shifted_conv2d_backward.default
# N, I, O, H, W, KH, KW, left
SHAPES = {
    "down": (3, 32, 16, 7, 9, 2, 3, 1),
    "down and right": (2, 24, 40, 6, 5, 2, 2, 1),
    "of single pixels": (2, 19, 7, 5, 6, 1, 1, 0),
    "of a row, from both sides": (2, 5, 6, 3, 8, 1, 5, 2),
    "of a row, to the right alone": (2, 5, 6, 3, 8, 1, 3, 0),
    "of a column": (2, 6, 5, 7, 3, 3, 1, 0),
    "wider than the image": (2, 3, 4, 2, 2, 4, 7, 5),
    "one pixel": (4, 8, 3, 1, 1, 2, 3, 1),
    "more images than parts": (19, 3, 4, 2, 3, 2, 2, 1),
    "more pixels than a thread takes": (2, 4, 5, 25, 21, 2, 3, 1),
    "no image": (0, 4, 5, 3, 3, 2, 3, 1),
    "images without pixels": (2, 4, 5, 0, 3, 2, 3, 1),
}


def arguments(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """x, weight, bias, residual."""
    N, I, O, H, W, KH, KW, _ = shape
    return (
        torch.randn(N, I, H, W),
        torch.randn(O, I, KH, KW) / (I * KH * KW) ** 0.5,
        torch.randn(O),
        torch.randn(N, O, H, W),
    )


def eager(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, left: int) -> Tensor:
    """The sum over taps, one by one."""
    (_, _, H, W), (_, _, KH, KW) = x.shape, weight.shape
    seen = F.pad(x, (left, KW - 1 - left, KH - 1, 0))
    y = sum(
        torch.einsum("nihw,oi->nohw", seen[:, :, k : k + H, c : c + W], weight[:, :, k, c])
        for k in range(KH)
        for c in range(KW)
    )
    for more in (None if bias is None else bias[:, None, None], residual):
        y = y if more is None else y + more
    assert isinstance(y, Tensor)
    return y


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: tuple[int, ...]) -> None:
    """Forward and backward, of every layout, with all that may be left out, the same by any number of threads."""
    (x, weight, bias, residual), left = arguments(shape), shape[-1]
    for layout in (contiguous, channels_last, sliced):
        told = layout(weight), bias.repeat_interleave(2)[::2], layout(residual)
        assert_op_parity(OP, eager, layout(x), *told, left)
    assert_op_parity(OP, eager, x, weight, None, residual, left)
    if shape[3]:  # torch refuses what has no rows
        assert_op_parity(OP, shifted_conv2d_reference, x, weight, bias, None, left)
    grad_y = torch.randn_like(residual)
    every = (grad_y, x, weight, left, [True, True, True])
    if x.numel():
        for layout in (contiguous, channels_last, sliced):
            assert_op_parity(BACKWARD, shifted_conv2d_backward_reference, layout(grad_y), layout(x), *every[2:])
    whole = BACKWARD(*every)
    assert [g.shape for g in whole] == [x.shape, weight.shape, bias.shape]
    assert x.numel() or not any(g.any() for g in whole)
    for wanted in ([True, False, False], [False, True, False], [False, False, True]):
        for found, expected, asked in zip(BACKWARD(*every[:-1], wanted), whole, wanted, strict=True):
            torch.testing.assert_close(found, expected if asked else x.new_empty(0))
    for op, args in ((OP, (x, weight, bias, residual, left)), (BACKWARD, every)):
        one, two, seven = (with_threads(threads, lambda op=op, args=args: op(*args)) for threads in (1, 2, 7))
        for other in (two, seven):
            assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    x, weight, bias, residual = arguments((5, 24, 12, 9, 11, 2, 3, 1))
    whole = OP(x, weight, bias, residual, 1)
    for n in (0, 2, 4):
        assert torch.equal(OP(x[n : n + 1], weight, bias, residual[n : n + 1], 1)[0], whole[n])


@pytest.mark.parametrize("name", ["down", "down and right", "of single pixels", "wider than the image"])
def test_gradients(name: str) -> None:
    inputs, left = arguments(SHAPES[name]), SHAPES[name][-1]
    both: list[Callable[..., Any]] = [lambda *args, f=f: f(*args, left) for f in (OP, eager)]
    assert_gradients((OP,), *both, *inputs)
    with ops_run() as ran:
        leaves = [t.clone().requires_grad_() for t in inputs]
        OP(*leaves, left).sum().backward()
    assert "shifted_conv2d_backward" in ran


def test_second_order() -> None:
    """A gradient of a gradient, as accurate as torch's; it has float32 alone, so finite differences say nothing."""
    inputs = arguments((2, 9, 6, 4, 5, 2, 3, 1))

    def twice(op: Any, double: bool) -> tuple[Tensor, ...]:
        leaves = [(t.double() if double else t.clone()).requires_grad_() for t in inputs]
        once = torch.autograd.grad(op(*leaves, 1).pow(3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(torch.stack([g.square().sum() for g in once]).sum(), leaves)

    for one, two, exact in zip(twice(OP, False), twice(eager, False), twice(eager, True), strict=True):
        assert_parity(one, two, exact)


def test_each_input_may_be_the_only_one_with_a_gradient() -> None:
    inputs = arguments((2, 6, 3, 3, 4, 2, 2, 1))
    leaves = [t.clone().requires_grad_() for t in inputs]
    together = torch.autograd.grad(OP(*leaves, 1).square().sum(), leaves)
    for i, expected in enumerate(together):
        leaves = [t.clone().requires_grad_(i == j) for j, t in enumerate(inputs)]
        for create_graph in (False, True):
            (grad,) = torch.autograd.grad(OP(*leaves, 1).square().sum(), leaves[i], create_graph=create_graph)
            torch.testing.assert_close(grad, expected)


def test_what_is_added_is_not_kept() -> None:
    """A gradient needs no residual: it may be written over."""
    x, weight, bias, residual = (t.requires_grad_() for t in arguments((2, 6, 3, 3, 4, 2, 2, 1)))
    more = residual * 2
    y = OP(x, weight, bias, more, 1)
    with torch.no_grad():
        more.zero_()
    y.sum().backward()
    assert torch.equal(residual.grad, torch.full_like(residual, 2.0))


def test_registration() -> None:
    inputs = arguments((2, 6, 3, 3, 4, 2, 3, 1))
    for layout in (contiguous, channels_last):
        args = (layout(inputs[0]), *inputs[1:], 1)
        assert_opcheck(OP, args, tuple(t.clone().requires_grad_() if isinstance(t, Tensor) else t for t in args))
    x, weight, _, residual = inputs
    for wanted in ([True, True, True], [True, False, False]):
        assert_opcheck(BACKWARD, (residual, x, weight, 1, wanted))
    assert_compiles([OP], lambda *args: OP(*args, 1), *inputs)


def test_a_direct_call_is_checked() -> None:
    x, weight, bias, residual = arguments((2, 6, 4, 3, 3, 2, 3, 1))
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((x.double(), weight, bias, residual, 1), "x: expected"),
        ((x[0], weight, bias, residual, 1), "x: expected"),
        ((x[:, :5], weight, bias, residual, 1), "x: expected"),
        ((x, weight[0], bias, residual, 1), "weight: expected"),
        ((x, weight[:0], bias[:0], residual[:, :0], 1), "weight: expected"),
        ((x, weight.double(), bias, residual, 1), "weight: expected"),
        ((x, weight, bias[:1], residual, 1), "bias: expected"),
        ((x, weight, bias.double(), residual, 1), "bias: expected"),
        ((x, weight, bias, residual[:, :1], 1), "residual: expected"),
        ((x, weight, bias, residual, 3), "left: expected"),
        ((x, weight, bias, residual, -1), "left: expected"),
    ]
    assert_raises((lambda args=args: OP(*args), RuntimeError, message) for args, message in wrong)
    every = [True, True, True]
    assert_raises(
        (lambda args=args: BACKWARD(*args), RuntimeError, message)
        for args, message in (
            ((x, x, weight, 1, every), "grad_y: expected"),
            ((residual, x, weight, 1, every[:2]), "output_mask|bool"),
            ((residual, x, weight, 4, every), "left: expected"),
        )
    )
    assert_raises([(lambda: OP(x.to("meta"), weight.to("meta"), None, None, 3), ValueError, "left: expected")])


def test_it_runs_where_it_pays() -> None:
    """In float32 and channels_last, with weights that stay in the caches; elsewhere torch's convolution does."""
    x = channels_last(torch.randn(2, 32, 4, 4))
    weight = (32, 64, 2, 3)
    assert pays(x, weight)
    for other in (contiguous(x), x.double(), x.to("meta"), x[0]):
        assert not pays(other, weight)
    for other in ((8, 64, 2, 3), (64, 8, 2, 3), (256, 128, 2, 2)):
        assert not pays(x, other)
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(x, weight)
    seen: list[bool] = []
    torch.func.vmap(lambda x: seen.append(pays(x, weight)) or x)(torch.randn(2, *x.shape))
    torch.func.jvp(lambda x: seen.append(pays(x, weight)) or x, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        seen.append(pays(x, weight))
    assert seen == [False, False, False]


@pytest.mark.parametrize("right", [False, True])
def test_a_layer_is_one_op_unless_its_convolution_is_another(right: bool) -> None:
    """Whatever it has become, the layer computes what it does."""
    x = channels_last(torch.randn(2, 16, 5, 6)).requires_grad_()

    def layer(stride: int = 1) -> Any:
        return ShiftedConv2d(16, 16, (2, 2) if right else (2, 3), right, stride, activated=True)

    def one_by_one(layer: Any, x: Tensor) -> Tensor:
        return layer.conv(F.pad(F.elu(torch.cat((x, -x), 1)), layer.padding))

    for made in (layer(), parametrize.remove_parametrizations(layer().conv, "weight") and layer()):
        with assert_runs(OP):
            y = made(x)
            y.sum().backward()
        torch.testing.assert_close(y, one_by_one(made, x))
    changes: dict[str, Callable[[Any], Any]] = {
        "a hook": lambda layer: layer.conv.register_forward_hook(lambda *_: None),
        "groups": lambda layer: setattr(layer, "conv", nn.Conv2d(32, 16, layer.conv.kernel_size, groups=2)),
        "padding": lambda layer: setattr(layer, "conv", nn.Conv2d(32, 16, layer.conv.kernel_size, padding=1)),
        "a class of one's own": lambda layer: setattr(
            layer, "conv", type("Own", (nn.Conv2d,), {})(32, 16, layer.conv.kernel_size)
        ),
        "a forward of one's own": lambda layer: setattr(layer.conv, "forward", lambda x: x[:, :16] * 2),
        "half of a forward": lambda layer: setattr(layer.conv, "_conv_forward", lambda x, weight, bias: x * 2),
        "other padding": lambda layer: setattr(layer, "padding", (1, 1, 0, 1)),
        "another kernel": lambda layer: setattr(layer, "conv", nn.Conv2d(32, 16, (2, 1))),
    }
    for what, change in changes.items():
        made = layer()
        change(made)
        with ops_run() as ran:
            torch.testing.assert_close(made(x), one_by_one(made, x), msg=what)
        assert "shifted_conv2d" not in ran, what
    with ops_run() as ran:
        made = layer(stride=2)
        torch.testing.assert_close(made(x), one_by_one(made, x))
    assert "shifted_conv2d" not in ran
    bare = layer()
    parametrize.remove_parametrizations(bare.conv, "weight")
    with assert_runs(OP, backward=False):
        torch.testing.assert_close(bare(x), one_by_one(bare, x))
    with pytest.raises(RuntimeError, match="expected input"):
        layer()(channels_last(x[:, :15]))


def test_added() -> None:
    """A 1×1 convolution and what joins it, by the op and without."""
    x, h = channels_last(torch.randn(2, 32, 5, 6)), channels_last(torch.randn(2, 16, 5, 6))
    conv = pointwise(32, 16)
    with assert_runs(OP, backward=False):
        found = added(conv, x, h)
    torch.testing.assert_close(found, conv(x) + h)
    torch.testing.assert_close(added(conv, x), conv(x))
    with ops_run() as ran:
        torch.testing.assert_close(added(conv, contiguous(x), contiguous(h)), conv(x) + h)
        torch.testing.assert_close(added(nn.Identity(), h, h), 2 * h)
        for more in (h[:, :, :1, :1], h[:1], h.double()):
            torch.testing.assert_close(added(conv, x, more), conv(x) + more)
        wide = nn.Conv2d(32, 16, 3)  # which pads nothing
        torch.testing.assert_close(added(wide, x), wide(x))
    assert "shifted_conv2d" not in ran


@pytest.mark.parametrize("other", [False, True])
def test_a_block_is_the_same_by_the_op(other: bool) -> None:
    block = GatedBlock(16, True, 16 * other, 0.0, None)
    x, more = channels_last(torch.randn(2, 16, 5, 6)), channels_last(torch.randn(2, 16, 5, 6)) if other else None
    with assert_runs(OP, backward=False):
        found = block(x, more, None)
    with ops_run() as ran:
        expected = block(contiguous(x), None if more is None else contiguous(more), None)
    assert "shifted_conv2d" not in ran
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("colors", [1, 3])
def test_a_model_runs_it_and_is_the_same_without(colors: int) -> None:
    model = PixelCNNPP(colors, channels=16, blocks=1, resolutions=2, dropout=0.0, image_size=6)
    assert_same_without(OP, model)


def test_dropout_of_what_is_read() -> None:
    """Without zeros around it; in place, too."""
    for inplace in (False, True):
        layer, dropout = ShiftedConv2d(16, 16, (2, 3), False, activated=True), nn.Dropout(0.5, inplace)
        x = channels_last(torch.randn(2, 16, 5, 6)).requires_grad_()
        with assert_runs(OP):
            torch.manual_seed(0)
            y = layer(x, dropout)
            y.sum().backward()
        torch.manual_seed(0)
        seen = F.dropout(channels_last(F.elu(torch.cat((x, -x), 1))), 0.5)
        torch.testing.assert_close(y, shifted_conv2d_reference(seen, layer.conv.weight, layer.conv.bias, None, 1))
        assert shifted_conv2d(channels_last(seen), layer.conv.weight, None, None, 1).shape == y.shape


def test_a_dropout_of_another_kind_sees_the_zeros_too() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    layer, x = ShiftedConv2d(16, 16, (2, 3), False, activated=True), channels_last(torch.randn(2, 16, 5, 6))
    with ops_run() as ran:
        torch.testing.assert_close(layer(x, Noise()), layer(contiguous(x), Noise()))
    assert "shifted_conv2d" not in ran
    with assert_runs(OP, backward=False):
        layer(x, nn.Dropout2d(0.5))


def test_a_gradient_within_autocast_is_not_of_half_the_digits() -> None:
    """One that is to be differentiated runs the layers once more."""
    inputs = [t.requires_grad_() for t in arguments((2, 16, 16, 4, 5, 2, 3, 1))]
    expected = torch.autograd.grad(OP(*inputs, 1).square().sum(), inputs)
    y = OP(*inputs, 1).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(y, inputs, create_graph=True)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)
