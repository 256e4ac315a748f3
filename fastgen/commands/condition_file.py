"""Conditions that ``fastgen sample --condition`` reads, for a model that is told something other than a class."""

from pathlib import Path
from typing import Any

import torch

from .. import conditions
from ..conditions import Classes, Condition, kind_said
from ..data.array_conditions import read_condition


def is_told_more(model: Any) -> bool:
    """Whether a model is told something, and not a class alone."""
    kind = kind_said(model)
    return kind is not None and not isinstance(kind, Classes)


def classes_of(model: Any) -> Any:  # an integer wherever there are labels
    """How many classes a model is told; None for one that is not told a class.

    Raises:
        ValueError: it is, and does not say how many there are.
    """
    kind = kind_said(model)
    if isinstance(kind, Classes) and kind.count is None:
        raise ValueError(f"condition_kind: expected the number of classes of {type(model).__name__}, got {kind}")
    return kind.count if isinstance(kind, Classes) else None


def condition_for(model: Any, path: Path | None) -> Condition | None:
    """What a file holds for ``model``, of N images; None for a model that is not told more than a class.

    Raises:
        ValueError: the file holds what the model is not told; there is none, and the model is told something.
    """
    if not is_told_more(model):
        if path is not None:
            why = "is told nothing but the image" if kind_said(model) is None else "is told a class, which --labels say"
            raise ValueError(f"condition: expected none, since the model {why}, got {path}")
        return None
    if path is None:
        what = conditions.described(kind_said(model))  # type: ignore[arg-type]
        raise ValueError(f"condition: expected an .npy or .npz of {what}, which the model is told, got none")
    found = read_condition(path)
    try:
        return conditions.as_condition(found, len(conditions.tensors_of(found)[0]), kind_said(model))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def in_turn(condition: Any, part: slice) -> Any:
    """Those of the images in ``part``: as they are, and again from the first where there are fewer; None of none."""
    if condition is None:
        return None
    index = torch.arange(part.start, part.stop) % len(conditions.tensors_of(condition)[0])
    return conditions.select(condition, index)


def as_arrays(condition: Condition) -> dict[str, Any]:
    """As ``read_condition`` and data sets read it from an .npz."""
    if not isinstance(condition, dict):
        return {"condition": condition.numpy()}
    return {f"condition_{name}": part.numpy() for name, part in condition.items()}
