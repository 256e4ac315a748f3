"""What is measured: cases as data, and from a case the contests that the harness times.

``benchmarks/bench_<stem>.py`` offers ``cases(device, quick)``, a table of :class:`Case`. A case says how its inputs
are made, which forms compute the same from them, and what the computation costs at least; gradients, dtypes, memory
formats, ``torch.compile`` and the parity gate follow from that.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import checkout  # noqa: F401
from parity import assert_parity
from rounding import Moved, random_upstream

__all__ = ["BACKWARD", "FORWARD", "Case", "Contest", "Form", "Moved", "assert_parity", "compiled", "gradients"]

FORWARD, BACKWARD = "forward", "forward + backward"

#: Every dtype measured on a device; the first is the one that the README shows.
DTYPES = {
    "cpu": (torch.float32,),
    "cuda": (torch.bfloat16, torch.float32, torch.float16),
}


@dataclass(frozen=True)
class Form:
    """One way to compute a case.

    Attributes:
        function: of the case's inputs; one tensor or several.
        channels_last: whether it is given its 4-d inputs in floating point, and upstream gradients, in that format.
        compile: arguments for ``torch.compile``; None: eager.
        tuned: compiles for minutes, so it takes part only where that was asked for.
    """

    function: Callable[..., Any]
    channels_last: bool = False
    compile: Mapping[str, Any] | None = None
    tuned: bool = False


def compiled(function: Callable[..., Any], *, channels_last: bool = False, tuned: bool = False, **options: Any) -> Form:
    """``torch.compile(function, **options)``."""
    return Form(function, channels_last, options, tuned)


@dataclass(frozen=True)
class Contest:
    """One comparison, ready to be timed. The first contender is fastgen's.

    Attributes:
        name: of the case.
        way: what one call does: ``FORWARD``, ``BACKWARD``, "training step", "eval step".
        shape: of the main input.
        dtype: of the main input.
        contenders: name → makes the call that is timed; those whose name begins with "fastgen" are ours.
        gate: raises AssertionError unless fastgen passes parity. Runs first, in the same process.
        check: raises AssertionError if what a contender's call returned is not the same function; None: it cannot be
            told, since contenders draw noise of their own.
        nbytes: least traffic of a call; 0: not counted.
        flops: operations of a call.
        kind: which ceiling holds for ``flops``; see :meth:`ceilings.Ceilings.unit`.
        headline: whether the README shows it.
    """

    name: str
    way: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    contenders: Mapping[str, Callable[[], Callable[[], Any]]]
    gate: Callable[[], None]
    check: Callable[[Any], None] | None = None
    nbytes: int = 0
    flops: int = 0
    kind: str = "vector"
    headline: bool = True

    @property
    def label(self) -> str:
        return f"{self.name}, {self.way}"


@dataclass(frozen=True)
class Case:
    """An op at one shape.

    Attributes:
        name: of the op, and what sets the case apart from others of its op and shape.
        shape: of the main input, for tables.
        inputs: makes the inputs, in float32 on the CPU; they are moved and cast.
        forms: name → form. "fastgen" comes first; "eager" is what parity is held against.
        moved: elements that must be read or written at least, in ``FORWARD`` and in ``BACKWARD``.
        flops: operations, likewise; 2 for a multiply-add, 1 for any scalar function.
        kind: "conv", "matmul" or "vector".
        leaves: indices of inputs that get gradients; by default all in floating point.
        parity: (fastgen's, plain torch's) functions of the inputs that must agree, where those of ``forms`` cannot be
            compared, since they draw noise. Contenders are then not checked one by one.
        headline: whether the README shows it, with its gradients and in the device's first dtype.
        ways: only ``FORWARD`` for what has no gradients, such as an op in eval mode.
    """

    name: str
    shape: tuple[int, ...]
    inputs: Callable[[], Sequence[Tensor]]
    forms: Mapping[str, Form]
    moved: tuple[int, ...]
    flops: tuple[int, ...]
    kind: str = "vector"
    leaves: Sequence[int] | None = None
    parity: tuple[Callable[..., Any], Callable[..., Any]] | None = None
    headline: bool = True
    ways: tuple[str, ...] = (FORWARD, BACKWARD)

    def contests(self, device: str, dtype: torch.dtype, tuned: bool = False) -> Iterator[Contest]:
        """One contest for each of ``ways``, on the same inputs."""
        torch.manual_seed(0)
        inputs = [t.to(device, dtype) if t.is_floating_point() else t.to(device) for t in self.inputs()]
        ours, plain = self.parity or (self.forms["fastgen"].function, self.forms["eager"].function)
        chosen = {name: form for name, form in self.forms.items() if tuned or not form.tuned}
        for way in self.ways:
            judge = _Work(inputs, way, self.leaves)
            work = _Work(inputs, way, self.leaves) if self.parity else judge  # their results may differ in shape
            exact, eager = judge.results(plain, double=True), judge.results(plain)
            moved = Moved(lambda judge=judge: judge.results(plain, double=True), dtype)  # type: ignore[misc]

            def check(results: Any, eager: Any = eager, exact: Any = exact, moved: Moved = moved) -> None:
                for i, (one, one_eager, one_exact) in enumerate(zip(_tuple(results), eager, exact, strict=True)):
                    assert_parity(one.detach(), one_eager, one_exact, moved[i])

            yield Contest(
                name=self.name,
                way=way,
                shape=self.shape,
                dtype=dtype,
                contenders={name: work.call(form) for name, form in chosen.items()},
                gate=lambda judge=judge, check=check: check(judge.results(ours)),  # type: ignore[misc]
                check=None if self.parity else check,
                nbytes=self.moved[way == BACKWARD] * dtype.itemsize,
                flops=self.flops[way == BACKWARD],
                kind=self.kind,
                headline=self.headline and way == self.ways[-1] and dtype == DTYPES[device][0],
            )


class _Work:
    """What one call does with the inputs of a case."""

    def __init__(self, inputs: Sequence[Tensor], way: str, leaves: Sequence[int] | None) -> None:
        self.inputs, self.way = inputs, way
        self.leaves = [i for i, t in enumerate(inputs) if t.is_floating_point()] if leaves is None else leaves
        self.upstream: list[Tensor] | None = None  #: the gradients that arrive, the same for every contender

    def results(self, function: Callable[..., Any], double: bool = False) -> list[Tensor]:
        """What a call returns: the results of ``function``, or the gradients of its inputs. In double first."""
        inputs = [t.double() if double and t.is_floating_point() else t for t in self.inputs]
        if self.upstream is None and self.way == BACKWARD:
            dtype = next(t.dtype for t in self.inputs if t.is_floating_point())
            self.upstream = random_upstream(lambda: _tuple(function(*inputs)), dtype)
        return [result.detach() for result in _tuple(self._timed(function, inputs)())]

    def call(self, form: Form) -> Callable[[], Callable[[], Any]]:
        """Makes the call that is timed: memory format and compilation are settled before."""

        def make() -> Callable[[], Any]:
            function = form.function if form.compile is None else torch.compile(form.function, **form.compile)
            inputs = [_laid_out(t, form.channels_last) for t in self.inputs]
            return self._timed(function, inputs, form.channels_last)

        return make

    def _timed(
        self, function: Callable[..., Any], inputs: Sequence[Tensor], channels_last: bool = False
    ) -> Callable[[], Any]:
        if self.way == FORWARD:
            return torch.no_grad()(lambda: function(*inputs))
        inputs = [t.detach().requires_grad_(i in self.leaves) for i, t in enumerate(inputs)]
        leaves = [inputs[i] for i in self.leaves]
        results = _tuple(function(*inputs))
        if self.upstream is None:  # no one judges these contenders
            self.upstream = [torch.randn_like(result) for result in results]
        upstream = [_laid_out(g, channels_last).to(r.dtype) for g, r in zip(self.upstream, results, strict=True)]
        return lambda: gradients(_tuple(function(*inputs)), leaves, upstream)


def gradients(results: Sequence[Tensor], inputs: Sequence[Tensor], upstream: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(results, inputs, upstream)


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _laid_out(tensor: Tensor, channels_last: bool) -> Tensor:
    if channels_last and tensor.dim() == 4 and tensor.is_floating_point():
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor
