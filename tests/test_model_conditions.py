"""What a model is told: of the kind it says, in the dtype it reads, and called by the argument's name."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgen.conditions import Classes, FeatureMap, Kinds, Vector, kind_said
from fastgen.models import VAE, GatedPixelCNN, Model, PixelCNN


class Told(Model):
    """A model of any kind of condition."""

    def __init__(self, kind: Kinds) -> None:
        super().__init__(1, 3, None, 4)
        self.kind = kind
        self.weight = torch.nn.Parameter(torch.zeros(1))

    @property
    def condition_kind(self) -> Kinds:
        return self.kind

    def sample(self, n: int, *, seed: int, condition: Any) -> Any:
        return n, seed, condition


KINDS: dict[str, Any] = {"class": Classes(3), "text": Vector(2)}


def test_a_class_is_told_where_there_are_classes() -> None:
    assert PixelCNN().condition_kind is None
    model = GatedPixelCNN(channels=2, layers=1, classes=5)
    assert model.condition_kind == Classes(5)
    labels = model.check_condition(3, [0, 4, 1])
    assert torch.equal(labels, torch.tensor([0, 4, 1]))
    assert torch.equal(model.check_labels(3, np.uint8(4)), torch.tensor([4, 4, 4]))
    for check in (model.check_condition, model.check_labels):
        with pytest.raises(ValueError, match=r"^labels: expected 3 integers in \[0, 5\), one for each image, got None"):
            check(3, None)
        with pytest.raises(TypeError, match=r"^labels: expected an integer tensor, got torch\.float32"):
            check(3, torch.rand(3, 2))
        with pytest.raises(ValueError, match=r"^labels: expected None, since the model has no classes, got a "):
            getattr(VAE(hidden=(2,), image_size=4), check.__name__)(3, torch.zeros(3))


def test_a_condition_comes_as_the_model_reads_it() -> None:
    model = Told({**KINDS, "small": FeatureMap(1, 2, 2)}).double()
    given = {"text": np.ones((3, 2), np.float16), "class": 2, "small": torch.rand(1, 2, 2)}
    found = model.check_condition(3, given)
    assert isinstance(found, dict)
    assert {name: (part.dtype, tuple(part.shape)) for name, part in found.items()} == {
        "class": (torch.int64, (3,)),
        "text": (torch.float64, (3, 2)),
        "small": (torch.float64, (3, 1, 2, 2)),
    }
    assert torch.equal(found["small"][1], given["small"].double())  # type: ignore[attr-defined]
    half = Told(Vector(2)).half().check_condition(1, torch.ones(2))
    assert isinstance(half, Tensor)
    assert half.dtype == torch.float16


@pytest.mark.parametrize(
    ("kind", "given", "error", "message"),
    [
        (Vector(2), None, ValueError, r"condition: expected floating point \(N, 2\), for 3 images, got None"),
        (KINDS, None, ValueError, r"expected a dict of 'class': integers \(N,\) in \[0, 3\), 'text': floating point"),
        (Vector(2), torch.rand(2, 2), ValueError, "condition: expected 3 of them, one for each image, got 2"),
        (Vector(2), torch.arange(3), TypeError, r"condition: expected floating point \(N, 2\), got a tensor \(3,\) of"),
        (Vector(2), torch.rand(3, 2, device="meta"), ValueError, "condition: expected the device of the model, cpu"),
        (KINDS, {"class": 3, "text": torch.rand(2)}, ValueError, r"condition\['class'\]: expected integers in \[0"),
        (KINDS, torch.arange(3), TypeError, "condition: expected a dict of 'class', 'text', got a tensor"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(kind: Any, given: Any, error: type[Exception], message: str) -> None:
    model = Told(kind)
    with pytest.raises(error, match=message):
        model.check_condition(3, given)
    assert model.check_labels(3, None) is None
    with pytest.raises(ValueError, match="labels: expected None, since the model reads a condition, got 1"):
        model.check_labels(3, 1)


def test_previews_are_of_what_held_out_images_were_told() -> None:
    told = {"class": torch.tensor([0, 2]), "text": torch.rand(2, 2)}
    ((n, seed, condition),) = Told(KINDS).preview(5, 7, torch.zeros(2, 1, 4, 4), told)  # type: ignore[misc]
    assert (n, seed) == (2, 7), "there are no more than two"
    assert all(torch.equal(condition[name], part) for name, part in told.items())
    ((n, _, condition),) = Told(Vector(2)).preview(1, 7, torch.zeros(2, 1, 4, 4), told["text"])  # type: ignore[misc]
    assert n == 1
    assert torch.equal(condition, told["text"][:1])


class Sized(Model):
    """Told a vector whose size is an argument."""

    def __init__(self, size: int, kind: Any = None) -> None:
        super().__init__(1, 3, None, 4)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.condition_kind = Vector(size) if kind is None else kind


def test_a_constructor_may_say_what_is_told() -> None:
    model = Sized(4)
    assert kind_said(model) == model.condition_kind == Vector(4)
    assert torch.equal(model.check_condition(2, torch.ones(4)), torch.ones(2, 4))  # type: ignore[arg-type]
    model.condition_kind = None
    assert kind_said(model) is None
    assert Model(1, 3, 5, 4).condition_kind == Classes(5)


@pytest.mark.parametrize("kind", [5, (4,), "vector", Vector, {}, {"text": 4}, {1: Vector(4)}, torch.zeros(4)])
def test_what_is_no_kind_is_named(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"condition_kind: expected Classes\(…\), Vector\(…\), FeatureMap\(…\) of"):
        Sized(4, kind)
    with pytest.raises(TypeError, match=r"condition_kind: expected Classes\(…\), Vector\(…\), FeatureMap\(…\) of"):
        kind_said(Told(kind))


def test_a_kind_that_cannot_be_read_is_not_none() -> None:
    model = Told(Vector(4))
    del model.kind
    with pytest.raises(AttributeError, match="'Told' object has no attribute 'kind'"):
        kind_said(model)


class Drawn(Told):
    """Told a class, by its own word alone."""

    def sample(self, n: int, *, seed: int, labels: Any) -> Any:  # type: ignore[override]
        return n, labels


def test_a_class_without_classes_is_previewed() -> None:
    values, labels = torch.zeros(4, 1, 4, 4), torch.tensor([7, 5, 7, 5])
    ((n, drawn),) = Drawn(Classes(3)).preview(5, 0, values, labels)  # type: ignore[misc]
    assert (n, drawn.tolist()) == (5, [0, 1, 2, 0, 1]), "all of them in turn"
    ((n, drawn),) = Drawn(Classes()).preview(5, 0, values, labels)  # type: ignore[misc]
    assert (n, drawn.tolist()) == (4, [7, 5, 7, 5]), "nobody knows how many there are"
    with pytest.raises(ValueError, match="labels: expected 2 integers, one for each image, got None"):
        Drawn(Classes()).check_condition(2, None)
