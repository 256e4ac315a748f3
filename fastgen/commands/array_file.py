"""Drawn images as one .npy of any length, and their labels as another: written in parts, there when they are whole."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from .._files import errors_name
from .condition_file import in_turn

LABELS = 2**20
"""Labels that are written at once."""


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
        self.path, self.n, self.labels = path, n, labels
        self.images = _Part(path, (n, *shape), np.min_scalar_type(levels - 1))
        self.beside = _Part(path.with_name(f"{path.stem}-labels.npy"), (n,), np.dtype(np.int64))
        self.parts = [self.images] if labels is None else [self.images, self.beside]
        self._replaces = False

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

    def check(self, overwrite: bool) -> None:
        """Files that are there are replaced when these are whole, if ``overwrite`` says so; so are labels of others.

        Raises:
            ValueError: one of the files is there, or labels that would be read as those of images without any.
        """
        self._replaces = overwrite
        if overwrite:
            return
        for part in self.parts:
            if part.path.exists():
                raise ValueError(f"out: expected a new file, got {part.path}; --overwrite replaces it")
        if self._has_labels_of_others():
            raise ValueError(
                f"out: expected no labels beside images without any, got {self.beside.path}; --overwrite removes it"
            )

    def begin(self) -> None:
        """Make place for all images, which are read under their names when all of them are there."""
        self.images.begin()

    def has(self, first: int, last: int) -> bool:
        """Whether images ``first`` to ``last`` can be there: a batch is marked when it is on the disk."""
        return self.images.is_full()

    def write(self, first: int, values: Tensor) -> None:
        """Write images ``first``, ``first + 1`` … of values (N, C, H, W)."""
        self.images.write(first, values.numpy())

    def finish(self) -> None:
        """Give the files their names; images come last, so that where they are, their labels are, and no others."""
        if self.labels is not None:
            self.beside.begin()
            for first in range(0, self.n, LABELS):
                some = slice(first, min(first + LABELS, self.n))
                self.beside.write(first, in_turn(self.labels, some).numpy())
        elif (self._replaces or self.path.exists()) and self._has_labels_of_others():  # or a start before did
            self.beside.path.unlink()
        for part in self.parts[::-1]:
            with errors_name(part.path):
                os.replace(part.hidden, part.target)

    def _has_labels_of_others(self) -> bool:
        """Whether labels are there that whoever reads these images, which have none, would take for theirs."""
        return self.labels is None and self.beside.path.is_file()


def is_array(out: str) -> bool:
    """Whether a command's ``--out`` is an array, by its name."""
    return out.lower().endswith(".npy")


class _Part:
    """An array that is written in parts, under a hidden name in the folder of its own."""

    def __init__(self, path: Path, shape: Sequence[int], dtype: np.dtype) -> None:
        self.path, self.target = path, Path(os.path.realpath(path))
        self.hidden = self.target.with_name(f".{self.target.name}.part")
        self.shape, self.dtype = tuple(shape), dtype

    def begin(self) -> None:
        with errors_name(self.path), open(self.hidden, "wb") as file:
            file.write(self._header())
            file.truncate(self._size())

    def is_full(self) -> bool:
        """Whether there is place for all of it; a disk that was full, or another program, may have left less."""
        return self.hidden.is_file() and self.hidden.stat().st_size == self._size()

    def _header(self) -> bytes:
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue()

    def _size(self) -> int:
        return len(self._header()) + self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    def write(self, first: int, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, self.dtype)
        with errors_name(self.path), open(self.hidden, "r+b") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            file.seek(first * (data.nbytes // len(data)), os.SEEK_CUR)
            file.write(data.data)
            file.flush()
            os.fsync(file.fileno())
