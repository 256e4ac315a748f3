"""conv_transpose2d_bn: transposed convolution, batch norm and activation, against the three torch functions."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.ops import conv_transpose2d_bn
from fastgen.ops._activations import ACTIVATIONS
from fastgen.ops._conv_transpose2d_bn_convolve import (
    conv_transpose2d_bn_backward_reference,
    conv_transpose2d_bn_reference,
)
from fastgen.ops._records import NONE, Activation, BatchNorm, Convolution
from fastgen.ops.conv_transpose2d_bn import run_layer
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
)
from parity import DTYPES, LAYOUTS, assert_parity, assert_same_layout, channels_last
from rounding import Moved
from transposed import CASES, FOLD, NAMES, OP, REAL, arguments, eager, ops_of, ours, pair, running

BACKWARD = NAMES.conv_transpose2d_bn_backward.default


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_parity(name: str, layout: Callable[[Tensor], Tensor], dtype: torch.dtype, device: str) -> None:
    """The whole function, with every activation, and with and without every optional vector."""
    case = CASES[name]
    x, weight, *vectors = arguments(case, dtype, device)
    x = layout(x)
    buffers = running(case[0][2], dtype, device)
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    forms = ((True, "relu", False), (True, "tanh", False), (True, "tanh", True), (False, "leaky_relu", False))
    for training, activation, deferred in (*forms, (False, "none", False)):
        for there in ((True, True, True), (False, False, False)):
            given = [x, weight, *(v if t else None for v, t in zip(vectors, there, strict=True))]
            with assert_runs(*ops_of(case, training, deferred, dtype, device), backward=False):
                result = ours(case, buffers, training, activation, deferred)(*given)
            plain = eager(case, buffers, training, activation)
            doubles = [v if v is None else v.double() for v in given]
            exact = plain(*doubles)
            moved = Moved(lambda f=plain, d=doubles: [f(*d)], dtype)[0] if deferred else None  # type: ignore[misc]
            assert_parity(result, plain(*given), exact, moved)
            if not training:  # with gradients or without
                with torch.no_grad(), ops_run() as ran:
                    alone = ours(case, buffers, training, activation, deferred)(*given)
                assert_parity(alone, plain(*given), exact, moved)
                assert_same_layout(alone, result)
                assert ("conv_transpose2d_bn" in ran) == (device != "cpu")
            memory = torch.channels_last if last else torch.contiguous_format
            assert_same_layout(result, exact.contiguous(memory_format=memory))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_vectors", DTYPES)
def test_running_statistics_of_any_dtype(of_vectors: torch.dtype, dtype: torch.dtype, device: str) -> None:
    """Where they are not folded: the stages."""
    case = (2, 24, 40, 2, 2), (4, 2, 1, 0, 1, 1)
    x, weight, bias, *vectors = arguments(case, dtype, device)
    buffers, vectors = running(40, of_vectors, device), [v.to(of_vectors) for v in vectors]
    with ops_run() as ran:
        result = ours(case, buffers, False, "leaky_relu", False)(x, weight, bias, *vectors)
    assert ran == {"conv_transpose2d_bn", "batch_norm_finalize", "batch_norm_apply"}
    exact = eager(case, tuple(b.double() for b in buffers), False, "leaky_relu")
    given = [v.float() for v in (*buffers, *vectors)]
    plain = F.batch_norm(F.conv_transpose2d(x, weight, bias, 2, 1), *given)
    plain = F.leaky_relu(plain, 0.2)
    assert_parity(result, plain, exact(*(v.double() for v in (x, weight, bias, *vectors))))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*CASES.values(), REAL])
def test_parity_of_the_pieces(case: Any, dtype: torch.dtype, device: str) -> None:
    """Every op against its reference, on the layouts that layers hand each other."""
    x, weight, bias, *_ = arguments(case, dtype, device)
    x = channels_last(x)
    I, geometry = x.shape[1], [*map(pair, case[1][1:5]), case[1][5]]
    vectors = [torch.randn(I, device=device), torch.rand(I, device=device) + 0.5, torch.randn(I, device=device)]
    if dtype == torch.float64:
        vectors = [v.double() for v in vectors]
    prologues = ((*vectors, "relu", 0.0), (*vectors[:2], None, "leaky_relu", 0.2), (None, None, None, "none", 0.0))
    for prologue, activation, statistics in zip(prologues, ("none", "tanh", "none"), (True, False, True), strict=True):
        args = (x, *prologue, weight, bias, *geometry, activation, 0.0, statistics, True)
        assert_op_parity(OP, conv_transpose2d_bn_reference, *args)
        y, mean, m2 = conv_transpose2d_bn_reference(*args)
        grads = torch.randn_like(y), torch.randn_like(mean), torch.randn_like(m2) / 9
        grads = grads if statistics else (grads[0], None, None)
        args = (*grads, y, mean, x, *prologue, weight, *geometry, activation, 0.0, [True] * 3)
        assert_op_parity(BACKWARD, conv_transpose2d_bn_backward_reference, *args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, dtype: torch.dtype, device: str) -> None:
    case = CASES[name]
    buffers = running(case[0][2], dtype, device)
    kink = "leaky_relu" if dtype in (torch.float32, torch.float64) else "tanh"  # a half may round to its other side
    for training, deferred, activation in ((True, False, kink), (True, True, kink), (False, False, "tanh")):
        options = (case, buffers, training, activation)
        x, weight, *vectors = arguments(case, dtype, device)
        functions = _one_bias(ours(*options, deferred)), _one_bias(eager(*options))
        assert_gradients(ops_of(case, training, deferred, dtype, device), *functions, x, weight, *vectors[:2])


def _one_bias(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Both biases are one: before the batch's own mean is taken away, the gradient of a bias is only rounding."""
    return lambda x, weight, bias, bn_weight: function(x, weight, bias, bn_weight, bias)


@pytest.mark.parametrize(("training", "deferred"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name: str, training: bool, deferred: bool, device: str) -> None:
    (_, I, O, H, W), geometry = CASES[name]
    groups = geometry[-1]  # half of the channels, two at least: finite differences evaluate twice for every weight
    I, O = (groups * max(2, (channels // groups + 1) // 2) for channels in (I, O))
    case = (2, I, O, min(H, 3), min(W, 2)), geometry
    inputs = arguments(case, torch.float64, device)
    buffers = running(case[0][2], torch.float64, device)
    expected = ops_of(case, training, deferred, torch.float64, device)
    for activation in ("none", "tanh"):
        assert_gradcheck(expected, ours(case, buffers, training, activation, deferred), *inputs)


def test_opcheck(device: str) -> None:
    x, weight, bias, bn_weight, bn_bias = arguments(CASES["doubling"], device=device)
    geometry = [[2, 2], [1, 1], [0, 0], [1, 1], 1]
    vectors = torch.randn(3, 6, device=device).abs().unbind()
    for layout in (Tensor.contiguous, channels_last):
        leaves = [t.detach().requires_grad_() for t in (layout(x), *vectors)]
        weights = [t.detach().requires_grad_() for t in (weight, bias)]
        args = (*leaves, "tanh", 0.0, *weights, *geometry, "none", 0.0, True, True)
        plain = (layout(x), None, None, None, "none", 0.0, weight, None, *geometry, "tanh", 0.0, False, False)
        assert_opcheck(OP, args, plain)
        y, mean, m2 = OP(layout(x), *vectors, "tanh", 0.0, weight, bias, *geometry, "none", 0.0, True, True)
        tensors = (torch.randn_like(y), mean, m2, y, mean, layout(x))
        for mask in ([True] * 3, [False, True, False]):
            options = (*geometry, "none", 0.0, mask)
            assert_opcheck(BACKWARD, (*tensors, *vectors, "tanh", 0.0, weight, *options))
            assert_opcheck(BACKWARD, (*tensors, None, None, None, "none", 0.0, weight, *options))
    for one in (bn_weight, None):
        tensors = (weight.detach().requires_grad_(), None, one, bn_bias, *running(10, device=device))
        assert_opcheck(FOLD, (*tensors, 1, 1e-5))


@pytest.mark.parametrize("training", [True, False])
def test_compile(training: bool, device: str) -> None:
    for name in ("doubling", "product", "grouped"):
        buffers, expected = (
            running(CASES[name][0][2], device=device),
            ops_of(CASES[name], training, False, device=device),
        )
        assert_compiles(expected, ours(CASES[name], buffers, training, "relu"), *arguments(CASES[name], device=device))


def test_second_order_but_not_forward_mode() -> None:
    """In training, folded and by running statistics, and of two layers, the second normalising on its load."""
    for name, activation in zip(("doubling", "product", "to an image", "grouped"), ACTIVATIONS, strict=True):
        x, *rest = arguments(CASES[name], torch.float64)
        buffers = running(CASES[name][0][2], torch.float64)
        for training in (True, False):
            assert_second_order(ours(CASES[name], buffers, training, activation, training), x[:3], *rest)

    def two(x: Tensor, weight: Tensor, *vectors: Tensor) -> Tensor:
        layer = Convolution(weight, None, 2, 1), BatchNorm(*vectors, None, None, training=True)
        y = run_layer(x, *layer, Activation(activation, 0.2), True)
        return run_layer(y, *layer, NONE, True).materialize()

    activation = "leaky_relu"
    x, weight, _, *vectors = arguments(CASES["Cin == Cout"], torch.float64)
    assert_second_order(two, x[:2], weight, *vectors)
    assert_no_forward_mode(lambda x: two(x, weight, *vectors), x)


def test_errors() -> None:
    x, w = torch.randn(2, 3, 4, 4), torch.randn(3, 5, 4, 4)

    def call(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        vectors = [*args, *(None,) * (7 - len(args))]
        return lambda: conv_transpose2d_bn(*vectors, **{"training": True, **kwargs})

    many = [
        (call(x, w, activation="gelu"), "activation: expected one of 'none', 'relu', .* got 'gelu'"),
        (call(x, w, negative_slope=-1.0), "negative_slope: expected at least 0 .* got -1.0"),
        (call(x[:, :2], w), r"x: expected shape \(N, 3, H, W\) to fit the weight, got \(2, 2, 4, 4\)"),
        (call(x, w[0]), r"weight: expected shape \(I, O / groups, KH, KW\), got \(5, 4, 4\)"),
        (call(x, w, torch.ones(4)), r"bias: expected shape \(5,\), got \(4,\)"),
        (call(x, w, None, torch.ones(4)), r"bn_weight: expected shape \(5,\), got \(4,\)"),
        (call(x, w, None, None, None, torch.ones(5)), "running_mean, running_var: expected both or neither, got one"),
        (call(x, w, training=False), "running_mean: expected a tensor when training is False, got None"),
        (call(x, w, None, None, None, torch.ones(5), torch.ones(5), momentum=None), "num_batches_tracked: expected"),
        (call(x[:1, :, :1, :1], w[..., :1, :1]), r"x: expected more than 1 value per channel .* \(1, 5, 1, 1\)"),
        (call(x, w, stride=0), "stride: expected one or two integers of at least 1, got 0"),
        (call(x, w, padding=(1, 2, 3)), r"padding: expected one or two integers of at least 0, got \(1, 2, 3\)"),
        (call(x, w, output_padding=1), r"output_padding: expected less than stride \(1, 1\) .* got \(1, 1\)"),
        (call(x, w, groups=2), "groups: expected a divisor of the 3 input channels, got 2"),
    ]
    types = [
        (call(x, w.double()), "weight: expected the dtype of x, torch.float32, got torch.float64"),
        (call(x.int(), w), "x: expected float32, .* got torch.int32"),
    ]
    assert_raises((one, ValueError, message) for one, message in many)
    assert_raises((one, TypeError, message) for one, message in types)


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
def test_running_statistics_are_those_of_torch(momentum: float | None, device: str) -> None:
    case = CASES["doubling"]
    bn = torch.nn.BatchNorm2d(10, momentum=momentum).to(device)
    forms = True, False  # whether it is deferred: on a CPU the second is no stages
    both = [copy.deepcopy([bn.running_mean, bn.running_var, bn.num_batches_tracked]) for _ in forms]
    for _ in range(3):
        x, weight, bias, *_ = arguments(case, device=device)
        bn(F.conv_transpose2d(x, weight, bias, stride=2, padding=1))
        for deferred, buffers in zip(forms, both, strict=True):
            versions = [b._version for b in buffers]
            batch_norm = BatchNorm(None, None, *buffers, training=True, momentum=momentum)
            run_layer(x, Convolution(weight, bias, 2, 1), batch_norm, NONE, deferred)
            if deferred:  # torch's own counts no versions
                assert all(b._version > version for b, version in zip(buffers, versions, strict=True))
    for buffers in both:
        torch.testing.assert_close(buffers, [bn.running_mean, bn.running_var, bn.num_batches_tracked])


def test_a_large_mean_costs_no_digits(device: str) -> None:
    """Mean 1000, deviation 0.01: E[y²] − E[y]² has not one correct digit; two passes and Chan's combination do."""
    x = 1000 + 0.01 * torch.randn(64, 4, 16, 16, device=device)
    weight = torch.eye(4, device=device).view(4, 4, 1, 1)
    batch_norm = BatchNorm(None, None, None, None, training=True, eps=0.0)
    y = run_layer(x, Convolution(weight, None), batch_norm, NONE, deferred=True)
    exact = x.double().std((0, 2, 3), correction=0)
    naive = (x.square().mean((0, 2, 3)) - x.mean((0, 2, 3)).square()).abs().sqrt()
    assert ((1 / y.scale - exact) / exact).abs().max() < 1e-2 < ((naive - exact) / exact).abs().max()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_same_input_gives_the_same_bits(activation: str, device: str) -> None:
    inputs = [t.requires_grad_() for t in arguments(REAL, device=device)]
    for deferred in (True, False):
        with assert_runs(*ops_of(REAL, True, deferred, device=device)):
            runs = [ours(REAL, (None, None), True, activation, deferred)(*inputs) for _ in range(2)]
            grads = [torch.autograd.grad(y.square().sum(), inputs) for y in runs]
        assert torch.equal(*runs)
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_autocast_casts_as_the_modules_do() -> None:
    case = CASES["doubling"]
    inputs = [t.requires_grad_() for t in arguments(case)]
    for training in (True, False):
        mean, variance = running(10)
        conv = torch.nn.ConvTranspose2d(6, 10, 4, 2, 1)
        bn = torch.nn.BatchNorm2d(10).train(training)
        with torch.no_grad():
            for mine, given in zip((conv.weight, conv.bias, bn.weight, bn.bias), inputs[1:], strict=True):
                mine.copy_(given)
        bn.running_mean, bn.running_var = mean.clone(), variance.clone()
        expected = ops_of(case, True, False, torch.bfloat16) if training else ops_of(case, False)
        with assert_runs(*expected), torch.autocast("cpu", torch.bfloat16):
            y = ours(case, (mean, variance), training, "relu")(*inputs)
            grads = torch.autograd.grad(y.float().sum(), inputs)
            plain = F.relu(bn(conv(inputs[0])))
        exact = eager(case, (mean, variance), training, "relu")(*(t.double() for t in inputs))
        assert_parity(y, plain, exact)
        assert all(g.dtype == torch.float32 for g in grads)
