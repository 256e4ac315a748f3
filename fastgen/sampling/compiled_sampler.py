"""The compiled sampler: trace, analyse, plan, execute."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from .._checks import listed
from .._places import Place, place_of
from .._shadow import evaluated, uncast
from ..conditions import AnyCondition, Condition, Kinds, apply, arguments, tensors_of
from ..distributions import Bernoulli, Categorical
from ..ops.sample import available
from .analyse import analyse
from .buffer_rows import finish
from .builder import Arrangement
from .emit import emit
from .fuse import fuse
from .inputs import ToInput, dtype_and_device_of
from .logits import probabilities
from .lookups import Lookup
from .native_executor import DRAWN, NativePlan, usable
from .plan import Plan
from .precision import PRECISIONS, Precision, check_weights
from .reference_executor import ReferenceWalk
from .sampler import Engine, Sampler
from .schedule import schedule
from .schedule import wavefront as slanted_schedule
from .state import State, digest, digests, holdings, state_of
from .told import needs_condition, says_condition, traced_condition
from .trace import BATCH, Constant, Node, Output, UnsupportedModelError, trace


@dataclass
class Program:
    """A plan, how what it is given comes from the condition, and what it was made from.

    Attributes:
        plan: how the model is evaluated.
        told: the tensors of the trace's condition, if there is one.
        nodes: what the trace did with them.
        given: what of that the plan reads.
        squashed: the module and the op that make probabilities of the parameters, if they do.
        native: the plan for compiled code, where there is some.
        draws: whether compiled code draws, too.
        state: of the model.
        lookups: embeddings of what is drawn.
        scratch: paths of the model's attributes that do not count.
        elsewhere: tensors that the model reads and does not hold, with their digests.
    """

    plan: Plan
    told: list[Node]
    nodes: list[Node]
    given: list[Arrangement]
    squashed: tuple[str, str] | None = None
    native: NativePlan | None = None
    draws: bool = False
    lookups: list[Lookup] = field(default_factory=list)
    state: State = field(default_factory=dict)
    scratch: frozenset[str] = frozenset()
    elsewhere: list[tuple[Tensor, Any]] = field(default_factory=list)

    def fits(self, model: nn.Module) -> bool:
        """Whether the model is what the plan was made from."""
        return self.state == state_of(model, self.scratch) and all(
            digest(tensor) == before for tensor, before in self.elsewhere
        )


def build_plan(
    model: nn.Module,
    shape: tuple[int, int, int],
    params: int,
    kind: Kinds | None = None,
    wavefront: bool = True,
    inputs: int = 1,
    coupled: bool = False,
) -> Program:
    """Trace, analyse and plan ``model`` for images (C, H, W), read in C·``inputs`` channels, and P parameter channels,
    of which every colour reads one part, or all where they are ``coupled``.

    With a ``kind``, it is that of a model that is told a condition.

    The weights may change meanwhile, by another thread; then it begins again. If they never rest, the program is of
    mixed weights, and does not claim to fit the model.

    Raises:
        UnsupportedModelError: the model is not causal, or does something that cannot be planned.
    """
    model = eager(model)
    for _ in range(_ATTEMPTS):
        before = holdings(model)
        state = digests(before)
        with torch.inference_mode(False), torch.no_grad(), uncast():
            program, written = _build(model, shape, params, kind, wavefront, inputs, coupled)
        for path, held in before.items():  # what the forward itself writes is what the forward has left
            if isinstance(held, Tensor) and place_of(held) in written:
                state[path] = written[place_of(held)]
        program.state = {path: each for path, each in state.items() if path not in program.scratch}
        if program.fits(model):
            break
    return program


_ATTEMPTS = 3


def _build(
    model: nn.Module,
    shape: tuple[int, int, int],
    params: int,
    kind: Kinds | None,
    wavefront: bool,
    inputs: int,
    coupled: bool,
) -> tuple[Program, dict[Place, Any]]:
    dtype, device = dtype_and_device_of(model)
    x = torch.zeros((BATCH, shape[0] * inputs, *shape[1:]), dtype=dtype, device=device)
    traced = trace(model, x, None if kind is None else traced_condition(kind, BATCH, dtype, device))
    analysis = analyse(traced, shape, params, dtype, device, inputs, coupled)
    inputs_told = {id(node) for node in traced.told}
    nodes = [node for node in traced.nodes if not node.on_image and id(node) not in inputs_told] + analysis.told
    made = probabilities(traced.result)
    program = partial(
        Program,
        told=traced.told,
        nodes=nodes if analysis.given else [],
        lookups=analysis.lookups,
        scratch=traced.scratch,
        elsewhere=traced.elsewhere,
        squashed=None if made is None else (made.path, made.op.removeprefix("aten.").strip("_")),
    )
    written = traced.written
    del traced  # what it has folded is in the graph
    front = slanted_schedule(analysis.graph, shape[1:]) if wavefront else None
    scheduled = front or schedule(analysis.graph)
    if analysis.graph.recurrent and not scheduled.in_time:
        path = next(operation.out.path for operation in analysis.graph.operations if operation.out.clocked)
        raise UnsupportedModelError(
            f"{path}: a recurrence along rows of which something is wanted before its row has begun, or from its end"
        )
    plan, orders = emit(scheduled, shape, dtype, device)
    given = [replace(analysis.given[index], order=tuple(order.tolist())) for index, order in orders.items()]
    del analysis, front, scheduled
    made_of = program(plan=finish(fuse(plan)), given=given)
    if kind is not None:
        _check_apart(made_of, kind, dtype, device)
    return made_of, written


def _check_apart(program: Program, kind: Kinds, dtype: torch.dtype, device: torch.device) -> None:
    """Raise where what an image is given depends on the conditions of those beside it.

    Classes are told apart where their number is known.
    """
    several = traced_condition(kind, BATCH, dtype, device, distinct=True)
    alike = apply(lambda part: part[:1].expand(part.shape).contiguous(), several)
    try:
        both = [evaluate_given(program, told) for told in (several, alike)]
    except UnsupportedModelError:  # whose shapes depend on numbers: a sampler says so where they differ
        return
    for mine, alone in ((first[0], second[0]) for first, second in zip(*both, strict=True)):
        same = (mine == alone) | (mine.isnan() & alone.isnan())  # some functions have no value at what was traced
        if not same.all():
            raise UnsupportedModelError(
                "condition: expected a forward that reads for each image its own example, got one that mixes them"
            )


def eager(model: nn.Module) -> nn.Module:
    """The model that ``torch.compile`` wraps, or the model itself."""
    return getattr(model, "_orig_mod", model)


class CompiledSampler(Sampler):
    """Computes each feature once, of any causal model.

    See ``Sampler`` for arguments and methods.

    Args:
        wavefront: whether to draw pixels on a slanted front together, where that is exact and takes far fewer steps.
        executor: "native", compiled code where there is some for the model's device and dtype; a distribution of one's
            own draws in torch between its steps, without a wavefront. Or "reference", plain torch everywhere.
        precision: "float32", numbers as they are; or "bfloat16" or "float16": inputs and weights of each product are
            rounded to that, but of those that read pixels or the condition; sums stay in the model's dtype. Half the
            weights to read, and in bfloat16 twice the products a cycle where a CPU has AVX512-BF16. float16 has three
            bits more, and no number beyond 65504. Other parameters, other images: ``verify`` says how far off they
            are, and what that costs in nats.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int],
        distribution: Any = None,
        to_input: ToInput | None = None,
        *,
        wavefront: bool = True,
        executor: Literal["native", "reference"] = "native",
        precision: Precision = "float32",
        condition: AnyCondition | Kinds | None = None,
    ) -> None:
        super().__init__(model, shape, distribution, to_input, condition=condition)
        if executor not in ("native", "reference"):
            raise ValueError(f"executor: expected 'native' or 'reference', got {executor!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {listed(PRECISIONS)}, got {precision!r}")
        self.precision: Precision = precision
        self._native = executor == "native"
        self._wavefront = wavefront
        self._programs: dict[bool, Program] = {}
        self._lock = threading.RLock()
        self._stated = condition is not None or says_condition(model)
        self._program(self._stated or needs_condition(model))

    def __repr__(self) -> str:
        precision = f", precision={self.precision!r}" if self.precision != "float32" else ""
        return super().__repr__()[:-1] + precision + ")"

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are made without programs, and compile when they are first used."""
        return {name: held for name, held in vars(self).items() if name not in ("_programs", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _programs={}, _lock=threading.RLock())

    def refresh(self) -> None:
        """Compile anew, from the model's present weights. Done by itself whenever they have changed."""
        with self._lock:
            told = list(self._programs)
            self._programs = {}
            for each in told:
                self._program(each)

    @property
    def plan(self) -> Plan:
        """How the model is evaluated."""
        with self._lock:
            programs = self._programs or {False: self._program(self._stated or needs_condition(self.model))}
            return next(iter(programs.values())).plan

    @property
    def instruction_set(self) -> str | None:
        """Of compiled code that draws: "portable", "avx2", "avx512", "avx512bf16"; "sm_90"; None where torch draws."""
        with self._lock:
            program = self._program(self._stated or needs_condition(self.model))
            return program.native.instruction_set if program.native is not None and program.draws else None

    @property
    def walks(self) -> bool:
        """Whether compiled code computes what lies between two draws, wherever values come from, by the same bits."""
        with self._lock:
            native = self._program(self._stated or needs_condition(self.model)).native
            return native is not None and native.walks

    def _program(self, told: bool) -> Program:
        """The program of the model's present weights; threads that ask for it at once wait for one compilation."""
        with self._lock:
            program = self._programs.get(told)
            if program is None or not program.fits(eager(self.model)):
                params = self.distribution.param_channels(self.shape[0])
                dtype, device = dtype_and_device_of(self.model)
                drawn = type(self.distribution) in DRAWN
                native = self._native and available(device, dtype) and (drawn or device.type == "cpu")
                wavefront = self._wavefront and (not native or drawn)
                kind = self.condition_kind if told else None
                with self._naming_condition(told):
                    program = build_plan(
                        self.model, self.shape, params, kind, wavefront, self.to_input.channels, self.couples_colors
                    )
                self._check_logits(program)
                inputs = self.to_input.table.transpose(0, 1).flatten(1).to(device, dtype)
                for lookup in program.lookups:  # of each level, in all colours
                    lookup.check("distribution", inputs, f", what the model reads for {len(inputs)} levels")
                program.plan.precision = self.precision
                check_weights(program.plan.rounded_weights(), self.precision)
                program.draws = native and usable(program.plan, self.distribution, dtype, device)
                if program.draws or (native and program.plan.slope is None and device.type == "cpu"):
                    components = self.distribution.components if program.draws and self.couples_colors else 0
                    program.native = NativePlan(program.plan, components, device)
                self._programs[told] = program
            return program

    @contextmanager
    def _naming_condition(self, told: bool) -> Iterator[None]:
        """Where a forward fails with labels that nobody said it takes, say how to say what it does take."""
        try:
            yield
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            if self._stated or not told or isinstance(error, UnsupportedModelError):
                raise
            raise TypeError(
                f"condition: expected an example of what the forward of {type(self.model).__name__} takes beside the "
                f"image, since it fails with labels ({error}), got None"
            ) from error

    def _check_logits(self, program: Program) -> None:
        """Raise where a model's probabilities would be taken for logits: other images, and nothing that shows it."""
        law = type(self.distribution)
        if program.squashed is not None and law in (Bernoulli, Categorical):
            path, what = program.squashed
            raise UnsupportedModelError(
                f"{path}: its last op is {what}, which makes probabilities, and {law.__name__} reads logits: leave"
                f" the {what} out of the forward, or give a distribution of your own that reads probabilities"
            )

    def _program_for(self, n: int, condition: Condition | None) -> Program:
        """The program for a condition of ``n`` images or none, of the model's present weights."""
        try:
            return self._program(condition is not None)
        except (ValueError, TypeError):
            dtype, device = dtype_and_device_of(self.model)
            x = torch.zeros((n, self.in_channels, *self.shape[1:]), dtype=dtype, device=device)
            with evaluated(self.model) as model:
                model(x, *arguments(condition))  # a model may know better what is wrong
            raise

    def _given(self, program: Program, condition: Condition | None) -> list[Tensor]:
        with torch.no_grad(), uncast():
            return [] if condition is None else evaluate_given(program, condition)

    def _engine(self, n: int, condition: Condition | None) -> Engine:
        return self._engine_of(self._program_for(n, condition), n, condition)

    def _engine_of(self, program: Program, n: int, condition: Condition | None) -> Engine:
        given = self._given(program, condition)
        if program.native is not None and program.native.walks:
            return program.native.walk(n, given)
        return ReferenceWalk(program.plan, n, given, *dtype_and_device_of(self.model))

    def _draw(
        self,
        n: int,
        condition: Condition | None,
        uniforms: Tensor,
        temperature: float,
        known: tuple[Tensor, Tensor] | None,
        by_row: bool,
    ) -> Iterator[Tensor]:
        program = self._program_for(n, condition)
        if program.native is None or not program.draws:
            return super()._draw(n, condition, uniforms, temperature, known, by_row)
        given = self._given(program, condition)
        return program.native.rows(uniforms, self.to_input.table, given, temperature, known, by_row)

    def _see(self, values: Tensor, condition: Condition | None) -> Tensor:
        program = self._program_for(len(values), condition)
        if program.native is None or not program.draws:
            return super()._see(values, condition)
        return program.native.see(values, self.to_input.table, self._given(program, condition))


def evaluate_given(program: Program, condition: Condition) -> list[Tensor]:
    """What the plan is given, (N, rows, columns, channels) each: the traced ops on the condition, on this condition.

    They run in batches of the traced size, so that sizes which were recorded with them fit.
    """
    if not program.given:
        return []
    told = tensors_of(condition)
    n = len(told[0])
    padded = [torch.cat((part, part[:1].expand(-n % BATCH, *part.shape[1:]))) for part in told]
    batches = [_replay(program, parts) for parts in zip(*(part.split(BATCH) for part in padded), strict=True)]
    return [torch.cat(parts)[:n] for parts in zip(*batches, strict=True)]


def _replay(program: Program, told: Sequence[Tensor]) -> list[Tensor]:
    results = {id(node): [tensor] for node, tensor in zip(program.told, told, strict=True)}

    def resolve(argument: Any) -> Any:
        if isinstance(argument, Output):
            return results[id(argument.node)][argument.index]
        return argument.tensor if isinstance(argument, Constant) else argument

    for node in program.nodes:
        if not node.shapes:  # a number that was read
            continue
        args, kwargs = tree_map(resolve, node.args), tree_map(resolve, node.kwargs)
        schema = getattr(node.function, "_schema", None)
        if schema is not None and schema.is_mutable:
            args = (args[0].clone(), *args[1:])
        result = node.function(*args, **kwargs)
        results[id(node)] = [each for each in tree_flatten(result)[0] if isinstance(each, Tensor)]
        got = [tuple(each.shape) for each in results[id(node)]]
        if got != node.shapes:
            raise UnsupportedModelError(
                f"{node.path}: {node.op} of this condition is {listed(got)}, and was {listed(node.shapes)} of another: "
                "a plan is one for all"
            )
    return [
        arrangement(results[id(arrangement.output.node)][arrangement.output.index]) for arrangement in program.given
    ]
