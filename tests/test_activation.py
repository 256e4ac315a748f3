"""Activations whose gradient is taken from their result, with the gradient to the bias before them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from fastgen.nn import Conv2dChain, LinearChain
from fastgen.ops import activation as module
from fastgen.ops._activations import activate
from fastgen.ops._records import NONE, Activation
from ops import (
    assert_compiles,
    assert_gradcheck,
    assert_gradients,
    assert_op_parity_over,
    assert_opcheck,
    assert_raises,
    assert_runs,
    assert_second_order,
    ops_run,
    with_threads,
)
from parity import DTYPES, channels_last, contiguous, sliced

OP, BACKWARD = torch.ops.fastgen.activation.default, torch.ops.fastgen.activation_backward.default
LAYOUTS = (contiguous, channels_last, sliced)
KINDS = (Activation("relu"), Activation("leaky_relu", 0.2), Activation("tanh"))
SHAPES = {
    "parts of images": (2, 40, 33, 31),
    "some images at once": (25, 16, 9, 11),
    "one of a part": (3, 5, 2, 7),
    "one channel": (4, 1, 5, 6),
    "one pixel": (9, 7, 1, 1),
    "no image": (0, 3, 4, 4),
    "no pixel": (2, 3, 0, 4),
    "no channel": (2, 0, 3, 4),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_parity(name: str, dtype: torch.dtype) -> None:
    """Of every layout of the gradient, and of the result, which is answered in channels_last."""
    shape = SHAPES[name]
    for kind in (NONE, *KINDS):
        x, grad = (torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(2))
        flat = x.flatten(1) if x.numel() else x.new_empty(0, 3)
        forward = [(each, *kind) for each in (*(layout(x) for layout in LAYOUTS), flat, flat.t())]
        assert_op_parity_over(forward, OP, module.activation_reference)
        y = activate(x, kind)
        pairs = [(channels_last, layout) for layout in LAYOUTS] + [(contiguous, contiguous), (sliced, channels_last)]
        batches = [(two(grad), one(y), *kind) for one, two in pairs]
        assert_op_parity_over(batches, BACKWARD, module.activation_backward_reference)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: Activation) -> None:
    """By the op of rows and of channels_last; of planes by torch's functions."""
    eager = lambda x: activate(x, kind)  # noqa: E731
    ours = lambda x: OP(x, *kind)  # noqa: E731
    for x in (torch.randn(9, 40), channels_last(torch.randn(3, 5, 6, 7))):
        assert_gradients([OP], ours, eager, x)
        assert_gradcheck([OP], ours, x.double())
        assert_second_order(ours, x.double())
    x = torch.randn(3, 5, 6, 7).double()
    assert_gradcheck([], ours, x)
    with ops_run() as ran:
        torch.autograd.grad(ours(x.requires_grad_()).sum(), x)
    assert ran == {"activation"}


def test_what_is_no_number_shows() -> None:
    values = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 90.0, -90.0, 1e-30, -1e-30])
    x = channels_last(values.view(1, 9, 1, 1).expand(2, 9, 4, 5).clone())
    for kind in KINDS:
        torch.testing.assert_close(OP(x, *kind), activate(x, kind), equal_nan=True, rtol=1e-6, atol=0)
        y, grad = activate(x, kind), torch.randn(x.shape)
        found, sums = BACKWARD(grad, y, *kind)
        expected, totals = module.activation_backward_reference(grad, y, *kind)
        torch.testing.assert_close(found, expected, equal_nan=True)
        torch.testing.assert_close(sums, totals, equal_nan=True)
        nan = torch.full_like(grad, torch.nan)
        assert BACKWARD(nan, torch.ones_like(y) / 2, *kind)[0].isnan().all()


def test_no_number_of_threads_changes_a_thing() -> None:
    for layout in (contiguous, channels_last):
        y, grad = channels_last(torch.randn(5, 64, 33, 31).relu()), layout(torch.randn(5, 64, 33, 31))
        found = [with_threads(threads, lambda: BACKWARD(grad, y, "relu", 0.0)) for threads in (1, 2, 5)]  # noqa: B023
        assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_torch_knows_them() -> None:
    for layout in LAYOUTS:
        x = layout(torch.randn(2, 3, 4, 5)).requires_grad_()
        assert_opcheck(OP, (x, "tanh", 0.0), (x.flatten(1), "leaky_relu", 0.1))
        y = channels_last(torch.randn(2, 3, 4, 5).tanh())
        assert_opcheck(BACKWARD, (layout(torch.randn(2, 3, 4, 5)).requires_grad_(), y.requires_grad_(), "tanh", 0.0))
    assert_compiles([OP], lambda x: OP(x, "relu", 0.0).cos(), torch.randn(4, 9))


def test_before() -> None:
    """The op for results in channels_last on a CPU, torch's functions elsewhere, and nothing where there is nothing."""
    grad, y = torch.randn(4, 6, 5, 3), channels_last(torch.randn(4, 6, 5, 3).tanh())
    kind = Activation("tanh")
    for given in (grad, channels_last(grad), torch.ones(()).expand(4, 6, 5, 3)):
        with assert_runs(BACKWARD, backward=False):
            found, sums = module.before(given, y, kind)
        torch.testing.assert_close(found, given * (1 - y * y))
        expected = found.double().sum((0, 2, 3))
        torch.testing.assert_close(module.to_bias(found, sums, torch.float64), expected, rtol=1e-5, atol=1e-5)
    with ops_run() as ran:
        found, sums = module.before(grad, y.contiguous(), kind)
        assert sums is None
        torch.testing.assert_close(found, grad * (1 - y * y))
        halves = module.to_bias(found.bfloat16(), None, torch.float32)  # is added in float32
        torch.testing.assert_close(halves, found.bfloat16().float().sum((0, 2, 3)))
        assert module.before(grad, None, NONE)[0] is grad
        assert torch.equal(module.before(grad, y, NONE)[0], grad)
        assert module.before(grad.to("meta"), y.to("meta"), kind)[1] is None
        assert torch.vmap(lambda grad: module.before(grad, y, kind)[0])(torch.stack([grad, grad])).shape[0] == 2
    assert not ran


def test_a_compiled_step_takes_a_layers_activation_along() -> None:
    """With a linear layer, and with torch's own convolution in channels_last; not without gradients."""
    torch.manual_seed(0)
    linear = LinearChain(nn.Linear(12, 9), nn.ReLU(), nn.Unflatten(1, (3, 3)))
    convolution = Conv2dChain(nn.Conv2d(8, 5, 3), nn.LeakyReLU(0.2), nn.Conv2d(5, 4, 1))
    for model, x in ((linear, torch.randn(7, 12)), (convolution, channels_last(torch.randn(2, 8, 6, 6)))):
        assert_compiles([OP], model, x)
        with ops_run() as ran:
            model(x).sum().backward()
        assert not ran
        with torch.no_grad():
            traced = torch.compile(model, backend="aot_eager", fullgraph=True)
            with ops_run() as ran:
                assert torch.equal(traced(x), model(x))
        assert not ran


def test_others_that_write_over_a_leaky_relus_result() -> None:
    """It keeps what it was given, and is torch's; of a ReLU, which keeps its result in torch, too, that is an error."""
    model = Conv2dChain(nn.Conv2d(8, 5, 3), nn.LeakyReLU(0.2), nn.ReLU(inplace=True))
    x = channels_last(torch.randn(2, 8, 6, 6))
    expected = nn.Sequential(*model)(x)
    traced = torch.compile(model, backend="aot_eager", fullgraph=True)
    with ops_run() as ran:
        torch.testing.assert_close(traced(x), expected)
    assert not ran


def test_where_it_pays() -> None:
    """In compiled steps with gradients on a CPU; not in transforms."""
    x = torch.randn(3, 4)
    kind = Activation("relu")
    assert not module.pays(x)
    seen: list[bool] = []

    def ask(x: Tensor) -> Tensor:
        seen.append(module.pays(x))
        return x + 1

    compiled = lambda: torch.compile(ask, backend="eager")  # noqa: E731
    compiled()(x)
    with torch.no_grad():
        compiled()(x)
    with forward_ad.dual_level():
        compiled()(x)
    compiled()(x.to("meta"))
    assert seen == [True, False, False, False]
    assert module.activated(x, NONE) is x
    with ops_run() as ran:
        assert torch.equal(module.activated(x, kind), F.relu(x))
    assert not ran


def test_errors() -> None:
    y = torch.ones(2, 3, 4, 5)
    run: Any = lambda grad, result, kind="relu": BACKWARD(grad, result, kind, 0.0)  # noqa: E731
    assert_raises(
        [
            (lambda: OP(y[0], "relu", 0.0), RuntimeError, r"x: expected shape \(N, C\) or \(N, C, H, W\)"),
            (lambda: OP(y.long(), "relu", 0.0), RuntimeError, "x: expected float32, float64, float16 or bfloat16"),
            (lambda: OP(y, "elu", 0.0), RuntimeError, "activation: expected none, relu, leaky_relu or tanh, got elu"),
            (lambda: run(y, y, "elu"), RuntimeError, "activation: expected none, relu, leaky_relu or tanh, got elu"),
            (lambda: run(y[0], y[0]), RuntimeError, r"result: expected shape \(N, C, H, W\)"),
            (lambda: run(y.long(), y.long()), RuntimeError, "result: expected float32, float64, float16 or bfloat16"),
            (lambda: run(y[:, :2], y), RuntimeError, "grad: expected another shape"),
            (lambda: run(y.double(), y), RuntimeError, "grad: expected another dtype"),
        ]
    )
