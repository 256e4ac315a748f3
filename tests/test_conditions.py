"""What a model is told beside the image: labels, vectors, maps, dicts of them; nothing is rounded or guessed."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgen.conditions import (
    Classes,
    FeatureMap,
    Vector,
    apply,
    arguments,
    as_condition,
    as_labels,
    batch_sizes,
    check_same_device,
    described,
    kind_of,
    kind_of_batch,
    select,
    tensors_of,
)  # fmt: skip

LABELS = torch.tensor([2, 0, 1])
VECTOR = torch.rand(3, 5, dtype=torch.float64)
MAP = torch.rand(3, 2, 4, 6)
KINDS = {"class": Classes(3), "text": Vector(5), "small": FeatureMap(2, 4, 6)}
WHOLE = {"class": LABELS, "text": VECTOR, "small": MAP}
EXAMPLES = {"class": 2, "text": VECTOR[0], "small": MAP[0].numpy()}


def test_the_kind_of_an_example() -> None:
    kinds = kind_of(EXAMPLES)
    assert kinds == kind_of_batch(WHOLE) == KINDS | {"class": Classes()}
    assert {name: kind_of(each) for name, each in EXAMPLES.items()} == kinds
    assert kind_of(LABELS[0]) == kind_of(np.int64(1)) == Classes()
    assert kind_of(KINDS) == KINDS, "a kind says itself what it is"


def test_what_a_caller_gives_becomes_what_a_model_reads() -> None:
    given = as_condition({**WHOLE, "class": [2, 0, 1]}, 3, KINDS, dtype=torch.float32)
    assert list(given) == list(KINDS), "in the order of the kinds"
    assert torch.equal(given["class"], LABELS)
    assert given["class"].dtype == torch.int64
    assert torch.equal(given["text"], VECTOR.float())
    assert given["text"].dtype == torch.float32
    assert torch.equal(given["small"], MAP)
    for name, kind in KINDS.items():
        whole, one = as_condition(WHOLE[name], 3, kind), as_condition(EXAMPLES[name], 3, kind)
        assert torch.equal(whole, WHOLE[name])
        assert torch.equal(one, torch.stack([whole[0]] * 3)), "one example counts for all images"
        assert torch.equal(as_condition(WHOLE[name], 3), whole), "any kind, when none is asked for"
        assert as_condition(EXAMPLES[name], None, kind).dim() == whole.dim() - 1, "while nobody knows how many"
        assert batch_sizes(whole, kind) == {"condition": 3}
    mixed = as_condition({**WHOLE, "class": 1}, None, KINDS)
    assert batch_sizes(mixed, KINDS) == {"text": 3, "small": 3}


@pytest.mark.parametrize(
    ("given", "kind", "error", "message"),
    [
        (torch.rand(3), Classes(3), TypeError, "condition: expected an integer tensor, got torch.float32"),
        ([0.0, 1.0, 2.0], Classes(3), TypeError, "condition: expected an integer tensor, got"),
        (LABELS, Classes(2), ValueError, r"condition: expected integers in \[0, 2\), got values from 0 to 2"),
        (LABELS[:2], Classes(3), ValueError, r"condition: expected shape \(3,\), one for each image, got \(2,\)"),
        (LABELS, Vector(5), TypeError, r"condition: expected floating point \(N, 5\), got a tensor \(3,\) of"),
        (MAP.round().long(), FeatureMap(2, 4, 6), TypeError, r"condition: expected floating point \(N, 2, 4, 6\)"),
        (VECTOR[:, :4], Vector(5), ValueError, r"condition: expected floating point \(N, 5\), got a tensor \(3, 4\)"),
        (VECTOR[:2], Vector(5), ValueError, "condition: expected 3 of them, one for each image, got 2"),
        (MAP, Vector(5), ValueError, r"condition: expected floating point \(N, 5\), got a tensor \(3, 2, 4, 6\)"),
        (MAP[:, :, :3], FeatureMap(2, 4, 6), ValueError, r"\(N, 2, 4, 6\), got a tensor \(3, 2, 3, 6\)"),
        (torch.rand(3), None, ValueError, r"condition: expected \(N, D\) or \(N, C', H', W'\), got \(3,\)"),
        (
            MAP.round().long(),
            None,
            TypeError,
            r"condition: expected integers \(N,\), or numbers, floating point, got a",
        ),
        ("words", Vector(5), TypeError, "condition: expected integers or floating-point numbers, got 'words'"),
        (VECTOR.to(torch.complex64), Vector(5), TypeError, "condition: expected a dense tensor of real numbers"),
        (WHOLE, Vector(5), TypeError, r"condition: expected floating point \(N, 5\), got a dict of 'class', 'small'"),
        (VECTOR, KINDS, TypeError, r"condition: expected a dict of 'class', 'small', 'text', got a tensor \(3, 5\)"),
        ({"class": LABELS}, KINDS, ValueError, "expected a dict of 'class', 'small', 'text', got one of 'class'"),
        ({**WHOLE, "text": LABELS}, KINDS, TypeError, r"condition\['text'\]: expected floating point \(N, 5\)"),
        ({**WHOLE, "class": 3}, KINDS, ValueError, r"condition\['class'\]: expected integers in \[0, 3\)"),
        ({}, None, ValueError, "condition: expected parts that have names, got an empty dict"),
        ({1: LABELS}, None, ValueError, "condition: expected parts that have names, got 1"),
        ({"inner": WHOLE}, None, TypeError, r"condition\['inner'\]: expected labels, a vector or a map, got a dict"),
    ],
)
def test_what_does_not_fit_is_named(given: object, kind: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_condition(given, 3, kind)


@pytest.mark.parametrize(
    ("example", "error", "message"),
    [
        (LABELS, ValueError, r"condition: expected an integer \(\) as the example of a label, got a tensor \(3,\)"),
        (torch.tensor(True), ValueError, "condition: expected an integer"),
        (VECTOR[0, :0], ValueError, r"condition: expected one example, .* without a batch's dimension, got \(0,\)"),
        (VECTOR, ValueError, r"condition: expected one example, \(D,\) or \(C', H', W'\) without a batch's dimension"),
        ({"text": VECTOR}, ValueError, r"condition\['text'\]: expected one example"),
        ({}, ValueError, "condition: expected parts that have names, got an empty dict"),
        (None, TypeError, "condition: expected integers or floating-point numbers, got None"),
    ],
)
def test_what_is_no_example_is_named(example: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kind_of(example)


def test_sizes_of_kinds_are_checked() -> None:
    for make in (lambda: Classes(0), lambda: Vector(0), lambda: FeatureMap(1, 0, 2)):
        with pytest.raises(ValueError, match=r"(count|size|height): expected a positive integer, got 0"):
            make()


def test_every_tensor_of_a_condition() -> None:
    assert apply(len, None) is None
    assert apply(lambda part: part[:2].shape[0], WHOLE) == dict.fromkeys(WHOLE, 2)
    assert torch.equal(apply(lambda part: part + 1, LABELS), LABELS + 1)
    assert select(None, slice(1)) is None
    some = select(WHOLE, torch.tensor([2, 0]))
    assert all(torch.equal(some[name], part[[2, 0]]) for name, part in WHOLE.items())
    assert tensors_of(None) == []
    (alone,) = tensors_of(LABELS)
    assert alone is LABELS
    assert [each.shape[0] for each in tensors_of(WHOLE)] == [3, 3, 3]
    check_same_device(WHOLE, "the model", LABELS)
    with pytest.raises(ValueError, match=r"condition\['class'\]: expected the device of the model, meta, got cpu"):
        check_same_device(WHOLE, "the model", torch.empty(1, device="meta"))


def test_a_forward_has_a_dict_of_its_own() -> None:
    assert arguments(None) == ()
    assert arguments(LABELS)[0] is LABELS
    (given,) = arguments(WHOLE)
    assert given == WHOLE
    assert given is not WHOLE


def test_kinds_in_words() -> None:
    assert described(Vector(5)) == "floating point (N, 5)"
    assert described({"class": Classes(3), "text": Vector(5)}) == (
        "a dict of 'class': integers (N,) in [0, 3), 'text': floating point (N, 5)"
    )


def test_labels_as_they_come() -> None:
    for given in (LABELS, LABELS.to(torch.uint8), LABELS.numpy(), [2, 0, 1], (2, 0, 1)):
        labels = as_labels(given, 3, 3)
        assert isinstance(labels, Tensor)
        assert torch.equal(labels, LABELS)
        assert labels.dtype == torch.int64
    assert as_labels(1, None).shape == ()
    assert torch.equal(as_labels(1, 2), torch.tensor([1, 1]))
