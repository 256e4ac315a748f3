"""batch_norm_train: a batch norm by its batch and the activation behind it, against stages and torch's functions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from fastgen.nn._records import batch_norm_of
from fastgen.ops import batch_norm_activation, conv_transpose2d_bn
from fastgen.ops._activations import ACTIVATIONS
from fastgen.ops._records import NONE, Activation, BatchNorm
from fastgen.ops.batch_norm_train import (
    PIXELS,
    PLANES,
    TANH,
    batch_norm_track_reference,
    batch_norm_train_backward_reference,
    batch_norm_train_reference,
    normalize_batch,
)
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
    ops_run,
    with_threads,
)
from parity import DTYPES, LAYOUTS, assert_same_layout, channels_last, contiguous
from transposed import NAMES, running

OP, BACKWARD = NAMES.batch_norm_train.default, NAMES.batch_norm_train_backward.default
TRACK = NAMES.batch_norm_track.default
EPS = 0.01
#: Of one pixel, of planes that share a row or fill several, of planes that are rows themselves, of more rows than one
#: sum in float has, and of more pixels than one task.
SIZES = [
    (0, 3, 2, 2), (2, 0, 3, 3), (2, 0, 1, 1), (2, 1, 1, 1), (40, 3, 1, 1), (5, 7, 3, 11), (16, 16, 16, 16),
    (3, 300, 5, 5), (37, 5, 7, 6), (2, 3, 33, 40), (2, 2, 67, 70), (9, 48, 20, 19),
]  # fmt: skip


def run_batch_norm_activation(bn: nn.BatchNorm2d, activation: Activation, x: Tensor) -> Tensor:
    """By the function, as the module would run."""
    weight, bias, running_mean, running_var, tracked, training, momentum, eps, _ = batch_norm_of(bn)
    return batch_norm_activation(
        x, weight, bias, running_mean, running_var, training=training, momentum=momentum, eps=eps,
        activation=activation.name, negative_slope=activation.slope, num_batches_tracked=tracked,
    )  # type: ignore[arg-type]  # fmt: skip


def vectors(C: int, dtype: torch.dtype) -> list[Tensor]:
    """Weight and bias."""
    made = [torch.rand(C) + 0.5, torch.randn(C)]
    return [v.double() for v in made] if dtype == torch.float64 else made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_parity(size: tuple[int, ...], dtype: torch.dtype) -> None:
    """Both ops against their references, on every layout, with gradients to what is kept; no mean is near 0."""
    x, grad = 2 + torch.randn(size).to(dtype), torch.randn(size).to(dtype)
    weight, bias = vectors(size[1], dtype)
    kinds = (("relu", weight, bias), ("leaky_relu", None, bias), ("tanh", weight.to(dtype), None), ("none", None, None))
    for (activation, *given), layout in zip(kinds * 2, LAYOUTS * 3, strict=False):
        args = (layout(x), *given, EPS, activation, 0.2)
        assert_op_parity(OP, batch_norm_train_reference, *args)
        _, mean, m2 = batch_norm_train_reference(*args)
        for grads in ((None, None), (bias, weight)):
            for upstream in (layout(grad), channels_last(grad)):
                arguments = (upstream, *grads, layout(x), mean, m2, *args[1:])
                assert_op_parity(BACKWARD, batch_norm_train_backward_reference, *arguments)


def test_threads_change_no_bit() -> None:
    x, grad, (weight, bias) = torch.randn(9, 48, 20, 19), torch.randn(9, 48, 20, 19), vectors(48, torch.float32)

    def run() -> list[Tensor]:
        found: list[Tensor] = []
        for layout in (contiguous, channels_last):
            z, *kept = OP(layout(x), weight, bias, EPS, "tanh", 0.0)
            found += [z, *kept, *BACKWARD(grad, None, None, layout(x), *kept, weight, bias, EPS, "tanh", 0.0)]
        return found

    assert all(torch.equal(one, two) for one, two in zip(*(with_threads(n, run) for n in (1, 2)), strict=True))


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_a_guess_of_the_mean_that_is_far_off_costs_no_digits(layout: Callable[[Tensor], Tensor]) -> None:
    """What it is made of, the first number of each image, is far from all others, whose squares are rounded alike.

    With a mean of 1000 and a deviation of 0.01 E[x²] − E[x]² has not one correct digit.
    """
    x = torch.stack([1000 + 0.01 * torch.randn(8, 64, 64), torch.full((8, 64, 64), 0.1), torch.randn(8, 64, 64)], 1)
    x[:, 1, 0, 0] = 1.3
    _z, mean, m2 = OP(layout(x), None, None, 0.0, "none", 0.0)
    centered = x.double() - x.double().mean((0, 2, 3), keepdim=True)
    exact = centered.square().sum((0, 2, 3))
    assert ((m2 - exact) / exact).abs().max() < 1e-5
    assert (mean - x.double().mean((0, 2, 3))).abs().max() < 1e-4
    constant = OP(layout(torch.full((4, 3, 5, 5), 0.1)), None, None, EPS, "none", 0.0)
    assert not constant[0].any()
    assert not constant[2].any()


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_what_is_no_number_spoils_its_channel_alone(layout: Callable[[Tensor], Tensor]) -> None:
    for number in (float("nan"), float("inf"), float("-inf")):
        x, rest = torch.randn(4, 3, 5, 5), (None, None, EPS, "relu", 0.0)
        x[0, 1, 0, 0] = number
        z, mean, m2 = OP(layout(x), *rest)
        expected = F.relu(F.batch_norm(x, None, None, None, None, True, 0.0, EPS))
        torch.testing.assert_close(z.contiguous(), expected, equal_nan=True)
        assert mean[[0, 2]].isfinite().all()
        torch.testing.assert_close(mean[1], torch.tensor(number), equal_nan=True)
        assert m2[1].isnan()


def test_a_direct_call_is_checked() -> None:
    x, vector, rest = torch.randn(2, 3, 4, 4), torch.ones(3), (EPS, "relu", 0.0)
    backward = (x, vector, vector, None, None, *rest)
    wrong = [
        (OP, (x[0], vector, None, *rest), r"x: expected shape \(N, C, H, W\)"),
        (OP, (x.int(), vector, None, *rest), "x: expected float32"),
        (OP, (x, vector[:2], None, *rest), "weight: expected another shape"),
        (OP, (x, None, vector.int(), *rest), "bias: expected float32"),
        (OP, (x, None, None, EPS, "sigmoid", 0.0), "activation: expected none, relu, leaky_relu or tanh"),
        (BACKWARD, (x[:1], None, None, *backward), "grad_z: expected another shape"),
        (BACKWARD, (x.double(), None, None, *backward), "grad_z: expected another dtype"),
        (BACKWARD, (x, vector[:1], None, *backward), "grad_mean: expected another shape"),
        (BACKWARD, (x, None, vector[:1], *backward), "grad_m2: expected another shape"),
        (BACKWARD, (x, None, None, x, vector[:1], *backward[2:]), "mean: expected another shape"),
        (BACKWARD, (x, None, None, x, vector, vector[:1], *backward[3:]), "m2: expected another shape"),
        (TRACK, (x, vector, vector, vector, 2, 0.1), r"mean: expected shape \(C,\)"),
        (TRACK, (vector, vector[:1], vector, vector, 2, 0.1), "m2: expected another shape"),
        (TRACK, (vector, vector, vector[:1], vector, 2, 0.1), "running_mean: expected another shape"),
        (TRACK, (vector, vector, vector, vector.int(), 2, 0.1), "running_var: expected float32"),
    ]
    assert_raises((lambda op=op, args=args: op(*args), RuntimeError, message) for op, args, message in wrong)


def ours(activation: str, layout: Callable[[Tensor], Tensor] = contiguous) -> Callable[..., Tensor]:
    return lambda x, weight=None, bias=None: normalize_batch(
        layout(x), BatchNorm(weight, bias, None, None, training=True, eps=EPS), Activation(activation, 0.2)
    )


def plain(activation: str) -> Callable[..., Tensor]:
    acts = {"relu": F.relu, "tanh": torch.tanh, "none": lambda t: t, "leaky_relu": lambda t: F.leaky_relu(t, 0.2)}
    return lambda x, weight=None, bias=None: acts[activation](F.batch_norm(x, None, None, weight, bias, True, 0.0, EPS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients(activation: str, dtype: torch.dtype) -> None:
    for size in ((5, 7, 3, 11), (2, 7, 1, 1)):
        given = [torch.randn(size, dtype=dtype), *vectors(7, dtype)]
        for layout in (contiguous, channels_last):
            assert_gradients([OP], ours(activation, layout), plain(activation), *given)
    if dtype == torch.float64:
        assert_gradcheck([OP], ours(activation), torch.randn(3, 3, 2, 2, dtype=dtype), *vectors(3, dtype))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_second_order_but_not_forward_mode(activation: str) -> None:
    """Also of mean and M2, whose gradients arrive beside the result's, and alone."""
    x, (weight, bias) = torch.randn(3, 3, 2, 2, dtype=torch.float64), vectors(3, torch.float64)
    for layout in (contiguous, channels_last):
        assert_second_order(ours(activation, layout), x, weight, bias)
    for kept in (slice(0, 3), slice(1, 3), slice(2, 3), slice(1, 2)):
        assert_second_order(lambda x, w, b, kept=kept: OP(x, w, b, EPS, activation, 0.2)[kept], x, weight, bias)
        assert_gradcheck([OP], lambda x, kept=kept: OP(x, weight, bias, EPS, activation, 0.2)[kept], x)
    assert_no_forward_mode(lambda x: OP(x, None, None, EPS, activation, 0.2)[0], x)


def test_opcheck() -> None:
    x, (weight, bias) = torch.randn(3, 7, 5, 2), vectors(7, torch.float32)
    for layout in (contiguous, channels_last):
        leaves = [t.detach().requires_grad_() for t in (layout(x), weight, bias)]
        assert_opcheck(OP, (*leaves, EPS, "relu", 0.0), (leaves[0], None, None, EPS, "tanh", 0.0))
        kept = (layout(x), bias, weight, weight, bias, EPS, "relu", 0.0)  # mean, M2, weight, bias
        assert_opcheck(BACKWARD, (x, None, None, *kept), (x, bias, weight, *kept))
    assert_opcheck(TRACK, (bias, weight, *running(7), 30, 0.1))


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_compile(layout: Callable[[Tensor], Tensor]) -> None:
    """The op is a node; running statistics are written to as without a compiler."""
    given = (layout(torch.randn(5, 7, 3, 11)), *vectors(7, torch.float32))
    assert_compiles([OP], ours("leaky_relu", lambda x: x), *given)
    bns = [nn.BatchNorm2d(7) for _ in range(2)]
    run = torch.compile(run_batch_norm_activation, fullgraph=True, backend="aot_eager")
    for one, bn in zip((run, run_batch_norm_activation), bns, strict=True):
        one(bn, Activation("relu"), given[0])
    torch.testing.assert_close(*(list(bn.buffers()) for bn in bns))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", DTYPES)
def test_running_statistics(kept: torch.dtype, dtype: torch.dtype) -> None:
    """Of any dtype, and in strides; their versions are counted; with none nothing is written."""
    x, apart = torch.randn(5, 7, 3, 11).to(dtype), torch.rand(2, 7, 2).to(kept)
    own, other = ([apart.clone()[i, :, 0] for i in range(2)] for _ in range(2))
    tracked = torch.tensor(3)
    record = BatchNorm(None, None, *own, tracked, training=True, momentum=0.3)
    with assert_runs(OP, TRACK, backward=False):
        normalize_batch(x, record, NONE)
    _, mean, m2 = OP(x, None, None, 1e-5, "none", 0.0)
    batch_norm_track_reference(mean, m2, *other, 5 * 3 * 11, 0.3)
    torch.testing.assert_close(own, other)
    assert tracked == 4
    assert all(v._version > 0 for v in own)
    with ops_run() as ran:
        normalize_batch(x, record._replace(running_mean=None, running_var=None), NONE)
    assert ran == {"batch_norm_train"}


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.5}])
def test_a_module_and_its_activation(options: dict[str, Any], momentum: float | None) -> None:
    bn, other = (nn.BatchNorm2d(7, momentum=momentum, **options) for _ in range(2))
    for training in (True, True, False):
        x = 3 + torch.randn(5, 7, 3, 11)
        y = run_batch_norm_activation(bn.train(training), Activation("leaky_relu", 0.2), x)
        torch.testing.assert_close(y, F.leaky_relu(other.train(training)(x), 0.2))
    torch.testing.assert_close(list(bn.buffers()), list(other.buffers()))


def runs(function: Callable[[], Any]) -> bool:
    with ops_run() as ran:
        function()
    return "batch_norm_train" in ran


def test_where_it_runs() -> None:
    """Not for few numbers of what torch's own can compute, by layout and activation."""
    bn, relu, tanh = nn.BatchNorm2d(8), Activation("relu"), Activation("tanh")
    many = torch.randn(8, 8, 64, PIXELS // 4096)
    few, planes, some = torch.randn(1, 8, 4, 4), many[: 8 * PLANES // PIXELS], many[: 8 * TANH // PIXELS]
    for x, activation, expected in (
        (planes, relu, True), (planes[1:], relu, False), (channels_last(many), relu, True),
        (channels_last(many[1:]), relu, False), (some, tanh, True), (channels_last(some), tanh, True),
        (few, tanh, False), (channels_last(few).bfloat16(), relu, True), (few.double(), relu, True),
    ):  # fmt: skip
        assert runs(lambda x=x, a=activation: run_batch_norm_activation(bn, a, x)) == expected
        assert_same_layout(run_batch_norm_activation(bn, activation, x), x)
    weight, z = torch.randn(3, 8, 4, 4), torch.randn(2, 3, 2, 2)
    options = {"training": True, "stride": 2, "padding": 1}
    layer = lambda z: conv_transpose2d_bn(z, weight, None, bn.weight, bn.bias, None, None, **options)  # noqa: E731
    assert runs(lambda: layer(torch.randn(32, 3, 8, 16)))
    assert not runs(lambda: layer(z))
    with torch.autocast("cpu", torch.bfloat16):
        assert runs(lambda: layer(z))
        assert layer(z).dtype == torch.bfloat16


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return run_batch_norm_activation(self.bn, Activation("relu"), x)


def test_where_torchs_own_runs_for_others() -> None:
    """Programs, transforms, tangents; and where there is nothing."""
    layer, x = Layer(), torch.randn(PLANES // 512, 8, 8, 8)
    assert runs(lambda: layer(x))
    program = torch.export.export(layer, (x,))
    assert not any("fastgen" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), layer(x))
    untracked = lambda x: batch_norm_activation(x, None, None, None, None, training=True)  # noqa: E731
    assert not runs(lambda: torch.func.grad(lambda x: untracked(x).square().sum())(x))
    assert not runs(lambda: torch.func.jvp(untracked, (x,), (x,)))
    with forward_ad.dual_level():
        assert not runs(lambda: untracked(forward_ad.make_dual(x, x)))
    assert not runs(lambda: layer(x[:0].bfloat16()))
    assert not layer.bn.running_var.isnan().any()
