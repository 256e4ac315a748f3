"""Files with bytes changed, cut or repeated, by a fixed seed: each is read, or refused in a sentence that names it."""

import gzip
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastgen.data import load
from fastgen.data.formats import read_cifar_binary, read_cifar_python, read_idx, read_npz

Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

X = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5) * 2
IDX = b"\x00\x00\x08\x03\x00\x00\x00\x04\x00\x00\x00\x06\x00\x00\x00\x05" + X.tobytes()
CIFAR = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [3, 9]}
EACH = 60


def written(write: Callable, *arguments: object, **keywords: object) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *arguments, **keywords)
    return buffer.getvalue()


def picture(kind: str, color: bool = False) -> bytes:
    image = Image.fromarray(np.stack([X[0]] * 3, axis=2) if color else X[0])
    return written(image.save, kind)


ARRAYS = {"x": X, "y": np.arange(4), "levels": np.array(256)}
FLOATS = {"x_train": (X / 255).astype(np.float32), "y_train": np.array(["a", "b", "a", "c"])}
FILES: dict[str, tuple[str, bytes, Callable]] = {
    "idx": ("x-ubyte", IDX, read_idx),
    "gzipped idx": ("x.gz", gzip.compress(IDX, mtime=0), read_idx),
    "cifar binary": ("b.bin", bytes(2 * 3073), read_cifar_binary),
    "cifar python": ("batch", pickle.dumps(CIFAR, 2), read_cifar_python),
    "npy": ("x.npy", written(np.save, X), load),
    "npz": ("x.npz", written(np.savez, **ARRAYS), load),
    "npz of floats and words": ("x.npz", written(np.savez, **FLOATS), load),
    "npz deflated": ("x.npz", written(np.savez_compressed, **ARRAYS), read_npz),
} | {
    kind: (f"0.{kind.lower()}", picture(kind, color=kind in ("JPEG", "WEBP", "PPM")), lambda path: load(path.parent))
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
}


def mutants(data: bytes, n: int) -> list[bytes]:
    """Copies with some bytes changed, mostly in the first 200; or cut; or with a part written twice."""
    rng, found = np.random.default_rng(len(data)), []
    for _ in range(n):
        copy, kind = bytearray(data), rng.integers(10)
        at = int(rng.integers(min(len(data), 200) if rng.integers(4) else len(data)))
        if kind < 7:
            for _ in range(rng.integers(1, 4)):
                copy[min(len(data) - 1, at + int(rng.integers(8)))] = int(
                    rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
                )
        elif kind < 9:
            del copy[at:]
        else:
            copy[at:at] = copy[at : at + int(rng.integers(1, 64))]
        found.append(bytes(copy))
    return found


@pytest.mark.filterwarnings("ignore")  # pillow warns as it repairs
@pytest.mark.parametrize("name", FILES)
def test_malformed_files_are_read_or_named(tmp_path: Path, name: str) -> None:
    file, data, read = FILES[name]
    path, other = tmp_path / file, tmp_path / "1.png"
    if name.isupper():
        other.write_bytes(data)  # at least two images are needed to hold one out
    said = []
    for mutant in mutants(data, EACH):
        path.write_bytes(mutant)
        try:
            read(path)
        except ValueError as error:
            said.append(str(error))
    path.write_bytes(data)
    read(path)
    assert len(said) > EACH // 20
    assert [words for words in said if str(path) not in words and str(other) not in words] == []
    assert max(map(len, said)) < 1500
