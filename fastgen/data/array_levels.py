"""From the values of a user's arrays to levels: never guessed where the values leave a doubt.

Integers are levels as they stand. Floating-point images are read where nothing is lost: in [0, 1] and, within the
rounding of their dtype, on the grid k / (L - 1) of L levels, which is where an image of L levels was divided by L - 1.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .._checks import describe, listed
from .storage import LARGEST, numpy_dtype_of

CHUNK = 2**20
"""Floating-point values looked at together: their grid takes memory."""


def quantised(
    images: Mapping[str, np.ndarray], stated: np.ndarray | None, path: Path, expected: int | None = None
) -> tuple[dict[str, np.ndarray], int, tuple[str, ...]]:
    """The images of all splits as levels, of ``dtype_of`` so many, how many these are, and what was found.

    Args:
        images: by the array's name, (N, …).
        stated: how many levels the file says there are; None where it does not.
        path: of the file, for messages.
        expected: levels that integers are of, where the file says nothing and all of them are below.

    Raises:
        ValueError: no integers and no numbers of the grid; values outside of the levels, or that leave their number
            open; splits of several kinds or sizes. The message names file and array.
    """
    if stated is not None and (stated.shape != () or stated.dtype.kind not in "iu"):
        raise ValueError(f"{path}: expected levels to be one integer, got {describe(stated.tolist())}")
    levels = None if stated is None else int(stated)
    if levels is not None and not 2 <= levels <= LARGEST:
        raise ValueError(f"{path}: expected levels from 2 to {LARGEST}, got {levels}")
    shapes = {array.shape[1:] for array in images.values()}
    if len(shapes) > 1:
        raise ValueError(f"{path}: expected images of one size in all splits, got {listed(sorted(shapes))}")
    kinds = {array.dtype.kind for array in images.values()}
    if "b" in kinds and len(kinds) > 1:
        raise ValueError(f"{path}: expected bool images in all splits, or in none, got both")
    for name, array in images.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{where(path, name)}: expected integer images, got {array.dtype}")
        if not array.size:
            raise ValueError(f"{where(path, name)}: expected at least one image, got shape {array.shape}")
    if kinds == {"b"}:
        if levels not in (None, 2):
            raise ValueError(f"{path}: expected 2 levels of bool images, got {levels}")
        return {name: array.astype(np.uint8) for name, array in images.items()}, 2, ()
    if "f" in kinds:
        return _from_floats(images, levels, path)
    return _from_integers(images, levels, path, expected)


def _from_integers(
    images: Mapping[str, np.ndarray], levels: int | None, path: Path, expected: int | None
) -> tuple[dict[str, np.ndarray], int, tuple[str, ...]]:
    highest = 0
    for name, array in images.items():
        low, high = int(array.min()), int(array.max())
        top = max(256, expected or 0) - 1 if levels is None else levels - 1
        if low < 0 or high > top:
            said = f"{where(path, name)}: expected values in [0, {top}], got [{low}, {high}]"
            many = levels is None and low >= 0 and high < LARGEST
            raise ValueError(said + "; codes say how many they are of: np.savez(..., levels=L)" * many)
        highest = max(highest, high)
    notes: tuple[str, ...] = ()
    if levels is None and expected is not None and highest < expected:
        levels = expected
        if expected != 256:  # what is read where nobody expects others
            notes = (f"{path}: says no levels, and its values are below {expected}: read as {expected} levels",)
    if levels is None and highest < 32:
        raise ValueError(
            f"{path}: expected 8-bit images, got values up to {highest}; say how many levels they have:"
            f" np.savez(..., levels={highest + 1}), or save bool for two"
        )
    levels = levels or 256
    return {name: array.astype(numpy_dtype_of(levels), copy=False) for name, array in images.items()}, levels, notes


def _from_floats(
    images: Mapping[str, np.ndarray], levels: int | None, path: Path
) -> tuple[dict[str, np.ndarray], int, tuple[str, ...]]:
    top = (levels or 256) - 1
    found: dict[str, np.ndarray] = {}
    seen = np.zeros(top + 1, bool)
    for name, array in images.items():
        if array.dtype.kind == "f":
            found[name] = _on_grid(array, top, where(path, name))
            seen |= np.bincount(found[name].ravel(), minlength=top + 1) > 0
    if len(found) < len(images):
        raise ValueError(f"{path}: expected floating-point images in all splits, or in none, got both")
    step = math.gcd(top, *np.flatnonzero(seen).tolist())
    if levels is None and step > 1:
        coarse = top // step + 1
        raise ValueError(
            f"{path}: expected 8-bit images, k/255 with any k, got multiples of {step}/255 only, which may be of"
            f" {coarse} levels; say how many they have: np.savez(..., levels={coarse}) or levels=256"
        )
    dtypes = listed(sorted({str(array.dtype) for array in images.values()}))
    return found, top + 1, (f"{path}: {dtypes} images in [0, 1], all of them k/{top}: read as {top + 1} levels",)


def _on_grid(array: np.ndarray, top: int, place: str) -> np.ndarray:
    """k, where ``array`` is k / ``top``."""
    flat, found = np.ascontiguousarray(array).reshape(-1), np.empty(array.size, numpy_dtype_of(top + 1))
    rounding = max(float(np.finfo(array.dtype).eps), float(np.finfo(np.float64).eps))
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK].astype(np.float64)
        with np.errstate(invalid="ignore"):
            k = np.rint(part * top)
            off = ~((np.abs(part - k / top) <= rounding) & (k >= 0) & (k <= top))
        if off.any():
            raise ValueError(f"{place}: expected integer images, got {array.dtype}; {_advice(flat, part[off], top)}")
        found[start : start + CHUNK] = k
    return found.reshape(array.shape)


def _advice(values: np.ndarray, off: np.ndarray, top: int) -> str:
    """What floating-point values are that lie on no grid, and what to do."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        return "some of them are infinite or not a number"
    if low >= 0 and high <= 1:
        return (
            f"in [0, 1] all would have to be k/{top}, and {off[0]:.6g} is not; quantise them first,"
            " (x * 255).round().astype('uint8'), or say of how many levels they are: np.savez(..., levels=L)"
        )
    if low >= -1 and high <= 1:
        return f"from {low:.4g} to {high:.4g}; quantise them first, ((x + 1) * 127.5).round().astype('uint8')"
    if low >= 0 and high <= 255 and (values == np.rint(values)).all():
        return f"whole numbers from {low:.0f} to {high:.0f}; save them as x.astype('uint8')"
    return f"from {low:.4g} to {high:.4g}; quantise them first, images in [0, 1] by (x * 255).round().astype('uint8')"


def where(path: Path, name: str) -> str:
    """The array called ``name``, in messages; an .npy has only one."""
    return f"{path}: {name}" if path.suffix.lower() == ".npz" else str(path)
