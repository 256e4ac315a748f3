"""Where tensors lie in memory, by which a trace tells them apart, and which of them an op changes."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor

#: Storage, offset, shape and strides.
Place = tuple[int, int, tuple[int, ...], tuple[int, ...]]
#: Of a part in a tensor: per dimension start, step and length; and the dimensions that the part lacks.
Region = tuple[list[tuple[int, int, int]], list[int]]


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def place_of(tensor: Tensor) -> Place:
    return storage_of(tensor), int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()


def written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an op of torch's dispatcher changes in place, by its schema."""
    if not func._schema.is_mutable:
        return []
    values = [
        args[position] if position < len(args) else kwargs.get(argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [value for value in values if isinstance(value, Tensor)]


def region_of(base: Tensor, part: Tensor) -> Region | None:
    """Per dimension of ``base``: start, step and length of ``part`` in it; and the dimensions that ``part`` lacks."""
    offset = part.storage_offset() - base.storage_offset()
    starts = [0] * base.dim()
    for dim in sorted(range(base.dim()), key=base.stride, reverse=True):
        if base.shape[dim] > 1:
            starts[dim] = offset // base.stride(dim)
            offset -= starts[dim] * base.stride(dim)
    slices, missing, d = [], [], 0
    for dim, (size, stride) in enumerate(zip(base.shape, base.stride(), strict=True)):
        fits = d < part.dim() and (part.stride(d) % stride == 0 or part.shape[d] == 1)
        if fits and starts[dim] + (part.shape[d] - 1) * (part.stride(d) // stride) < size:
            slices.append((starts[dim], max(part.stride(d) // stride, 1), part.shape[d]))
            d += 1
        else:
            slices.append((starts[dim], 1, 1))
            missing.append(dim)
    return (slices, missing) if offset == 0 and d == part.dim() else None


def window_of(base: Tensor, part: Tensor) -> tuple[tuple[int, ...], Region] | None:
    """An order of ``base``'s dimensions and the region of it, so ordered, that is ``part``; None if there is none."""
    for order in itertools.permutations(range(base.dim())):
        region = region_of(base.permute(order), part)
        if region is not None:
            found = cut(base, order, region)
            moves = zip(found.stride(), part.stride(), part.shape, strict=True)
            if found.storage_offset() == part.storage_offset() and all(a == b for a, b, n in moves if n > 1):
                return order, region
    return None


def cut(base: Tensor, order: tuple[int, ...], region: Region) -> Tensor:
    """A view of the region of ``base``, its dimensions in that order."""
    slices, missing = region
    part = base.permute(order)[tuple(slice(at, at + step * (count - 1) + 1, step) for at, step, count in slices)]
    return part[tuple(0 if dim in missing else slice(None) for dim in range(base.dim()))]


def assigned(base: Tensor, part: Tensor, region: Region) -> Tensor:
    """``base`` with the region overwritten."""
    result = base.clone()
    cut(result, tuple(range(base.dim())), region).copy_(part)
    return result
