"""What a model is told beside the image.

A condition of N images is one of

    labels      integers (N,), the class of each image
    vector      floating point (N, D)
    map         floating point (N, C', H', W'): an image or a feature map, of a size of its own
    dict        of these, by name

and a model reads it as the second argument of its ``forward``, as it is. What one example of it looks like is its
*kind*: ``Classes``, ``Vector``, ``FeatureMap``, or a dict of kinds. Integers are labels and nothing else is: numbers
are never rounded to labels, nor labels taken for numbers.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._checks import check_dense, check_device, check_integer, check_values, describe, listed

Condition = Tensor | dict[str, Tensor]
"""Of N images: labels int64 (N,), a vector (N, D), a map (N, C', H', W'), or a dict of these by name."""

Labels = Tensor | np.ndarray | Sequence[int] | int
"""Class labels as callers give them: one for each image, or one for all."""

AnyCondition = Labels | Mapping[str, Labels]
"""A condition as callers give it: tensors or arrays of N examples, or of one for all images; labels in any form."""


@dataclass(frozen=True)
class Classes:
    """One of ``count`` classes: int64 (N,); of a number of classes that is not known, None."""

    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None:
            object.__setattr__(self, "count", check_integer("count", self.count, 1))

    @property
    def range(self) -> str:
        """Behind a word for labels: " in [0, count)"; nothing where the number is not known."""
        return "" if self.count is None else f" in [0, {self.count})"

    def __str__(self) -> str:
        return f"integers (N,){self.range}"


@dataclass(frozen=True)
class Vector:
    """``size`` real numbers: (N, size)."""

    size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", check_integer("size", self.size, 1))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (self.size,)

    def __str__(self) -> str:
        return f"floating point (N, {self.size})"


@dataclass(frozen=True)
class FeatureMap:
    """``channels`` real numbers at each of height × width places: (N, channels, height, width)."""

    channels: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), 1))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (self.channels, self.height, self.width)

    def __str__(self) -> str:
        return f"floating point (N, {self.channels}, {self.height}, {self.width})"


Kind = Classes | Vector | FeatureMap
Kinds = Kind | dict[str, Kind]


def kind_said(model: Any) -> Kinds | None:
    """What a model says that it is told: its ``condition_kind``, or one of its ``classes``; None if it says nothing.

    Raises:
        TypeError: its ``condition_kind`` is no kind.
    """
    said = inspect.getattr_static(type(model), "condition_kind", None)
    if isinstance(said, property) and said.fget is not None:  # whose own AttributeError is none of a missing attribute
        own = said.fget(model)
    else:
        own = getattr(model, "condition_kind", None)
    classes = getattr(model, "classes", None)
    if own is None and isinstance(classes, int | np.integer):
        return Classes(int(classes))
    return None if own is None else check_kind(own)


def check_kind(kind: Any) -> Kinds:
    """``kind``, which is what a model may say that it is told.

    Raises:
        TypeError: it is no kind, nor a dict of kinds by name.
    """
    named = isinstance(kind, dict) and kind and all(isinstance(name, str) for name in kind)
    if not all(isinstance(part, Kind) for part in (kind.values() if named else [kind])):
        expected = "Classes(…), Vector(…), FeatureMap(…) of fastgen.conditions, or a dict of these by name"
        raise TypeError(f"condition_kind: expected {expected}, got {describe(kind)}")
    return kind


def kind_of(example: Any, name: str = "condition") -> Kinds:
    """The kind of a condition, by one example of it, without the dimension of a batch.

    Args:
        example: an integer or int64 () for labels, floating point (D,) or (C', H', W'), a kind, or a dict of these.
        name: of the argument, for messages.

    Raises:
        TypeError: it is no tensor, array, integer or dict of these, or of a dtype that no condition has.
        ValueError: its shape is that of no example, or a dict is empty.
    """
    if isinstance(example, Mapping):
        return {key: _part_of(each, f"{name}[{key!r}]") for key, each in _parts(name, example).items()}
    return _part_of(example, name)


def kind_of_batch(condition: Condition) -> Kinds:
    """The kind of a condition of N images; of any number of classes where it is labels."""
    return kind_of(apply(lambda part: part.new_empty(part.shape[1:]), condition))


def as_condition(
    given: Any,
    n: int | None,
    kind: Kinds | None = None,
    *,
    name: str = "condition",
    dtype: torch.dtype | None = None,
) -> Condition:
    """What a caller gives as a condition of ``n`` images: labels int64 (N,), numbers in ``dtype``.

    Args:
        given: see ``AnyCondition``; what has the shape of one example counts for all images.
        n: how many images; None while nobody knows, and then what was given for all stays without N.
        kind: what the model takes; None takes any.
        name: of the argument, for messages.
        dtype: of vectors and maps; None leaves what they have.

    Raises:
        TypeError: a part is of another dtype than its kind: integers where numbers belong, or the other way.
        ValueError: a shape or a label does not fit, or names of a dict are others.
    """
    if isinstance(kind, dict):
        if not isinstance(given, Mapping):
            raise TypeError(f"{name}: expected a dict of {_names(kind)}, got {describe(given)}")
        if set(given) != set(kind):
            raise ValueError(f"{name}: expected a dict of {_names(kind)}, got one of {_names(given)}")
        return {key: _as_part(given[key], n, part, f"{name}[{key!r}]", dtype) for key, part in kind.items()}
    if isinstance(given, Mapping):
        if kind is not None:
            raise TypeError(f"{name}: expected {kind}, got a dict of {_names(given)}")
        return {key: _as_part(each, n, None, f"{name}[{key!r}]", dtype) for key, each in _parts(name, given).items()}
    return _as_part(given, n, kind, name, dtype)


def as_labels(labels: Labels, n: int | None, classes: int | None = None, name: str = "labels") -> Tensor:
    """Labels as int64 (N,), or () for one integer while it is not known how many images there are.

    Args:
        labels: a tensor, an array or a list of integers, (N,); or one integer, for all images.
        n: how many images there are; None if it is not known.
        classes: how many; None if it is not known.
        name: of the argument, for messages.

    Raises:
        TypeError: they are not integers.
        ValueError: they are not one for each image, or not in [0, classes).
    """
    given = labels
    if not isinstance(labels, Tensor):
        try:
            labels = torch.from_numpy(np.array(labels))
        except (ValueError, TypeError):  # rows of several lengths, words, objects
            raise TypeError(f"{name}: expected integers, one for each image, got {describe(given)}") from None
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        got = labels.dtype if isinstance(given, Tensor) else describe(given)
        raise TypeError(f"{name}: expected an integer tensor, got {got}")
    if labels.dim() > 1 or (n is not None and labels.dim() == 1 and labels.shape[0] != n):
        shape = "(N,)" if n is None else f"({n},)"
        raise ValueError(f"{name}: expected shape {shape}, one for each image, got {tuple(labels.shape)}")
    check_values(labels, classes, name)
    return (labels if n is None else labels.expand(n)).to(torch.int64)


def batch_sizes(condition: Condition, kind: Kinds) -> dict[str, int]:
    """For how many images each part is, by its name; what one example stands for says nothing."""
    parts = condition.items() if isinstance(condition, dict) else [("condition", condition)]
    kinds = kind if isinstance(kind, dict) else {"condition": kind}
    return {name: len(part) for name, part in parts if part.dim() > len(getattr(kinds[name], "shape", ()))}


def described(kind: Kinds) -> str:
    """A kind in words, as messages say it: what a model takes beside the image."""
    if isinstance(kind, dict):
        return "a dict of " + ", ".join(f"{name!r}: {part}" for name, part in kind.items())
    return str(kind)


def told(labels: Any, condition: Any, kind: Kinds | None) -> tuple[str, Any]:
    """What was given of ``labels``, the everyday form of a condition that is a class, and ``condition``; and its name.

    Raises:
        ValueError: both were given, or labels of what takes another kind.
    """
    if labels is None:
        return "condition", condition
    if condition is not None:
        raise ValueError("labels: expected None together with condition, which says the same, got both")
    if kind is not None and not isinstance(kind, Classes):
        raise ValueError(f"labels: expected None, since a condition is {described(kind)}, got {describe(labels)}")
    return "labels", labels


def arguments(condition: Condition | None) -> tuple[Condition, ...]:
    """What ``forward`` is given after the image: nothing, or the condition; a dict of its own, which it may change."""
    if condition is None:
        return ()
    return (dict(condition) if isinstance(condition, dict) else condition,)


def apply(function: Callable[[Tensor], Tensor], condition: Condition | None) -> Any:
    """``function`` of every tensor of a condition; None of none."""
    if condition is None:
        return None
    if isinstance(condition, dict):
        return {name: function(part) for name, part in condition.items()}
    return function(condition)


def select(condition: Condition | None, index: Any) -> Any:
    """The condition of the images at ``index``: what every tensor has there; None of none."""
    return apply(lambda part: part[index], condition)


def tensors_of(condition: Condition | None) -> list[Tensor]:
    """The tensors of a condition, in order."""
    if condition is None:
        return []
    return list(condition.values()) if isinstance(condition, dict) else [condition]


def named(condition: Condition | None, name: str = "condition") -> dict[str, Tensor]:
    """The tensors of a condition, each by what a message calls it."""
    if isinstance(condition, dict):
        return {f"{name}[{part!r}]": tensor for part, tensor in condition.items()}
    return {} if condition is None else {name: condition}


def check_same_device(condition: Condition | None, other_name: str, other: Tensor, name: str = "condition") -> None:
    """Raise ValueError unless every tensor of ``condition`` is on the device of ``other``."""
    for part, tensor in named(condition, name).items():
        check_device(part, tensor, other_name, other)


def _parts(name: str, given: Mapping[Any, Any]) -> dict[str, Any]:
    if not given or not all(isinstance(key, str) for key in given):
        raise ValueError(f"{name}: expected parts that have names, got {listed(map(repr, given)) or 'an empty dict'}")
    return dict(given)


def _names(parts: Mapping[str, Any]) -> str:
    return listed(sorted(map(repr, parts)), most=20) or "nothing"


def _tensor(name: str, given: Any) -> Tensor:
    """``given`` as a tensor: of integers or real numbers."""
    if isinstance(given, Tensor):
        return check_dense(name, given)
    try:
        return check_dense(name, torch.from_numpy(np.array(given)))
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected integers or floating-point numbers, got {describe(given)}") from None


def _part_of(example: Any, name: str) -> Kind:
    if isinstance(example, Kind):
        return example
    tensor = _tensor(name, example)
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point():
        if tensor.dtype == torch.bool or shape:
            raise ValueError(f"{name}: expected an integer () as the example of a label, got {describe(example)}")
        return Classes()
    if len(shape) not in (1, 3) or 0 in shape:
        raise ValueError(f"{name}: expected one example, (D,) or (C', H', W') without a batch's dimension, got {shape}")
    return Vector(*shape) if len(shape) == 1 else FeatureMap(*shape)


def _as_part(given: Any, n: int | None, kind: Kind | None, name: str, dtype: torch.dtype | None) -> Tensor:
    if isinstance(kind, Classes):
        return as_labels(given, n, kind.count, name)
    if kind is None and isinstance(given, Mapping):
        raise TypeError(f"{name}: expected labels, a vector or a map, got a dict")
    tensor = _tensor(name, given)
    if not tensor.is_floating_point():
        if kind is None and tensor.dim() <= 1:
            return as_labels(given, n, None, name)
        if kind is None:
            raise TypeError(f"{name}: expected integers (N,), or numbers, floating point, got {describe(given)}")
        raise TypeError(f"{name}: expected {kind}, got {describe(given)}")
    shape = tuple(tensor.shape)
    if kind is None:
        if len(shape) not in (2, 4):
            raise ValueError(f"{name}: expected (N, D) or (N, C', H', W'), got {shape}")
        wanted = shape[1:]
    else:
        wanted = kind.shape
    if shape[len(shape) - len(wanted) :] != wanted or len(shape) not in (len(wanted), len(wanted) + 1):
        raise ValueError(f"{name}: expected {kind}, got {describe(given)}")
    if n is not None and len(shape) > len(wanted) and shape[0] != n:
        raise ValueError(f"{name}: expected {n} of them, one for each image, got {shape[0]}")
    tensor = tensor if dtype is None else tensor.to(dtype)
    return tensor if n is None else tensor.expand(n, *wanted)
