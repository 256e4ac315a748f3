"""mlp: two linear layers and the activation between them in one op, on the CPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from fastgen.ops import mlp as module
from fastgen.ops._dtypes import pairs_pay
from fastgen.ops._records import Activation
from fastgen.ops.mlp import mlp, mlp_backward_reference, mlp_reference, pays
from ops import (
    assert_compiles,
    assert_gradients,
    assert_no_forward_mode,
    assert_op_parity,
    assert_opcheck,
    assert_raises,
    assert_runs,
    with_threads,
)
from parity import assert_parity, contiguous, sliced

OP, BACKWARD = torch.ops.fastgen.mlp.default, torch.ops.fastgen.mlp_backward.default
ACTIVATIONS = (("relu", 0.0), ("leaky_relu", 0.2), ("tanh", 0.0), ("none", 0.0))
EVERY = [True] * 5
# M, K, hidden, N
SHAPES = {
    "a VAE's encoder": (16, 784, 400, 40),
    "a VAE's decoder": (16, 20, 400, 784),
    "whole vectors and tiles": (12, 64, 128, 8),
    "a rest of everything": (7, 37, 53, 65),
    "less than a vector": (5, 3, 7, 2),
    "one of each": (1, 1, 1, 1),
    "blocks of columns": (3, 1024, 70, 1100),
    "more rows than a block": (131, 19, 205, 17),
    "more rows than gradients are added of at once": (1030, 14, 70, 3),
    "no row": (0, 20, 16, 5),
}


def transposed(tensor: Tensor) -> Tensor:
    """The same values, the first dimension innermost in memory."""
    return tensor.t().contiguous().t()


def arguments(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """x, weight, bias, weight_out, bias_out."""
    M, K, hidden, N = shape
    weights = torch.randn(hidden, K) / K**0.5, torch.randn(hidden), torch.randn(N, hidden) / hidden**0.5, torch.randn(N)
    return torch.randn(M, K), *weights


def eager(x, weight, bias, weight_out, bias_out, activation="relu", slope=0.0):  # type: ignore[no-untyped-def]
    """The result and the hidden layer in plain torch."""
    weights = (each if each is None else each.to(x.dtype) for each in (weight, bias, weight_out, bias_out))
    weight, bias, weight_out, bias_out = weights
    hidden = F.linear(x, weight, bias)
    known = {"relu": F.relu, "tanh": torch.tanh, "leaky_relu": lambda h: F.leaky_relu(h, slope)}
    hidden = known.get(activation, lambda h: h)(hidden)
    return F.linear(hidden, weight_out, bias_out), hidden


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Forward and backward, of every layout, with biases and without, the same by any number of threads."""
    x, weight, bias, weight_out, bias_out = arguments(shape)
    x = x.to(dtype)
    for i, (activation, slope) in enumerate(ACTIVATIONS):
        layout = (contiguous, sliced, transposed)[i % 3]
        told = [
            layout(each) if each.dim() == 2 else each.repeat_interleave(2)[::2] for each in (weight, bias, weight_out)
        ]
        assert_op_parity(OP, eager, layout(x), *told, None if i % 2 else bias_out, activation, slope)
        assert_op_parity(OP, mlp_reference, x, weight, None if i % 2 else bias, weight_out, None, activation, slope)
        y, hidden = OP(x, weight, bias, weight_out, bias_out, activation, slope)
        backward = (layout(torch.randn_like(y)), layout(x), layout(hidden), told[0], told[2], activation, slope, EVERY)
        assert_op_parity(BACKWARD, mlp_backward_reference, *backward)
        for op, args in ((OP, (x, weight, bias, weight_out, bias_out, activation, slope)), (BACKWARD, backward)):
            found = [with_threads(threads, lambda op=op, args=args: op(*args)) for threads in (1, 2, 7)]
            for one, two, three in zip(*found, strict=True):
                assert torch.equal(one, two)
                assert torch.equal(one, three)


#: Of few rows products of halves are of float32, of many of pairs.
DTYPES_AND_ROWS = ((torch.float32, 17), (torch.bfloat16, 17), (torch.bfloat16, 40))


@pytest.mark.parametrize(("dtype", "rows"), DTYPES_AND_ROWS)
def test_a_row_does_not_depend_on_those_beside_it(dtype: torch.dtype, rows: int) -> None:
    x, *weights = arguments((rows, 53, 90, 21))
    x, fewest = x.to(dtype), 33 if rows > 32 else 1
    whole = OP(x, *weights, "relu", 0.0)
    for n in (0, 5, rows - fewest):
        for some, every in zip(OP(x[n : n + fewest], *weights, "relu", 0.0), whole, strict=True):
            assert torch.equal(some, every[n : n + fewest])


@pytest.mark.parametrize(("dtype", "rows"), DTYPES_AND_ROWS)
def test_what_is_no_number_stays_where_it_is(dtype: torch.dtype, rows: int) -> None:
    """In its row; an infinite weight in its column, also behind whole vectors, beside which others are read again."""
    x, weight, bias, weight_out, bias_out = arguments((rows, 21, 16, 19))
    x[4, 20], x[5, 0], weight[3, 2] = torch.nan, -torch.inf, torch.inf
    x = x.to(dtype)
    y, hidden = OP(x, weight, bias, weight_out, bias_out, "none", 0.0)
    plain, plain_hidden = eager(x, weight, bias, weight_out, bias_out, "none")
    assert torch.equal(hidden.isfinite(), plain_hidden.isfinite())
    assert torch.equal(y.isfinite(), plain.isfinite())
    assert OP(x, weight, bias, weight_out, bias_out, "relu", 0.0)[1][4].isnan().all()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda each: each[0])
def test_gradients(activation: tuple[str, float]) -> None:
    """To both results: the hidden layer is kept, and read by a gradient that is differentiated."""
    inputs = arguments((5, 21, 34, 9))
    assert_gradients(
        (OP,), lambda *args: OP(*args, *activation)[0], lambda *args: eager(*args, *activation)[0], *inputs
    )

    def every(op: Any, double: bool) -> tuple[Tensor, ...]:
        leaves = [(t.double() if double else t.clone()).requires_grad_() for t in inputs]
        once = torch.autograd.grad([y.square().sum() for y in op(*leaves, *activation)], leaves)
        y = op(*leaves, *activation)[0].square().sum()
        grads = torch.autograd.grad(y, leaves, create_graph=True)
        return *once, *torch.autograd.grad(torch.stack([g.square().sum() for g in grads]).sum(), leaves)

    for one, two, exact in zip(every(OP, False), every(eager, False), every(eager, True), strict=True):
        assert_parity(one, two, exact)


def test_each_input_may_be_the_only_one_with_a_gradient() -> None:
    inputs = arguments((3, 20, 18, 7))
    leaves = [t.clone().requires_grad_() for t in inputs]
    together = torch.autograd.grad(OP(*leaves, "tanh", 0.0)[0].square().sum(), leaves)
    for i, expected in enumerate(together):
        leaves = [t.clone().requires_grad_(i == j) for j, t in enumerate(inputs)]
        with assert_runs(OP):
            (grad,) = torch.autograd.grad(OP(*leaves, "tanh", 0.0)[0].square().sum(), leaves[i])
        assert torch.equal(grad, expected)


def test_registration() -> None:
    x, *weights = arguments((3, 20, 18, 7))
    for layout in (contiguous, transposed):
        args = (layout(x), *weights, "leaky_relu", 0.1)
        assert_opcheck(OP, args, tuple(t.clone().requires_grad_() if isinstance(t, Tensor) else t for t in args))
    y, hidden = OP(x, *weights, "relu", 0.0)
    assert_opcheck(BACKWARD, (y, x, hidden, weights[0], weights[2], "relu", 0.0, EVERY))
    assert_compiles([OP], lambda *args: OP(*args, "relu", 0.0)[0], x, *weights)
    assert_no_forward_mode(lambda x: OP(x, *weights, "relu", 0.0)[0], x)


def test_a_direct_call_is_checked() -> None:
    x, weight, bias, weight_out, bias_out = arguments((3, 20, 18, 7))
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((x.double(), weight, bias, weight_out, bias_out), "x: expected"),
        ((x[0], weight, bias, weight_out, bias_out), "x: expected"),
        ((x, weight[0], bias, weight_out, bias_out), "weight: expected"),
        ((x, weight[:, :3], bias, weight_out, bias_out), "weight: expected"),
        ((x, weight.double(), bias, weight_out, bias_out), "weight: expected"),
        ((x[:, :0], weight[:, :0], bias, weight_out, bias_out), "weight: expected from 1"),
        ((x, weight, bias[:1], weight_out, bias_out), "bias: expected"),
        ((x, weight, bias, weight_out[:, :1], bias_out), "weight_out: expected"),
        ((x, weight, bias, weight_out.bfloat16(), bias_out), "weight_out: expected"),
        ((x, weight, bias, weight_out, bias_out[:1]), "bias_out: expected"),
    ]
    assert_raises((lambda args=args: OP(*args, "relu", 0.0), RuntimeError, message) for args, message in wrong)
    assert_raises([(lambda: OP(x, weight, None, weight_out, None, "elu", 0.0), RuntimeError, "activation: expected")])
    y, hidden = OP(x, weight, bias, weight_out, bias_out, "relu", 0.0)
    assert_raises(
        (lambda args=args: BACKWARD(*args[:3], weight, weight_out, "relu", 0.0, args[3]), RuntimeError, message)
        for args, message in (
            ((y[:, :3], x, hidden, EVERY), "weight_out: expected"),
            ((y[0], x, hidden, EVERY), "grad_y: expected"),
            ((y, x, hidden[:2], EVERY), "hidden: expected"),
            ((y, x, hidden.double(), EVERY), "hidden: expected"),
            ((y, x[:2], hidden, EVERY), "x: expected"),
            ((y, None, hidden, EVERY), "x: expected a tensor"),
            ((y, x, None, EVERY), "hidden: expected a tensor"),
            ((y, x, hidden, EVERY[:4]), "output_mask|Expected"),
        )
    )


def test_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, in float32 or bfloat16 with parameters in either, of enough weights."""
    x, *parameters = arguments((4, 64, 64, 64))
    assert module.takes(parameters[0], parameters[2])
    assert not module.takes(parameters[0], parameters[2][:63])
    assert pays(x, parameters)
    assert pays(x, [parameters[0], None, parameters[2], None])
    for other in (x.double(), x.half(), x.bfloat16(), x.to("meta")):
        assert not pays(other, parameters)
    assert not pays(x, [*parameters[:3], parameters[3].double()])
    with torch.autocast("cpu", torch.bfloat16):
        assert pays(x, parameters)
        assert pays(x.expand(8, 4, 64).reshape(32, 64), parameters)
        assert pays(x.expand(9, 4, 64).reshape(36, 64), parameters) == pairs_pay()
        monkeypatch.setattr(module, "pairs_pay", lambda: False)
        assert not pays(x.expand(9, 4, 64).reshape(36, 64), parameters)
        assert mlp(x, *parameters, Activation("relu")).dtype == torch.bfloat16  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.float16):
        assert not pays(x, parameters)
    with forward_ad.dual_level():
        assert not pays(x, parameters)
    seen: list[bool] = []
    torch.vmap(lambda row: (seen.append(pays(row, parameters)), row)[1])(x[None])
    assert seen == [False]


def test_parameters_in_bfloat16_have_gradients_in_bfloat16() -> None:
    inputs = [t.bfloat16().requires_grad_() for t in arguments((6, 40, 24, 9))]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    plain = [t.detach().clone().requires_grad_() for t in inputs]
    assert pays(inputs[0], inputs[1:])
    with assert_runs(OP):
        y = mlp(*inputs, Activation("tanh"))  # type: ignore[arg-type]
        found = torch.autograd.grad(y.sum(), inputs)
    right = torch.autograd.grad(eager(*exact, "tanh")[0].sum(), exact)
    for one, two, three in zip(found, torch.autograd.grad(eager(*plain, "tanh")[0].sum(), plain), right, strict=True):
        assert one.dtype == torch.bfloat16
        assert_parity(one, two, three)
