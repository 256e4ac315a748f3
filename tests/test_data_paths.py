"""A user's own images: folders and arrays are read as they say; what is broken or in doubt is named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastgen.data import load

Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pictures(folder: Path, images: np.ndarray, names: str = "{}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / names.format(index))


@pytest.mark.parametrize("color", [False, True])
def test_folder_of_images(tmp_path: Path, rng: np.random.Generator, color: bool) -> None:
    images = rng.integers(0, 256, (20, 5, 4, 3) if color else (20, 5, 4), dtype=np.uint8)
    pictures(tmp_path / "flat", images, "{:02}.png")
    (tmp_path / "flat" / "notes.txt").write_text("not an image")
    train, test = load(tmp_path / "flat"), load(tmp_path / "flat", split="test")
    assert (len(train), len(test), train.labels, train.levels) == (18, 2, None, 256)
    read = torch.cat([train.values, test.values]).numpy()
    wanted = images.transpose(0, 3, 1, 2) if color else images[:, None]
    assert sorted(map(bytes, read)) == sorted(bytes(np.ascontiguousarray(image)) for image in wanted)


def test_subfolders_are_classes_numbered_by_the_training_split(tmp_path: Path, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (6, 4, 4), dtype=np.uint8)
    for split, names in (("train", "abc"), ("test", "c")):
        for name in names:
            pictures(tmp_path / split / name, images[:2])
    assert load(tmp_path).labels.tolist() == [0, 0, 1, 1, 2, 2]
    test = load(tmp_path, split="test")
    assert test.labels.tolist() == [2, 2]
    assert test.classes == 3
    pictures(tmp_path / "test" / "d", images[:1])
    with pytest.raises(ValueError, match=r"test: expected the classes a, b, c, got c, d"):
        load(tmp_path, split="test")


def test_broken_folders_name_the_file(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"{tmp_path}/empty: expected images \(\.png .*got none"):
        load(tmp_path / "empty")
    folder = tmp_path / "folder"
    grey = rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    pictures(folder, grey)
    broken = folder / "x.png"
    broken.write_bytes((folder / "0.png").read_bytes()[:30])
    with pytest.raises(ValueError, match=f"{broken}: cannot be read as an image"):
        load(folder)
    Image.fromarray(grey[0][:3]).save(broken)
    with pytest.raises(ValueError, match=f"{broken}: expected a 4x4 grey image as 0.png is, got a 4x3 grey image"):
        load(folder)
    Image.fromarray(np.stack([grey[0]] * 3, axis=2)).save(broken)
    with pytest.raises(ValueError, match=f"{broken}: expected a 4x4 grey image as 0.png is, got a 4x4 RGB image"):
        load(folder)
    Image.fromarray(grey[0]).convert("P").save(broken)
    with pytest.raises(ValueError, match=f"{broken}: expected a grey or RGB image .* got mode P"):
        load(folder)
    broken.unlink()
    pictures(folder / "class", grey)
    with pytest.raises(ValueError, match="expected images in it or in subfolders, one per class; got both, see class/"):
        load(folder)


@pytest.mark.parametrize("shape", [(20, 5, 4), (20, 1, 5, 4), (20, 5, 4, 1), (20, 3, 5, 4), (20, 5, 4, 3)])
def test_arrays(tmp_path: Path, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    x.flat[0] = 255
    first = x[:, None] if x.ndim == 3 else x if shape[1] in (1, 3) else x.transpose(0, 3, 1, 2)
    np.savez(tmp_path / "own.npz", train=x, test=x[:3], train_labels=np.arange(20) % 7, test_labels=np.arange(3))
    train, test = load(tmp_path / "own.npz"), load(tmp_path / "own.npz", split="test")
    assert (train.values.numpy() == first).all()
    assert (test.values.numpy() == first[:3]).all()
    assert test.labels.tolist() == [0, 1, 2]
    assert train.classes == test.classes == 7
    np.save(tmp_path / "one.npy", x.astype(np.int64))
    np.savez(tmp_path / "one.npz", x=x, y=np.arange(20))
    for name in ("one.npy", "one.npz"):
        train, test = load(tmp_path / name), load(tmp_path / name, split="test")
        read = torch.cat([train.values, test.values]).numpy()
        assert len(test) == 2
        assert sorted(map(bytes, read)) == sorted(bytes(np.ascontiguousarray(image)) for image in first)


def test_levels_of_arrays_are_said_not_guessed(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.integers(0, 2, (20, 4, 4))
    np.save(tmp_path / "bool.npy", x.astype(bool))
    assert load(tmp_path / "bool.npy").levels == 2
    np.savez(tmp_path / "said.npz", x=x, levels=5)
    assert load(tmp_path / "said.npz").levels == 5
    np.save(tmp_path / "doubt.npy", x)
    with pytest.raises(ValueError, match=r"expected 8-bit images, got values up to 1; .*np.savez\(..., levels=2\)"):
        load(tmp_path / "doubt.npy")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.full((4, 5, 5), 0.5)}, r"expected integer images, got float64; .*\(x \* 255\)\.round\(\)"),
        ({"x": np.full((4, 5, 5), 256)}, r"expected values in \[0, 255\], got \[256, 256\]"),
        ({"x": np.full((4, 5, 5), -1)}, r"expected values in \[0, 255\], got \[-1, -1\]"),
        ({"x": np.full((8, 8, 3), 255)}, r"\(8, 8, 3\) can be read in two ways"),
        ({"x": np.full((4, 3, 5, 3), 255)}, r"\(4, 3, 5, 3\) can be read in two ways"),
        ({"x": np.full((4, 5, 5, 2), 255)}, r"\(4, 5, 5, 2\) is none of these"),
        (
            {"x": np.full((4, 25), 255)},
            r"x: .* \(4, 25\) is none of these; give flat images their .*x\.reshape\(-1, H, W",
        ),
        (
            {"x": np.full((4, 5, 5), 255), "y": np.zeros((4, 2), int)},
            r"expected labels as integers \(N,\) from 0, .* labels\.argmax\(1\)",
        ),
        ({"x": np.full((4, 5, 5), 255), "y": np.zeros(3, int)}, r"expected one label per image \(4\), got 3"),
        ({"x": np.full((0, 5, 5), 255), "levels": 256}, r"expected at least one image, got shape \(0, 5, 5\)"),
        ({"x": np.full((4, 5, 5), 1), "levels": [16, 2]}, r"expected levels to be one integer, got \[16, 2\]"),
        ({"x": np.full((4, 5, 5), 1), "levels": 16.7}, r"expected levels to be one integer, got 16\.7"),
        ({"photos": np.full((4, 5, 5), 255)}, r"expected images under x, images or arr_0; or splits: .*; got photos"),
    ],
)
def test_arrays_that_cannot_be_right(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        load(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"PK\x01\x02", b"PK\x01\x00"))  # the central directory
    with pytest.raises(ValueError, match=f"{path}: cannot be read as a NumPy file: Bad magic"):
        load(path)
    path.write_bytes(whole[:60])
    with pytest.raises(ValueError, match=f"{path}: cannot be read as a NumPy file"):
        load(path)
