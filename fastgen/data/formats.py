"""Readers of the standard files: IDX (MNIST), CIFAR-10 binary and python, packed binarised MNIST.

All return NumPy arrays. A file that does not hold what its format promises raises ValueError naming the file.
"""

import gzip
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from .._checks import describe
from . import plain_pickle
from ._memory import check_fits

_IDX_HEADER = 4 + 4 * 255  # the longest there can be
_CIFAR_RECORD = 1 + 3 * 32 * 32


def read_idx(path: Path) -> np.ndarray:
    """Read unsigned bytes in IDX format, plain or gzipped (by the name's ending).

    http://yann.lecun.com/exdb/mnist: two zero bytes, type 0x08, number of dimensions, big-endian sizes, data. No
    more is unpacked than the sizes say.
    """
    size = _size(path)
    zipped = path.suffix == ".gz"
    with _unzips(path), gzip.open(path) if zipped else open(path, "rb") as file:
        start = file.read(_IDX_HEADER)
        if len(start) < 4 or start[:3] != b"\x00\x00\x08" or not start[3]:
            raise ValueError(f"{path}: expected an IDX file of unsigned bytes (00 00 08 ..), got {start[:4].hex(' ')}")
        header = 4 + 4 * start[3]
        if len(start) < header:
            raise ValueError(f"{path}: expected an IDX header of {header} bytes, got a file of {len(start)}")
        shape = tuple(np.frombuffer(start, ">u4", count=start[3], offset=4).tolist())
        expected = header + math.prod(shape)
        if not zipped and size != expected:
            raise ValueError(f"{path}: expected {expected} bytes for the shape {shape} in its header, got {size}")
        check_fits(f"{path}, images of the shape {shape}", expected)
        data = start + file.read(max(0, expected - len(start)) + 1)
    if len(data) != expected:
        got = "more" if len(data) > expected else len(data)
        raise ValueError(f"{path}: expected {expected} bytes for the shape {shape} in its header, got {got}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_idx_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read MNIST-like images (N, H, W) and their labels (N,)."""
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or y.shape != x.shape[:1]:
        raise ValueError(f"{images}: expected (N, H, W) images and N labels in {labels.name}, got {x.shape}, {y.shape}")
    if y.max(initial=0) > 9:
        raise ValueError(f"{labels}: expected labels 0 to 9, got {y.min()} to {y.max()}")
    return x, y


def read_cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read any whole number of records (label, 3*32*32 bytes) into images (N, 3, 32, 32) and labels (N,).

    https://www.cs.toronto.edu/~kriz/cifar.html, binary version.
    """
    check_fits(str(path), _size(path))
    data = np.fromfile(path, np.uint8)
    if not data.size or data.size % _CIFAR_RECORD:
        raise ValueError(f"{path}: expected a whole number of {_CIFAR_RECORD}-byte records, got {data.size} bytes")
    records = data.reshape(-1, _CIFAR_RECORD)
    return _cifar(path, records[:, 1:], records[:, 0])


def read_cifar_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a CIFAR-10 batch pickled by Python 2 into images (N, 3, 32, 32) and labels (N,).

    Only what such a batch holds is admitted, see ``plain_pickle``; nothing in the file is run.
    """
    check_fits(str(path), _size(path))
    try:
        batch = plain_pickle.load(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as a CIFAR-10 python batch: {error}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{path}: expected a dict with data and labels, got {type(batch).__name__}")
    batch = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    if "data" not in batch or "labels" not in batch:
        raise ValueError(f"{path}: expected a dict with data and labels, got keys {describe(sorted(batch))}")
    images, labels = batch["data"], batch["labels"]
    if isinstance(labels, list) and all(type(label) is int and 0 <= label <= 9 for label in labels):
        labels = np.array(labels, np.uint8)
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
        got = " and ".join(type(part).__name__ for part in (images, labels))
        raise ValueError(f"{path}: expected an array of images and a list of labels, integers 0 to 9, got {got}")
    return _cifar(path, images, labels)


def read_packed(path: Path, key: str) -> np.ndarray:
    """Read binary 28x28 images (N, 28, 28), packed eight pixels to a byte, from the .npz at ``path``."""
    packed = read_npz(path, {key}).get(key)
    if packed is None or packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != 28 * 28 // 8:
        got = "nothing" if packed is None else f"{packed.dtype} {packed.shape}"
        raise ValueError(f"{path}: expected uint8 (N, 98) under {key!r}, got {got}")
    return np.unpackbits(packed, axis=1).reshape(-1, 28, 28)


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz that are called one of ``names``, or the one of an .npy as {"x": array}.

    Objects are refused, and so is an array whose size is not what its header says, before anything is allocated.
    """
    with _numpy_file(path):
        if not is_zip(path):
            with open(path, "rb") as file:
                return {"x": _read_array(file, _size(path), str(path))}
        with zipfile.ZipFile(path) as archive:
            members = {_stem(info.filename): info for info in archive.infolist()}
            if len(members) < len(archive.infolist()):
                raise ValueError("two arrays have the same name")
            chosen = {name: info for name, info in members.items() if names is None or name in names}
            check_fits(str(path), sum(info.file_size for info in chosen.values()))
            arrays = {}
            for name, info in chosen.items():
                with archive.open(info) as member:
                    arrays[name] = _read_array(member, info.file_size, name)
            return arrays


def npz_names(path: Path) -> set[str]:
    """Names of the arrays in an .npz; none for an .npy."""
    if not is_zip(path):
        return set()
    with _numpy_file(path), zipfile.ZipFile(path) as file:
        return {_stem(name) for name in file.namelist()}


def _stem(name: str) -> str:
    return name.removesuffix(".npy")


def is_zip(path: Path) -> bool:
    """Whether the file at ``path`` is an .npz, by what it holds; an .npy is none."""
    _size(path)  # a pipe would wait
    return zipfile.is_zipfile(path)


def _read_array(file: IO[bytes], size: int, name: str) -> np.ndarray:
    """The array in an open .npy of ``size`` bytes."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"expected the format 1.0 or 2.0, got {version[0]}.{version[1]}")
    shape, fortran, dtype = readers[version](file)
    stated = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or dtype.kind not in "biufUS" or dtype.subdtype:
        hint = "; words are saved as array.astype(str)" if dtype.hasobject else ""
        raise ValueError(f"{name}: expected numbers or words, got {str(dtype)[:80]}{hint}")
    if min(shape, default=0) < 0 or file.tell() + stated != size:
        raise ValueError(f"{name}: expected {stated} bytes for {dtype} {shape}, got {size - file.tell()}")
    check_fits(name, stated)
    data = bytearray(stated)  # bytes would make an array that cannot be written to
    found = file.readinto(data)  # type: ignore[attr-defined]
    if found != stated:
        raise ValueError(f"{name}: expected {stated} bytes for {dtype} {shape}, got {found}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _size(path: Path) -> int:
    """Bytes in the file at ``path``.

    Raises:
        ValueError: it is no file, but a pipe, say, which would be waited for.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: expected a file, got {'a folder' if path.is_dir() else 'a pipe or a device'}")
    return path.stat().st_size


@contextmanager
def _numpy_file(path: Path) -> Iterator[None]:
    """Make what NumPy and zipfile raise for a damaged file one ValueError that names it."""
    try:
        yield
    except (
        *(ValueError, EOFError, OSError, RuntimeError, NotImplementedError, SyntaxError, MemoryError, OverflowError),
        *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError),
    ) as error:
        raise ValueError(f"{path}: cannot be read as a NumPy file: {str(error)[:300]}") from error


@contextmanager
def _unzips(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be unzipped: {error}") from error


def _cifar(path: Path, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1:] != (3072,) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{path}: expected uint8 (N, 3072) images and N labels, got {images.dtype} {images.shape}, {labels.shape}"
        )
    if labels.max(initial=0) > 9:
        raise ValueError(f"{path}: expected CIFAR-10 labels 0 to 9, got {labels.min()} to {labels.max()}")
    return images.reshape(-1, 3, 32, 32), labels
