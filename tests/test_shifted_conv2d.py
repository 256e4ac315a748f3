"""shifted_conv2d: the convolutions of PixelCNN++, without zeros around what they read, on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.ops._dtypes import in_dtype
from fastgen.ops.shifted_conv2d import (
    pays,
    shifted_conv2d_backward_reference,
    shifted_conv2d_reference,
)
from ops import (
    assert_compiles,
    assert_gradients,
    assert_op_parity,
    assert_opcheck,
    assert_raises,
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
    weight, bias = in_dtype(x.dtype, weight, bias)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Forward and backward, of every layout, with all that may be left out, the same by any number of threads."""
    (x, weight, bias, residual), left = arguments(shape), shape[-1]
    x, residual = x.to(dtype), residual.to(dtype)
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
            torch.testing.assert_close(found, expected if asked else expected.new_empty(0))
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
    """In float32 or bfloat16, channels_last, with weights that stay in the caches; elsewhere torch convolves."""
    x = channels_last(torch.randn(2, 32, 16, 8))
    weight, bias = (32, 64, 2, 3), [torch.zeros(32), torch.zeros(32, 64, 2, 3)]
    assert pays(x, weight, bias)
    assert not pays(channels_last(x[:, :, 1:]), weight, bias)
    for other in (contiguous(x), x.double(), x.to("meta"), x[0]):
        assert not pays(other, weight, bias)
    for other in ((8, 64, 2, 3), (64, 8, 2, 3), (256, 128, 2, 2)):
        assert not pays(x, other, bias)
    assert pays(x.bfloat16(), weight, [each.bfloat16() for each in bias])
    assert not pays(x.bfloat16(), weight, bias)
    assert not pays(x, weight, [each.bfloat16() for each in bias])
    assert not pays(x, weight, [bias[0], bias[1].double()])
    with torch.autocast("cpu", torch.bfloat16):
        assert pays(x, weight, bias)
        assert not pays(x.half(), weight, bias)
    with torch.autocast("cpu", torch.float16):
        assert not pays(x, weight, bias)
    seen: list[bool] = []
    torch.func.vmap(lambda x: seen.append(pays(x, weight, bias)) or x)(torch.randn(2, *x.shape))
    torch.func.jvp(lambda x: seen.append(pays(x, weight, bias)) or x, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        seen.append(pays(x, weight, bias))
    assert seen == [False, False, False]


def test_a_gradient_within_autocast_is_not_of_half_the_digits() -> None:
    """One that is to be differentiated runs the layers once more."""
    inputs = [t.requires_grad_() for t in arguments((2, 16, 16, 4, 5, 2, 3, 1))]
    expected = torch.autograd.grad(OP(*inputs, 1).square().sum(), inputs)
    y = OP(*inputs, 1).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(y, inputs, create_graph=True)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)
