"""Where tensors lie in memory, by which a trace tells them apart."""

from __future__ import annotations

from torch import Tensor

#: Storage, offset, shape and strides.
Place = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def place_of(tensor: Tensor) -> Place:
    return storage_of(tensor), int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()


def region_of(base: Tensor, part: Tensor) -> tuple[list[tuple[int, int, int]], list[int]] | None:
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
