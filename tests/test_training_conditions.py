"""Training on any condition: each image keeps its own, in every part of every step, and a resumed run is unbroken."""

import dataclasses
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from fastgen.conditions import Classes, Vector, apply, kind_said, tensors_of
from fastgen.data import Dataset
from fastgen.training import NonFiniteError, Objective, Trainer, batch, evaluate, pace
from fastgen.training.checks import check_batch
from trainers import RECIPE, assert_same, lines, new_run, trainer

pytest.importorskip("safetensors", reason="safetensors comes with fastgen[train]")
pytest.importorskip("tqdm", reason="tqdm comes with fastgen[train]")

EVERY = ("class", "text", "small")
SHORT = dataclasses.replace(RECIPE, epochs=2, flip=True, channels_last=True)


def told(names: tuple[str, ...], run: Any = None, **changes: Any) -> Trainer:
    return trainer(run, dataclasses.replace(SHORT, **changes), lambda: tiny.Told(*names))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("names", [("text",), ("small",), EVERY], ids=["vector", "map", "dict"])
def test_resumed_is_unbroken(tmp_path: Path, names: tuple[str, ...], accumulate: int) -> None:
    """Stopped in the middle of the second epoch: the same weights and metrics, exactly. Images keep what they told."""
    data, held_out = tiny.told(*names), tiny.told(*names, n=7)
    unbroken = told(names, new_run(tmp_path / "unbroken"), accumulate=accumulate)
    unbroken.fit(data, held_out)

    run = new_run(tmp_path / "stopped")
    stopped = told(names, run, accumulate=accumulate)
    (player,) = stopped.players
    compute = player.gradient

    def interrupted(*arguments: Any) -> Any:
        if stopped.position.step == 7:
            raise KeyboardInterrupt
        return compute(*arguments)

    player.gradient = interrupted  # type: ignore[method-assign]
    with suppress(KeyboardInterrupt):
        stopped.fit(data, held_out)
    torch.rand(3)  # a new process has other random numbers behind it
    resumed = told(names, run, accumulate=accumulate)
    resumed.resume()
    assert (resumed.position.epoch, resumed.position.batch) == (1, 2), "saved after every other step"
    resumed.fit(data, held_out)
    assert_same(resumed, unbroken)
    assert lines(run) == lines(unbroken.run)  # type: ignore[arg-type]


def test_parts_of_a_batch() -> None:
    """As ``tensor_split`` makes them of the images, and of each tensor that belongs to them."""
    values, condition = tiny.images(11).values, tiny.tell(tiny.images(11).values, *EVERY)
    found = list(batch.parts(values, condition, 3))
    assert [len(x) for x, _ in found] == [4, 4, 3]
    for (x, y), same in zip(found, values.tensor_split(3), strict=True):
        assert torch.equal(x, same)
        assert all(torch.equal(y[name], part) for name, part in tiny.tell(same, *EVERY).items())
    ((_, alone),) = batch.parts(values, None, 1)
    assert alone is None
    flipped, told_of = batch.mirrored(values, condition, np.ones(11, bool))
    assert torch.equal(flipped, values.flip(-1))
    assert torch.equal(told_of["small"], condition["small"].flip(-1))
    assert torch.equal(told_of["text"], condition["text"])


def test_everything_beside_the_loop_is_told() -> None:
    model = tiny.Told(*EVERY)
    found = evaluate(model, tiny.told(*EVERY), batch_size=9)
    assert found.images == 40
    trained = told(EVERY)
    assert pace.measure(trained.objective, trained.recipe, torch.device("cpu"), tiny.told(*EVERY)).training > 0
    with torch.no_grad():
        trained.model.logits.bias[3] = math.inf
    with pytest.raises(NonFiniteError, match=r"step 1 .*largest activations: logits "):
        trained.fit(tiny.told(*EVERY), tiny.told(*EVERY))


class Both(tiny.Tiny):
    """With classes, and so told of them."""

    levels, in_channels, classes = 3, 1, 3

    def losses(self, values: torch.Tensor, labels: Any = None, progress: float = 1.0) -> dict[str, torch.Tensor]:
        assert labels.dtype == torch.int64
        return super().losses(values, labels, progress)


def test_a_class_is_told_by_labels_beside_a_condition() -> None:
    data = dataclasses.replace(tiny.told("text"), labels=torch.arange(40) % 3, classes=3)
    assert kind_said(Both()) == Classes(3)
    trained = trainer(recipe=SHORT, kind=Both)
    trained.fit(data, data)
    assert evaluate(trained.model, data).images == 40
    pace.measure(trained.objective, SHORT, torch.device("cpu"), data)


def test_a_model_that_is_told_nothing_does_not_look() -> None:
    assert kind_said(tiny.Tiny()) is None
    trained = trainer(recipe=SHORT)
    trained.fit(tiny.told("text"), tiny.told(*EVERY))
    same = trainer(recipe=SHORT)
    same.fit(tiny.images(), tiny.images())
    assert_same(trained, same)


@pytest.mark.parametrize(
    ("names", "data", "message"),
    [
        (("text",), tiny.images(), r"expected a condition, floating point \(N, 2\), which the model reads, got none"),
        (EVERY, tiny.images(), r"expected a condition, a dict of 'class': integers \(N,\) in \[0, 3\), 'text': float"),
        (("text",), tiny.told("class"), r"condition: expected floating point \(N, 2\), got a tensor \(40,\) of "),
        (("text",), tiny.told("small"), r"condition: expected floating point \(N, 2\), got a tensor \(40, 2, 4, 4\)"),
        (EVERY, tiny.told("class", "text"), "condition: expected a dict of 'class', 'small', 'text', got one of 'clas"),
        (("class", "text"), dataclasses.replace(tiny.told("text"), condition={"class": torch.arange(40) % 4,
         "text": torch.rand(40, 2)}), r"condition\['class'\]: expected integers in \[0, 3\), got values from 0 to 3"),
        (("class",), tiny.told("class", "text"), r"labels: expected integers, got a dict of 'class': integers"),
        (("class",), tiny.told("text"), "labels: expected integers, got torch.float32"),
        (("class",), tiny.images(), r"expected labels in \[0, 3\), since the model has classes, got none"),
    ],
)  # fmt: skip
def test_data_that_the_model_does_not_read(names: tuple[str, ...], data: Dataset, message: str) -> None:
    trained = told(names)
    with pytest.raises(ValueError, match=f"held_out: {message}"):
        trained.fit(tiny.told(*names), data)
    with pytest.raises(ValueError, match=f"train: {message}"):
        trained.fit(data, tiny.told(*names))
    assert trained.position.step == 0
    if names != ("class",):
        with pytest.raises(ValueError, match=f"dataset: {message}"):
            evaluate(trained.model, data)
    values, condition = next(iter(data.batches(9)))
    with pytest.raises(ValueError, match=r"first batch: .*expected"):
        check_batch(trained.model, values, condition)


def test_integers_in_a_class_alone_are_labels() -> None:
    trained = told(("class",))
    trained.fit(tiny.told("class"), tiny.told("class"))
    assert trained.model.condition_kind == Classes(3) != Vector(3)
    assert trained.position.epoch == 2


class Strict(tiny.Told):
    """Reads numbers as a layer does: in the dtype of its weights; and keeps them."""

    def losses(self, values: Tensor, condition: Any = None, progress: float = 1.0) -> dict[str, Tensor]:
        self.read = condition
        assert {part.dtype for part in tensors_of(condition)} == {torch.int64, self.logits.weight.dtype}
        return super().losses(values, condition, progress)


def test_numbers_come_in_the_dtype_of_the_model() -> None:
    """NumPy's are float64, and a layer takes its weights' dtype only."""
    data = tiny.told(*EVERY)
    wide = dataclasses.replace(data, condition=apply(lambda p: p.double() if p.is_floating_point() else p, data.told))
    trained = told(EVERY)
    trained.fit(wide, wide)
    same = told(EVERY)
    same.fit(data, data)
    assert_same(trained, same)
    assert evaluate(trained.model, wide).means == evaluate(trained.model, data).means
    assert pace.measure(Objective(Strict(*EVERY)), SHORT, torch.device("cpu"), wide).training > 0
    assert evaluate(trained.model.double(), data).images == 40
    strict = Trainer(Strict(*EVERY), SHORT)
    strict.fit(wide, wide)
    strict._step(*next(data.batches(8)), 8, 8, 100)
    assert strict.model.read["small"].is_contiguous(memory_format=torch.channels_last), "as the recipe says"
    huge = dataclasses.replace(wide, condition={**wide.told, "text": wide.told["text"] + 1e99})
    with pytest.raises(ValueError, match=r"condition\['text'\]: expected finite numbers, got inf or nan"):
        told(EVERY).fit(huge, wide)
