"""Fusion: what is read once, where it was written, never goes to memory.

Each pass takes one pattern of two or three neighbouring instructions and leaves one. All of them ask the same question:
is this range of this buffer written by one instruction and read by one other, at the same position and time?
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from .plan import UNARY, Instruction, Plan, Ref, Step

COMMUTATIVE = ("add", "mul", "max", "min")
SWAPPED = {"sub": "rsub", "rsub": "sub", "div": "rdiv", "rdiv": "div", **{op: op for op in COMMUTATIVE}}


def fuse(plan: Plan) -> Plan:
    """Apply every pass until none finds anything."""
    passes = (_apply_operand, _concat_elu, _gate, _swap, _chain, _fold)
    while any([each(plan) for each in passes]):
        pass
    return plan


class _Uses:
    """Who writes and who reads what."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.writers: dict[int, list[Instruction]] = defaultdict(list)
        self.readers: dict[int, list[tuple[Instruction | None, Ref]]] = defaultdict(list)
        for instruction in plan.instructions:
            self.writers[instruction.out.buffer].append(instruction)
            for ref in instruction.refs():
                self.readers[ref.buffer].append((instruction, ref))
        for ref in plan.params:
            self.readers[ref.buffer].append((None, ref))

    def writer(self, ref: Ref, reader: Instruction) -> Instruction | None:
        """The instruction that writes exactly this range, in the tick and at the position where it is read."""
        for writer in self.writers[ref.buffer]:
            if writer.out == ref and _same_tick(writer, reader):
                return writer
        return None

    def read_by(self, ref: Ref) -> list[Instruction | None]:
        """Everyone who reads any of this range."""
        return [reader for reader, other in self.readers[ref.buffer] if _overlap(ref, other)]


def _same_tick(a: Instruction, b: Instruction) -> bool:
    return (a.clock, a.color, a.rows, a.columns) == (b.clock, b.color, b.rows, b.columns)


def _overlap(a: Ref, b: Ref) -> bool:
    return a.buffer == b.buffer and a.channel < b.channel + b.channels and b.channel < a.channel + a.channels


def _loads(plan: Plan) -> Iterator[Instruction]:
    """Instructions that start from what a buffer holds."""
    yield from [i for i in plan.instructions if i.weight is None]


def _remove(plan: Plan, instruction: Instruction) -> None:
    plan.instructions = [i for i in plan.instructions if i is not instruction]


def _continue(plan: Plan, first: Instruction, second: Instruction, steps: tuple[Step, ...], out: Ref) -> None:
    """``second`` becomes the continuation of ``first``, where ``second`` stood."""
    second.sources, second.weight, second.bias = first.sources, first.weight, first.bias
    second.steps, second.out = (*first.steps, *steps), out
    second.name = first.name if second.name in ("", "model") or first.weight is not None else second.name
    _remove(plan, first)


def _chain(plan: Plan) -> bool:
    """y = f(x); z = g(y)  →  z = g(f(x))."""
    uses = _Uses(plan)
    for load in _loads(plan):
        writer = uses.writer(load.sources[0], load)
        if writer is not None and uses.read_by(load.sources[0]) == [load]:
            _continue(plan, writer, load, load.steps, load.out)
            return True
    return False


def _apply_operand(plan: Plan) -> bool:
    """y = σ(b); z = a · y  →  z = a · σ(b)."""
    uses = _Uses(plan)
    for reader in plan.instructions:
        for index, step in enumerate(reader.steps):
            if step.operand is None or step.function:
                continue
            writer = uses.writer(step.operand, reader)
            if writer is None or writer.weight is not None or uses.read_by(step.operand) != [reader]:
                continue
            if len(writer.steps) == 1 and UNARY.get(writer.steps[0].op) == 0:
                moved = replace(step, operand=writer.sources[0], function=writer.steps[0].op)
                reader.steps = (*reader.steps[:index], moved, *reader.steps[index + 1 :])
                _remove(plan, writer)
                return True
    return False


def _gate(plan: Plan) -> bool:
    """[a, b] = f(x); z = tanh(a)·σ(b)  →  z = gate(f(x)), whichever factor comes first."""
    uses = _Uses(plan)
    for load in _loads(plan):
        halves = _gate_halves(load)
        if halves is None:
            continue
        first, second, rest = halves
        if second != replace(first, channel=first.channel + first.channels):
            continue
        whole = replace(first, channels=2 * first.channels)
        writer = uses.writer(whole, load)
        if writer is not None and set(map(id, uses.read_by(whole))) == {id(load)}:
            _continue(plan, writer, load, (Step("gate"), *rest), load.out)
            return True
        load.sources, load.steps = (whole,), (Step("gate"), *rest)
        return True
    return False


def _gate_halves(load: Instruction) -> tuple[Ref, Ref, tuple[Step, ...]] | None:
    if len(load.steps) < 2 or load.steps[0].parameters or load.steps[1].op != "mul" or load.steps[1].operand is None:
        return None
    pair = (load.steps[0].op, load.steps[1].function)
    if pair == ("tanh", "sigmoid"):
        return load.sources[0], load.steps[1].operand, load.steps[2:]
    if pair == ("sigmoid", "tanh"):
        return load.steps[1].operand, load.sources[0], load.steps[2:]
    return None


def _concat_elu(plan: Plan) -> bool:
    """y[:n] = elu(x); y[n:] = elu(−x)  →  y = concat_elu(x)."""
    elu = Step("elu", (1.0,))
    loads = list(_loads(plan))
    for second in loads:
        if second.steps != (Step("neg"), elu):
            continue
        for first in loads:
            after = replace(first.out, channel=first.out.channel + first.out.channels)
            if (
                first.steps == (elu,) and first.sources == second.sources
                and second.out == after and _same_tick(first, second)
            ):  # fmt: skip
                first.steps = (Step("concat_elu"),)
                first.out = replace(first.out, channels=2 * first.out.channels)
                _remove(plan, second)
                return True
    return False


def _swap(plan: Plan) -> bool:
    """z = x + f(y) becomes a continuation of f, where f is a matrix product that nobody else reads."""
    uses = _Uses(plan)

    def product(ref: Ref, reader: Instruction) -> bool:
        writer = uses.writer(ref, reader)
        return writer is not None and writer.weight is not None and uses.read_by(ref) == [reader]

    for load in _loads(plan):
        step = load.steps[0] if load.steps else None
        if step is None or step.op not in SWAPPED or step.operand is None or step.function:
            continue
        if product(step.operand, load) and not product(load.sources[0], load):
            swapped = replace(step, op=SWAPPED[step.op], operand=load.sources[0])
            load.sources, load.steps = (step.operand,), (swapped, *load.steps[1:])
            return True
    return False


def _fold(plan: Plan) -> bool:
    """A constant vector that a matrix product is multiplied with, or that is added, goes into its weights."""
    found = False
    for i in plan.instructions:
        while i.weight is not None and i.steps and i.steps[0].vector is not None and i.steps[0].op in _FOLDS:
            weight, bias, vector = i.weight, i.bias, i.steps[0].vector
            i.weight, i.bias = _FOLDS[i.steps[0].op](weight, weight.new_zeros(len(vector)) if bias is None else bias, vector)
            i.steps = i.steps[1:]
            found = True
    return found


_FOLDS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "mul": lambda weight, bias, vector: (weight * vector, bias * vector),
    "div": lambda weight, bias, vector: (weight / vector, bias / vector),
    "add": lambda weight, bias, vector: (weight, bias + vector),
    "sub": lambda weight, bias, vector: (weight, bias - vector),
    "rsub": lambda weight, bias, vector: (-weight, vector - bias),
}
