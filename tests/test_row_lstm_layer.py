"""row_lstm_layer: a layer of a Row LSTM in one op, on the CPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.ops import masked_conv2d_mask
from fastgen.ops.row_lstm_layer import pays, row_lstm_layer_backward_reference, row_lstm_layer_reference
from ops import (
    assert_compiles,
    assert_gradients,
    assert_op_parity,
    assert_opcheck,
    assert_raises,
    with_threads,
)
from parity import assert_parity, channels_last, contiguous, sliced

OP = torch.ops.fastgen.row_lstm_layer.default
BACKWARD = torch.ops.fastgen.row_lstm_layer_backward.default
COLORS = ((1, "contiguous"), (3, "contiguous"), (3, "interleaved"))
# N, h, H, W, K
SHAPES = {
    "as in the model": (5, 12, 7, 9, 3),
    "panels and a rest": (2, 39, 3, 6, 3),
    "wide": (2, 6, 4, 5, 7),
    "its own pixel alone": (6, 3, 3, 8, 1),
    "one pixel": (5, 3, 1, 1, 3),
    "one column": (3, 6, 4, 1, 5),
    "rows that are added one by one": (3, 3, 2, 50, 3),
    "more images than parts": (70, 3, 2, 3, 3),
    "no image": (0, 3, 2, 2, 3),
}


def arguments(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """x, K_is, its bias, K_ss, hidden, cell, up, its bias, and what is added."""
    N, h, H, W, K = shape
    tensors = [torch.randn(N, 2 * h, H, W)]
    O, up = 4 * h, (2 * h, h, 1, 1)
    for sizes in ((O, 2 * h, 1, K), (O,), (O, h, 3), (1, h), (1, h), up, (2 * h,), (N, O)):
        tensor = torch.randn(sizes)
        tensors.append(tensor / tensor[0].numel() ** 0.5 if len(sizes) > 2 else tensor)
    return tuple(tensors)


def eager(x, read, bias, state, hidden, cell, up, bias_up, added, groups=1, order="contiguous", save=True):  # type: ignore[no-untyped-def]
    """y, c and the gates, in plain torch: a loop over rows."""
    live = [each * masked_conv2d_mask(each, "B", "none", groups, order) for each in (read, up)]
    sums = F.conv2d(x, live[0], bias, padding=(0, read.shape[3] // 2))
    sums = sums if added is None else sums + added[:, :, None, None]
    h, c = (each[..., None].expand(x.shape[0], -1, x.shape[3]) for each in (hidden, cell))
    rows: list[list[Tensor]] = [[], [], []]
    for r in range(x.shape[2]):
        o, f, i, g = (sums[:, :, r] + F.conv1d(h, state, padding=1)).chunk(4, dim=1)
        o, f, i, g = torch.sigmoid(o), torch.sigmoid(f), torch.sigmoid(i), torch.tanh(g)
        c = f * c + i * g
        h = o * torch.tanh(c)
        for found, each in zip(rows, (h, c, torch.cat((o, f, i, g), 1)), strict=True):
            found.append(each)
    h, c, gates = (torch.stack(each, dim=2) for each in rows)
    kept = [each.permute(0, 2, 3, 1) if save else x.new_empty(0) for each in (c, gates)]
    return F.conv2d(h, live[1], bias_up) + x, *kept


def cut(weight: Tensor) -> Tensor:
    return weight[:1] if len(weight) > 1 else weight[:, :1]


def backward_of(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """K_is, K_ss, hidden, cell and up."""
    return (inputs[1], *inputs[3:7])


def eager_backward(grad_y, x, _c, _gates, read, state, hidden, cell, up, *colors):  # type: ignore[no-untyped-def]
    """Of a layer without biases, to which nothing is added."""
    O, h = state.shape[:2]
    bias, bias_up, added = (x.new_zeros(sizes) for sizes in ((O,), (2 * h,), (x.shape[0], O)))
    inputs = (x, read, bias, state, hidden, cell, up, bias_up, added)
    leaves = [each.detach().requires_grad_() for each in inputs]
    return torch.autograd.grad(eager(*leaves, *colors)[0], leaves, grad_y)


@pytest.mark.parametrize("colors", COLORS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: tuple[int, ...], colors: tuple[int, str]) -> None:
    """Forward and backward, of every layout, with all that may be left out, the same by any number of threads."""
    inputs = arguments(shape)
    x, read, state, hidden, cell, up = inputs[0], *backward_of(inputs)
    for layout in (contiguous, channels_last, sliced):
        rest = [layout(each) if each.dim() == 4 else each.repeat_interleave(2, -1)[..., ::2] for each in inputs[1:]]
        assert_op_parity(OP, eager, layout(x), *rest, *colors, True)
    bare = (x, read, None, state, hidden, cell, up, None, None, *colors)
    assert_op_parity(OP, eager, *bare, False)
    y, c, gates = OP(*bare, True)
    assert torch.equal(OP(*bare, False)[0], y)
    backward = (torch.randn_like(x), x, c, gates, *backward_of(inputs), *colors)
    for kernel in (None, row_lstm_layer_backward_reference):
        assert_op_parity(BACKWARD, eager_backward, *backward, kernel=kernel)
    assert_op_parity(OP, eager, *inputs, *colors, True, kernel=row_lstm_layer_reference)
    for op, args in ((OP, (*inputs, *colors, True)), (BACKWARD, backward)):
        found = [with_threads(threads, lambda op=op, args=args: op(*args)) for threads in (1, 2, 7)]
        for one, two, three in zip(*found, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    x, *rest, added = arguments((7, 24, 5, 11, 3))
    whole = OP(x, *rest, added, 1, "contiguous", True)
    for n in (0, 3, 6):
        for one, every in zip(OP(x[n : n + 1], *rest, added[n : n + 1], 1, "contiguous", True), whole, strict=True):
            assert torch.equal(one[0], every[n])


@pytest.mark.parametrize("colors", COLORS)
def test_gradients(colors: tuple[int, str]) -> None:
    """To all inputs; of what is kept, too, and once more, as accurate as torch's."""
    inputs = arguments((5, 12, 4, 5, 3))
    ours, plain = (lambda *args, f=f: f(*args, *colors, True)[:1] for f in (OP, eager))
    assert_gradients((OP,), ours, plain, *inputs)

    def every(op: Any, double: bool) -> tuple[Tensor, ...]:
        leaves = [(t.double() if double else t.clone()).requires_grad_() for t in inputs]
        return torch.autograd.grad([y.square().mean() for y in op(*leaves, *colors, True)], leaves)

    def twice(op: Any, double: bool) -> tuple[Tensor, ...]:
        leaves = [(t.double() if double else t.clone()).requires_grad_() for t in inputs]
        once = torch.autograd.grad(op(*leaves, *colors, True)[0].square().mean(), leaves, create_graph=True)
        return torch.autograd.grad(torch.stack([g.square().sum() for g in once]).sum(), leaves)

    for f in (every, twice):
        for one, two, exact in zip(f(OP, False), f(eager, False), f(eager, True), strict=True):
            assert_parity(one, two, exact)


def test_each_input_may_be_the_only_one_with_a_gradient() -> None:
    inputs = arguments((2, 6, 3, 4, 3))
    leaves = [t.clone().requires_grad_() for t in inputs]
    together = torch.autograd.grad(OP(*leaves, 1, "contiguous", True)[0].square().sum(), leaves)
    for i, expected in enumerate(together):
        leaves = [t.clone().requires_grad_(i == j) for j, t in enumerate(inputs)]
        (grad,) = torch.autograd.grad(OP(*leaves, 1, "contiguous", True)[0].square().sum(), leaves[i])
        assert torch.equal(grad, expected)


def test_images_without_pixels() -> None:
    leaves = [t.clone().requires_grad_() for t in arguments((2, 6, 0, 4, 3))]
    y, *_ = OP(*leaves, 1, "contiguous", True)
    assert y.shape == (2, 12, 0, 4)
    for grad, leaf in zip(torch.autograd.grad(y.sum(), leaves), leaves, strict=True):
        assert grad.shape == leaf.shape
        assert not grad.any()


def test_registration() -> None:
    inputs = arguments((2, 6, 3, 4, 3))
    args = (*inputs, 3, "interleaved")
    leaves = tuple(t.clone().requires_grad_() if isinstance(t, Tensor) else t for t in args)
    assert_opcheck(OP, (*args, False), (*leaves, True))
    x = inputs[0]
    _, c, gates = OP(*args, True)
    assert_opcheck(BACKWARD, (x, x, c, gates, *backward_of(inputs), 1, "contiguous"))
    assert_compiles([OP], lambda *args: OP(*args, 1, "contiguous", True)[0], *inputs)


def test_a_direct_call_is_checked() -> None:
    names = ("x", "input_to_state", "bias", "state_to_state", "hidden", "cell", "up", "bias_up", "added")
    inputs = arguments((2, 6, 3, 4, 3))
    named = dict(zip(names, inputs, strict=True))
    options = {"color_groups": 1, "groups_order": "contiguous", "save": True}
    x = named["x"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"x": x.double()}, "x: expected"), ({"x": x[0]}, "x: expected"), ({"x": x[:, :11]}, "x: expected"),
        ({"input_to_state": named["input_to_state"][..., :2]}, "input_to_state: expected"),
        ({"state_to_state": named["state_to_state"][..., :2]}, "state_to_state: expected"),
        ({"up": named["up"].double()}, "up: expected"), ({"color_groups": 4}, "color_groups: expected"),
        ({"groups_order": "sorted"}, "groups_order: expected"),
        *(({name: cut(named[name])}, f"{name}: expected") for name in names[1:]),
    ]  # fmt: skip
    assert_raises((lambda args=args: OP(**{**named, **options, **args}), RuntimeError, text) for args, text in wrong)
    _, c, gates = OP(*inputs, 1, "contiguous", True)
    assert_raises(
        (lambda args=args: BACKWARD(*args, *backward_of(inputs), 1, "contiguous"), RuntimeError, text)
        for args, text in (
            ((x[:1], x, c, gates), "grad_y: expected"),
            ((x, x.double(), c, gates), "x: expected"),
            ((x, x, gates, gates), "c: expected"),
            ((x, x, c, c), "gates: expected"),
        )
    )


def test_it_runs_where_it_pays() -> None:
    """In float32 and channels_last, with weights that stay in the caches; elsewhere layers run one by one."""

    def made(h: int, K: int = 3) -> tuple[Tensor, list[Tensor | None], Tensor]:
        x, *weights, added = arguments((2, h, 4, 4, K))
        return channels_last(x), weights, added

    x, weights, added = made(16)
    assert pays(x, weights)
    assert pays(x, weights, added)
    assert pays(x, [None if i in (1, 6) else each for i, each in enumerate(weights)])
    for other in (contiguous(x), x.double(), x[0], x[:, :31], x.to("meta"), None):
        assert not pays(other, weights)
    for i, weight in enumerate(weights):
        for wrong in (weight.double(), cut(weight), weight.to_sparse()):
            assert not pays(x, [wrong if i == k else each for k, each in enumerate(weights)])
    assert not pays(x, [made(16, 4)[1][0], *weights[1:]])
    assert not pays(x, weights, added[:1])
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(x, weights)
    x, weights, _ = made(128)
    assert not pays(x, weights)
