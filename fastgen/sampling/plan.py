"""The plan: how a model is evaluated along the walk, as data. It can be printed, encoded, and executed anywhere.

The walk goes through the image pixel by pixel in raster order and, within a pixel, colour by colour::

    for r in range(-top, H):
        every row instruction that is due, for all its columns
        for c in range(-left, W + tail):
            for k in range(C):
                every pixel instruction of colour k that is due
                if r ≥ 0 and 0 ≤ c < W: draw colour k of pixel (r, c), and write its input into the image buffer

An instruction is due in row r where ``r = rows.at + u·rows.every`` for a u in [0, rows.count), likewise in column c for
a v of ``columns``. It computes one position of its buffer, or with the row clock all ``columns.count`` of them::

    accumulator = bias + concat(sources) @ weight, or what its one source holds, or the attention of that
    for step in steps: accumulator = step(accumulator)
    out = accumulator

Where it reads and writes is affine in (u, v), see ``Ref``. Positions outside a buffer read as zeros: that is a
convolution's padding. Every buffer has its channels innermost and keeps only the ``keep`` last rows.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .precision import PRECISIONS, Precision

#: Steps on the accumulator alone, with their number of parameters (alpha; slope; bounds; beta and threshold …).
UNARY = {
    "relu": 0, "tanh": 0, "sigmoid": 0, "silu": 0, "gelu": 0, "gelu_tanh": 0, "exp": 0, "log": 0, "neg": 0, "abs": 0,
    "sqrt": 0, "rsqrt": 0, "reciprocal": 0, "sin": 0, "cos": 0, "erf": 0, "log1p": 0, "expm1": 0, "floor": 0, "ceil": 0,
    "trunc": 0, "sign": 0, "elu": 1, "leaky_relu": 1, "pow": 1, "clamp": 2, "softplus": 2,
}  # fmt: skip
#: Steps of the accumulator and an operand: a buffer's channels, or a constant vector. Comparisons answer 0 or 1.
BINARY = ("add", "sub", "rsub", "mul", "div", "rdiv", "max", "min", "eq", "lt", "le", "gt", "ge")
#: Steps on the whole vector: [a, b] → tanh(a)·σ(b); x → elu([x, −x]); normalise within each of ``groups`` parts.
VECTOR = {"gate": 0, "concat_elu": 0, "norm": 2}  # norm: groups, eps
STEPS = (*UNARY, *BINARY, *VECTOR)
#: Of the codes that a plan is encoded in: counted on when their records change, or the arguments of the ops that read
#: them, here and in csrc/sample_ops.h.
LAYOUT = 5


def _format() -> int:
    """What codes mean, as a number: of the layout, and of all steps with their parameters (FNV-1a, 63 bits)."""
    counts = UNARY | dict.fromkeys(BINARY, 0) | VECTOR
    digest = 0xCBF29CE484222325
    for byte in "".join([str(LAYOUT), *(f" {step} {counts[step]}" for step in STEPS)]).encode():
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return digest >> 1


#: A compiled library that answers with another number would take the codes for something else.
FORMAT = _format()

Clock = Literal["row", "pixel"]
Kind = Literal["image", "map", "constant", "given"]


@dataclass(eq=False)
class Buffer:
    """A feature map: (rows, columns) positions of ``channels`` numbers, of which the last ``keep`` rows are kept.

    Attributes:
        kind: "image": what the model reads, in one channel or several for each colour, written by the draws. "map":
            written by instructions. "constant": ``data``. "given": comes with each batch, one for each image,
            (N, rows, columns, channels).
        data: of a constant buffer: (rows, columns, channels).
        name: of the layer that made it, for people.
    """

    kind: Kind
    rows: int
    columns: int
    channels: int
    keep: int = 1
    data: Tensor | None = None
    name: str = ""


@dataclass(frozen=True)
class Ref:
    """Channels of a buffer, ``channel`` and on, at row u·row_step + row and column v·column_step + column."""

    buffer: int
    channel: int
    channels: int
    row: int = 0
    column: int = 0
    row_step: int = 1
    column_step: int = 1


@dataclass(frozen=True)
class Axis:
    """Due at ``at + u·every`` for u in [0, count)."""

    count: int
    every: int = 1
    at: int = 0


@dataclass(frozen=True)
class Step:
    """One operation on the accumulator.

    Attributes:
        op: one of :data:`STEPS`.
        parameters: numbers that the operation takes.
        operand: of a binary step: where it is read.
        vector: of a binary step without an operand: the constant, one number for each channel of the accumulator.
        function: a parameterless unary step applied to the operand first, such as "sigmoid"; or "".
    """

    op: str
    parameters: tuple[float, ...] = ()
    operand: Ref | None = None
    vector: Tensor | None = None
    function: str = ""


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which keys each query reads, and how: softmax(scale · q · kᵀ + bias) @ v, of ``heads`` parts of the channels.

    Attributes:
        heads: parts of equal size, of queries, keys and values.
        scale: of the products.
        floor: of what is added to the scores of keys that are not read, the largest number, if it is finite; −inf: no
            such. The largest score of a position has to be so far above it that these weigh nothing, or the parameters
            are NaN.
        starts: int64 (queries + 1,): those of query i are ``runs[starts[i] : starts[i + 1]]``. Queries and keys are
            numbered row by row. A query of no keys has zeros.
        runs: int64 (R, 2): keys from the first number up to, not including, the second.
        bias: (1 or heads, queries, keys), or None.
    """

    heads: int
    scale: float
    floor: float
    starts: Tensor
    runs: Tensor
    bias: Tensor | None = None

    @property
    def pairs(self) -> int:
        """Of queries and keys."""
        return int((self.runs[:, 1] - self.runs[:, 0]).sum())

    def keys_of(self, query: int) -> list[int]:
        """The numbers of a query's keys."""
        runs = self.runs[int(self.starts[query]) : int(self.starts[query + 1])].tolist()
        return [key for begin, end in runs for key in range(begin, end)]


@dataclass(frozen=True)
class Attend:
    """The attention of an instruction's one source: position (u, v) is query u·columns.count + v.

    Attributes:
        keys, values: whose positions are numbered row by row; of all their rows, whatever ``row`` and ``column`` say.
    """

    keys: Ref
    values: Ref
    pattern: Pattern


@dataclass(eq=False)
class Instruction:
    """See the module's docstring.

    Attributes:
        color: k, of a pixel instruction: run before colour k of the pixel is drawn.
        sources: what is multiplied with ``weight``, side by side. Without a weight: the one source that is loaded, or
            whose attention is.
        weight: (K, O), K the sum of the sources' channels, 0 if only the bias is left; or None.
        bias: (O,), or None.
        out: where the accumulator goes; its channels are as many as the last step leaves.
        name: of the layer, for people.
    """

    clock: Clock
    rows: Axis
    columns: Axis
    color: int
    sources: tuple[Ref, ...]
    out: Ref
    weight: Tensor | None = None
    bias: Tensor | None = None
    steps: tuple[Step, ...] = ()
    name: str = ""
    attend: Attend | None = None

    def refs(self) -> Iterator[Ref]:
        """Everything it reads."""
        yield from self.sources
        if self.attend is not None:
            yield from (self.attend.keys, self.attend.values)
        for step in self.steps:
            if step.operand is not None:
                yield step.operand

    @property
    def flops(self) -> int:
        """2 for each multiplication with a weight, a key or a value, at one position; of attention, on average."""
        if self.attend is not None:
            positions = self.rows.count * self.columns.count
            channels = self.attend.keys.channels + self.attend.values.channels
            return round(2 * channels * self.attend.pattern.pairs / positions)
        return 0 if self.weight is None else 2 * self.weight.numel()


@dataclass
class Plan:
    """A model, compiled for images of one shape.

    Attributes:
        shape: (C, H, W) of the image.
        buffers: buffer 0 is the image.
        instructions: in the order in which those that are due run.
        params: for each colour, where the parameters that it reads are found when it is drawn (u = r, v = c).
        precision: what products multiply: numbers as they are, or inputs and weights rounded to 16 bits; see
            ``rounds``. Sums, biases and all steps are of the weights' dtype.
        slope: None for the raster walk. Otherwise the wavefront: all pixels with one c + slope·r are drawn together,
            t = 0, 1, …, each instruction that is due run for all of them before the next; then every instruction is
            on the pixel clock.
    """

    shape: tuple[int, int, int]
    buffers: list[Buffer] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    params: list[Ref] = field(default_factory=list)
    slope: int | None = None
    precision: Precision = "float32"

    def rounds(self, instruction: Instruction) -> bool:
        """Whether a product's inputs and weights are rounded: what reads maps alone, not pixels or conditions."""
        maps = all(self.buffers[ref.buffer].kind == "map" for ref in instruction.sources)
        return self.precision != "float32" and bool(instruction.sources) and instruction.weight is not None and maps

    def rounded_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Weights that are rounded, each with its layer."""
        return ((i.name, i.weight) for i in self.instructions if i.weight is not None and self.rounds(i))

    @property
    def tail(self) -> int:
        """Columns that the walk goes on beyond the image, to finish what lags behind."""
        last = [i.columns.at + (i.columns.count - 1) * i.columns.every for i in self.instructions if i.clock == "pixel"]
        return max(0, max(last, default=0) - self.shape[2] + 1)

    @property
    def left(self) -> int:
        """Columns before the image's first, for what depends on padding alone and is wanted early; mostly 0."""
        return -min([0, *(i.columns.at for i in self.instructions if i.clock == "pixel")])

    @property
    def top(self) -> int:
        """Rows above the image's first, likewise."""
        return -min([0, *(i.rows.at for i in self.instructions)])

    def fronts(self) -> Iterator[list[tuple[int, int]]]:
        """All (r, c) in their order, those before and beyond the image too; together those that are drawn together."""
        _, H, W = self.shape
        pixels = itertools.product(range(-self.top, H), range(-self.left, W + self.tail))
        if self.slope is None:
            return ([at] for at in pixels)
        slope = self.slope

        def step(at: tuple[int, int]) -> int:
            return at[1] + slope * at[0]

        return (list(front) for _, front in itertools.groupby(sorted(pixels, key=step), key=step))

    @property
    def sequential_draws(self) -> int:
        """Draws that have to wait for one another, per colour."""
        _, H, W = self.shape
        return H * W if self.slope is None else W + self.slope * (H - 1)

    def encode(self) -> tuple[Tensor, Tensor]:
        """The plan for a compiled executor: (codes, constants).

        Codes are int64, each record preceded by nothing: sizes stand before lists. Constants are one vector of the
        weights' dtype, each constant starting at a multiple of 16; codes hold their offsets, −1 for none::

            C, H, W, slope (−1: raster), tail, left, top, precision (0 float32, 1 bfloat16,
                2 float16)
            number of buffers, then each: kind (0 image, 1 map, 2 constant, 3 given), rows, columns, channels, keep,
                data
            number of params, then each: Ref
            number of instructions, then each:
                clock (0 row, 1 pixel), color, rows: count every at, columns: count every at
                out: Ref
                K, O (both 0 without a weight; K alone 0 where only the bias is left), weight, bias
                heads (0 without attention; else then: keys: Ref, values: Ref, [scale, floor] (offset), heads that the
                    bias has (0: none), bias, queries, runs, then starts and runs)
                number of sources, then each: Ref
                number of steps, then each: op (index into STEPS), function (−1, or index into STEPS),
                    parameters (offset), has operand (0, 1), Ref (zeros if none), vector (offset)
            Ref: buffer, channel, channels, row, column, row_step, column_step

        The plan's weights are then views of that vector, so that they are in memory once.
        """
        pool = _Pool()
        kinds = ("image", "map", "constant", "given")
        codes = [*self.shape, -1 if self.slope is None else self.slope, self.tail, self.left, self.top]
        codes += [PRECISIONS.index(self.precision), len(self.buffers)]
        for b in self.buffers:
            codes += [kinds.index(b.kind), b.rows, b.columns, b.channels, b.keep, pool.offset(b.data)]
        codes.append(len(self.params))
        for ref in self.params:
            codes += _encode_ref(ref)
        codes.append(len(self.instructions))
        for i in self.instructions:
            codes += [int(i.clock == "pixel"), i.color]
            codes += [i.rows.count, i.rows.every, i.rows.at, i.columns.count, i.columns.every, i.columns.at]
            codes += _encode_ref(i.out)
            codes += [*((0, 0) if i.weight is None else i.weight.shape), pool.offset(i.weight), pool.offset(i.bias)]
            codes += [0] if i.attend is None else _encode_attend(i.attend, pool)
            codes.append(len(i.sources))
            for ref in i.sources:
                codes += _encode_ref(ref)
            codes.append(len(i.steps))
            for step in i.steps:
                parameters = torch.tensor(step.parameters) if step.parameters else None
                codes += [STEPS.index(step.op), STEPS.index(step.function) if step.function else -1]
                codes += [pool.offset(parameters), int(step.operand is not None)]
                codes += [0] * 7 if step.operand is None else _encode_ref(step.operand)
                codes.append(pool.offset(step.vector))
        constants = pool.vector()
        for i in self.instructions:
            if i.weight is not None and i.weight.dtype == constants.dtype:
                first = pool.offsets[id(i.weight)]
                i.weight = constants[first : first + i.weight.numel()].view(i.weight.shape)
        return torch.tensor(codes, dtype=torch.int64), constants


class _Pool:
    """Constants side by side in one vector."""

    ALIGN = 16

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.offsets: dict[int, int] = {}
        self.size = 0

    def offset(self, constant: Tensor | None) -> int:
        if constant is None:
            return -1
        offset, size = self.size, constant.numel()
        self.offsets[id(constant)] = offset
        padded = -(-size // self.ALIGN) * self.ALIGN
        self.parts += [constant.detach().reshape(-1), constant.new_zeros(padded - size)]
        self.size += padded
        return offset

    def vector(self) -> Tensor:
        dtype = next((part.dtype for part in self.parts if part.is_floating_point()), torch.get_default_dtype())
        device = next((part.device for part in self.parts if part.device.type != "cpu"), torch.device("cpu"))
        parts = [part.to(device, dtype) for part in self.parts]  # weights are where the model is, numbers of steps here
        return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)


def _encode_ref(ref: Ref) -> list[int]:
    return [ref.buffer, ref.channel, ref.channels, ref.row, ref.column, ref.row_step, ref.column_step]


def _encode_attend(attend: Attend, pool: _Pool) -> list[int]:
    pattern = attend.pattern
    codes = [pattern.heads, *_encode_ref(attend.keys), *_encode_ref(attend.values)]
    codes += [pool.offset(torch.tensor([pattern.scale, pattern.floor]))]
    codes += [0 if pattern.bias is None else len(pattern.bias), pool.offset(pattern.bias)]
    codes += [len(pattern.starts) - 1, len(pattern.runs)]
    return codes + pattern.starts.tolist() + pattern.runs.flatten().tolist()
