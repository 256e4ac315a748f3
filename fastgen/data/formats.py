"""Readers of the standard files: IDX (MNIST), CIFAR-10 binary and python, packed binarised MNIST.

All return NumPy arrays. A file that does not hold what its format promises raises ValueError naming the file.
"""

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .._checks import describe
from . import plain_pickle

_CIFAR_RECORD = 1 + 3 * 32 * 32


def read_idx(path: Path) -> np.ndarray:
    """Read unsigned bytes in IDX format, plain or gzipped (by the name's ending).

    http://yann.lecun.com/exdb/mnist: two zero bytes, type 0x08, number of dimensions, big-endian sizes, data.
    """
    data = _unzip(path) if path.suffix == ".gz" else path.read_bytes()
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or not data[3]:
        raise ValueError(f"{path}: expected an IDX file of unsigned bytes (00 00 08 ..), got {data[:4].hex(' ')}")
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise ValueError(f"{path}: expected an IDX header of {header} bytes, got a file of {len(data)}")
    shape = tuple(np.frombuffer(data, ">u4", count=data[3], offset=4).tolist())
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise ValueError(f"{path}: expected {expected} bytes for the shape {shape} in its header, got {len(data)}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_idx_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read MNIST-like images (N, H, W) and their labels (N,)."""
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or y.shape != x.shape[:1]:
        raise ValueError(f"{images}: expected (N, H, W) images and N labels in {labels.name}, got {x.shape}, {y.shape}")
    return x, y


def read_cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read any whole number of records (label, 3*32*32 bytes) into images (N, 3, 32, 32) and labels (N,).

    https://www.cs.toronto.edu/~kriz/cifar.html, binary version.
    """
    data = np.fromfile(path, np.uint8)
    if not data.size or data.size % _CIFAR_RECORD:
        raise ValueError(f"{path}: expected a whole number of {_CIFAR_RECORD}-byte records, got {data.size} bytes")
    records = data.reshape(-1, _CIFAR_RECORD)
    return _cifar(path, records[:, 1:], records[:, 0])


def read_cifar_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a CIFAR-10 batch pickled by Python 2 into images (N, 3, 32, 32) and labels (N,).

    Only what such a batch holds is admitted, see ``plain_pickle``; nothing in the file is run.
    """
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
    packed = read_npz(path).get(key)
    if packed is None or packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != 28 * 28 // 8:
        got = "nothing" if packed is None else f"{packed.dtype} {packed.shape}"
        raise ValueError(f"{path}: expected uint8 (N, 98) under {key!r}, got {got}")
    return np.unpackbits(packed, axis=1).reshape(-1, 28, 28)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read every array of an .npz, or the one of an .npy as {"x": array}; pickled objects are refused."""
    with _numpy_file(path):
        loaded = np.load(path, allow_pickle=False)
        return {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)


def npz_names(path: Path) -> set[str]:
    """Names of the arrays in an .npz; none for an .npy."""
    if not zipfile.is_zipfile(path):
        return set()
    with _numpy_file(path), zipfile.ZipFile(path) as file:
        return {Path(name).stem for name in file.namelist()}


@contextmanager
def _numpy_file(path: Path) -> Iterator[None]:
    """Make what NumPy and zipfile raise for a damaged file one ValueError that names it."""
    try:
        yield
    except (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as a NumPy file: {error}") from error


def _unzip(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
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
