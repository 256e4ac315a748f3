"""The compiled sampler: trace, analyse, plan, execute."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..distributions import check_values
from .analyse import analyse
from .builder import Arrangement
from .emit import emit
from .fuse import fuse
from .native import NativePlan, usable
from .plan import Plan
from .reference import ReferenceWalk
from .rings import finish
from .sampler import Sampler, evaluating
from .schedule import schedule
from .schedule import wavefront as slanted_schedule
from .trace import BATCH, Constant, Output, Trace, trace


@dataclass
class Program:
    """A plan, and how what it is given comes from the labels."""

    plan: Plan
    trace: Trace
    given: list[Arrangement]
    native: NativePlan | None = None


def build_plan(
    model: nn.Module, shape: tuple[int, int, int], params: int, labelled: bool, wavefront: bool = True
) -> Program:
    """Trace, analyse and plan ``model`` for images (C, H, W) and P parameter channels.

    Raises:
        UnsupportedModelError: the model is not causal, or does something that cannot be planned.
    """
    dtype, device = like(model)
    x = torch.zeros((BATCH, *shape), dtype=dtype, device=device)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device) if labelled else None
    with evaluating(model):
        traced = trace(model, x, labels)
    analysis = analyse(traced, shape, params, dtype, device)
    front = slanted_schedule(analysis.graph, params, shape[1:]) if wavefront else None
    plan, orders = emit(front or schedule(analysis.graph, params), shape, dtype, device)
    given = [replace(analysis.given[index], order=tuple(order.tolist())) for index, order in orders.items()]
    return Program(finish(fuse(plan)), traced, given)


def like(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Dtype and device of a model's inputs."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.dtype, parameter.device
    return torch.get_default_dtype(), torch.device("cpu")


class CompiledSampler(Sampler):
    """Computes each feature once, of any causal model.

    See :class:`~fastgen.sampling.sampler.Sampler` for arguments and methods.

    Args:
        wavefront: whether to draw pixels on a slanted front together, where that is exact and takes far fewer steps.
        executor: "native", compiled code where there is some for the model's device and dtype and the distribution; or
            "reference", plain torch everywhere.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int],
        distribution: Any = None,
        to_input: Callable[[Tensor], Tensor] | None = None,
        *,
        wavefront: bool = True,
        executor: Literal["native", "reference"] = "native",
    ) -> None:
        super().__init__(model, shape, distribution, to_input)
        if executor not in ("native", "reference"):
            raise ValueError(f"executor: expected 'native' or 'reference', got {executor!r}")
        self._native = executor == "native"
        self._wavefront = wavefront
        self._programs: dict[bool, Program] = {}
        self._weights: tuple[tuple[int, int, int], ...] = ()
        self._program(labelled=needs_labels(model))

    def refresh(self) -> None:
        """Compile anew, from the model's present weights. Done by itself whenever they have changed."""
        labelled = list(self._programs)
        self._programs = {}
        for each in labelled:
            self._program(each)

    @property
    def plan(self) -> Plan:
        """How the model is evaluated."""
        return next(iter(self._programs.values())).plan

    def _program(self, labelled: bool) -> Program:
        if labelled not in self._programs:
            params = self.distribution.param_channels(self.shape[0])
            program = build_plan(self.model, self.shape, params, labelled, self._wavefront)
            if self._native and usable(program.plan, self.distribution, *like(self.model)):
                program.native = NativePlan(program.plan)
            self._programs[labelled] = program
            self._weights = fingerprint(self.model)
        return self._programs[labelled]

    def _prepared(self, n: int, labels: Tensor | None) -> tuple[Program, list[Tensor]]:
        """The program for labels or none, of the model's present weights, and what its plan is given."""
        if fingerprint(self.model) != self._weights:
            self.refresh()
        classes = getattr(self.model, "classes", None)
        if labels is not None:
            if classes is not None:
                check_values(labels, classes, "labels")
            labels = labels.to(torch.int64)
        try:
            program = self._program(labels is not None)
        except (ValueError, TypeError):
            dtype, device = like(self.model)
            x = torch.zeros((n, *self.shape), dtype=dtype, device=device)
            self.model(x) if labels is None else self.model(x, labels)  # a model may know better what is wrong
            raise
        with torch.no_grad():
            return program, [] if labels is None else evaluate_given(program, labels)

    def _engine(self, n: int, labels: Tensor | None) -> ReferenceWalk:
        program, given = self._prepared(n, labels)
        return ReferenceWalk(program.plan, n, given, *like(self.model))

    def _draw(
        self, n: int, labels: Tensor | None, uniforms: Tensor, temperature: float, known: tuple[Tensor, Tensor] | None
    ) -> Iterator[Tensor]:
        program, given = self._prepared(n, labels)
        if program.native is None:
            return super()._draw(n, labels, uniforms, temperature, known)
        return program.native.rows(uniforms, self._table(), given, temperature, known)

    def _see(self, values: Tensor, labels: Tensor | None) -> Tensor:
        program, given = self._prepared(len(values), labels)
        if program.native is None:
            return super()._see(values, labels)
        return program.native.see(values, self._table(), given)

    def _table(self) -> Tensor:
        """What the model reads for every value of every colour, (C, levels)."""
        C, levels = self.shape[0], self.distribution.levels
        values = torch.arange(levels)[:, None].expand(levels, C)[:, :, None, None]
        return self.to_input(values)[:, :, 0, 0].t().to(torch.float32).contiguous()


def needs_labels(model: nn.Module) -> bool:
    """Whether the model cannot be called without labels."""
    if getattr(model, "classes", None) is not None:
        return True
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters) > 1


def fingerprint(model: nn.Module) -> tuple[tuple[int, int, int], ...]:
    """What tells that a parameter or buffer was replaced, changed, or changed behind autograd's back (``.data``)."""
    return tuple(
        (tensor.data_ptr(), tensor._version, checksum(tensor)) for tensor in (*model.parameters(), *model.buffers())
    )


def checksum(tensor: Tensor) -> int:
    """The sum of a tensor's bits, as 32-bit integers."""
    tensor = tensor.detach().contiguous()
    width = {1: torch.int8, 2: torch.int16}.get(tensor.element_size(), torch.int32)
    return int(tensor.view(-1).view(width).sum(dtype=torch.int64))


def evaluate_given(program: Program, labels: Tensor) -> list[Tensor]:
    """What the plan is given, (N, rows, columns, channels) each: the traced ops on the labels, on these labels.

    They run in batches of the traced size, so that sizes which were recorded with them fit.
    """
    if not program.given:
        return []
    n = len(labels)
    padded = torch.cat((labels, labels[:1].expand(-n % BATCH)))
    batches = [_replay(program, part) for part in padded.split(BATCH)]
    return [torch.cat(parts)[:n] for parts in zip(*batches, strict=True)]


def _replay(program: Program, labels: Tensor) -> list[Tensor]:
    results: dict[int, list[Tensor]] = {id(program.trace.labels): [labels]}

    def resolve(argument: Any) -> Any:
        if isinstance(argument, Output):
            return results[id(argument.node)][argument.index]
        return argument.tensor if isinstance(argument, Constant) else argument

    for node in program.trace.nodes:
        if node.on_image or node.op in ("labels", "aten._local_scalar_dense"):
            continue
        args, kwargs = tree_map(resolve, node.args), tree_map(resolve, node.kwargs)
        if node.function._schema.is_mutable:
            args = (args[0].clone(), *args[1:])
        result = node.function(*args, **kwargs)
        results[id(node)] = [result] if isinstance(result, Tensor) else list(result)
    return [
        arrangement(results[id(arrangement.output.node)][arrangement.output.index]) for arrangement in program.given
    ]
