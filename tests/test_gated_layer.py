"""gated_layer: the four convolutions of a Gated PixelCNN's layer in one op, on the CPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoregressive import assert_same_without
from fastgen.models import GatedPixelCNN
from fastgen.models.gated_pixelcnn import GatedLayer
from fastgen.ops import masked_conv2d_mask
from fastgen.ops._dtypes import in_dtype
from fastgen.ops.gated_layer import gated_layer_backward_reference, gated_layer_reference, pays
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

OP = torch.ops.fastgen.gated_layer.default
BACKWARD = torch.ops.fastgen.gated_layer_backward.default
COLORS = ((1, "contiguous"), (3, "contiguous"), (3, "interleaved"))
# N, p, H, W, rows, K
SHAPES = {
    "as in the model": (3, 12, 7, 9, 2, 3),
    "panels and a rest": (2, 39, 5, 6, 2, 3),
    "wide": (2, 9, 4, 5, 3, 5),
    "its own row alone": (2, 6, 3, 8, 1, 3),
    "one pixel": (5, 3, 1, 1, 4, 7),
    "more images than parts": (19, 3, 2, 3, 2, 3),
    "blocks over images": (7, 6, 3, 5, 2, 1),
    "no image": (0, 3, 2, 2, 2, 3),
}


def arguments(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """v, h, vertical, its bias, link, its bias, horizontal, its bias, out, its bias, class_above, class_here."""
    N, p, H, W, rows, K = shape
    tensors: list[Tensor] = [torch.randn(N, p, H, W), torch.randn(N, p, H, W)]
    for sizes in ((2 * p, p, rows, K), (2 * p, 2 * p, 1, 1), (2 * p, p, 1, K), (p, p, 1, 1)):
        weight = torch.randn(sizes)
        tensors += [weight / weight[0].numel() ** 0.5, torch.randn(sizes[0])]
    return *tensors, torch.randn(N, 2 * p), torch.randn(N, 2 * p)


def eager(v, h, vertical, bv, link, bl, horizontal, bh, out, bo, above, here, groups=1, order="contiguous", save=True):  # type: ignore[no-untyped-def]
    """v', h', above and the factors of the lower gate, in plain torch."""
    vertical, bv, link, bl, horizontal, bh = in_dtype(v.dtype, vertical, bv, link, bl, horizontal, bh)
    out, bo, above, here = in_dtype(v.dtype, out, bo, above, here)
    live = [each * masked_conv2d_mask(each, "B", "none", groups, order) for each in (horizontal, out)]
    rows, K = vertical.shape[2:]
    up = F.conv2d(F.pad(v, (0, 0, rows - 1, 0)), vertical, bv, padding=(0, K // 2))
    up = up if above is None else up + above[:, :, None, None]
    row = F.conv2d(h, live[0], bh, padding=(0, K // 2)) + F.conv2d(up, link, bl)
    (a, b), (c, d) = ((row if here is None else row + here[:, :, None, None]).chunk(2, 1), up.chunk(2, 1))
    factors = torch.cat((torch.tanh(a), torch.sigmoid(b)), 1)
    y = F.conv2d(torch.tanh(a) * torch.sigmoid(b), live[1], bo) + h
    kept = (up, factors) if save else (v.new_empty(0), v.new_empty(0))
    return torch.tanh(c) * torch.sigmoid(d), y, *kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("colors", COLORS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: tuple[int, ...], colors: tuple[int, str], dtype: torch.dtype) -> None:
    """Forward and backward, of every layout, with all that may be left out, the same by any number of threads."""
    v, h, *rest = arguments(shape)
    v, h = v.to(dtype), h.to(dtype)
    for layout in (contiguous, channels_last, sliced):
        told = [layout(each) if each.dim() == 4 else each.repeat_interleave(2, -1)[..., ::2] for each in rest]
        assert_op_parity(OP, eager, layout(v), layout(h), *told, *colors, True)
    weights = rest[:8:2]
    bare = (v, h, *(each for weight in weights for each in (weight, None)), None, None, *colors)
    assert_op_parity(OP, eager, *bare, False)
    assert_op_parity(OP, gated_layer_reference, *bare, True)
    _, _, above, factors = OP(v, h, *rest, *colors, True)
    for grad in (torch.randn_like(v), None):
        backward = (grad, torch.randn_like(h), v, h, above, factors, *weights, *colors)
        assert_op_parity(BACKWARD, gated_layer_backward_reference, *backward)
    for op, args in ((OP, (v, h, *rest, *colors, True)), (BACKWARD, backward)):
        found = [with_threads(threads, lambda op=op, args=args: op(*args)) for threads in (1, 2, 7)]
        for one, two, three in zip(*found, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    v, h, *rest, above, here = arguments((5, 24, 9, 11, 2, 3))
    whole = OP(v, h, *rest, above, here, 1, "contiguous", True)
    for n in (0, 2, 4):
        told = (v[n : n + 1], h[n : n + 1], *rest, above[n : n + 1], here[n : n + 1])
        for one, every in zip(OP(*told, 1, "contiguous", True), whole, strict=True):
            assert torch.equal(one[0], every[n])


@pytest.mark.parametrize("colors", COLORS)
def test_gradients(colors: tuple[int, str]) -> None:
    """Of both stacks together and each alone; to what is kept too, and once more, as accurate as torch's."""
    inputs = arguments((3, 12, 5, 6, 2, 3))
    for some in (slice(0, 2), slice(1, 2)):
        ours, plain = (lambda *args, f=f, some=some: f(*args, *colors, True)[some] for f in (OP, eager))
        assert_gradients((OP,), ours, plain, *inputs)
    v, h, vertical, bias, *rest, class_above, here = inputs

    def upper(op: Any, v: Tensor, vertical: Tensor, bias: Tensor, above: Tensor) -> Tensor:
        h_too, *others = (each.to(v.dtype) for each in (h, *rest))
        return op(v, h_too, vertical, bias, *others, above, here.to(v.dtype), *colors, True)[0]

    ours, plain = (lambda *args, f=f: upper(f, *args) for f in (OP, eager))
    assert_gradients((OP,), ours, plain, v, vertical, bias, class_above)

    def every(op: Any, double: bool) -> tuple[Tensor, ...]:
        leaves = [(t.double() if double else t.clone()).requires_grad_() for t in inputs]
        return torch.autograd.grad([y.square().mean() for y in op(*leaves, *colors, True)], leaves)

    def twice(op: Any, double: bool) -> tuple[Tensor, ...]:
        leaves = [(t.double() if double else t.clone()).requires_grad_() for t in inputs]
        loss = torch.stack([y.square().mean() for y in op(*leaves, *colors, True)[:2]]).sum()
        once = torch.autograd.grad(loss, leaves, create_graph=True)
        return torch.autograd.grad(torch.stack([g.square().sum() for g in once]).sum(), leaves)

    for f in (every, twice):
        for one, two, exact in zip(f(OP, False), f(eager, False), f(eager, True), strict=True):
            assert_parity(one, two, exact)


def test_each_input_may_be_the_only_one_with_a_gradient() -> None:
    inputs = arguments((2, 6, 3, 4, 2, 3))
    leaves = [t.clone().requires_grad_() for t in inputs]
    loss = lambda leaves: sum(y.square().sum() for y in OP(*leaves, 1, "contiguous", True)[:2])  # noqa: E731
    together = torch.autograd.grad(loss(leaves), leaves)
    for i, expected in enumerate(together):
        leaves = [t.clone().requires_grad_(i == j) for j, t in enumerate(inputs)]
        (grad,) = torch.autograd.grad(loss(leaves), leaves[i])
        assert torch.equal(grad, expected)


def test_registration() -> None:
    inputs = arguments((2, 6, 3, 4, 2, 3))
    args = (*inputs, 3, "interleaved")
    leaves = tuple(t.clone().requires_grad_() if isinstance(t, Tensor) else t for t in args)
    assert_opcheck(OP, (*args, False), (*leaves, True))
    *_, above, factors = OP(*args, True)
    v, h, vertical, _, link, _, horizontal, _, out, *_ = inputs
    for grad in (v, None):
        assert_opcheck(BACKWARD, (grad, h, v, h, above, factors, vertical, link, horizontal, out, 1, "contiguous"))
    assert_compiles([OP], lambda *args: OP(*args, 1, "contiguous", True)[:2], *inputs)


def test_a_direct_call_is_checked() -> None:
    names: tuple[str, ...] = "v", "h", "vertical", "bias_vertical", "link", "bias_link", "horizontal", "bias_horizontal"
    named = dict(
        zip((*names, "out", "bias_out", "class_above", "class_here"), arguments((2, 6, 3, 4, 2, 3)), strict=True)
    )
    options = {"color_groups": 1, "groups_order": "contiguous", "save": True}
    x = named["h"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"h": x.double()}, "h: expected"), ({"h": x[0]}, "h: expected"), ({"v": x[:1]}, "v: expected"),
        ({"vertical": named["vertical"][..., :2]}, "vertical: expected"),
        ({"link": named["link"].double()}, "link: expected"), ({"out": named["out"][:3]}, "out: expected"),
        ({"horizontal": named["vertical"]}, "horizontal: expected"), ({"color_groups": 4}, "color_groups: expected"),
        ({"groups_order": "sorted"}, "groups_order: expected"),
        *(({name: named[name][:1]}, f"{name}: expected") for name in named if name.startswith(("bias", "class"))),
    ]  # fmt: skip
    assert_raises((lambda args=args: OP(**{**named, **options, **args}), RuntimeError, text) for args, text in wrong)
    v, h, vertical, _, link, _, horizontal, _, out, *_ = named.values()
    wide = torch.cat((v, v), 1)
    assert_raises(
        (lambda args=args: BACKWARD(*args, vertical, link, horizontal, out, 1, "contiguous"), RuntimeError, text)
        for args, text in (
            ((v[:1], h, v, h, wide, wide), "grad_v: expected"),
            ((v, h[:1], v, h, wide, wide), "grad_h: expected"),
            ((v, h, v[:1], h, wide, wide), "v: expected"),
            ((v, h, v, h, v, wide), "above: expected"),
            ((v, h, v, h, wide, v), "factors: expected"),
        )
    )  # fmt: skip


def test_it_runs_where_it_pays() -> None:
    """In float32 or bfloat16, channels_last, with weights that stay in the caches; elsewhere layers run one by one."""

    def made(p: int, rows: int = 2, K: int = 3) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        v, h, *rest, _, _ = arguments((2, p, 4, 4, rows, K))
        return channels_last(v), channels_last(h), tuple(rest[::2])

    v, h, weights = made(32)
    assert pays(v, h, weights)
    for one, two in ((contiguous(v), h), (v, contiguous(h)), (v.double(), h), (v[:1], h), (v, h.to("meta")), (v[0], h)):
        assert not pays(one, two, weights)
    assert not pays(v, h, (weights[0].double(), *weights[1:]))
    assert not pays(v, h, (weights[0], weights[1][:, :3], *weights[2:]))
    halves = tuple(each.bfloat16() for each in weights)
    assert pays(v.bfloat16(), h.bfloat16(), halves)
    assert not pays(v.bfloat16(), h, weights)
    assert not pays(v, h, halves)
    with torch.autocast("cpu", torch.bfloat16):
        assert pays(v, h.bfloat16(), weights)
        assert not pays(v.half(), h, weights)
    with torch.autocast("cpu", torch.float16):
        assert not pays(v, h, weights)
    assert not pays(*made(7))
    assert not pays(*made(128, 4, 9))


def test_a_layer_is_one_op_unless_somebody_looks_between() -> None:
    """Whatever its convolutions have become, a layer computes what they do."""
    layer = GatedLayer(16, 16, 3, "B", 1, None)
    v, h = (channels_last(torch.randn(2, 16, 5, 6)).requires_grad_() for _ in range(2))

    def one_by_one() -> tuple[Tensor, Tensor]:
        above = layer.vertical(F.pad(v, (0, 0, 1, 0)))
        here = layer.horizontal(h, residual=layer.link(above))
        (a, b), (c, d) = above.chunk(2, 1), here.chunk(2, 1)
        return torch.tanh(a) * torch.sigmoid(b), layer.out(
            torch.tanh(c) * torch.sigmoid(d), residual=h if layer.residual else None
        )

    with assert_runs(OP):
        found = layer(v, h, None)
        sum(each.sum() for each in found).backward()
    torch.testing.assert_close(found, one_by_one())
    seen: list[Any] = []
    handle = layer.link.register_forward_hook(lambda *args: seen.append(args[2].shape))
    with ops_run() as ran:
        layer(v, h, None)
    assert seen == [(2, 32, 5, 6)]
    assert "gated_layer" not in ran
    handle.remove()
    for change in (
        lambda: setattr(layer.dropout, "p", 0.5),
        lambda: setattr(layer.dropout, "p", 0.0) or setattr(layer, "residual", False),
        lambda: setattr(layer, "residual", True) or nn.utils.parametrizations.weight_norm(layer.vertical),
        lambda: nn.utils.parametrize.remove_parametrizations(layer.vertical, "weight")
        and setattr(layer.out, "mask", "A"),
        lambda: setattr(layer.out, "mask", "B") or setattr(layer.vertical, "padding_mode", "circular")
        or setattr(layer.vertical, "_reversed_padding_repeated_twice", [1, 1, 0, 0]),
        lambda: setattr(layer.vertical, "padding_mode", "zeros") or setattr(layer.horizontal, "color_groups", 2),
    ):  # fmt: skip
        change()
        with ops_run() as ran:
            found = layer(v, h, None)
        if not layer.dropout.p:
            torch.testing.assert_close(found, one_by_one())
        assert "gated_layer" not in ran


@pytest.mark.parametrize(("colors", "classes"), [(1, None), (3, 5)])
def test_a_model_runs_it_and_is_the_same_without(colors: int, classes: int | None) -> None:
    model = GatedPixelCNN(colors, channels=12, layers=2, image_size=6, classes=classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
    assert_same_without(OP, model)


def test_a_vectorized_model_runs_its_layers() -> None:
    model, x = GatedPixelCNN(1, channels=8, layers=1), torch.rand(3, 2, 1, 5, 5)
    with torch.no_grad():
        found = torch.func.vmap(model)(x)
        torch.testing.assert_close(found.flatten(0, 1), model(x.flatten(0, 1)))
