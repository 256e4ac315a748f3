"""The reference executor: a plan in plain torch, one instruction after the other, on any device and in any dtype."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .plan import Attend, Axis, Instruction, Plan, Ref, Step
from .precision import rounded

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": F.silu, "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "exp": torch.exp, "log": torch.log, "neg": torch.neg,
    "abs": torch.abs, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "reciprocal": torch.reciprocal, "sin": torch.sin,
    "cos": torch.cos, "erf": torch.erf, "log1p": torch.log1p, "expm1": torch.expm1, "floor": torch.floor,
    "ceil": torch.ceil, "trunc": torch.trunc, "sign": torch.sign, "elu": F.elu, "leaky_relu": F.leaky_relu,
    "pow": torch.pow, "clamp": torch.clamp,
    "softplus": F.softplus, "add": torch.add, "sub": torch.sub, "rsub": torch.rsub, "mul": torch.mul, "div": torch.div,
    "rdiv": lambda x, y: y / x, "max": torch.maximum, "min": torch.minimum,
    "eq": lambda x, y: (x == y).to(x), "lt": lambda x, y: (x < y).to(x), "le": lambda x, y: (x <= y).to(x),
    "gt": lambda x, y: (x > y).to(x), "ge": lambda x, y: (x >= y).to(x),
    "gate": lambda x: torch.tanh(x[..., : x.shape[-1] // 2]) * torch.sigmoid(x[..., x.shape[-1] // 2 :]),
    "concat_elu": lambda x: F.elu(torch.cat((x, -x), dim=-1)),
    "norm": lambda x, groups, eps: F.layer_norm(
        x.unflatten(-1, (int(groups), -1)), (x.shape[-1] // int(groups),), eps=eps
    ).flatten(-2),
}  # fmt: skip


class ReferenceWalk:
    """Walks one batch; an ``Engine``.

    Args:
        plan: what to execute.
        n: images in the batch.
        given: for each buffer of that kind, (N, rows, columns, channels).
    """

    def __init__(self, plan: Plan, n: int, given: list[Tensor], dtype: torch.dtype, device: torch.device) -> None:
        self.plan = plan
        self.at = (0, 0, 0)
        self._ticks = _Ticks(plan)
        self._margins = _margins(plan)
        supplied = iter(given)
        self._rows: list[list[Tensor]] = []  # for each buffer its slots, (N or 1, margin + columns + margin, channels)
        for buffer, (left, right) in zip(plan.buffers, self._margins, strict=True):
            if buffer.kind in ("map", "image"):
                size = (n, left + buffer.columns + right, buffer.channels)
                self._rows.append([torch.zeros(size, dtype=dtype, device=device) for _ in range(buffer.keep)])
            else:
                data = next(supplied) if buffer.kind == "given" else buffer.data[None]  # type: ignore[index]
                self._rows.append(list(F.pad(data, (0, 0, left, right)).expand(n, -1, -1, -1).unbind(1)))
        self._zeros = [torch.zeros_like(rows[0]) for rows in self._rows]

    def draws(self) -> Iterator[tuple[int, int, int]]:
        C, _, W = self.plan.shape
        for front in self.plan.fronts():
            if self.plan.slope is None and front[0][1] == -self.plan.left:
                for instruction, u in self._ticks.row(front[0][0]):
                    self._store(instruction.out, u, None, self._compute(instruction, u, None))
            for color in range(C):
                for instruction, u, v in self._ticks.pixels(front, color):
                    self._store(instruction.out, u, v, self._compute(instruction, u, v))
                for r, c in front:
                    if r >= 0 and 0 <= c < W:
                        self.at = r, c, color
                        yield self.at

    def params(self) -> Tensor:
        r, c, color = self.at
        return self._read(self.plan.params[color], r, c).clone()  # whose row is written over

    def reveal(self, x: Tensor) -> None:
        r, c, _ = self.at
        self._slot(0, r)[:, self._margins[0][0] + c] = x

    # ---- one instruction at row u and column v, or at all columns (None)

    def _compute(self, instruction: Instruction, u: int, v: int | None) -> Tensor:
        count = instruction.columns.count
        if instruction.attend is not None:
            assert v is not None
            query = self._read(instruction.sources[0], u, v)
            x = self._attention(instruction.attend, query, u * count + v)
        elif instruction.weight is None:
            x = self._read(instruction.sources[0], u, v, count)
        else:
            x = self._product(instruction, u, v)
        for step in instruction.steps:
            x = self._step(step, x, u, v, count)
        return x

    def _product(self, instruction: Instruction, u: int, v: int | None) -> Tensor:
        weight, bias = instruction.weight, instruction.bias
        assert weight is not None
        if not instruction.sources:
            n = self._zeros[0].shape[0]
            constant = weight.new_zeros(weight.shape[1]) if bias is None else bias
            return constant.expand(n, -1) if v is not None else constant.expand(n, instruction.columns.count, -1)
        x = torch.cat([self._read(ref, u, v, instruction.columns.count) for ref in instruction.sources], dim=-1)
        if self.plan.rounds(instruction):
            x, weight = rounded(x, self.plan.precision), rounded(weight, self.plan.precision)
        y = x @ weight
        return y if bias is None else y + bias

    def _attention(self, attend: Attend, x: Tensor, query: int) -> Tensor:
        """X (N, channels) of one position → (N, channels of the values)."""
        pattern, keys = attend.pattern, attend.pattern.keys_of(query)
        if not keys:
            return x.new_zeros(len(x), attend.values.channels)
        k, v = (self._positions(ref, keys).unflatten(-1, (pattern.heads, -1)) for ref in (attend.keys, attend.values))
        scores = pattern.scale * torch.einsum("nhc,nkhc->nhk", x.unflatten(-1, (pattern.heads, -1)), k)
        if pattern.bias is not None:
            scores = scores + pattern.bias[:, query, keys]
        scores = scores.where(scores.amax(-1, keepdim=True) > pattern.floor + 104, math.nan)
        return torch.einsum("nhk,nkhc->nhc", scores.softmax(-1), v).flatten(1)

    def _positions(self, ref: Ref, numbers: list[int]) -> Tensor:
        """(N, positions, channels) of a buffer whose rows are all there."""
        left, columns = self._margins[ref.buffer][0], self.plan.buffers[ref.buffer].columns
        channels = slice(ref.channel, ref.channel + ref.channels)
        places = [divmod(number, columns) for number in numbers]
        return torch.stack([self._rows[ref.buffer][r][:, left + c, channels] for r, c in places], dim=1)

    def _step(self, step: Step, x: Tensor, u: int, v: int | None, count: int) -> Tensor:
        function = FUNCTIONS[step.op]
        if step.operand is not None:
            operand = self._read(step.operand, u, v, count)
            return function(x, FUNCTIONS[step.function](operand) if step.function else operand)
        if step.vector is not None:
            return function(x, step.vector)
        return function(x, *step.parameters)

    def _slot(self, buffer: int, row: int) -> Tensor:
        slots = self._rows[buffer]
        return slots[row % len(slots)] if 0 <= row < self.plan.buffers[buffer].rows else self._zeros[buffer]

    def _read(self, ref: Ref, u: int, v: int | None, count: int = 1) -> Tensor:
        slot = self._slot(ref.buffer, u * ref.row_step + ref.row)
        left, _ = self._margins[ref.buffer]
        channels = slice(ref.channel, ref.channel + ref.channels)
        if v is not None:
            return slot[:, left + v * ref.column_step + ref.column, channels]
        if ref.column_step == 0:
            return slot[:, left + ref.column, None, channels].expand(-1, count, -1)
        first = left + ref.column
        return slot[:, first : first + (count - 1) * ref.column_step + 1 : ref.column_step, channels]

    def _store(self, ref: Ref, u: int, v: int | None, x: Tensor) -> None:
        slot = self._slot(ref.buffer, u * ref.row_step + ref.row)
        left, _ = self._margins[ref.buffer]
        channels = slice(ref.channel, ref.channel + ref.channels)
        if v is not None:
            slot[:, left + v * ref.column_step + ref.column, channels] = x
        else:
            slot[:, left + ref.column : left + self.plan.buffers[ref.buffer].columns : ref.column_step, channels] = x


class _Ticks:
    """Which instructions are due where."""

    def __init__(self, plan: Plan) -> None:
        self._rows = [i for i in plan.instructions if i.clock == "row"]
        colors = range(plan.shape[0])
        self._pixels = [[i for i in plan.instructions if i.clock == "pixel" and i.color == k] for k in colors]

    def row(self, r: int) -> Iterator[tuple[Instruction, int]]:
        for instruction in self._rows:
            u = _due(instruction.rows, r)
            if u is not None:
                yield instruction, u

    def pixels(self, front: list[tuple[int, int]], color: int) -> Iterator[tuple[Instruction, int, int]]:
        """One instruction at all pixels, then the next: on a front, a pixel may need what another has just made."""
        for instruction in self._pixels[color]:
            for r, c in front:
                u, v = _due(instruction.rows, r), _due(instruction.columns, c)
                if u is not None and v is not None:
                    yield instruction, u, v


def _due(axis: Axis, t: int) -> int | None:
    index, rest = divmod(t - axis.at, axis.every)
    return index if rest == 0 and 0 <= index < axis.count else None


def _margins(plan: Plan) -> list[tuple[int, int]]:
    """For each buffer, how many columns of zeros are read to its left and right."""
    margins = [(0, 0)] * len(plan.buffers)
    reads = [(ref, i.columns.count) for i in plan.instructions for ref in i.refs()]
    for ref, count in reads + [(ref, plan.shape[2]) for ref in plan.params]:
        left, right = margins[ref.buffer]
        last = ref.column + (count - 1) * ref.column_step
        beyond = last - plan.buffers[ref.buffer].columns + 1
        margins[ref.buffer] = (max(left, -ref.column), max(right, beyond))
    return margins
