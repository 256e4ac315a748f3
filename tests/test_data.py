"""Data sets: every format is read back from files made here; every broken file says which it is and what is wrong."""

import gzip
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgen.data import NAMES, Dataset, load, load_for_training
from fastgen.data.formats import read_cifar_python, read_idx


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx(tmp_path: Path, rng: np.random.Generator, name: str, folder: str, zipped: bool) -> None:
    (tmp_path / folder / "raw").mkdir(parents=True)
    wanted = {}
    for prefix, n in (("train", 5), ("t10k", 3)):
        x, y = rng.integers(0, 256, (n, 4, 6)), rng.integers(0, 10, n)
        wanted[prefix] = x, y
        for kind, array in (("images-idx3-ubyte", x), ("labels-idx1-ubyte", y)):
            path = tmp_path / folder / "raw" / f"{prefix}-{kind}{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    for split, prefix in (("train", "train"), ("test", "t10k")):
        dataset = load(name, root=tmp_path, split=split)
        x, y = wanted[prefix]
        assert dataset.values.dtype == torch.uint8
        assert (dataset.values[:, 0].numpy() == x).all()
        assert (dataset.labels.numpy() == y).all()
        assert (dataset.levels, dataset.classes, dataset.shape, dataset.dims) == (256, 10, (1, 4, 6), 24)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected an IDX file of unsigned bytes"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", "expected an IDX file of unsigned bytes"),
        (b"\x00\x00\x08\x03\x00", "expected an IDX header of 16 bytes, got a file of 5"),
        (idx(np.zeros((2, 3)))[:-1], r"expected 18 bytes for the shape \(2, 3\) in its header, got 17"),
        (idx(np.zeros((2, 3))) + b"!", r"expected 18 bytes for the shape \(2, 3\) in its header, got 19"),
    ],
)
def test_broken_idx(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        read_idx(path)
    zipped = tmp_path / "images-idx3-ubyte.gz"
    zipped.write_bytes(gzip.compress(data)[:-6])
    with pytest.raises(ValueError, match=f"{zipped}: cannot be unzipped"):
        read_idx(zipped)


def cifar_records(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.concatenate([rng.integers(0, 10, (n, 1)), rng.integers(0, 256, (n, 3072))], axis=1).astype(np.uint8)


def test_cifar_binary(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    parts = [cifar_records(rng, n) for n in (3, 2)]
    for number, part in enumerate(parts, start=1):
        part.tofile(folder / f"data_batch_{number}.bin")
    dataset, records = load("cifar10", root=tmp_path), np.concatenate(parts)
    assert (dataset.values.numpy().reshape(5, -1) == records[:, 1:]).all()
    assert (dataset.labels.numpy() == records[:, 0]).all()
    assert dataset.shape == (3, 32, 32)
    assert dataset.name == "cifar10 (2 of 5 batch files)"
    assert dataset.description == "2 of 5 batch files of the train split of cifar10"
    for number in (3, 4, 5):
        parts[0].tofile(folder / f"data_batch_{number}.bin")
    whole = load("cifar10", root=tmp_path)
    assert (len(whole), whole.name, whole.description) == (14, "cifar10", "the train split of cifar10")
    assert whole.class_names[3] == "cat"
    with pytest.raises(FileNotFoundError, match=r"cifar10: expected the file cifar-10-batches-bin/test_batch"):
        load("cifar10", root=tmp_path, split="test")
    (folder / "test_batch.bin").write_bytes(b"0" * 3074)
    with pytest.raises(ValueError, match=r"test_batch\.bin: expected a whole number of 3073-byte records, got 3074"):
        load("cifar10", root=tmp_path, split="test")


def test_cifar_python(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    records = cifar_records(rng, 4)
    batch = {b"data": records[:, 1:], b"labels": records[:, 0].tolist(), b"batch_label": b"testing batch 1 of 1"}
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    dataset = load("cifar10", root=tmp_path, split="test")
    assert (dataset.values.numpy().reshape(4, -1) == records[:, 1:]).all()
    assert (dataset.labels.numpy() == records[:, 0]).all()


class Harmful:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("it-ran",)


def test_cifar_python_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Harmful()}, protocol=2))
    with pytest.raises(ValueError, match=f"{path}: cannot be read as a CIFAR-10 python batch: .*mkdir is not admitted"):
        read_cifar_python(path)
    assert not (tmp_path / "it-ran").exists()
    path.write_bytes(pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [3]}, protocol=2)[:-40])
    with pytest.raises(ValueError, match="cannot be read as a CIFAR-10 python batch"):
        read_cifar_python(path)


def test_binarized_mnist(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "binarized_mnist").mkdir()
    counts = {"train": 4, "valid": 3, "test": 2}
    bits = {split: rng.integers(0, 2, (n, 784), dtype=np.uint8) for split, n in counts.items()}
    path = tmp_path / "binarized_mnist" / "binarized_mnist_packed.npz"
    np.savez(path, **{split: np.packbits(array, axis=1) for split, array in bits.items()})
    for split, array in bits.items():
        dataset = load("binarized-mnist", root=tmp_path, split=split)
        assert (dataset.values.numpy().reshape(-1, 784) == array).all()
        assert (dataset.levels, dataset.labels, dataset.classes) == (2, None, None)
    train, watched = load_for_training("binarized-mnist", root=tmp_path)
    assert (len(train), len(watched)) == (4, 3)
    np.savez(path, train=bits["train"])
    with pytest.raises(ValueError, match=rf"{path}: expected uint8 \(N, 98\) under 'train', got uint8 \(4, 784\)"):
        load("binarized-mnist", root=tmp_path)


def test_digits_are_embedded_and_split_without_overlap() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn comes with fastgen[train]")
    train, test = load("digits"), load("digits", split="test")
    assert (len(train), len(test), train.levels, train.classes, train.shape) == (1500, 297, 17, 10, (1, 8, 8))
    whole = torch.cat([train.values, test.values]).flatten(1)
    assert len(whole.unique(dim=0)) == 1797
    assert torch.equal(load("digits").values, train.values)
    fit, watched = load_for_training("digits")
    assert (len(fit), len(watched)) == (1350, 150)
    fit, watched = load_for_training("digits", watch="test")
    assert torch.equal(fit.values, train.values)
    assert torch.equal(watched.values, test.values)


def test_a_data_set_says_which_images_it_holds(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (20, 4, 4), dtype=np.uint8)
    path = tmp_path / "mine.npz"
    np.savez(path, x=x)
    held = f"images drawn from {path}, which has no test split of its own"
    assert [load(path, split=split).description for split in ("train", "test")] == [f"18 {held}", f"2 {held}"]
    assert load_for_training(path)[1].description == f"2 images drawn from 18 {held}"
    np.savez(path, train=x, test=x)
    assert load(path, split="test").description == f"the test split of {path}"
    assert load(path).subset(3).description == f"3 images drawn from the train split of {path}"
    assert Dataset(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), None, 2, None, "two").description == "two"
    one = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"two: expected a name per class \(2\), got 1"):
        Dataset(one, torch.zeros(1).long(), 2, 2, "two", ("a",))
    with pytest.raises(ValueError, match=r"labels: expected int64 \(N,\), got torch.float32 \(1,\)"):
        Dataset(one, torch.zeros(1), 2, 2, "two")
    with pytest.raises(ValueError, match="two: expected labels from 0 to 1, got 2 to 2"):
        Dataset(one, torch.tensor([2]), 2, 2, "two")


def test_missing_files_say_where_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTGEN_DATA", raising=False)
    for name in set(NAMES) - {"digits"}:
        with pytest.raises(FileNotFoundError, match=rf"{name}: expected the file .*no root is set: set FASTG"):
            load(name)
        with pytest.raises(FileNotFoundError, match=rf"{name}: expected the file .*none in {tmp_path}: set"):
            load(name, root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected digits, mnist, .* got .*nowhere, which is not there"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="split: expected train, test for digits, got 'valid'"):
        load("digits", split="valid")


def test_balanced() -> None:
    data = load("digits")
    some = data.balanced(25, seed=0)
    counts = torch.bincount(some.labels)
    assert sorted(set(counts.tolist())) == [2, 3]
    assert torch.equal(some.values, data.balanced(25, seed=0).values)
    assert not torch.equal(some.values, data.balanced(25, seed=1).values)
    with pytest.raises(ValueError, match=r"n: expected 10 to \d+, the classes and images there are, got 9"):
        data.balanced(9)
    with pytest.raises(ValueError, match="digits: expected images with labels, got some without"):
        replace(data, labels=None, classes=None, class_names=None).balanced(25)


def test_quantise_and_subset(rng: np.random.Generator) -> None:
    values = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)
    dataset = Dataset(values, None, 256, None, "ramp")
    for levels in (2, 3, 17, 256):
        assert dataset.quantise(levels).values.flatten().tolist() == [v * levels // 256 for v in range(256)]
    with pytest.raises(ValueError, match="levels: expected 2 to 256, the levels of ramp, got 257"):
        dataset.quantise(257)
    part = dataset.subset(20)
    assert torch.equal(part.values, dataset.subset(20).values)
    assert len(part.values.unique()) == 20
    assert part.values.max() > 128, "drawn from the whole, not cut off the front"
    with pytest.raises(ValueError, match="expected values below 16 levels, got 255"):
        Dataset(values, None, 16, None, "ramp")


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"digits"}))
def test_real_files(name: str) -> None:
    if not os.environ.get("FASTGEN_DATA"):
        pytest.skip("FASTGEN_DATA is not set")
    try:
        dataset = load(name, split="test")
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    part = dataset.subset(200)
    assert len(part) == 200
    assert part.values.max() == dataset.levels - 1
    if dataset.labels is not None:
        assert part.labels.unique().tolist() == list(range(10))
