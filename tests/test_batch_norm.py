"""batch_norm: its stages, between a convolution and the layer that loads its result, and torch's three functions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.ops._activations import ACTIVATIONS
from fastgen.ops._batch_norm_checks import check_batch_norm, check_count
from fastgen.ops._batch_norm_statistics import batch_norm_statistics_reference, combine
from fastgen.ops._records import BatchNorm
from fastgen.ops.batch_norm import (
    Deferred,
    batch_norm_apply_backward_reference,
    batch_norm_apply_reference,
    batch_norm_finalize_backward_reference,
    batch_norm_finalize_reference,
    batch_norm_running_reference,
    finalize,
    finalize_running,
)
from ops import (
    assert_compiles,
    assert_gradcheck,
    assert_gradients,
    assert_no_forward_mode,
    assert_op_parity,
    assert_opcheck,
    assert_raises,
    assert_second_order,
)
from parity import DTYPES, channels_last
from transposed import APPLY, FINALIZE, NAMES, running

APPLY_BACKWARD = NAMES.batch_norm_apply_backward.default
STATISTICS = NAMES.batch_norm_statistics.default
RUNNING = NAMES.batch_norm_running.default
FINALIZE_BACKWARD = NAMES.batch_norm_finalize_backward.default
SIZES = [(0, 3, 2, 2), (1, 1, 1, 1), (5, 7, 3, 11), (16, 16, 16, 16), (2, 0, 3, 3), (3, 300, 5, 5), (9, 48, 20, 19)]
EPS = 0.01


def vectors(C: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Center, scale and shift."""
    made = [torch.randn(C, device=device), torch.rand(C, device=device) + 0.5, torch.randn(C, device=device)]
    return [v.double() for v in made] if dtype == torch.float64 else made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_parity(size: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    """Every op against its reference, on the layouts that layers hand each other."""
    y = torch.randn(size, device=device).to(dtype)
    center, scale, shift = vectors(size[1], dtype, device)
    for activation, given in (("relu", shift), ("leaky_relu", None), ("tanh", shift.to(dtype)), ("none", shift)):
        for layout in (channels_last, Tensor.contiguous):
            args = (layout(y), center, scale, given, activation, 0.2)
            for last in (True, False):
                assert_op_parity(APPLY, batch_norm_apply_reference, *args, last)
            assert_op_parity(APPLY_BACKWARD, batch_norm_apply_backward_reference, torch.randn_like(y), *args)
    for layout in (channels_last, Tensor.contiguous):
        for activation, weight, bias in (("relu", None, shift), ("tanh", shift.to(dtype), None)):
            args = (layout(y), weight, bias, center.to(dtype), scale, EPS, activation, 0.2)
            for last in (True, False):
                assert_op_parity(RUNNING, batch_norm_running_reference, *args, last)
        assert_op_parity(STATISTICS, batch_norm_statistics_reference, layout(y))
    for weight in (shift.to(dtype), None):
        none = (None, None, None)
        assert_op_parity(FINALIZE, batch_norm_finalize_reference, center, scale, weight, *none, 30, 0.1, EPS)
        backward = (shift, scale, weight, 30, EPS)
        assert_op_parity(FINALIZE_BACKWARD, batch_norm_finalize_backward_reference, *backward)


def test_threads_and_layouts_change_no_bit() -> None:
    """Sums of parts are added in one order; what is normalised does not depend on where it lies."""
    y, grad, (center, scale, shift) = (
        torch.randn(9, 48, 20, 19),
        torch.randn(9, 48, 20, 19),
        vectors(48, torch.float32, "cpu"),
    )
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            image = channels_last(y)
            found.append(
                [*STATISTICS(image), *APPLY_BACKWARD(grad, image, center, scale, shift, "tanh", 0.0), *STATISTICS(y)]
                + [APPLY(one, center, scale, shift, "tanh", 0.0, last) for one in (y, image) for last in (True, False)]
            )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    assert all(torch.equal(found[0][-1], one) for one in found[0][-4:])


def test_what_is_no_number_stays_what_it_is(device: str) -> None:
    y = torch.tensor([float("inf"), float("-inf"), float("nan"), 0.0], device=device).view(1, 1, 2, 2)
    one = torch.ones(1, device=device)
    for activation in ACTIVATIONS:
        args = (y, 0 * one, one, None, activation, 0.2)
        torch.testing.assert_close(APPLY(*args, False), batch_norm_apply_reference(*args, False), equal_nan=True)
        grad = torch.ones_like(y)
        expected = batch_norm_apply_backward_reference(grad, *args)[0]
        torch.testing.assert_close(APPLY_BACKWARD(grad, *args)[0], expected, equal_nan=True)


def test_a_direct_call_is_checked() -> None:
    y, vector = torch.randn(2, 3, 4, 4), torch.ones(3)
    rest = ("relu", 0.0, True)
    wrong = [
        (APPLY, (y[0], vector, vector, None, *rest), r"y: expected shape \(N, C, H, W\)"),
        (APPLY, (y.int(), vector, vector, None, *rest), "y: expected float32"),
        (APPLY, (y, vector[:2], vector, None, *rest), "center: expected another shape"),
        (APPLY, (y, vector, vector.double(), None, *rest), "scale: expected another dtype"),
        (APPLY, (y.double(), vector, vector, None, *rest), "center: expected another dtype"),
        (APPLY, (y, vector, vector, vector.int(), *rest), "shift: expected float32"),
        (APPLY, (y, vector, vector, None, "sigmoid", 0.0, True), "activation: expected none, relu, leaky_relu or tanh"),
        (APPLY_BACKWARD, (y[:1], y, vector, vector, None, "relu", 0.0), "grad_z: expected another shape"),
        (RUNNING, (y, vector[:2], None, vector, vector, EPS, *rest), "weight: expected another shape"),
        (RUNNING, (y, None, vector.int(), vector, vector, EPS, *rest), "bias: expected float32"),
        (RUNNING, (y, None, None, vector[:1], vector, EPS, *rest), "running_mean: expected another shape"),
        (RUNNING, (y, None, None, vector, vector.int(), EPS, *rest), "running_var: expected float32"),
        (STATISTICS, (y[0],), r"y: expected shape \(N, C, H, W\)"),
    ]
    assert_raises((lambda op=op, args=args: op(*args), RuntimeError, message) for op, args, message in wrong)


def ours(y: Tensor, m2: Tensor, weight: Tensor, center: Tensor, shift: Tensor, activation: str) -> Tensor:
    scale = finalize(center, m2, 30, BatchNorm(weight, shift, None, None, training=True, eps=EPS))
    return Deferred(y, center, scale, shift, activation, 0.2).materialize()


def plain(y: Tensor, m2: Tensor, weight: Tensor, center: Tensor, shift: Tensor, activation: str) -> Tensor:
    """The same formula."""
    scale = weight * (m2 / 30 + EPS).rsqrt()
    z = (y - center.view(-1, 1, 1)) * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
    return {"relu": F.relu, "tanh": torch.tanh, "none": lambda t: t}.get(activation, lambda t: F.leaky_relu(t, 0.2))(z)


def inputs(size: tuple[int, ...], dtype: torch.dtype, device: str) -> list[Tensor]:
    center, scale, shift = vectors(size[1], dtype, device)
    return [torch.randn(size, device=device).to(dtype), scale, scale.flip(0), center, shift]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients(activation: str, dtype: torch.dtype, device: str) -> None:
    """To the image, to M2 and to the vectors."""
    given = inputs((5, 7, 3, 11), dtype, device)
    functions = [lambda *args, f=f: f(*args, activation) for f in (ours, plain)]
    assert_gradients([APPLY, FINALIZE], *functions, *given)
    if dtype == torch.float64:
        assert_gradcheck([APPLY, FINALIZE], functions[0], *inputs((2, 3, 2, 2), dtype, device))


def test_opcheck(device: str) -> None:
    y, m2, weight, center, shift = inputs((3, 7, 5, 2), torch.float32, device)
    for layout in (Tensor.contiguous, channels_last):
        leaves = [t.detach().requires_grad_() for t in (layout(y), center, weight, shift)]
        assert_opcheck(APPLY, (*leaves, "relu", 0.0, True), (*leaves, "relu", 0.0, False))
        assert_opcheck(STATISTICS, (leaves[0],))
        assert_opcheck(RUNNING, (layout(y), weight, shift, center, m2, EPS, "relu", 0.0, True))
        assert_opcheck(APPLY_BACKWARD, (torch.randn_like(y), layout(y), center, weight, shift, "relu", 0.0))
    buffers = (*running(7, device=device), torch.tensor(3, device=device))
    leaves = [t.detach().requires_grad_() for t in (m2, weight)]
    assert_opcheck(FINALIZE, (center, *leaves, *buffers, 120, None, 1e-5))
    assert_opcheck(FINALIZE, (center, m2, None, None, None, None, 120, 0.1, 1e-5))
    for one in (weight, None):
        assert_opcheck(FINALIZE_BACKWARD, (center, m2, one, 120, 1e-5))


def test_compile(device: str) -> None:
    ops = [APPLY]  # finalize, which may write into buffers, stands in the graph as what it gives back
    assert_compiles(ops, lambda *args: ours(*args, "tanh"), *inputs((3, 7, 5, 2), torch.float32, device))


def test_second_order_but_not_forward_mode() -> None:
    y, *rest = inputs((3, 7, 5, 2), torch.float64, "cpu")
    for activation in ACTIVATIONS:
        assert_second_order(lambda *args, a=activation: ours(*args, a), y, *rest)
    assert_second_order(STATISTICS, y)
    assert_no_forward_mode(lambda y: ours(y, *rest, "tanh"), y)


def test_running_statistics_compile_without_an_op_that_may_write() -> None:
    """Inductor ends in an error at one whose buffers are None: a layer in evaluation could not be compiled."""
    from torch._dynamo.backends.common import aot_autograd

    nodes: list[str] = []

    def look(graph: torch.fx.GraphModule, _: object) -> object:
        nodes.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    record = BatchNorm(torch.rand(7), None, *running(7))
    with torch.no_grad():
        found = torch.compile(finalize_running, fullgraph=True, backend=aot_autograd(fw_compiler=look))(
            record, torch.float32
        )
    assert any("rsqrt" in node for node in nodes)
    assert not any("functionalized" in node or "finalize" in node for node in nodes)
    torch.testing.assert_close(found, finalize_running(record, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_those_of_torch(momentum: float | None, dtype: torch.dtype, device: str) -> None:
    """Three batches, and then normalised by what they left."""
    bn = torch.nn.BatchNorm2d(7, EPS, momentum).to(device)
    buffers = [torch.zeros(7, device=device, dtype=dtype), torch.ones(7, device=device, dtype=dtype)]
    buffers.append(torch.tensor(0, device=device))
    record = BatchNorm(bn.weight, bn.bias, *buffers, training=True, momentum=momentum, eps=EPS)
    for _ in range(3):
        y = channels_last(3 + 2 * torch.randn(5, 7, 3, 11, device=device))
        expected = bn(y)
        mean, m2 = STATISTICS(y)
        z = Deferred(y, mean, finalize(mean, m2, 5 * 3 * 11, record), bn.bias).materialize()
        torch.testing.assert_close(z, expected)
    for buffer, one in zip(buffers, bn.buffers(), strict=True):
        torch.testing.assert_close(buffer, one.to(buffer.dtype))
    center, scale = finalize_running(record, torch.float32)
    if dtype == torch.float32:
        torch.testing.assert_close(Deferred(y, center, scale, bn.bias).materialize(), bn.eval()(y))


def test_statistics_of_parts_are_combined(device: str) -> None:
    """Also of a part that holds nothing; with mean 1000 and deviation 0.01, E[y²] − E[y]² has not one correct digit."""
    y = 1000 + 0.01 * torch.randn(12, 7, 3, 11, device=device)
    parts = [STATISTICS(part) for part in y.split([5, 0, 7])]
    counts = torch.tensor([5, 0, 7], device=device) * 3.0 * 11
    count, mean, m2 = combine(counts, *(torch.stack(each) for each in zip(*parts, strict=True)))
    truth = STATISTICS(y.double())
    assert count == 12 * 3 * 11
    naive = y.square().mean((0, 2, 3)) - y.mean((0, 2, 3)).square()
    assert (mean - truth[0]).abs().max() < 1e-3
    assert (m2 / truth[1] - 1).abs().max() < 1e-2 < (naive * count / truth[1] - 1).abs().max()


def test_checks() -> None:
    x, vector = torch.empty(2, 3, 4, 4), torch.ones(5)
    many = [
        (BatchNorm(vector, None, None, None), r"bn_weight: expected shape \(3,\), got \(5,\)"),
        (BatchNorm(None, None, vector[:3], None), "running_mean, running_var: expected both or neither, got one"),
        (BatchNorm(None, None, None, None), "running_mean: expected a tensor when training is False, got None"),
        (BatchNorm(None, None, None, None, training=True, eps=-1.0), "eps: expected .*, got -1.0"),
    ]
    assert_raises((lambda one=one: check_batch_norm(x, 3, one), ValueError, message) for one, message in many)
    with pytest.raises(ValueError, match="x: expected more than 1 value per channel when training, got a result of"):
        check_count((1, 3, 1, 1), 1)
