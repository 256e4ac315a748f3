"""Drawn images as one .npy of any length, and their labels as another: written in parts, there when they are whole."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from .._files import errors_name
from .condition_file import in_turn


class ArrayFile:
    """Where ``n`` images are written: (N, C, H, W) in the smallest unsigned type; labels int64 (N,) in NAME-labels.npy.

    Args:
        path: of the images.
        n: how many.
        shape: (C, H, W).
        levels: of their values.
        labels: the class of each, in turn, if any.
    """

    def __init__(self, path: Path, n: int, shape: tuple[int, int, int], levels: int, labels: Tensor | None) -> None:
        self.path, self.labels = path, labels
        self.parts = [_Part(path, (n, *shape), np.min_scalar_type(levels - 1))]
        if labels is not None:
            self.parts.append(_Part(path.with_name(f"{path.stem}-labels.npy"), (n,), np.dtype(np.int64)))

    def __str__(self) -> str:
        return " and ".join(str(part.path) for part in self.parts)

    @property
    def hidden(self) -> tuple[Path, str]:
        """The folder for what is there while images are drawn, and how its name begins."""
        return self.path.parent, f".{self.path.name}"

    def check_place(self) -> None:
        """Raise ValueError unless files can be where these are to be."""
        for part in self.parts:
            if part.path.exists() and not part.path.is_file():
                raise ValueError(f"out: expected a file to write, got {part.path}, which is none")

    def check_new(self) -> None:
        """Raise ValueError if one of the files is there."""
        for part in self.parts:
            if part.path.exists():
                raise ValueError(f"out: expected a new file, got {part.path}; --overwrite replaces it")

    def check(self, overwrite: bool) -> None:
        """Files that were drawn before are replaced when these are whole."""

    def begin(self) -> None:
        """Make place for all images, which are read under their names when all of them are there."""
        for part in self.parts:
            part.begin()

    def has(self, first: int, last: int) -> bool:
        """Whether images ``first`` to ``last`` can be there: a batch is marked when it is on the disk."""
        return all(part.hidden.is_file() for part in self.parts)

    def write(self, first: int, values: Tensor) -> None:
        """Write images ``first``, ``first + 1`` … of values (N, C, H, W)."""
        self.parts[0].write(first, values.numpy())
        if self.labels is not None:
            self.parts[1].write(first, in_turn(self.labels, slice(first, first + len(values))).numpy())

    def finish(self) -> None:
        """Give the files their names; images come last, so that where they are, their labels are."""
        for part in self.parts[::-1]:
            with errors_name(part.path):
                os.replace(part.hidden, part.target)


class _Part:
    """An array that is written in parts, under a hidden name in the folder of its own."""

    def __init__(self, path: Path, shape: Sequence[int], dtype: np.dtype) -> None:
        self.path, self.target = path, Path(os.path.realpath(path))
        self.hidden = self.target.with_name(f".{self.target.name}.part")
        self.shape, self.dtype = tuple(shape), dtype

    def begin(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        size = self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))
        with errors_name(self.path), open(self.hidden, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + size)

    def write(self, first: int, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, self.dtype)
        with errors_name(self.path), open(self.hidden, "r+b") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            file.seek(first * (data.nbytes // len(data)), os.SEEK_CUR)
            file.write(data.data)
            file.flush()
            os.fsync(file.fileno())
