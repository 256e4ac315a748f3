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
    while any([each(_Uses(plan)) for each in passes]):
        pass
    return plan


class _Uses:
    """Who writes and who reads what, as it was before a pass; what a pass has changed, it leaves alone afterwards."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.changed: set[int] = set()
        self.writers: dict[int, list[Instruction]] = defaultdict(list)
        self.readers: dict[int, list[tuple[Instruction | None, Ref]]] = defaultdict(list)
        for instruction in plan.instructions:
            self.writers[instruction.out.buffer].append(instruction)
            for ref in instruction.refs():
                self.readers[ref.buffer].append((instruction, ref))
        for ref in plan.params:
            self.readers[ref.buffer].append((None, ref))

    def loads(self) -> Iterator[Instruction]:
        """Instructions that start from what a buffer holds."""
        for instruction in list(self.plan.instructions):
            if instruction.weight is None and instruction.attend is None and id(instruction) not in self.changed:
                yield instruction

    def writer(self, ref: Ref, reader: Instruction) -> Instruction | None:
        """The instruction that writes exactly this range, in the tick and at the position where it is read."""
        for writer in self.writers[ref.buffer]:
            if writer.out == ref and _same_tick(writer, reader) and id(writer) not in self.changed:
                return writer
        return None

    def only_reader(self, ref: Ref, reader: Instruction) -> bool:
        """Whether nobody else reads any of this range."""
        readers = [other for other, read in self.readers[ref.buffer] if _overlap(ref, read)]
        return all(other is reader for other in readers)

    def change(self, instruction: Instruction) -> None:
        self.changed.add(id(instruction))

    def remove(self, instruction: Instruction) -> None:
        self.change(instruction)
        self.plan.instructions = [i for i in self.plan.instructions if i is not instruction]

    def join(self, first: Instruction, second: Instruction, steps: tuple[Step, ...]) -> None:
        """``second`` becomes the continuation of ``first`` by ``steps``, where ``second`` stood."""
        second.sources, second.weight, second.bias = first.sources, first.weight, first.bias
        second.attend = first.attend
        second.steps = (*first.steps, *steps)
        second.name = first.name if second.name == "model" or first.weight is not None else second.name
        self.change(second)
        self.remove(first)


def _same_tick(a: Instruction, b: Instruction) -> bool:
    return (a.clock, a.color, a.rows, a.columns) == (b.clock, b.color, b.rows, b.columns)


def _overlap(a: Ref, b: Ref) -> bool:
    return a.buffer == b.buffer and a.channel < b.channel + b.channels and b.channel < a.channel + a.channels


def _chain(uses: _Uses) -> bool:
    """Y = f(x); z = g(y)  →  z = g(f(x))."""
    for load in uses.loads():
        writer = uses.writer(load.sources[0], load)
        if writer is not None and _reads(load, load.sources[0]) == 1 and uses.only_reader(load.sources[0], load):
            uses.join(writer, load, load.steps)
    return bool(uses.changed)


def _apply_operand(uses: _Uses) -> bool:
    """Y = σ(b); z = a · y  →  z = a · σ(b)."""
    for reader in list(uses.plan.instructions):
        for index, step in enumerate(reader.steps):
            if id(reader) in uses.changed or step.operand is None or step.function:
                continue
            writer = uses.writer(step.operand, reader)
            if writer is None or writer.weight is not None or writer.attend is not None:
                continue
            if _reads(reader, step.operand) > 1:
                continue
            if len(writer.steps) == 1 and UNARY.get(writer.steps[0].op) == 0 and uses.only_reader(step.operand, reader):
                moved = replace(step, operand=writer.sources[0], function=writer.steps[0].op)
                reader.steps = (*reader.steps[:index], moved, *reader.steps[index + 1 :])
                uses.change(reader)
                uses.remove(writer)
    return bool(uses.changed)


def _gate(uses: _Uses) -> bool:
    """[a, b] = f(x); z = tanh(a)·σ(b)  →  z = gate(f(x)), whichever factor comes first."""
    for load in uses.loads():
        halves = _gate_halves(load)
        if halves is None:
            continue
        first, second, rest = halves
        if second != replace(first, channel=first.channel + first.channels):
            continue
        load.sources = (replace(first, channels=2 * first.channels),)
        load.steps = (Step("gate"), *rest)
        uses.change(load)
    return bool(uses.changed)


def _reads(instruction: Instruction, ref: Ref) -> int:
    """How often an instruction reads any of a range."""
    return sum(_overlap(ref, other) for other in instruction.refs())


def _gate_halves(load: Instruction) -> tuple[Ref, Ref, tuple[Step, ...]] | None:
    if len(load.steps) < 2 or load.steps[0].parameters or load.steps[1].op != "mul" or load.steps[1].operand is None:
        return None
    pair = (load.steps[0].op, load.steps[1].function)
    if pair == ("tanh", "sigmoid"):
        return load.sources[0], load.steps[1].operand, load.steps[2:]
    if pair == ("sigmoid", "tanh"):
        return load.steps[1].operand, load.sources[0], load.steps[2:]
    return None


def _concat_elu(uses: _Uses) -> bool:
    """y[:n] = elu(x); y[n:] = elu(−x)  →  y = concat_elu(x)."""
    elu = Step("elu", (1.0,))
    firsts = {first.out: first for first in uses.loads() if first.steps == (elu,)}
    for second in uses.loads():
        before = replace(second.out, channel=second.out.channel - second.out.channels)
        first = firsts.get(before)
        if second.steps != (Step("neg"), elu) or first is None or id(first) in uses.changed:
            continue
        if first.sources == second.sources and _same_tick(first, second):
            first.steps = (Step("concat_elu"),)
            first.out = replace(first.out, channels=2 * first.out.channels)
            uses.change(first)
            uses.remove(second)
    return bool(uses.changed)


def _swap(uses: _Uses) -> bool:
    """Z = x + f(y) becomes a continuation of f, where f is a matrix product that nobody else reads."""

    def product(ref: Ref, reader: Instruction) -> bool:
        writer = uses.writer(ref, reader)
        return writer is not None and writer.weight is not None and uses.only_reader(ref, reader)

    for load in uses.loads():
        step = load.steps[0] if load.steps else None
        if step is None or step.op not in SWAPPED or step.operand is None or step.function:
            continue
        if product(step.operand, load) and not product(load.sources[0], load):
            swapped = replace(step, op=SWAPPED[step.op], operand=load.sources[0])
            load.sources, load.steps = (step.operand,), (swapped, *load.steps[1:])
            uses.change(load)
    return bool(uses.changed)


def _fold(uses: _Uses) -> bool:
    """A constant vector that a matrix product is multiplied with, or that is added, goes into its weights."""
    for i in uses.plan.instructions:
        while i.weight is not None and i.steps and i.steps[0].vector is not None and i.steps[0].op in _FOLDS:
            bias = i.weight.new_zeros(i.weight.shape[1]) if i.bias is None else i.bias
            i.weight, i.bias = _FOLDS[i.steps[0].op](i.weight, bias, i.steps[0].vector)
            i.steps = i.steps[1:]
            uses.change(i)
    return bool(uses.changed)


_FOLDS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "mul": lambda weight, bias, vector: (weight * vector, bias * vector),
    "div": lambda weight, bias, vector: (weight / vector, bias / vector),
    "add": lambda weight, bias, vector: (weight, bias + vector),
    "sub": lambda weight, bias, vector: (weight, bias - vector),
    "rsub": lambda weight, bias, vector: (-weight, vector - bias),
}
