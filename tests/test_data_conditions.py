"""What else a model is told beside each image: kept with the images in data sets, and read from arrays by name."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgen.conditions import Classes, Condition, FeatureMap, Vector, tensors_of
from fastgen.data import Dataset, load, load_for_training
from fastgen.data.array_conditions import read_condition
from fastgen.data.identity import check_content, content

N = 20
LABELS, VECTOR, MAP = torch.arange(N) % 3, torch.rand(N, 5, dtype=torch.float64), torch.rand(N, 2, 4, 6)
WHOLE: dict[str, Tensor] = {"class": LABELS.to(torch.uint8), "text": VECTOR, "small": MAP}
X = 13 * np.arange(N, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(5, 2)


def dataset(condition: Any = None, labels: Tensor | None = None) -> Dataset:
    """Images that say their number."""
    values = torch.arange(N, dtype=torch.uint8).view(N, 1, 1, 1)
    return Dataset(values, labels, 256, None if labels is None else 3, "numbers", condition=condition)


def assert_told(told: Condition | None, whole: Condition, indices: Tensor) -> None:
    """``told`` is that of the images that say ``indices``."""
    for some, every in zip(tensors_of(told), tensors_of(whole), strict=True):
        assert torch.equal(some, every[indices.flatten().long()].to(some.dtype))


@pytest.mark.parametrize("condition", [LABELS, VECTOR, MAP, WHOLE], ids=["labels", "vector", "map", "dict"])
def test_a_condition_goes_where_its_images_go(condition: Any) -> None:
    whole = dataset(condition)
    rest, held = whole.hold_out(0.3)
    parts = [whole, rest, held, whole.subset(7), whole.pick(torch.tensor([3, -1, 3]))]
    for part in parts:
        assert_told(part.told, condition, part.values % N)
        seen = 0
        for values, told in part.batches(4, order=np.arange(len(part))[::-1].copy()):
            assert_told(told, condition, values)
            seen += len(values)
        assert seen == len(part)
    assert_told(whole.quantise(2).condition, condition, torch.arange(N))
    dtypes = [part.dtype for part in tensors_of(whole.condition)]
    assert dtypes == [torch.int64 if not part.is_floating_point() else part.dtype for part in tensors_of(condition)]


def test_what_a_data_set_tells() -> None:
    kinds = {"class": Classes(), "text": Vector(5), "small": FeatureMap(2, 4, 6)}
    assert dataset(WHOLE).condition_kind == kinds
    assert "no labels, told a dict of 'class': integers (N,), 'text': floating point (N, 5), " in repr(dataset(WHOLE))
    assert dataset().condition_kind is dataset().told is None
    assert repr(dataset(labels=LABELS)) == "Dataset(numbers: (20, 1, 1, 1), 256 levels, 3 classes)"
    both = dataset(VECTOR, LABELS)
    assert both.told is both.condition
    assert both.told_to(Vector(5)) is both.told_to(None) is both
    assert both.told_to(Classes(3)).told is LABELS, "a class is told where a class is what a model reads"
    assert both.told_to(Classes(3)).condition_kind == Classes(3)
    assert dataset(VECTOR).told_to(Classes(3)).told is not None, "and nothing else is taken for one"


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        (VECTOR[:-1], ValueError, "condition: expected 20 of them, one for each image, got 19"),
        (LABELS[:-1], ValueError, r"condition: expected shape \(20,\), one for each image, got \(19,\)"),
        (VECTOR[:, 0], ValueError, r"condition: expected \(N, D\) or \(N, C', H', W'\), got \(20,\)"),
        (MAP.to(torch.uint8), TypeError, r"condition: expected integers \(N,\), or numbers, floating point, got a"),
        (VECTOR.log() - np.inf, ValueError, "condition: expected finite numbers, got inf or nan"),
        ({"text": VECTOR, "small": MAP[1:]}, ValueError, r"condition\['small'\]: expected 20 of them"),
        ({"text": VECTOR, "small": MAP / 0}, ValueError, r"condition\['small'\]: expected finite numbers, got inf or"),
        (VECTOR.to("meta"), ValueError, "condition: expected a tensor with values, got one on the meta device"),
        ({}, ValueError, "condition: expected parts that have names"),
    ],
)
def test_what_is_no_condition_is_named(condition: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dataset(condition)


def test_a_run_knows_its_condition_again() -> None:
    first, second = dataset(WHOLE).hold_out()
    config: dict[str, Any] = {"data": {}, "content": content(first, second)}
    assert check_content(first, second, config, "the run") == ()
    other = {**WHOLE, "text": VECTOR.float()}
    for condition, got in ((other, "another"), ({"text": VECTOR}, "another"), (None, "none")):
        changed = dataset(condition).hold_out()
        with pytest.raises(
            ValueError, match=f"expected the condition of each image that the run began with, got {got}"
        ):
            check_content(*changed, config, "the run")
    renamed = dataset({"class": WHOLE["class"], "small": MAP, "words": VECTOR}).hold_out()
    held_out = dataclasses.replace(second, condition={**second.told, "text": -second.told["text"]})  # type: ignore[dict-item]
    for pair in (renamed, (first, held_out)):
        with pytest.raises(ValueError, match="the condition of each image that the run began with, got another"):
            check_content(*pair, config, "the run")
    kept = content(*dataset().hold_out())
    assert content(*dataset(VECTOR).hold_out())["sha256"] == kept["sha256"], "of the images, as it ever was"
    assert kept.keys() == {"sha256", "classes", "class_names"}
    assert check_content(first, second, {**config, "content": kept}, "the run") == ()


@pytest.mark.parametrize(
    "arrays",
    [
        {"condition": VECTOR.numpy().astype(">f4")},
        {"Condition": MAP.numpy().astype(np.float16), "y": LABELS.numpy()},
        {"condition_class": LABELS.numpy().astype(np.int16), "condition_Text_2": VECTOR.numpy()},
    ],
)
def test_arrays_of_a_condition(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=X, **arrays)
    parts = {name.partition("_")[2]: array for name, array in arrays.items() if name != "y"}
    wanted: Any = {name: torch.tensor(array.tolist(), dtype=torch.float64) for name, array in sorted(parts.items())}
    wanted = wanted.get("", wanted)
    train, held = load_for_training(path)
    for part in (train, held, load(path, split="test")):
        if isinstance(wanted, dict):
            assert list(part.condition) == sorted(wanted)
        assert_told(part.condition, wanted, part.values[:, 0, 0, 0] // 13)
        kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors_of(part.condition)]
        assert kinds == [array.dtype.name if array.dtype.kind == "f" else "int64" for _, array in sorted(parts.items())]
    assert train.notes == (), "nothing was left out"
    assert_told(read_condition(path), wanted, torch.arange(N))


def test_conditions_of_splits(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, train=X[:12], x_test=X[12:], train_condition_a=VECTOR[:12], Condition_a_testing=VECTOR[12:])
    for split in ("train", "test"):
        found = load(path, split=split)
        assert_told(found.condition, {"a": VECTOR}, found.values[:, 0, 0, 0] // 13)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "condition": VECTOR[:9]}, r"condition: expected one for each image \(20\), got float64 \(9, 5\)"),
        ({"x": X, "condition": np.float32(1)}, r"condition: expected one for each image \(20\), got float32 \(\)"),
        ({"x": X, "condition": X}, r"condition: expected integers \(N,\), or numbers, floating point, got a"),
        ({"x": X, "condition": np.array(["a"] * N)}, "condition: expected integers or floating-point numbers, got an"),
        ({"x": X, "condition": VECTOR / 0}, "condition: expected finite numbers, got inf or nan"),
        ({"x": X, "condition": VECTOR, "CONDITION": VECTOR}, "expected one array of condition, got CONDITION and cond"),
        ({"x": X, "condition": VECTOR, "condition_a": MAP}, "expected condition, or parts .* got condition beside c"),
        ({"x": X, "condition_train": VECTOR}, "expected images that the condition condition_train is of, got x and no"),
        ({"train": X, "test": X, "train_condition": VECTOR, "test_condition": VECTOR[:, :4]},
         r"the train split, floating point \(N, 5\), in all, got floating point \(N, 4\) in test"),
        ({"train": X, "test": X, "test_condition": VECTOR}, "condition of the train split, none, in all, got"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_condition(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=rf"x\.npz: .*{message}"):
        load(tmp_path / "x.npz")


def test_a_file_of_conditions_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "told.npy", VECTOR.numpy())
    assert_told(read_condition(tmp_path / "told.npy"), VECTOR, torch.arange(N))
    for arrays, message in (
        ({"text": VECTOR}, "expected an array called condition, or condition_NAME for each part, got text"),
        ({"condition_a": VECTOR, "condition_b": VECTOR[1:]}, r"condition_b: expected one for each image \(20\), got f"),
        ({"condition": VECTOR[:0]}, "expected the condition of one image or more, got of none"),
        ({"condition": VECTOR, "Condition": VECTOR}, "expected one array of condition, got Condition and condition"),
    ):
        np.savez(tmp_path / "told.npz", **arrays)
        with pytest.raises(ValueError, match=rf"told\.npz: .*{message}"):
            read_condition(tmp_path / "told.npz")


def test_a_data_set_is_as_it_was_without_a_condition() -> None:
    ((values, told),) = dataset().batches(N)
    assert told is None
    assert len(values) == N
    assert [field.name for field in dataclasses.fields(Dataset)][-1] == "condition", "positions of arguments stay"
