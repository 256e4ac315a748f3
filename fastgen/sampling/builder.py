"""From traced tensors to feature maps: the two primitives, linear and pointwise, that every op is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .graph import Graph, Linear, Map, Operand, Pointwise, Read, Tap, constant_map, empty_map, is_uniform
from .normalisers import Described
from .pairs import of_pairs
from .sequences import has_piece, is_sequence, joined, told_whole, whole
from .trace import Node, Output, UnsupportedModelError
from .traced_tensor import Part, Value, at_same_pixels, cat_channels


@dataclass(frozen=True, eq=False)
class Given:
    """A tensor that depends on the condition alone: computed by torch before the walk, once for each batch."""

    output: Output

    @property
    def shape(self) -> tuple[int, ...]:
        return self.output.shape


Argument = Value | Given | Tensor


@dataclass(frozen=True, eq=False)
class Arrangement:
    """How a tensor that comes with the condition becomes a map (N, rows, columns, channels)."""

    output: Output
    dims: tuple[tuple[tuple[str, int], ...], ...]
    uniform: bool
    dtype: torch.dtype
    crop: tuple[Read, int, int] | None = None
    order: tuple[int, ...] | None = None

    def __call__(self, tensor: Tensor) -> Tensor:
        arranged = arrange(tensor, list(self.dims)).to(self.dtype)
        if self.uniform:
            arranged = arranged[:, :1, :1]
        if self.crop is not None:
            arranged = cropped(arranged, *self.crop)
        return arranged if self.order is None else arranged[..., list(self.order)]


class Builder:
    """Collects operations in ``graph``.

    Attributes:
        n: images in the traced batch.
        dtype, device: of what is computed.
        path, op, shape, reads: where the reading is: the module, the op, the shape of its first result, and the dtype
            of the first that it reads, if that depends on the image or the condition.
        embeddings: of what is drawn: path, rows, and the index.
    """

    def __init__(self, graph: Graph, n: int, dtype: torch.dtype, device: torch.device) -> None:
        self.graph = graph
        self.n = n
        self.dtype = dtype
        self.device = device
        self.path = ""
        self.op = ""
        self.shape: tuple[int, ...] = ()
        self.reads: torch.dtype | None = None
        self.given: list[Arrangement] = []
        self.told_nodes: list[Node] = []
        self.embeddings: list[tuple[str, int, Operand]] = []
        self._copies: dict[tuple[Part, int], Part] = {}

    # ---- pointwise

    def pointwise(self, op: str, *operands: Argument, parameters: tuple[float, ...] = ()) -> Value:
        """A step of the plan on one or two tensors, which broadcast against each other."""
        if any(isinstance(operand, Described) for operand in operands):
            return of_pairs(op, operands, parameters)
        shape = torch.broadcast_shapes(*(tuple(operand.shape) for operand in operands))
        operands = tuple(each.settled() if isinstance(each, Value) else each for each in operands)
        values = [operand.expand(shape) for operand in operands if isinstance(operand, Value)]
        like = values[0].merged()
        if any(not same_positions(like, value) for value in values):
            raise UnsupportedModelError("operands whose rows, columns or channels lie along different dimensions")
        rows, columns = like.rows, like.columns
        read = [
            self.operand(operand.expand(shape)) if isinstance(operand, Value) else self._fixed_operand(operand, like)
            for operand in operands
        ]
        channels = int(np.prod(like.part.shape, dtype=np.int64))
        out = empty_map(rows, columns, channels, like.stride, self.path)
        self.graph.add(Pointwise(out, self.path, op or "copy", op=op, parameters=parameters, operands=read))
        return self.result(out, like)

    def result(self, out: Map, like: Value) -> Value:
        """The map as a value with the dimensions of ``like``."""
        size = like.part.shape
        return replace(
            like,
            parts=[Part.of(out)],
            part=np.zeros(size, dtype=np.int64),
            channel=np.arange(out.channels).reshape(size),
        )

    def operand(self, value: Value) -> Operand:
        value = value.merged()
        parts = [
            self.clean(part, 0, value.rows - 1, 0, value.columns - 1) if np.any(value.part == index) else part
            for index, part in enumerate(value.parts)
        ]
        return self.operand_of(replace(value, parts=parts))

    @staticmethod
    def operand_of(value: Value) -> Operand:
        """The channels of a value whose parts may be read wherever it is read."""
        return Operand([part.read for part in value.parts], value.part.reshape(-1), value.channel.reshape(-1))

    def _fixed_operand(self, operand: Given | Tensor, like: Value) -> Operand | Tensor:
        if isinstance(operand, Tensor):
            data = self.constant(operand, like)
            if is_uniform(data):
                return data[0, 0].contiguous()
        return self.operand_of(self.as_value(operand, like, spread=False))

    # ---- what does not depend on the image

    def told(self, function: Callable[..., Tensor], *args: Any) -> Given:
        """``function`` of what depends on the condition alone, and of constants: one more op before the walk."""
        outputs = [each.output if isinstance(each, Given) else each for each in args]

        def empty(each: Any) -> Any:
            if isinstance(each, Output):
                return torch.empty(each.shape, dtype=each.node.dtypes[each.index], device="meta")
            return each.to("meta") if isinstance(each, Tensor) else each

        made = function(*map(empty, outputs))
        node = Node("fastgen.told", function, tuple(outputs), {}, self.path, False, [tuple(made.shape)], [made.dtype])
        self.told_nodes.append(node)
        return Given(Output(node))

    def scalar(self, number: float) -> Tensor:
        return torch.tensor(float(number), dtype=self.dtype, device=self.device)

    def constant(self, tensor: Tensor, like: Value) -> Tensor:
        """A constant, broadcast to the dimensions of ``like``, as (rows, columns, channels)."""
        data = arrange(*whole(tensor, like.merged()))
        if not torch.equal(data, data[:1].expand_as(data)):
            raise UnsupportedModelError("a constant that differs between the images of a batch")
        return data[0] if data.is_floating_point() else data[0].to(self.dtype)

    def as_value(self, operand: Argument, like: Value, spread: bool = True) -> Value:
        """A constant or what comes with the condition, as a value with the dimensions of ``like``.

        ``spread``: always with all rows and columns, so that padding has something to end.
        """
        if isinstance(operand, Value):
            return operand
        like = like.merged()
        if isinstance(operand, Tensor):
            source = constant_map(self.constant(operand, like), self.path)
            return self._covering(source, like)
        piece = like
        if has_piece(like):
            operand = self.told(partial(told_whole, like=replace(like, parts=[])), operand)
            like = replace(like, dims=whole(self.scalar(0), like)[1], first=0)
        offset = len(like.dims) - len(operand.shape)
        sizes = [1] * offset + list(operand.shape)
        lacking = [i for i, dim in enumerate(like.dims) if any(kind == "n" for kind, _ in dim) and sizes[i] == 1]
        if lacking:
            raise UnsupportedModelError("something that depends on the condition of a whole batch")
        positions = [i for i, dim in enumerate(like.dims) if any(kind in "rs" for kind, _ in dim)]
        uniform = not spread and all(sizes[i] == 1 for i in positions)
        channels = int(np.prod(like.part.shape, dtype=np.int64))
        rows, columns = (1, 1) if uniform else (like.rows, like.columns)
        source = Map(
            "given", rows, columns, channels, None, empty_map(1, 1, channels, None, "").reach,
            given=len(self.given), path=self.path,
        )  # fmt: skip
        self.given.append(Arrangement(operand.output, tuple(like.dims), uniform, self.dtype))
        return self._covering(source, piece)

    def _covering(self, source: Map, like: Value) -> Value:
        value = self.result(source, like)
        if (source.rows, source.columns) != (like.rows, like.columns):
            value.parts = [Part(Read(source, 0, 0, 0, 0), (0, like.rows), (0, like.columns))]
        return value

    # ---- linear

    def linear(
        self,
        value: Value,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        size: tuple[int, int] | None = None,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
    ) -> Map:
        """Convolve: weight (O, I, KH, KW), where I are all channels of ``value``, in their order."""
        O, _, KH, KW = weight.shape
        rows, columns = size or (value.rows, value.columns)
        down, across = value.stride
        out = empty_map(rows, columns, O, (down * stride[0], across * stride[1]), self.path)
        taps = []
        for a in range(KH):
            for b in range(KW):
                at = (a * dilation[0] - padding[0], b * dilation[1] - padding[1])
                taps += self.taps(value, weight[:, :, a, b], at, tuple(stride), (rows, columns))
        self.graph.add(Linear(out, self.path, "convolution", taps=taps, bias=bias))
        return out

    def transposed(
        self,
        value: Value,
        weight: Tensor,
        bias: Tensor | None,
        *,
        size: tuple[int, int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> Map:
        """Transposed convolution, weight (O, I, KH, KW): one convolution for each phase of the result's positions."""
        O, _, KH, KW = weight.shape
        down, across = value.stride
        if down % stride[0] or across % stride[1]:
            raise UnsupportedModelError(
                f"a transposed convolution to more than the image's {self.graph.image.rows} rows"
            )
        out = empty_map(*size, O, (down // stride[0], across // stride[1]), self.path)
        for row in range(min(stride[0], size[0])):
            for column in range(min(stride[1], size[1])):
                phase = Linear(out, self.path, "transposed convolution", row, column, stride[0], stride[1], bias=bias)
                for a in range(KH):
                    for b in range(KW):
                        i, j = row + padding[0] - a * dilation[0], column + padding[1] - b * dilation[1]
                        if i % stride[0] == 0 and j % stride[1] == 0:
                            at = (i // stride[0], j // stride[1])
                            phase.taps += self.taps(value, weight[:, :, a, b], at, (1, 1), phase.counts)
                self.graph.add(phase)
        return out

    def taps(
        self, value: Value, weight: Tensor, at: tuple[int, int], step: tuple[int, ...], counts: tuple[int, int]
    ) -> list[Tap]:
        """Terms of value(step·u + at) @ weightᵀ, weight (O, I): one for each part that has weights other than zero."""
        part, channel = value.part.reshape(-1), value.channel.reshape(-1)
        taps = []
        for index in range(len(value.parts)):
            mine = np.flatnonzero(part == index)
            mine = mine[weight[:, mine].ne(0).any(dim=0).cpu().numpy()]
            if len(mine) == 0:
                continue
            channels, where = np.unique(channel[mine], return_inverse=True)
            packed = weight.new_zeros((len(channels), weight.shape[0]))
            packed.index_add_(0, torch.from_numpy(where).to(weight.device), weight[:, mine].t())
            clean = self.clean(
                value.parts[index],
                at[0], at[0] + step[0] * (counts[0] - 1), at[1], at[1] + step[1] * (counts[1] - 1),
            )  # fmt: skip
            moved = clean.spatial("r", at[0], step[0], counts[0]).spatial("s", at[1], step[1], counts[1])
            taps.append(Tap(moved.read, channels, packed))
        return taps

    def clean(self, part: Part, top: int, bottom: int, left: int, right: int) -> Part:
        """A part that can be read at rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of the value.

        Its map has to end where the window ends, or nothing may be read beyond: else it is copied.
        """
        read = part.read

        def live(first: int, last: int, step: int, offset: int, size: int) -> bool:
            """Whether the map has something at the value's positions first to last."""
            if first > last:
                return False
            return offset + step * last >= 0 and offset + step * first < size

        vertical, horizontal = (
            (read.row_step, read.row, read.map.rows),
            (read.column_step, read.column, read.map.columns),
        )
        spills = (
            live(top, min(bottom, part.rows[0] - 1), *vertical)
            or live(max(top, part.rows[1]), bottom, *vertical)
            or live(left, min(right, part.columns[0] - 1), *horizontal)
            or live(max(left, part.columns[1]), right, *horizontal)
        )
        if not spills:
            return part
        key = (part, id(read.map))
        if key not in self._copies:
            self._copies[key] = self._copy(part)
        return self._copies[key]

    def _copy(self, part: Part) -> Part:
        read = part.read
        (top, bottom), (left, right) = part.rows, part.columns
        rows, columns = max(bottom - top, 1), max(right - left, 1)
        moved = part.spatial("r", top, 1, rows).spatial("s", left, 1, columns).read
        source = read.map
        if source.stride is not None:
            stride = (source.stride[0] * read.row_step, source.stride[1] * read.column_step)
            out = empty_map(rows, columns, source.channels, stride, self.path)
            operand = Operand([moved], np.zeros(source.channels, dtype=np.int64), np.arange(source.channels))
            self.graph.add(Pointwise(out, self.path, "crop", operands=[operand]))
        elif source.data is not None:
            out = constant_map(cropped(source.data[None], moved, rows, columns)[0], self.path)
        else:
            out = replace(source, rows=rows, columns=columns, given=len(self.given), reach=source.reach.copy())
            self.given.append(replace(self.given[source.given], crop=(moved, rows, columns)))
        return Part(Read(out, -top, -left), part.rows, part.columns)

    # ---- composites

    def cat(self, values: Sequence[Argument], dim: int) -> Value:
        """Side by side; along rows and columns as a sum of padded values."""
        values = [value.settled() if isinstance(value, Value) else value for value in values]
        like = next(value for value in values if isinstance(value, Value)).merged()
        dim %= len(like.dims)
        kind = like.kind(dim)
        if is_sequence(like, dim):
            return joined(self, values, dim)
        sized = []
        for value in values:
            wanted = like.slice(dim, 0, 1, value.shape[dim]) if kind else like
            sized.append(self.as_value(value, wanted).merged())
        if kind in ("c", ""):
            sized = [
                value if value.kind(dim) == "c" else value.expand(value.shape) for value in map(as_channels(dim), sized)
            ]
            return cat_channels(sized, dim)
        total = sum(value.shape[dim] for value in values)
        around = torch.zeros([*like.shape[:dim], total, *like.shape[dim + 1 :]], dtype=self.dtype, device=self.device)
        start = 0
        ours: list[Value] = []  # what depends on the image comes first: it says where positions lie
        theirs: list[Value] = []
        for value, placed in zip(values, sized, strict=True):
            size = value.shape[dim]
            if isinstance(value, Tensor):
                around.narrow(dim, start, size).copy_(value)
            else:
                (ours if isinstance(value, Value) else theirs).append(placed.slice(dim, -start, 1, total))
            start += size
        result, *others = ours + theirs
        for value in others:
            result = self.pointwise("add", result, value)
        return self.pointwise("add", result, around) if around.any() else result


def as_channels(dim: int) -> Callable[[Value], Value]:
    """A dimension with nothing along it becomes one channel."""

    def convert(value: Value) -> Value:
        if value.kind(dim) == "c":
            return value
        axis = value._axis(dim)
        dims = list(value.dims)
        dims[dim] = (("c", 1),)
        return replace(
            value, dims=dims, part=np.expand_dims(value.part, axis), channel=np.expand_dims(value.channel, axis)
        )

    return convert


def cropped(data: Tensor, read: Read, rows: int, columns: int) -> Tensor:
    """What ``read`` sees of (N, rows, columns, channels) that does not leave it."""
    if read.row_step == 0:
        return data.expand(-1, rows, columns, -1)
    down, across = read.row_step, read.column_step
    return data[:, read.row : read.row + down * rows : down, read.column : read.column + across * columns : across]


def arrange(tensor: Tensor, dims: list[Any]) -> Tensor:
    """A tensor, broadcast to ``dims``, as (N, rows, columns, channels)."""
    shape = [int(np.prod([length for _, length in dim], dtype=np.int64)) for dim in dims]
    full = tensor.expand(shape).reshape([length for dim in dims for _, length in dim])
    kinds = [kind for dim in dims for kind, _ in dim]
    order = [axis for wanted in "nrsc" for axis, kind in enumerate(kinds) if kind == wanted]
    full = full.permute(order)
    count = {kind: kinds.count(kind) for kind in "nrsc"}
    ends = np.cumsum([count[kind] for kind in "nrs"])
    n, rows, columns = (
        int(np.prod(full.shape[start:end], dtype=np.int64)) for start, end in zip([0, *ends[:-1]], ends, strict=True)
    )
    return full.reshape(n, rows, columns, -1)


def same_positions(a: Value, b: Value) -> bool:
    """Whether two values of one shape have the same along every dimension."""
    nothing: tuple[tuple[str, int], ...] = (("c", 1),)
    dims = [[dim or nothing for dim in each.merged().dims] for each in (a, b)]
    return dims[0] == dims[1] and at_same_pixels(a, b)
