"""Gets the named data sets' files from where their authors, or torchvision, keep them; checked, whole or not at all.

Sizes and checksums are those that torchvision publishes for MNIST, Fashion-MNIST and CIFAR-10, and TensorFlow Datasets
for the binarised MNIST. A file takes its name only when its bytes are right: a broken download leaves nothing.
"""

import hashlib
import io
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._extras import require
from .._files import write_atomic
from .._version import __version__
from .formats import read_packed

TIMEOUT = 30.0
"""Seconds without a byte after which a server is given up."""

PIXELS = 28 * 28


class File(NamedTuple):
    """A file to get: its addresses, tried in turn, how many bytes it has, and its MD5 or SHA-256."""

    urls: tuple[str, ...]
    size: int
    digest: str

    @property
    def name(self) -> str:
        return self.urls[0].rpartition("/")[-1]

    def wrong(self, data: bytes) -> str:
        """What is wrong with ``data`` as this file, in words; nothing if nothing is."""
        if len(data) != self.size:
            return (
                f"{len(data):,} bytes of {self.size:,}" if len(data) < self.size else f"more than {self.size:,} bytes"
            )
        got = digest(data, self.digest)
        return "" if got == self.digest else f"another file, whose checksum is {got}, not {self.digest}"


def digest(data: bytes, like: str) -> str:
    """MD5 or SHA-256, whichever ``like`` is as long as."""
    return (hashlib.md5(data, usedforsecurity=False) if len(like) == 32 else hashlib.sha256(data)).hexdigest()


def _idx(mirrors: tuple[str, ...], folder: str, files: dict[str, tuple[int, str]]) -> dict[str, File]:
    return {
        f"{folder}/raw/{name}.gz": File(tuple(f"{mirror}{name}.gz" for mirror in mirrors), size, md5)
        for name, (size, md5) in files.items()
    }


MNIST = _idx(
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
    "MNIST",
    {
        "train-images-idx3-ubyte": (9912422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        "train-labels-idx1-ubyte": (28881, "d53e105ee54ea40749a09fcbcd1e9432"),
        "t10k-images-idx3-ubyte": (1648877, "9fb629c4189551a2d022fa330f9573f3"),
        "t10k-labels-idx1-ubyte": (4542, "ec29112dd5afa0611ce80d1b7f02629c"),
    },
)
FASHION_MNIST = _idx(
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    "FashionMNIST",
    {
        "train-images-idx3-ubyte": (26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        "train-labels-idx1-ubyte": (29515, "25c81989df183df01b3e8a0aad5dffbe"),
        "t10k-images-idx3-ubyte": (4422102, "bef4ecab320f06d8554ea6380940ec79"),
        "t10k-labels-idx1-ubyte": (5148, "bb300cfdad3c16e7a12a480ee83cd310"),
    },
)

CIFAR10 = File(
    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",), 170498071, "c58f30108f718f92721af3b95e74349a"
)
CIFAR10_MEMBERS = {
    "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
    "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
"""What is taken out of the archive, and the MD5 of each."""

_AMAT = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_{}.amat"
BINARIZED = {
    split: File((_AMAT.format(split),), size, sha256)
    for split, size, sha256 in (
        ("train", 78400000, "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
        ("valid", 15680000, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
        ("test", 15680000, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
    )
}
"""Larochelle's text: a line for each image, of 784 digits 0 and 1 with spaces between."""
PACKED = "binarized_mnist/binarized_mnist_packed.npz"

Opener = Callable[..., Any]


def download(name: str, root: Path, opener: Opener | None = None) -> Iterator[tuple[Path, bool]]:
    """Put the files of a named data set under ``root``, as ``load`` and torchvision look for them.

    Args:
        name: mnist, fashion-mnist, cifar10 or binarized-mnist.
        root: made if it is not there.
        opener: how to open an address, by default ``urllib.request.urlopen``.

    Yields:
        (path, whether it was written just now): a file that is there and right is left as it is.

    Raises:
        ValueError: there is nothing of that name to get.
        ConnectionError: no address gives the right file; the message says what each of them gave.
    """
    ways: dict[str, Callable[[Path, Opener], Iterator[tuple[Path, bool]]]] = {
        "mnist": lambda root, opener: _files(MNIST, root, opener),
        "fashion-mnist": lambda root, opener: _files(FASHION_MNIST, root, opener),
        "cifar10": _cifar10,
        "binarized-mnist": _binarized,
    }
    if name not in ways:
        hint = ": digits come with scikit-learn" if name == "digits" else ""
        raise ValueError(f"name: expected {', '.join(ways)}, got {name!r}{hint}")
    yield from ways[name](root, opener or urllib.request.urlopen)


def _files(files: dict[str, File], root: Path, opener: Opener) -> Iterator[tuple[Path, bool]]:
    for place, file in files.items():
        path = root / place
        there = path.is_file() and path.stat().st_size == file.size and not file.wrong(path.read_bytes())
        if not there:
            _write(path, _fetch(file, root, opener))
        yield path, not there


def _cifar10(root: Path, opener: Opener) -> Iterator[tuple[Path, bool]]:
    wanted = {place: md5 for place, md5 in CIFAR10_MEMBERS.items() if not _is(root / place, md5)}
    found = {}
    if wanted:
        with tarfile.open(fileobj=io.BytesIO(_fetch(CIFAR10, root, opener))) as archive:
            for place, md5 in wanted.items():
                member = archive.extractfile(place)
                data = b"" if member is None else member.read()
                if digest(data, md5) != md5:
                    raise ValueError(f"{CIFAR10.urls[0]}: expected {place} with the checksum {md5}, got another")
                found[place] = data
    for place in CIFAR10_MEMBERS:
        if place in found:
            _write(root / place, found[place])
        yield root / place, place in found


def _binarized(root: Path, opener: Opener) -> Iterator[tuple[Path, bool]]:
    path = root / PACKED
    there = path.is_file() and _is_binarized(path)
    if not there:
        packed: dict[str, Any] = {split: _pack(_fetch(file, root, opener), file) for split, file in BINARIZED.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **packed)
        _write(path, buffer.getvalue())
    yield path, not there


def _pack(text: bytes, file: File) -> np.ndarray:
    """Images of an .amat, eight pixels to a byte."""
    characters = np.frombuffer(text, np.uint8)
    lines = characters.reshape(-1, 2 * PIXELS) if characters.size % (2 * PIXELS) == 0 else None
    if lines is None or (lines[:, ::2] >> 1 != ord("0") >> 1).any():
        raise ValueError(f"{file.urls[0]}: expected lines of {PIXELS} digits 0 and 1")
    return np.packbits(lines[:, ::2] & 1, axis=1)


def _is_binarized(path: Path) -> bool:
    """Whether an archive holds the images that the text files hold, by these files' own checksums."""
    try:
        return all(not file.wrong(amat(read_packed(path, split))) for split, file in BINARIZED.items())
    except ValueError:
        return False


def amat(images: np.ndarray) -> bytes:
    """Larochelle's text of binary images (N, 28, 28)."""
    lines = np.full((len(images), 2 * PIXELS), ord(" "), np.uint8)
    lines[:, ::2], lines[:, -1] = images.reshape(-1, PIXELS) + ord("0"), ord("\n")
    return lines.tobytes()


def _is(path: Path, wanted: str) -> bool:
    return path.is_file() and digest(path.read_bytes(), wanted) == wanted


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def _fetch(file: File, root: Path, opener: Opener) -> bytes:
    """The bytes of a file, from the first address that gives the right ones."""
    failed = []
    for url in file.urls:
        request = urllib.request.Request(url, headers={"User-Agent": f"fastgen/{__version__}"})
        data = bytearray()
        try:
            with (
                opener(request, timeout=TIMEOUT) as response,
                require("tqdm").tqdm(
                    total=file.size, desc=file.name, unit="B", unit_scale=True, leave=False, disable=None
                ) as bar,
            ):
                while len(data) <= file.size and (part := response.read(2**16)):
                    data += part
                    bar.update(len(part))
        except (OSError, HTTPException) as error:
            failed.append(f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}")
            continue
        wrong = file.wrong(bytes(data))
        if not wrong:
            return bytes(data)
        failed.append(f"{url}: {wrong}")
    raise ConnectionError(
        f"{file.name}: expected it from the network, got {'; '.join(failed)}; nothing was written of it; without a"
        f" network, copy the data set's files to {root}, from where there is one"
    )
