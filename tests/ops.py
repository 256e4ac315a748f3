"""The checks that every op's test file makes, in the same order, on its own inputs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastgen.ops._layouts import is_channels_last
from fastgen.ops._registry import BELOW, NAMESPACE, OPS
from parity import assert_parity, assert_same_layout
from rounding import Mode, Moved, random_upstream


def exact(args: Any) -> Any:
    """The same arguments with floating-point tensors in float64."""
    return tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, args)


class _Watch(Mode):
    """Below autograd, where every op that runs comes by: those of a backward pass, too."""

    def __init__(self, ran: set[str]) -> None:
        super().__init__()
        self.ran = ran

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if op.namespace in (NAMESPACE, BELOW):
            self.ran.add(op._opname)
        return op(*args, **(kwargs or {}))


class Layouts(Mode):
    """Whether the images of torch's convolutions are channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if op is torch.ops.aten.convolution.default:
            self.seen.append(is_channels_last(args[0]))
        return op(*args, **(kwargs or {}))


@contextmanager
def ops_run() -> Iterator[set[str]]:
    """The names of the fastgen ops that run inside; of those that an op calls itself, nothing is seen."""
    ran: set[str] = set()
    with _Watch(ran):
        yield ran


@contextmanager
def assert_runs(*ops: Any, backward: bool = True) -> Iterator[None]:
    """Each of ``ops`` runs inside, and with ``backward`` the backward op of each that has one.

    Without it a test of gradients proves nothing of an op: another form may have computed them.
    """
    with ops_run() as ran:
        yield
    _assert_among(ops, ran, backward)


def _assert_among(ops: Sequence[Any], ran: set[str], backward: bool) -> None:
    expected = {op._opname for op in ops}
    if backward:
        expected |= {f"{name}_backward" for name in expected} & set(OPS)
    assert expected <= ran, f"did not run: {sorted(expected - ran)}; ran: {sorted(ran)}"


def cuda_kernel(op: Any) -> Callable[..., Any]:
    """What the dispatcher runs for ``op`` on a GPU, to be called on tensors anywhere."""
    kernel, keys = torch.library.get_kernel(op, "CUDA"), torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    return lambda *args: kernel.call_boxed(keys, *args)


def assert_op_parity(
    op: Callable[..., Any], reference: Callable[..., Any], *args: Any, kernel: Callable[..., Any] | None = None
) -> None:
    """Every result of ``op`` is as accurate as ``reference``, and laid out as the op's fake kernel says.

    ``kernel``: called instead of ``op``, past the dispatcher, as the tests in Triton's interpreter do.
    """
    assert_op_parity_over([args], op, reference, kernel)


def assert_op_parity_over(
    batches: Iterable[tuple[Any, ...]],
    op: Callable[..., Any],
    reference: Callable[..., Any],
    kernel: Callable[..., Any] | None = None,
) -> None:
    """The same for several sets of arguments of one kind, whose errors are judged together.

    The largest of a few rounding errors is a matter of luck: a result of seven numbers says little about accuracy.
    """
    seen: list[list[tuple[Tensor, Tensor, Tensor]]] = []
    moved: list[Moved] = []
    for args in batches:
        results, eager, truth = (
            _tuple(f(*a)) for f, a in ((kernel or op, args), (reference, args), (reference, exact(args)))
        )
        fakes = _tuple(op(*tree_map_only(Tensor, _without_data, args)))
        assert len(results) == len(truth)
        for result, one_truth, fake in zip(results, truth, fakes, strict=True):
            assert result.shape == one_truth.shape
            assert_same_layout(result, fake)
        seen.append(list(zip(results, eager, truth, strict=True)))
        dtype = next((t.dtype for t in args if isinstance(t, Tensor) and t.is_floating_point()), torch.float32)
        moved.append(Moved(lambda args=args: _tuple(reference(*exact(args))), dtype))  # type: ignore[misc]
    for i, same in enumerate(zip(*seen, strict=True)):
        furthest = lambda i=i: max(each[i]() for each in moved)  # noqa: E731
        if len(same) == 1:
            assert_parity(*same[0], furthest)
        else:
            assert_parity(*(torch.cat([each.flatten() for each in kind]) for kind in zip(*same, strict=True)), furthest)


def _without_data(tensor: Tensor) -> Tensor:
    """On the meta device, where an op is its fake kernel."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _tuple(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def with_threads(threads: int, run: Callable[[], Any]) -> Any:
    """What ``run`` gives while torch has so many threads."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        return run()
    finally:
        torch.set_num_threads(before)


def assert_gradients(
    ops: Sequence[Any], function: Callable[..., Any], eager: Callable[..., Any], *inputs: Tensor
) -> None:
    """Every gradient of ``function``, by ``ops``, is as accurate as autograd's of ``eager``, by none of fastgen's."""
    dtype = next(t.dtype for t in inputs if t.is_floating_point())
    upstream = random_upstream(lambda: _tuple(eager(*exact([t.detach() for t in inputs]))), dtype)

    def gradients(f: Callable[..., Any], double: bool) -> tuple[Tensor, ...]:
        cast: Callable[[Tensor], Tensor] = Tensor.double if double else (lambda t: t)
        leaves = [cast(t.detach()).requires_grad_() for t in inputs]
        results = _tuple(f(*leaves))
        return torch.autograd.grad(results, leaves, [g.to(r.dtype) for g, r in zip(upstream, results, strict=True)])

    with assert_runs(*ops):
        ours = gradients(function, False)
    with ops_run() as ran:
        plain = gradients(eager, False)
    assert not ran
    moved = Moved(lambda: gradients(eager, True), dtype)
    for i, (one, two, truth) in enumerate(zip(ours, plain, gradients(eager, True), strict=True)):
        assert_parity(one, two, truth, moved[i])


def assert_gradcheck(ops: Sequence[Any], function: Callable[..., Any], *inputs: Tensor) -> None:
    """Every gradient of ``function``, which runs ``ops``, agrees with finite differences; ``inputs`` are float64."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    with assert_runs(*ops):
        torch.autograd.grad(_sum_of_squares(function(*leaves)), leaves)
    assert torch.autograd.gradcheck(function, leaves)


def _sum_of_squares(results: Any) -> Tensor:
    return torch.stack([result.square().sum() for result in _tuple(results)]).sum()


def assert_opcheck(op: Any, *argument_sets: tuple[Any, ...]) -> None:
    """Torch's own checks of schema, autograd registration, fake kernel and tracing, for every set of arguments."""
    for args in argument_sets:
        torch.library.opcheck(op, args)


def assert_compiles(ops: Sequence[Any], function: Callable[..., Any], *inputs: Tensor) -> None:
    """``torch.compile(fullgraph=True)`` gives the same values and gradients; no code is made, ``ops`` are nodes."""
    from functorch.compile import make_boxed_func  # these import the compiler, which takes seconds
    from torch._dynamo.backends.common import aot_autograd

    nodes: set[str] = set()

    def look(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        targets = [node.target for node in graph.graph.nodes]
        nodes.update(t._opname for t in targets if isinstance(t, torch._ops.OpOverload) and t.namespace == BELOW)
        return make_boxed_func(graph.forward)

    compiled = torch.compile(function, fullgraph=True, backend=aot_autograd(fw_compiler=look, bw_compiler=look))
    leaves = [t.detach().requires_grad_() for t in inputs]
    results = [_tuple(f(*leaves)) for f in (compiled, function)]
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
    for one, two in zip(*(torch.autograd.grad(_sum_of_squares(r), leaves) for r in results), strict=True):
        assert torch.equal(one, two)
    _assert_among(ops, nodes, backward=True)


def assert_second_order(function: Callable[..., Any], *inputs: Tensor) -> None:
    """Gradients of gradients agree with finite differences; ``inputs`` are float64.

    Gradients that will be differentiated are computed in another form than those that will not, and are the same.
    """
    leaves = [t.detach().requires_grad_() for t in inputs]
    loss = _sum_of_squares(function(*leaves))
    once = torch.autograd.grad(loss, leaves, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, leaves, create_graph=True), once)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def assert_no_forward_mode(function: Callable[..., Any], x: Tensor) -> None:
    with pytest.raises(RuntimeError, match="forward-mode differentiation is not supported"):
        torch.func.jvp(function, (x,), (torch.ones_like(x),))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode"):
        function(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))


def assert_raises(cases: Iterable[tuple[Callable[[], Any], type[Exception], str]]) -> None:
    """Each call raises its error with its message."""
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
