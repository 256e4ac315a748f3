"""Arrays as people save them: names of images and labels, labels that are words, floating-point images on a grid."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastgen.commands.image_folder import ImageFolder
from fastgen.data import load

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 4, 5), dtype=np.uint8)
Y = np.arange(40) % 4
WORDS = np.array(["tram", "bus", "car", "Zug"])[Y]


def saved(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "x.npz", **arrays)
    return tmp_path / "x.npz"


def rows(path: Path, split: str = "train") -> set[tuple[bytes, int | None]]:
    """Images with their labels, in no order."""
    found = load(path, split=split)
    labels = [None] * len(found) if found.labels is None else found.labels.tolist()
    return {
        (bytes(np.ascontiguousarray(image)), label)
        for image, label in zip(found.values[:, 0].numpy(), labels, strict=True)
    }


def expected(x: np.ndarray, y: Any = None) -> set[tuple[bytes, int | None]]:
    return {(bytes(image), None if y is None else int(y[index])) for index, image in enumerate(x)}


@pytest.mark.parametrize(
    ("x", "y"), [("x", "y"), ("images", "labels"), ("arr_0", "arr_1"), ("X", "labels"), ("x", None)]
)
def test_one_set_of_images(tmp_path: Path, x: str, y: str | None) -> None:
    path = saved(tmp_path, **{x: X, **({} if y is None else {y: Y})})
    assert rows(path) | rows(path, "test") == expected(X, None if y is None else Y)


@pytest.mark.parametrize(
    ("x", "y"),
    [("{}", "{}_labels"), ("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}"), ("{}_x", "{}_y")],
)
@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val", "test"), ("Training", "VALID", "testing")])
def test_splits(tmp_path: Path, x: str, y: str, splits: tuple[str, ...]) -> None:
    parts = {split: slice(10 * index, 10 * index + 10) for index, split in enumerate(splits)}
    arrays = {name.format(split): all_of[part] for split, part in parts.items() for name, all_of in ((x, X), (y, Y))}
    path = saved(tmp_path, **arrays)
    for split, part in zip(("train", "valid", "test")[:: 2 if len(splits) == 2 else 1], parts.values(), strict=True):
        assert rows(path, split) == expected(X[part], Y[part])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "images": X}, "expected one array of images, got images and x"),
        ({"x": X, "y": Y, "labels": Y}, "expected one array of labels, got labels and y"),
        ({"x": X, "X": X}, "expected one array of images, got X and x"),
        ({"x_train": X, "train_images": X}, "expected one array of the train split, got train_images and x_train"),
        ({"x_train": X, "y_train": Y, "train_y": Y}, "expected one array of labels of the train split, got train_y"),
        ({"x_train": X, "images": X}, "expected one set of images, or splits; got x_train beside images"),
        ({"x_test": X}, "expected images of a train split beside x_test, got none"),
        ({"x_train": X, "y_test": Y}, "expected images that the labels y_test are of, got x_train and no others"),
        ({"train": X, "test": X, "y": Y}, "expected images that the labels y are of"),
        ({"arr_0": X, "arr_1": X}, "arr_0 and arr_1 could both be the images; say which is which"),
        ({"arr_0": X, "arr_1": Y, "arr_2": X}, "expected images as arr_0, .* got arr_0, arr_1, arr_2; say which"),
        ({"x": X, "arr_0": X}, "expected one array of images, got arr_0 and x"),
        ({"y": Y}, "expected images under x, images or arr_0; or splits: train, x_train .*; got y"),
        ({}, "; got no arrays"),
        ({"x": X, "y": np.eye(4)[Y]}, r"y: expected labels .* words, got float64 \(40, 4\); if they are one-hot"),
        ({"x": X, "y": WORDS.astype(object)}, r"y: expected numbers or words, got object; words are .*astype\(str"),
        ({"x": X, "y": np.where(Y, WORDS, "")}, "y: expected words, got an empty one among them"),
        ({"x": X, "y": np.array([b"\xff"] * 40)}, "y: expected words in UTF-8"),
        ({"x": X, "y": np.full(40, 2**31 - 1, np.uint32).view("U1")}, "y: expected words, got numbers that no"),
        ({"x": X, "y": WORDS, "class_names": ["bus", "car", "tram"]}, "among class_names, bus, car, tram, got Zug too"),
        ({"x": X, "y": Y[:0]}, r"y: expected one label per image \(40\), got 0"),
        ({"x": X, "y": WORDS[:0]}, r"y: expected one label per image \(40\), got 0"),
        ({"train": X, "test": X, "train_labels": Y, "test_labels": Y[:3]}, "test_labels: expected one label per image"),
        ({"x": X, "y": WORDS, "classes": 5}, "expected 5 class_names, one for each of its classes, got 4"),
        ({"train": X, "test": X, "train_labels": WORDS, "test_labels": Y}, "labels as words in all splits, or as int"),
        (
            {"train": X[:3], "test": X, "train_labels": WORDS[:3], "test_labels": WORDS},
            "expected labels among those of the training labels, bus, car, tram, got Zug too",
        ),
    ],
)  # fmt: skip
def test_what_is_in_doubt_is_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"x\.npz: .*{message}"):
        load(saved(tmp_path, **arrays))


@pytest.mark.parametrize("kind", ["U", "S", "column"])
def test_words_are_classes_in_the_order_of_text(tmp_path: Path, kind: str) -> None:
    labels = {"U": WORDS, "S": np.char.encode(WORDS, "utf-8"), "column": WORDS[:, None]}[kind]
    path = saved(tmp_path, x=X, y=labels)
    assert load(path).class_names == ("Zug", "bus", "car", "tram")
    assert rows(path) | rows(path, "test") == expected(X, np.array([3, 1, 2, 0])[Y])
    assert load(path).notes == (f"{path}: 4 classes: Zug, bus, car, tram",)
    path = saved(tmp_path, x=X, y=labels, class_names=["tram", "bus", "van", "car", "Zug"])
    assert load(path).class_names == ("tram", "bus", "van", "car", "Zug")
    assert rows(path) | rows(path, "test") == expected(X, np.array([0, 1, 3, 4])[Y])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "longdouble"])
@pytest.mark.parametrize("levels", [None, 256, 17])
def test_floats_on_a_grid_are_what_they_were(tmp_path: Path, dtype: str, levels: int | None) -> None:
    top, said = (levels or 256) - 1, {} if levels is None else {"levels": levels}
    k = np.concatenate([X[:20].astype(int) % (top + 1), np.resize(np.arange(top + 1), (20, 4, 5))])
    for divided in (k.astype(dtype) / np.array(top, dtype), k.astype(dtype) * np.array(1 / top, dtype)):
        path = saved(tmp_path, x=divided.astype(dtype), **said)
        found = load(path)
        assert found.levels == top + 1
        assert rows(path) | rows(path, "test") == expected(k.astype(np.uint8))
        assert f"images in [0, 1], all of them k/{top}: read as {top + 1} levels" in found.notes[0]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.where(X == 9, 0.5, X / 255), r"in \[0, 1\] all would have to be k/255, and 0\.5 is not; quantise them"),
        (X / 127.5 - 1, r"from -1 to 1; quantise them first, \(\(x \+ 1\) \* 127\.5\)\.round\(\)\.astype\('uint8'\)"),
        (X.astype(float), r"whole numbers from 0 to 255; save them as x\.astype\('uint8'\)"),
        (X / 100, r"from 0 to 2\.55; quantise them first"),
        (np.where(X == 9, np.nan, X / 255), "some of them are infinite or not a number"),
        (np.where(X == 9, np.inf, X / 255), "some of them are infinite or not a number"),
        (X / 255 + 1e-6, "all would have to be k/255|from 1e-06 to 1"),
    ],
)
def test_floats_off_the_grid_say_what_to_do(tmp_path: Path, x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"x: expected integer images, got float64; ({message})"):
        load(saved(tmp_path, x=x))
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=rf"x\.npy: expected integer images, got float64; ({message})"):
        load(tmp_path / "x.npy")


def test_a_coarser_grid_leaves_a_doubt(tmp_path: Path) -> None:
    for few, levels in ((X > 99, 2), (X // 16, 16)):
        x = few / (levels - 1)
        with pytest.raises(
            ValueError, match=rf"multiples of {255 // (levels - 1)}/255 only, .* of {levels} levels; say"
        ):
            load(saved(tmp_path, x=x))
        assert load(saved(tmp_path, x=x, levels=levels)).values.max() == levels - 1
        assert load(saved(tmp_path, x=x, levels=256)).values.max() == 255
    for other, kind in ((X, "floating-point"), (X > 9, "bool")):
        with pytest.raises(ValueError, match=f"expected {kind} images in all splits, or in none, got both"):
            load(saved(tmp_path, train=X / 255, test=other))


def test_codes_of_more_than_256_levels(tmp_path: Path) -> None:
    codes = np.random.RandomState(1).randint(0, 512, (40, 4, 5)).astype(np.uint16)
    codes[0, 0, :2] = 511, 0
    path = saved(tmp_path, x=codes, levels=512)
    train, test = load(path), load(path, split="test")
    assert (train.levels, train.values.dtype, test.values.dtype) == (512, torch.int32, torch.int32)
    found = torch.cat([train.values, test.values])[:, 0].numpy()
    assert np.array_equal(np.sort(found.reshape(40, -1), 0), np.sort(codes.reshape(40, -1), 0))
    assert torch.equal(train.quantise(16).values, (train.values // 32).to(torch.uint8))
    with pytest.raises(ValueError, match="expected no preparation of more than 256 levels, which are codes, got"):
        load(path, image_size=8)
    np.save(tmp_path / "bare.npy", codes)
    with pytest.raises(ValueError, match=r"expected values in \[0, 255\], got \[0, 511\]; codes say how many they are"):
        load(tmp_path / "bare.npy")
    with pytest.raises(ValueError, match="expected levels from 2 to 65536, got 65537"):
        load(saved(tmp_path, x=codes, levels=65537))
    with pytest.raises(ValueError, match=r"out: expected an \.npy for values of 512 levels"):
        ImageFolder(tmp_path / "out", 4, 512, None, None, None)
