"""pixel_head: the last two convolutions of a PixelCNN in one op, on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoregressive import assert_same_without
from fastgen.models import DiagonalBiLSTM, GatedPixelCNN, PixelCNN, RowLSTM
from fastgen.nn import MaskedConv2d
from fastgen.nn._as_made import last_layers
from fastgen.ops import masked_conv2d_mask
from fastgen.ops._dtypes import in_dtype
from fastgen.ops.pixel_head import pays, pixel_head_backward_reference, pixel_head_reference
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

OP = torch.ops.fastgen.pixel_head.default
BACKWARD = torch.ops.fastgen.pixel_head_backward.default
COLORS = ((1, "contiguous"), (3, "contiguous"), (3, "interleaved"))
# N, C, M, P, H, W
SHAPES = {
    "as in the paper": (3, 24, 24, 3, 7, 9),
    "panels and a rest": (2, 90, 39, 84, 5, 6),
    "more in the middle": (2, 6, 15, 3, 4, 5),
    "one pixel": (5, 6, 3, 9, 1, 1),
    "more images than parts": (19, 3, 3, 3, 2, 3),
    "more pixels than a thread takes": (2, 9, 12, 6, 25, 21),
    "no image": (0, 3, 3, 3, 2, 2),
}


def arguments(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """x, hidden, bias_hidden, output, bias_output."""
    N, C, M, P, H, W = shape
    x, hidden, output = torch.randn(N, C, H, W), torch.randn(M, C, 1, 1), torch.randn(P, M, 1, 1)
    return x, hidden / C**0.5, torch.randn(M), output / M**0.5, torch.randn(P)


def eager(x, hidden, bias_hidden, output, bias_output, groups=1, order="contiguous", save=True):  # type: ignore[no-untyped-def]
    """y, and what lies between, in plain torch."""
    hidden, bias_hidden, output, bias_output = in_dtype(x.dtype, hidden, bias_hidden, output, bias_output)
    live = [each * masked_conv2d_mask(each, "B", "none", groups, order) for each in (hidden, output)]
    between = F.relu(F.conv2d(F.relu(x), live[0], bias_hidden))
    return F.conv2d(between, live[1], bias_output), between if save else x.new_empty(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("colors", COLORS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: tuple[int, ...], colors: tuple[int, str], dtype: torch.dtype) -> None:
    """Forward and backward, of every layout, with biases and without, the same by any number of threads."""
    x, *weights = arguments(shape)
    x = x.to(dtype)
    for layout in (contiguous, channels_last, sliced):
        told = [layout(each) if each.dim() == 4 else each.repeat_interleave(2)[::2] for each in weights]
        assert_op_parity(OP, eager, layout(x), *told, *colors, True)
    hidden, _, output, _ = weights
    bare = (x, hidden, None, output, None, *colors)
    assert_op_parity(OP, eager, *bare, False)
    assert_op_parity(OP, pixel_head_reference, *bare, True)
    y, between = OP(x, *weights, *colors, True)
    alone, nothing = OP(x, *weights, *colors, False)
    assert torch.equal(alone, y)
    assert not nothing.numel()
    backward = (torch.randn_like(y), x, between, hidden, output, *colors)
    for layout in (contiguous, channels_last, sliced):
        assert_op_parity(BACKWARD, pixel_head_backward_reference, layout(backward[0]), *backward[1:])
    for op, args in ((OP, (x, *weights, *colors, True)), (BACKWARD, backward)):
        found = [with_threads(threads, lambda op=op, args=args: op(*args)) for threads in (1, 2, 7)]
        for one, two, three in zip(*found, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    x, *weights = arguments((5, 24, 12, 3, 9, 11))
    whole = OP(x, *weights, 1, "contiguous", True)
    for n in (0, 2, 4):
        for one, every in zip(OP(x[n : n + 1], *weights, 1, "contiguous", True), whole, strict=True):
            assert torch.equal(one[0], every[n])


def test_what_is_no_number_stays_so() -> None:
    x, *weights = arguments((2, 24, 12, 3, 5, 6))
    x[1, 3, 2, 2] = torch.nan
    y, _ = OP(x, *weights, 1, "contiguous", False)
    assert torch.equal(y.isnan(), eager(x, *weights)[0].isnan())
    assert y.isnan().any()


@pytest.mark.parametrize("colors", COLORS)
def test_gradients(colors: tuple[int, str]) -> None:
    """To both results: what lies between is kept, and read by a gradient that is differentiated."""
    inputs = arguments((3, 24, 12, 6, 5, 7))
    y_alone: list[Callable[..., Any]] = [lambda *args, f=f: f(*args, *colors, True)[0] for f in (OP, eager)]
    assert_gradients((OP,), *y_alone, *inputs)
    with ops_run() as ran:
        leaves = [t.clone().requires_grad_() for t in inputs]
        OP(*leaves, *colors, True)[0].sum().backward()
    assert "pixel_head_backward" in ran

    def every(op: Any, double: bool) -> tuple[Tensor, ...]:
        leaves = [(t.double() if double else t.clone()).requires_grad_() for t in inputs]
        return torch.autograd.grad([y.square().sum() for y in op(*leaves, *colors, True)], leaves)

    for one, two, exact in zip(every(OP, False), every(eager, False), every(eager, True), strict=True):
        assert_parity(one, two, exact)


@pytest.mark.parametrize("save", [True, False])
def test_second_order(save: bool) -> None:
    """A gradient of a gradient, as accurate as torch's, and one where nothing was kept."""
    inputs = arguments((2, 9, 6, 3, 4, 5))

    def twice(op: Any, double: bool) -> tuple[Tensor, ...]:
        leaves = [(t.double() if double else t.clone()).requires_grad_() for t in inputs]
        y = op(*leaves, 3, "contiguous", save)[0]
        once = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(torch.stack([g.square().sum() for g in once]).sum(), leaves)

    for one, two, exact in zip(twice(OP, False), twice(eager, False), twice(eager, True), strict=True):
        assert_parity(one, two, exact)
    leaves = [t.clone().requires_grad_() for t in inputs]
    for f in (OP, eager):
        found = torch.autograd.grad(f(*leaves, 3, "contiguous", save)[0].square().sum(), leaves)
        torch.testing.assert_close(found, torch.autograd.grad(eager(*leaves, 3)[0].square().sum(), leaves))


def test_each_input_may_be_the_only_one_with_a_gradient() -> None:
    inputs = arguments((2, 8, 8, 4, 3, 4))
    inputs = (channels_last(inputs[0]), *inputs[1:])
    layers = MaskedConv2d(8, 8, 1, activation="relu"), MaskedConv2d(8, 4, 1)
    tensors = [inputs[0], *(parameter for layer in layers for parameter in layer.parameters())]

    def grad_of(asked: list[Tensor]) -> tuple[Tensor, ...]:
        for each in tensors:
            each.requires_grad_(any(each is other for other in asked))
        with assert_runs(OP):
            return torch.autograd.grad(last_layers(*layers, inputs[0]).square().sum(), asked)

    together = grad_of(tensors)
    for each, expected in zip(tensors, together, strict=True):
        assert torch.equal(grad_of([each])[0], expected)


def test_registration() -> None:
    x, *weights = arguments((2, 6, 3, 3, 3, 4))
    for layout in (contiguous, channels_last):
        args = (layout(x), *weights, 3, "interleaved")
        leaves = tuple(t.clone().requires_grad_() if isinstance(t, Tensor) else t for t in args)
        assert_opcheck(OP, (*args, False), (*leaves, True))
    y, between = OP(x, *weights, 1, "contiguous", True)
    assert_opcheck(BACKWARD, (y, x, between, weights[0], weights[2], 1, "contiguous"))
    assert_compiles([OP], lambda *args: OP(*args, 1, "contiguous", True)[0], x, *weights)


def test_a_direct_call_is_checked() -> None:
    x, hidden, b, output, c = arguments((1, 6, 4, 2, 3, 3))
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((x.double(), hidden, b, output, c, 1, "contiguous"), "x: expected"),
        ((x[0], hidden, b, output, c, 1, "contiguous"), "x: expected"),
        ((x, hidden[0], b, output, c, 1, "contiguous"), "hidden: expected"),
        ((x, hidden[:, :3], b, output, c, 1, "contiguous"), "hidden: expected"),
        ((x, hidden[:0], b, output, c, 1, "contiguous"), "hidden: expected"),
        ((x, hidden, b[:1], output, c, 1, "contiguous"), "bias_hidden: expected"),
        ((x, hidden, b, output[0], c, 1, "contiguous"), "output: expected"),
        ((x, hidden, b, output.double(), c, 1, "contiguous"), "output: expected"),
        ((x, hidden, b, output[:, :3], c, 1, "contiguous"), "output: expected"),
        ((x, hidden, b, output, c[:1], 1, "contiguous"), "bias_output: expected"),
        ((x, hidden, b, output, c, 3, "contiguous"), "color_groups: expected"),
        ((x, hidden, b, output, c, 0, "contiguous"), "color_groups: expected"),
        ((x, hidden, b, output, c, 1, "sorted"), "groups_order: expected"),
    ]
    assert_raises((lambda args=args: OP(*args, True), RuntimeError, message) for args, message in wrong)
    y, between = x[:, :2], x[:, :4]
    assert_raises(
        (lambda args=args: BACKWARD(*args, hidden, output, 1, "contiguous"), RuntimeError, message)
        for args, message in (
            ((x, x, between), "grad_y: expected"),
            ((y, x.double(), between), "x: expected"),
            ((y, x, x), "between: expected"),
        )
    )


def test_it_runs_where_it_pays() -> None:
    """In float32 or bfloat16, channels_last, with weights that stay in the caches; elsewhere layers run one by one."""
    x, hidden, _, output, _ = arguments((2, 64, 32, 5, 4, 4))
    last = channels_last(x)
    assert pays(last, hidden, output)
    for other in (x, last.double(), last.to("meta"), last[:, :32], last[0]):
        assert not pays(other, hidden, output)
    for wrong in (output.double(), output[:, :31], output.expand(-1, -1, 3, 3), output[:, :, 0]):
        assert not pays(last, hidden, wrong)
    assert not pays(last, hidden.expand(-1, -1, 3, 3), output)
    assert pays(last.bfloat16(), hidden.bfloat16(), output.bfloat16())
    for images, weights in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)):
        assert not pays(last.to(images), hidden.to(weights), output.to(weights))
    with torch.autocast("cpu", torch.bfloat16):
        assert pays(last, hidden, output)
        assert pays(last.bfloat16(), hidden, output)
        assert not pays(last.double(), hidden, output)
    with torch.autocast("cpu", torch.float16):
        assert not pays(last, hidden, output)
    for C, M, P in ((16, 7, 1), (7, 16, 1), (2**15, 9, 1), (9, 2**15, 1), (16, 16, 2**15)):
        x, hidden, _, output, _ = arguments((1, C, M, P, 2, 2))
        assert not pays(channels_last(x), hidden, output)


def test_the_layers_are_one_op_unless_somebody_looks_between() -> None:
    """Whatever they have become, what is computed is what they do."""
    x = channels_last(torch.randn(2, 32, 5, 6)).requires_grad_()
    make: tuple[Callable[[], MaskedConv2d], ...] = (
        lambda: MaskedConv2d(32, 16, 1, activation="relu"),
        lambda: MaskedConv2d(16, 4, 1),
    )
    hidden, output = (each() for each in make)
    with assert_runs(OP):
        y = last_layers(hidden, output, x)
        y.sum().backward()
    torch.testing.assert_close(y, output(hidden(F.relu(x))))
    seen: list[Any] = []
    hidden.register_forward_hook(lambda *args: seen.append(args[2].shape))
    changes: tuple[Callable[[Any, Any], Any], ...] = (
        lambda hidden, output: nn.utils.parametrizations.weight_norm(hidden),
        lambda hidden, output: setattr(output, "mask", "A"),
        lambda hidden, output: setattr(hidden, "activation", "elu"),
        lambda hidden, output: setattr(output, "activation", "relu"),
        lambda hidden, output: setattr(output, "color_groups", 2),
    )
    pairs = [(hidden, output), (nn.Conv2d(32, 16, 1), output), (make[0](), MaskedConv2d(16, 4, 3))]
    for change in changes:
        pair = make[0](), make[1]()
        change(*pair)
        pairs.append(pair)
    for first, second in pairs:
        with ops_run() as ran:
            found = last_layers(first, second, x)
        torch.testing.assert_close(found, second(first(F.relu(x))))
        assert "pixel_head" not in ran
    assert seen == 2 * [(2, 16, 5, 6)]


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize("kind", [PixelCNN, GatedPixelCNN, RowLSTM, DiagonalBiLSTM])
def test_a_model_runs_it_and_is_the_same_without(kind: Any, colors: int) -> None:
    model = kind(colors, channels=24, layers=1, image_size=6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert_same_without(OP, model, atol=1e-5)


def test_a_vectorized_call_runs_the_layers() -> None:
    layers, x = (MaskedConv2d(8, 8, 1, activation="relu"), MaskedConv2d(8, 2, 1)), torch.rand(3, 2, 8, 5, 5)
    with torch.no_grad():
        found = torch.func.vmap(lambda x: last_layers(*layers, x))(x)
        torch.testing.assert_close(found.flatten(0, 1), last_layers(*layers, channels_last(x.flatten(0, 1))))


@pytest.mark.parametrize("kind", [PixelCNN, GatedPixelCNN, RowLSTM])
def test_a_compiled_vmap(kind: Any) -> None:
    """Which knows no memory formats."""
    model, x = kind(1, channels=16, layers=1, image_size=6), torch.rand(3, 2, 1, 5, 6)
    with torch.no_grad():
        compiled = torch.compile(torch.func.vmap(lambda x: model(x)), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x).flatten(0, 1), model(x.flatten(0, 1)))
