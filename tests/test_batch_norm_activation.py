"""batch_norm_activation: batch norm and activation of an image, against torch's two functions."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.ops import batch_norm_activation
from fastgen.ops._activations import ACTIVATIONS
from ops import (
    assert_compiles,
    assert_gradcheck,
    assert_gradients,
    assert_no_forward_mode,
    assert_raises,
    assert_runs,
    assert_second_order,
    exact,
)
from parity import DTYPES, LAYOUTS, assert_parity, assert_same_layout, channels_last
from rounding import Moved
from transposed import APPLY, FINALIZE, NAMES, running

STATISTICS, TRAIN = NAMES.batch_norm_statistics.default, NAMES.batch_norm_train.default
SIZES = [(2, 1, 1, 1), (5, 7, 3, 11), (16, 16, 16, 16)]
Options = dict[str, Any]


def ours(stats: tuple[Any, Any], options: Options, by_ops: bool) -> Callable[..., Tensor]:
    """``by_ops``: without a fixed momentum, by stages on a CPU, too."""

    def function(x: Tensor, weight: Any = None, bias: Any = None) -> Tensor:
        tracked = torch.zeros((), dtype=torch.int64, device=x.device) if by_ops else None
        momentum = None if by_ops else 0.1
        buffers = [v if v is None else v.clone() for v in stats]
        named = {"momentum": momentum, "num_batches_tracked": tracked, "negative_slope": 0.2, **options}
        return batch_norm_activation(x, weight, bias, *buffers, **named)

    return function


def plain(stats: tuple[Any, Any], options: Options) -> Callable[..., Tensor]:
    acts = {"relu": F.relu, "tanh": torch.tanh, "none": lambda t: t, "leaky_relu": lambda t: F.leaky_relu(t, 0.2)}

    def function(x: Tensor, weight: Any = None, bias: Any = None) -> Tensor:
        mean, variance = (v if v is None else v.detach().clone().to(x.dtype) for v in stats)
        y = F.batch_norm(x, mean, variance, weight, bias, options["training"])
        return acts[options["activation"]](y)

    return function


def inputs(size: tuple[int, ...], dtype: torch.dtype, device: str) -> list[Tensor]:
    return [torch.randn(size, device=device).to(dtype), *torch.randn(2, size[1], device=device).to(dtype).unbind()]


def ops_of(training: bool, by_ops: bool, dtype: torch.dtype, device: str) -> list[Any]:
    if training and not by_ops and device == "cpu":  # of few numbers
        return [] if dtype in (torch.float32, torch.float64) else [TRAIN]
    return [STATISTICS, FINALIZE, APPLY] if training else [FINALIZE, APPLY]


FORMS = [(True, False), (True, True), (False, False)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_parity(size: tuple[int, ...], layout: Callable[[Tensor], Tensor], dtype: torch.dtype, device: str) -> None:
    x, *vectors = inputs(size, dtype, device)
    x = layout(x)
    for (training, by_ops), activation in zip(FORMS, ("leaky_relu", "relu", "tanh"), strict=True):
        options = {"training": training, "activation": activation}
        for given, stats in ((vectors, running(size[1], dtype, device)), ([], (None, None))):
            if stats[0] is None and not training:
                continue
            with assert_runs(*ops_of(training, by_ops, dtype, device), backward=False):
                y = ours(stats, options, by_ops)(x, *given)
            function = plain(stats, options)
            truth = function(*exact((x, *given)))
            moved = Moved(lambda f=function, g=given: [f(*exact((x, *g)))], dtype)[0]  # type: ignore[misc]
            assert_parity(y, function(x, *given), truth, moved)
            if not training and device == "cpu":  # where nobody asks for gradients, in one call
                with torch.no_grad(), assert_runs(NAMES.batch_norm_running.default, backward=False):
                    alone = ours(stats, options, by_ops)(x, *given)
                assert_parity(alone, function(x, *given), truth, moved)
                assert_same_layout(alone, y)
            last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
            memory = torch.channels_last if last else torch.contiguous_format
            assert_same_layout(y, truth.contiguous(memory_format=memory))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("training", "by_ops"), FORMS)
def test_gradients(training: bool, by_ops: bool, dtype: torch.dtype, device: str) -> None:
    kink = "leaky_relu" if dtype in (torch.float32, torch.float64) else "tanh"  # a half may round to its other side
    options, stats = {"training": training, "activation": kink}, running(7, dtype, device)
    functions = ours(stats, options, by_ops), plain(stats, options)
    for size in ((5, 7, 3, 11), (2, 7, 1, 1)):
        assert_gradients(ops_of(training, by_ops, dtype, device), *functions, *inputs(size, dtype, device))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("training", "by_ops"), FORMS)
def test_gradcheck(training: bool, by_ops: bool, activation: str, device: str) -> None:
    function = ours(running(3, torch.float64, device), {"training": training, "activation": activation}, by_ops)
    given = inputs((3, 3, 2, 2), torch.float64, device)
    assert_gradcheck(ops_of(training, by_ops, torch.float64, device), function, *given)


@pytest.mark.parametrize(("training", "by_ops"), FORMS)
def test_compile(training: bool, by_ops: bool, device: str) -> None:
    options = {"training": training, "activation": "relu"}
    expected = [op for op in ops_of(training, by_ops, torch.float32, device) if op is not FINALIZE]
    given = inputs((5, 7, 3, 11), torch.float32, device)
    assert_compiles(expected, ours(running(7, device=device), options, by_ops), *given)


def test_second_order_but_not_forward_mode() -> None:
    function = ours((None, None), {"training": True, "activation": "relu"}, True)
    x = torch.randn(5, 7, 3, 2)
    assert_second_order(function, x.double())
    assert_no_forward_mode(function, x)


def test_errors() -> None:
    x, vector = torch.randn(2, 3, 4, 4), torch.ones(5)

    def call(*args: Any, **options: Any) -> Callable[[], Any]:
        return lambda: batch_norm_activation(*args, *(None,) * (5 - len(args)), **{"training": True, **options})

    many = [
        (call(x[0]), ValueError, r"x: expected shape \(N, C, H, W\), got \(3, 4, 4\)"),
        (call(x, vector), ValueError, r"weight: expected shape \(3,\), got \(5,\)"),
        (call(x, None, vector), ValueError, r"bias: expected shape \(3,\), got \(5,\)"),
        (call(x, activation="gelu"), ValueError, "activation: expected one of 'none', .* got 'gelu'"),
        (call(x, training=False), ValueError, "running_mean: expected a tensor when training is False, got None"),
        (call(x[:1, :, :1, :1]), ValueError, r"x: expected more than 1 value per channel .* \(1, 3, 1, 1\)"),
        (call(x.int()), TypeError, "x: expected float32, .* got torch.int32"),
    ]
    assert_raises(many)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_layer_of_a_discriminator(momentum: float | None, device: str) -> None:
    """Running statistics and what is normalised by them are torch's, whatever computes them."""
    bn = torch.nn.BatchNorm2d(7, momentum=momentum).to(device)
    buffers = copy.deepcopy([bn.running_mean, bn.running_var, bn.num_batches_tracked])
    for training in (True, True, False):
        x = channels_last(3 + torch.randn(5, 7, 3, 11, device=device))
        y = batch_norm_activation(
            x, bn.weight, bn.bias, *buffers[:2], num_batches_tracked=buffers[2], training=training, momentum=momentum,
            activation="leaky_relu", negative_slope=0.2,
        )  # fmt: skip
        torch.testing.assert_close(y, F.leaky_relu(bn.train(training)(x), 0.2))
    torch.testing.assert_close(buffers, [bn.running_mean, bn.running_var, bn.num_batches_tracked])
