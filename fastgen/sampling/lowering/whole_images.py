"""Layers over all pixels of an image at once, as MADE has them: each unit is computed when its last pixel is drawn.

Their results are maps of one position, that of the first pixel. A unit's reach is then the last pixel that it depends
on, and what becomes of units (N, P·H·W) as parameters (N, P, H, W) is brought to its pixels at the end.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from torch import Tensor

from ..builder import Builder
from ..graph import Map, Operand, Pointwise, empty_map
from ..trace import UnsupportedModelError
from ..traced_tensor import Value

#: Positions of an image, at most: each is a term of its own, and each unit may be computed at a time of its own.
MOST = 4096


def is_flat(x: Value, dim: int) -> bool:
    """Whether all rows and columns, and maybe channels, lie along a dimension."""
    atoms = [atom for atom in x.dims[dim] if atom[0] in "rs"]
    everything = math.prod(size for _, size in atoms) == x.rows * x.columns > 1
    return everything and {kind for kind, size in x.dims[dim] if size > 1} <= set("rsc")


def over_all(b: Builder, x: Value, weight: Tensor) -> Value:
    """X (N, K) with all of an image in K, times weight (O, K)."""
    if "c" in x.kind(0) or x.rows * x.columns > MOST or [kind for kind, _ in x.dims[1]].count("c") > 1:
        raise UnsupportedModelError(f"a matrix product over more than {MOST} positions of an image, or several parts")
    out = b.linear(_flattened(b, x), weight[:, :, None, None])
    return _units(b, out)


def _units(b: Builder, out: Map) -> Value:
    return replace(Value.of(out, b.n), dims=[(("n", b.n),), (("c", out.channels),)])


def _flattened(b: Builder, x: Value) -> Value:
    """(N, K), its positions as channels of a map of one."""
    down, across = x.stride
    parts = [b.clean(part, 0, x.rows - 1, 0, x.columns - 1) for part in x.parts]
    reads = [
        part.spatial("r", i, 1, 1).spatial("s", j, 1, 1).read
        for i, j in np.ndindex(x.rows, x.columns)
        for part in parts
    ]
    positions = np.arange(x.rows * x.columns).reshape(x.rows, x.columns, 1)
    part, channel = (each.reshape(1, 1, -1) + 0 * positions for each in (x.part, x.channel))
    read = np.where(part < 0, -1, positions * len(parts) + part)
    order = ["rsc".index(kind) for kind, _ in x.dims[1]]
    order += [axis for axis in range(3) if axis not in order]
    read, channel = (each.transpose(order).reshape(-1) for each in (read, channel))
    out = empty_map(1, 1, len(read), (down * x.rows, across * x.columns), b.path)
    b.graph.add(Pointwise(out, b.path, "flatten", operands=[Operand(reads, read, channel)]))
    return _units(b, out)


def brought_to_pixels(b: Builder, x: Value) -> Value:
    """Units (N, P, H, W) of a map of one position, as a map of H · W; other values as they are."""
    x = x.merged()
    kinds = [x.kind(dim) for dim in range(len(x.dims))]
    if (x.rows, x.columns) != (1, 1) or len(kinds) != 4 or kinds[0] != "n" or set(kinds[1:]) - {"c", ""}:
        return x
    _, P, H, W = x.shape
    stride = tuple(each // size for each, size in zip(x.stride, (H, W), strict=True))
    if (stride[0] * H, stride[1] * W) != x.stride:
        return x
    out = empty_map(H, W, P, (stride[0], stride[1]), b.path)
    part, channel = (each.reshape(P, H, W) for each in (x.part, x.channel))
    for i, j in np.ndindex(H, W):
        at = replace(x, part=part[:, i, j], channel=channel[:, i, j])
        b.graph.add(
            Pointwise(
                out, b.path, "place", row=i, column=j, row_step=H, column_step=W, operands=[b.operand_of(at)]
            )
        )  # fmt: skip
    return Value.of(out, b.n)
