"""A traced tensor as channels of feature maps: views, slices, concatenations and padding cost nothing.

A value knows, for each of a tensor's dimensions, what lies along it (images n, rows r, columns s, channels c), and for
each channel from which part, meaning which map at which offset, it comes. Views, permutations, slices and
concatenations only move this bookkeeping around.

Rows and columns flattened are a sequence. A piece of one, or one with a position more behind its last, lies along p.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .graph import Map, Read
from .trace import UnsupportedModelError

Atom = tuple[str, int]
Dims = list[tuple[Atom, ...]]
_ONE: tuple[Atom, ...] = (("c", 1),)


@dataclass(frozen=True)
class Part:
    """value(i, j) = the map at ``read``, for rows and columns inside the window; zero elsewhere."""

    read: Read
    rows: tuple[int, int]
    columns: tuple[int, int]

    @classmethod
    def of(cls, source: Map) -> Part:
        return cls(Read(source), (0, source.rows), (0, source.columns))

    def spatial(self, axis: str, start: int, step: int, count: int) -> Part:
        """Positions start, start + step, … along rows (r) or columns (s); a negative start pads."""
        read = self.read
        low, high = self.rows if axis == "r" else self.columns
        window = (min(max(-((start - low) // step), 0), count), min(max(-((start - high) // step), 0), count))
        if axis == "r":
            moved = replace(read, row=read.row + start * read.row_step, row_step=read.row_step * step)
            return Part(moved, window, self.columns)
        moved = replace(read, column=read.column + start * read.column_step, column_step=read.column_step * step)
        return Part(moved, self.rows, window)


@dataclass
class Value:
    """See the module's docstring.

    Attributes:
        dims: for each dimension of the tensor, what lies along it; () for a dimension of size 1 with nothing.
        parts: what the channels come from.
        part, channel: for each channel (in the shape of the c atoms, in order): its part (−1: zeros), and its map's
            channel.
        rows, columns: of the value.
        first: with p: the position, of all rows and columns flattened, with which the piece begins.
    """

    dims: Dims
    parts: list[Part]
    part: np.ndarray
    channel: np.ndarray
    rows: int
    columns: int
    first: int = 0

    @classmethod
    def of(cls, source: Map, n: int) -> Value:
        """The whole map as (N, C, H, W)."""
        C = source.channels
        dims: Dims = [(("n", n),), (("c", C),), (("r", source.rows),), (("s", source.columns),)]
        return cls(dims, [Part.of(source)], np.zeros(C, dtype=np.int64), np.arange(C), source.rows, source.columns)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(_size(dim) for dim in self.dims)

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels between positions."""
        stride = self._stride()
        if stride is None:
            raise UnsupportedModelError("model: expected what is computed here to depend on the image")
        return stride

    def _stride(self) -> tuple[int, int] | None:
        for index in np.unique(self.part):
            read = self.parts[index].read
            if index >= 0 and read.map.stride is not None:
                return read.map.stride[0] * read.row_step, read.map.stride[1] * read.column_step
        return None

    def kind(self, dim: int) -> str:
        """What lies along a dimension: "n", "c", "r", "s", several of these, or "" for nothing.

        Atoms of size 1, which a view may have left beside longer ones, do not count.
        """
        kinds = "".join(kind for kind, _ in _long(self.dims[dim]) or self.dims[dim])
        return "c" if kinds and set(kinds) == {"c"} else kinds

    def settled(self) -> Value:
        """With atoms of size 1, which a view may have left anywhere, where (N, C, H, W) or (N, H, W, C) has them."""
        kinds = [self.kind(dim) for dim in range(len(self.dims))]
        if len(kinds) != 4 or kinds in (["n", "c", "r", "s"], ["n", "r", "s", "c"]) or 1 not in self.shape:
            return self
        value = self.merged()
        for order in ("ncrs", "nrsc"):
            sizes = {"n": value.shape[0], "c": value.part.size, "r": value.rows, "s": value.columns}
            dims: Dims = [((kind, sizes[kind]),) for kind in order]
            if [_long(dim) for dim in dims] == [_long(dim) for dim in value.dims]:
                return replace(value, dims=dims, part=value.part.reshape(-1), channel=value.channel.reshape(-1))
        return self

    # ---- views

    def view(self, shape: Sequence[int]) -> Value:
        """The same elements, as ``reshape`` orders them."""
        piece = self._piece()
        atoms = [atom for dim in self.dims for atom in dim]
        dims: Dims = []
        cut: list[tuple[int, ...]] = []  # how each c atom was divided
        pending: list[int] = []
        for size in shape:
            dim: list[Atom] = []
            have = 1
            while have < size or (size == 1 and not dim and atoms and atoms[0][1] == 1):
                if not atoms:
                    raise UnsupportedModelError(f"a view of {self.shape} as {tuple(shape)}{piece}")
                kind, length = atoms.pop(0)
                if have * length <= size:
                    take = length
                    if kind == "c":
                        cut.append((*pending, length))
                        pending = []
                elif kind == "c" and length % (size // have) == 0 and size % have == 0:
                    take = size // have
                    pending.append(take)
                    atoms.insert(0, (kind, length // take))
                else:
                    raise UnsupportedModelError(f"a view of {self.shape} as {tuple(shape)}{piece}")
                dim.append((kind, take))
                have *= take
            if have != size:
                raise UnsupportedModelError(f"a view of {self.shape} as {tuple(shape)}{piece}")
            dims.append(tuple(dim))
        for atom in atoms:  # of size 1
            dims[-1] = (*dims[-1], atom)
            if atom[0] == "c":
                cut.append((*pending, 1))
                pending = []
        sizes = [size for piece in cut for size in piece]
        return replace(self, dims=dims, part=self.part.reshape(sizes), channel=self.channel.reshape(sizes))

    def _piece(self) -> str:
        """What has to be said of a piece of a sequence."""
        count = next((size for dim in self.dims for kind, size in dim if kind == "p"), 0)
        behind = self.first + count - self.rows * self.columns
        if behind > 0:
            return (
                f", of a sequence that has {behind} more behind the last pixel: a plan has one start token before the "
                "pixels, and what the last position then holds has to be cut off"
            )
        return ", of a piece of a sequence of positions" if count else ""

    def permute(self, order: list[int]) -> Value:
        dims = [self.dims[d] for d in order]
        first = np.cumsum([0] + [sum(kind == "c" for kind, _ in dim) for dim in self.dims])
        axes = [axis for d in order for axis in range(first[d], first[d + 1])]
        return replace(self, dims=dims, part=self.part.transpose(axes), channel=self.channel.transpose(axes))

    def merged(self) -> Value:
        """With at most one c atom in each dimension."""
        dims: Dims = []
        sizes = []
        for index, dim in enumerate(self.dims):
            if self.kind(index) == "c":
                dim = (("c", _size(dim)),)
            elif any(kind == "c" for kind, _ in dim) and len(dim) > 1:
                c = tuple(atom for atom in dim if atom[0] == "c")
                if 1 < _size(c) < _size(dim):
                    dim = self._images_and_channels(dim)
                else:
                    dim = (("c", _size(c)), *(atom for atom in dim if atom[0] != "c"))
            sizes += [size for kind, size in dim if kind == "c"]
            dims.append(dim)
        return replace(self, dims=dims, part=self.part.reshape(sizes), channel=self.channel.reshape(sizes))

    def _images_and_channels(self, dim: tuple[Atom, ...]) -> tuple[Atom, ...]:
        """A dimension of both, as heads of attention are laid out."""
        dim = _long(dim)
        groups = [list(group) for _, group in itertools.groupby(dim, key=lambda atom: atom[0])]
        if sorted(group[0][0] for group in groups) != ["c", "n"]:
            raise UnsupportedModelError(f"channels and positions flattened into one dimension, of {self.shape}")
        return tuple((group[0][0], _size(tuple(group))) for group in groups)

    def _axis(self, dim: int) -> int:
        """The axis of ``part`` and ``channel`` that belongs to a dimension with one c atom."""
        return sum(kind == "c" for d in self.dims[:dim] for kind, _ in d)

    def unsqueeze(self, dim: int) -> Value:
        return replace(self, dims=[*self.dims[:dim], (), *self.dims[dim:]])

    def squeeze(self, dim: int) -> Value:
        """Without a dimension of size 1; a channel goes with it, other atoms, of size 1, move to a neighbour."""
        dims = list(self.dims)
        gone = dims.pop(dim)
        if gone and self.kind(dim) == "c":
            axes = tuple(range(self._axis(dim), self._axis(dim) + len(gone)))
            return replace(self, dims=dims, part=self.part.squeeze(axes), channel=self.channel.squeeze(axes))
        if gone and dim < len(dims):
            dims[dim] = (*gone, *dims[dim])
        elif gone:
            dims[-1] = (*dims[-1], *gone)
        return replace(self, dims=dims)

    def expand(self, shape: Sequence[int]) -> Value:
        """Dimensions of size 1 repeated; along channels only."""
        value = self
        for _ in range(len(shape) - len(self.dims)):
            value = value.unsqueeze(0)
        value = value.merged()
        for dim, size in enumerate(shape):
            if size in (-1, value.shape[dim]):
                continue
            if value.shape[dim] != 1 or value.kind(dim) not in ("", "c"):
                raise UnsupportedModelError(f"an expansion of {self.shape} to {tuple(shape)}")
            axis = value._axis(dim)
            part, channel = value.part, value.channel
            if value.kind(dim) == "":
                part, channel = np.expand_dims(part, axis), np.expand_dims(channel, axis)
            dims = list(value.dims)
            dims[dim] = (("c", size),)
            value = replace(value, dims=dims, part=part.repeat(size, axis), channel=channel.repeat(size, axis))
        return value

    # ---- pieces

    def slice(self, dim: int, start: int, step: int, count: int) -> Value:
        """``count`` of a dimension's elements; a negative start, or an end beyond the last, pads with zeros."""
        value = self.settled().merged()
        kind = value.kind(dim)
        if (start, step, count) == (0, 1, value.shape[dim]):
            return value
        dims = list(value.dims)
        if kind == "c":
            axis, size = value._axis(dim), value.shape[dim]
            index = start + step * np.arange(count)
            inside = (index >= 0) & (index < size)
            part = value.part.take(np.where(inside, index, 0), axis)
            channel = value.channel.take(np.where(inside, index, 0), axis)
            part = np.where(inside.reshape([-1 if a == axis else 1 for a in range(part.ndim)]), part, -1)
            dims[dim] = (("c", count),)
            return replace(value, dims=dims, part=part, channel=channel)
        along = dims[dim] if len(dims[dim]) == 1 else _long(dims[dim])  # with a row's atom of size 1, only columns lie
        kind = along[0][0] if len(along) == 1 else kind
        if kind not in ("r", "s"):
            what = {"n": "images of the batch", "": "a dimension of size 1"}.get(kind, "rows and columns flattened")
            raise UnsupportedModelError(f"a slice of {what}")
        dims[dim] = tuple((kind, count) if atom == along[0] else atom for atom in dims[dim])
        parts = [part.spatial(kind, start, step, count) for part in value.parts]
        rows, columns = (count, value.columns) if kind == "r" else (value.rows, count)
        return replace(value, dims=dims, parts=parts, rows=rows, columns=columns)


def cat_channels(values: list[Value], dim: int) -> Value:
    """Side by side along a dimension of channels; the other dimensions agree."""
    values = [value.merged() for value in values]
    first = values[0]
    for value in values[1:]:
        apart = [d for d in range(len(first.dims)) if d != dim and (first.dims[d] or _ONE) != (value.dims[d] or _ONE)]
        if apart or not at_same_pixels(first, value):
            raise UnsupportedModelError("tensors side by side whose rows, columns or channels lie differently")
    axis = first._axis(dim)
    parts: list[Part] = []
    part = []
    for value in values:
        part.append(np.where(value.part >= 0, value.part + len(parts), -1))
        parts += value.parts
    dims = list(first.dims)
    dims[dim] = (("c", sum(value.shape[dim] for value in values)),)
    channel = np.concatenate([value.channel for value in values], axis)
    return replace(first, dims=dims, parts=parts, part=np.concatenate(part, axis), channel=channel)


def at_same_pixels(a: Value, b: Value) -> bool:
    """Whether positions of one number stand at the same pixel, as far as they stand at any."""
    strides = [each._stride() for each in (a, b)]
    return a.first == b.first and (None in strides or strides[0] == strides[1])


def _long(dim: tuple[Atom, ...]) -> tuple[Atom, ...]:
    return tuple(atom for atom in dim if atom[1] > 1)


def _size(dim: tuple[Atom, ...]) -> int:
    size = 1
    for _, length in dim:
        size *= length
    return size
