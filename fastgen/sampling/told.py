"""What a sampler's model is told beside the image: of which kind, whether it has to be, and an example to trace."""

import inspect
from typing import Any

import torch
from torch import nn

from ..conditions import Classes, Condition, FeatureMap, Kind, Kinds, Vector, described, kind_of, kind_said


def kind_told(model: nn.Module, example: Any = None) -> Kinds:
    """What ``model`` is told, by its own word (``condition_kind``, ``classes``) or by an example; else labels.

    Raises:
        TypeError: the example is none of a condition, or the model's forward takes an image alone.
        ValueError: its shape is of none, or the model says otherwise.
    """
    said = kind_said(model)
    kind = (said or Classes()) if example is None else kind_of(example)
    if not isinstance(kind, Classes) and len(_positional(model)) < 2:  # labels may be left out, and nobody says them
        name = type(model).__name__
        raise TypeError(f"condition: expected None, since the forward of {name} takes no second argument, got {kind}")
    if said is not None and _of_any_number(kind) == _of_any_number(said):
        return said
    if getattr(model, "condition_kind", None) is not None:
        says = f"what {type(model).__name__} says that it takes, {described(said or kind)}"
        raise ValueError(f"condition: expected an example of {says}, got one of {described(kind)}")
    return kind


def needs_condition(model: nn.Module) -> bool:
    """Whether the model cannot be called with an image alone."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in _positional(model) if p.kind in kinds and p.default is inspect.Parameter.empty]
    return says_condition(model) or len(required) > 1


def says_condition(model: nn.Module) -> bool:
    """Whether the model says itself what it is told."""
    return getattr(model, "condition_kind", None) is not None or getattr(model, "classes", None) is not None


def may_be_told(model: nn.Module) -> bool:
    """Whether the model can be called with more than an image, by its own word or else by what its forward takes."""
    if hasattr(model, "condition_kind") or hasattr(model, "classes"):
        return says_condition(model)
    return len(_positional(model)) > 1


def traced_condition(
    kind: Kinds, n: int, dtype: torch.dtype, device: torch.device, distinct: bool = False
) -> Condition:
    """``n`` examples to trace a forward with: real numbers none of which is special, and label 0; or, where they shall
    be ``distinct`` and their number is known, labels in turn.
    """
    generator = torch.Generator().manual_seed(0)

    def of(part: Kind) -> torch.Tensor:
        if isinstance(part, Vector | FeatureMap):
            return torch.randn((n, *part.shape), generator=generator).to(device, dtype)
        labels = torch.zeros(n, dtype=torch.int64, device=device)
        return torch.arange(n, device=device) % part.count if distinct and part.count else labels

    return {name: of(part) for name, part in kind.items()} if isinstance(kind, dict) else of(kind)


def _of_any_number(kind: Kinds) -> Kinds:
    """A kind without the number of its classes, which no example shows."""
    if isinstance(kind, dict):
        return {name: Classes() if isinstance(part, Classes) else part for name, part in kind.items()}
    return Classes() if isinstance(kind, Classes) else kind


def _positional(model: nn.Module) -> list[inspect.Parameter]:
    """What the forward takes by place; a ``*args`` stands for as many as one likes."""
    every = list(inspect.signature(model.forward).parameters.values())
    some = [p for p in every if p.kind not in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)]
    return some + [p for p in some if p.kind is inspect.Parameter.VAR_POSITIONAL]
