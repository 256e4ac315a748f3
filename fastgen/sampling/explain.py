"""explain: a plan as a table, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..conditions import AnyCondition, Kinds
from .compiled_sampler import CompiledSampler
from .inputs import ToInput
from .plan import Instruction, Plan, Ref


@dataclass(frozen=True)
class Cost:
    """Of one instruction and one image: how often it runs, how many positions each time, what they take in all."""

    runs: int
    positions: int
    flops: int
    weight_bytes: int


def explain(
    model: nn.Module | CompiledSampler,
    shape: tuple[int, int, int] | None = None,
    distribution: Any = None,
    to_input: ToInput | None = None,
    *,
    condition: AnyCondition | Kinds | None = None,
) -> str:
    """How a model would be sampled: every instruction with its clock, taps, weights and FLOPs; then the totals.

    Args:
        model: as ``fastgen.sampling.compile`` takes it, or a compiled sampler.
        shape: (C, H, W) of one image; not needed with a sampler, as the others.
        distribution: see there.
        to_input: see there.
        condition: see there.

    Raises:
        UnsupportedModelError: the model cannot be compiled; says why.
    """
    if isinstance(model, CompiledSampler):
        sampler = model
    elif shape is None:
        raise TypeError("shape: expected (C, H, W), got None")
    else:
        sampler = CompiledSampler(model, shape, distribution, to_input, condition=condition)
    return f"{table(sampler.plan)}\nthe model reads   {sampler.to_input}"


def cost(plan: Plan, instruction: Instruction) -> Cost:
    """What an instruction costs over one image."""
    H = plan.shape[1]
    rows = sum(0 <= _due(instruction.rows, r) < instruction.rows.count for r in range(-plan.top, H))
    columns = instruction.columns.count
    runs, positions = (rows, columns) if instruction.clock == "row" else (rows * columns, 1)
    weight = instruction.weight
    each = 0 if weight is None else 2 if plan.rounds(instruction) else weight.element_size()
    size = 0 if weight is None else weight.numel() * each
    return Cost(runs, positions, runs * positions * instruction.flops, size)


def table(plan: Plan) -> str:
    """The plan, one line for each instruction."""
    head = ("instruction", "clock", "layer", "reads", "writes", "K×O", "weights", "MFLOP/image")
    lines = [head]
    for index, instruction in enumerate(plan.instructions):
        spent = cost(plan, instruction)
        weight = instruction.weight
        lines.append(
            (
                f"{index:3} {_operation(instruction)}",
                _clock(plan, instruction),
                instruction.name,
                " ".join(_taps(instruction.sources)),
                _place(instruction.out),
                "" if weight is None else f"{weight.shape[0]}×{weight.shape[1]}",
                "" if weight is None else _bytes(spent.weight_bytes),
                f"{spent.flops / 1e6:.2f}" if spent.flops else "",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([body[0], "─" * len(body[0]), *body[1:], "", *totals(plan)])


def totals(plan: Plan) -> list[str]:
    """Sums over the plan: steps, FLOPs, weights, memory, and the ceiling of the speed-up over naive sampling."""
    C, H, W = plan.shape
    costs = {clock: [cost(plan, i) for i in plan.instructions if i.clock == clock] for clock in ("row", "pixel")}
    flops = sum(c.flops for each in costs.values() for c in each)
    size = next((i.weight.element_size() for i in plan.instructions if i.weight is not None), 4)
    rings = sum(b.keep * b.columns * b.channels * size for b in plan.buffers if b.kind in ("map", "image"))
    in_rows = sum(c.flops for c in costs["row"]) / max(flops, 1)
    walk = "pixel by pixel" if plan.slope is None else f"along the wavefront column + {plan.slope}·row"
    rounded = [f"precision         inputs and weights of products are rounded to {plan.precision}"]
    return [
        f"steps             {plan.sequential_draws} {walk}" + (f", {C} colours each" if C > 1 else ""),
        f"FLOPs an image    {flops / 1e9:.3f} GFLOP, {in_rows:.0%} in whole rows",
        f"weights           {_bytes(sum(c.weight_bytes for c in costs['row']))} read once a row, "
        f"{_bytes(sum(c.weight_bytes for c in costs['pixel']))} once a pixel",
        f"memory an image   {_bytes(rings)} in rings of rows",
        *(rounded if plan.precision != "float32" else []),
        f"ceiling           {C * H * W}× fewer FLOPs than one full forward for each of {C * H * W} values",
    ]


def _operation(instruction: Instruction) -> str:
    steps = []
    for step in instruction.steps:
        operand = (
            "" if step.operand is None else f"({step.function + ' ' if step.function else ''}{_place(step.operand)})"
        )
        steps.append(step.op + operand)
    if instruction.attend is not None:
        steps.insert(0, f"attention({_place(instruction.attend.keys)}, {_place(instruction.attend.values)})")
    elif instruction.weight is not None:
        steps.insert(0, "product")
    return " → ".join(steps or ["copy"])


def _clock(plan: Plan, instruction: Instruction) -> str:
    every = "" if instruction.rows.every == instruction.columns.every == 1 else (
        f" every {instruction.rows.every}×{instruction.columns.every}"
    )  # fmt: skip
    color = f" colour {instruction.color}" if instruction.clock == "pixel" and plan.shape[0] > 1 else ""
    return instruction.clock + color + every


def _taps(sources: tuple[Ref, ...]) -> list[str]:
    """Sources by buffer and row, their columns as a range: b3[-1, -1…1]."""
    runs: list[list[Ref]] = []
    for ref in sources:
        last = runs[-1][-1] if runs else None
        if last is not None and (last.buffer, last.row, last.column + 1) == (ref.buffer, ref.row, ref.column):
            runs[-1].append(ref)
        else:
            runs.append([ref])
    return [
        f"b{run[0].buffer}[{run[0].row:+d}, {run[0].column:+d}" + (f"…{run[-1].column:+d}]" if len(run) > 1 else "]")
        for run in runs
    ]


def _place(ref: Ref) -> str:
    return f"b{ref.buffer}:{ref.channel}+{ref.channels}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _due(axis: Any, t: int) -> int:
    index, rest = divmod(t - axis.at, axis.every)
    return index if rest == 0 else -1
