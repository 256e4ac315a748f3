"""Named data sets' files, from a server on this machine: checked, whole or not at all; refused politely without one."""

import gzip
import hashlib
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from commands import refused
from fastgen.cli import main
from fastgen.data import download as sources
from fastgen.data import load
from fastgen.data.download import File, amat, download

for package in ("tyro", "tqdm"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 4, 4), dtype=np.uint8)
LABELS = np.arange(5, dtype=np.uint8)
BITS = {
    split: RNG.integers(0, 2, (n, 28, 28), dtype=np.uint8) for split, n in (("train", 4), ("valid", 3), ("test", 2))
}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in {**members, "../outside": b"!"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


BATCH = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [3, 9]}, 2)
MEMBERS = {place: BATCH + bytes([index]) for index, place in enumerate(sources.CIFAR10_MEMBERS)}


class Server:
    """Serves ``files`` by their last name, and counts what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut: set[str] = set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[-1]
                server.asked.append(self.path)
                data = server.files.get(name) if self.path.startswith("/good") else None
                self.send_response(200 if data is not None else 404)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write((data or b"")[: 10 if name in server.cut else None])

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def file(self, name: str, data: bytes, checksum: str) -> File:
        """The first of its addresses has no such file."""
        self.files[name] = data
        return File((f"{self.address}/bad/{name}", f"{self.address}/good/{name}"), len(data), checksum)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of small files, which the tables of what there is are about meanwhile."""
    serving = Server()
    monkeypatch.setenv("no_proxy", "*")
    for name in ("MNIST", "FASHION_MNIST"):
        places = {}
        for place in getattr(sources, name):
            data = idx(IMAGES if "images" in place else LABELS)
            places[place] = serving.file(Path(place).name, data, md5(data))
        monkeypatch.setattr(sources, name, places)
    data = archive(MEMBERS)
    monkeypatch.setattr(sources, "CIFAR10", serving.file("cifar-10-python.tar.gz", data, md5(data)))
    monkeypatch.setattr(sources, "CIFAR10_MEMBERS", {place: md5(data) for place, data in MEMBERS.items()})
    texts = {split: amat(bits) for split, bits in BITS.items()}
    binarized = {s: serving.file(f"{s}.amat", text, hashlib.sha256(text).hexdigest()) for s, text in texts.items()}
    monkeypatch.setattr(sources, "BINARIZED", binarized)
    yield serving
    serving.http.shutdown()
    serving.http.server_close()


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_what_was_got_is_what_is_loaded(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "new" / "data"
    names = ["mnist", "fashion-mnist", "cifar10", "binarized-mnist"]
    assert main(["download", *names, "--data-root", str(root)]) == 0
    said = capsys.readouterr().out
    for name in ("mnist", "fashion-mnist"):
        found = load(name, root=root)
        assert (found.values[:, 0].numpy() == IMAGES).all()
        assert found.labels.tolist() == LABELS.tolist()
    assert load("cifar10", root=root, split="test").labels.tolist() == [3, 9]
    assert len(load("cifar10", root=root)) == 10
    for split, bits in BITS.items():
        assert (load("binarized-mnist", root=root, split=split).values[:, 0].numpy() == bits).all()
    assert files(root) == {*sources.MNIST, *sources.FASHION_MNIST, *sources.CIFAR10_MEMBERS, sources.PACKED}
    assert files(tmp_path) == {f"new/data/{name}" for name in files(root)}, "nothing leaves the folder"
    assert all(f"{root / name}\n" in said for name in files(root))
    assert f"fastgen train vae --data binarized-mnist --data-root {root}" in said
    server.asked.clear()
    assert main(["download", *names, "--data-root", str(root)]) == 0
    assert server.asked == []
    assert capsys.readouterr().out.count(": there already\n") == len(files(root))


@pytest.mark.parametrize("name", ["mnist", "cifar10", "binarized-mnist"])
def test_what_is_there_and_wrong_is_got_again(server: Server, tmp_path: Path, name: str) -> None:
    first = [path for path, _ in download(name, tmp_path)]
    kept = first[0].read_bytes()
    for wrong in (b"half a file", bytes(len(kept)), b"PK\x03\x04"):
        first[0].write_bytes(wrong)
        assert [path for path, written in download(name, tmp_path) if written] == first[:1]
        assert first[0].read_bytes() == kept


def test_broken_downloads_leave_nothing(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("download", "mnist", "--data-root", tmp_path)
    name = "train-labels-idx1-ubyte.gz"
    whole = server.files[name]
    broken = {
        "10 bytes of": (whole, {name}),
        "more than": (whole + b"more", set()),
        "another file, whose checksum is": (whole[::-1], set()),
    }
    for words, (data, server.cut) in broken.items():
        server.files[name] = data
        said = refused(capsys, *command)
        assert f"{name}: expected it from the network, got {server.address}/bad/{name}: Not Found; " in said
        assert f"{server.address}/good/{name}: {words}" in said
        assert files(tmp_path) == {"MNIST/raw/train-images-idx3-ubyte.gz"}
    server.files[name], server.cut = whole, set()
    assert main([str(word) for word in command]) == 0


def test_without_a_network_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise URLError(OSError("no route to host"))

    monkeypatch.setattr("urllib.request.urlopen", none)
    for name in ("mnist", "fashion-mnist", "cifar10", "binarized-mnist"):
        said = refused(capsys, "download", name, "--data-root", tmp_path / "root")
        assert "expected it from the network, got http" in said
        assert (
            f"no route to host; nothing was written of it; without a network, copy the data set's files to {tmp_path}"
            in said
        )
    assert not (tmp_path / "root").exists()
    monkeypatch.delenv("FASTGEN_DATA", raising=False)
    assert "data_root: expected a folder, from --data-root or FASTGEN_DATA, got none" in refused(
        capsys, "download", "mnist"
    )
    assert "names: expected one or more of mnist, fashion-mnist" in refused(capsys, "download")
    for name, words in (("imagenet", "got 'imagenet'"), ("digits", "got 'digits': digits come with scikit-learn")):
        assert f"name: expected mnist, fashion-mnist, cifar10, binarized-mnist, {words}" in refused(
            capsys, "download", name
        )


def test_the_fuller_of_two_layouts_of_cifar10_is_read(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin/data_batch_1.bin").write_bytes(bytes(3073))
    assert load("cifar10", root=tmp_path).name == "cifar10 (1 of 5 batch files)"
    list(download("cifar10", tmp_path))
    assert (load("cifar10", root=tmp_path).name, len(load("cifar10", root=tmp_path))) == ("cifar10", 10)


def test_the_tables_are_of_files_as_they_are_published() -> None:
    every = [*sources.MNIST.values(), *sources.FASHION_MNIST.values(), sources.CIFAR10, *sources.BINARIZED.values()]
    assert {len(file.digest) for file in every} == {32, 64}
    assert len({file.digest for file in every}) == len(every)
    assert [file.size for file in sources.BINARIZED.values()] == [1568 * n for n in (50000, 10000, 10000)]
