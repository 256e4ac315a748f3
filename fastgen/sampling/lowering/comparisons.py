"""Comparisons, and choices between two values. True is 1 and false is 0, so that logic is arithmetic."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..builder import Argument, Builder, Given
from ..pairs import Pairs
from ..trace import UnsupportedModelError
from ..traced_tensor import Value
from .pointwise import add, binary, multiply
from .registry import handles

equal = handles("eq", boolean=True)(binary("eq", "eq"))
handles("lt", boolean=True)(binary("lt", "gt"))
greater = handles("gt", boolean=True)(binary("gt", "lt"))
handles("le", boolean=True)(binary("le", "ge"))
handles("ge", boolean=True)(binary("ge", "le"))


@handles("ne", boolean=True)
def _ne(b: Builder, first: Any, second: Any) -> Value:
    return negated(b, equal(b, first, second))


@handles("logical_not", "bitwise_not", boolean=True)
def _not(b: Builder, x: Value) -> Value:
    return equal(b, x, 0)


@handles("logical_and", "bitwise_and", boolean=True)
def _and(b: Builder, first: Any, second: Any) -> Value:
    return multiply(b, _truth(b, first), _truth(b, second))


@handles("logical_or", "bitwise_or", boolean=True)
def _or(b: Builder, first: Any, second: Any) -> Value:
    both = multiply(b, negated(b, _truth(b, first)), negated(b, _truth(b, second)))
    return negated(b, both)


@handles("where")
def where(b: Builder, condition: Any, yes: Any, no: Any) -> Value:
    yes, no = (b.scalar(x) if isinstance(x, int | float) else x for x in (yes, no))
    if isinstance(yes, Pairs) or isinstance(no, Pairs):
        return _where_pairs(condition, yes, no)
    if isinstance(condition, Tensor):
        return _where_known(b, condition, yes, no)
    if isinstance(condition, Given):
        return _where_told(b, condition, yes, no)
    if any(isinstance(x, Tensor) and not x.isfinite().all() for x in (yes, no)):
        raise UnsupportedModelError("a choice by the image between numbers one of which is infinite")
    return add(b, multiply(b, condition, yes), multiply(b, negated(b, condition), no))


def _where_pairs(condition: Any, yes: Any, no: Any) -> Value:
    """Scores or weights of attention, masked by a constant."""
    pairs, other, mask = (yes, no, False) if isinstance(yes, Pairs) else (no, yes, True)
    if not isinstance(condition, Tensor) or not isinstance(other, Tensor):
        raise UnsupportedModelError("attention masked by what depends on the image or the condition")
    return pairs.filled(condition.bool() == mask, other)


@handles("threshold")
def _threshold(b: Builder, x: Value, threshold: float, value: float) -> Value:
    above = b.pointwise("clamp", x, parameters=(float(threshold), math.inf))  # x, where it counts: 0 times -inf is none
    return where(b, greater(b, x, threshold), above, value)


def _where_known(b: Builder, condition: Tensor, yes: Any, no: Any) -> Value:
    """What varies is multiplied by 0 or 1, what is fixed is put together beforehand, infinite or not."""
    zero = b.scalar(0)
    one, other = (x.to(b.dtype) if isinstance(x, Tensor) else zero for x in (yes, no))
    fixed = torch.where(condition, one, other)
    chosen = [(x, mask) for x, mask in ((yes, condition), (no, ~condition)) if not isinstance(x, Tensor)]
    if not any(isinstance(x, Value) for x, _ in chosen):
        raise UnsupportedModelError("a choice between what does not depend on the image")
    result: Any = fixed if fixed.any() else None
    for x, mask in sorted(chosen, key=lambda each: not isinstance(each[0], Value)):
        part = x if mask.all() and mask.shape == x.shape else _masked(b, x, mask.to(b.dtype))
        result = part if result is None else add(b, part, result)
    return result


def _masked(b: Builder, x: Any, mask: Tensor) -> Argument:
    if not isinstance(x, Value):
        return b.told(torch.where, mask != 0, x, b.scalar(0))
    return multiply(b, x, mask)


def _where_told(b: Builder, condition: Given, yes: Any, no: Any) -> Value:
    """What is fixed, or told, is put together beforehand; what depends on the image is multiplied by 0 or 1."""
    zero, both = b.scalar(0), ((yes, True), (no, False))
    chosen = [multiply(b, x, b.told(_picked, condition, mine, zero)) for x, mine in both if isinstance(x, Value)]
    if len(chosen) == 2:
        return add(b, *chosen)
    fixed = [zero if isinstance(x, Value) else x for x, _ in both]
    return add(b, *chosen, b.told(torch.where, condition, *fixed))


def _picked(condition: Tensor, wanted: bool, like: Tensor) -> Tensor:
    """1 where the condition is as wanted, else 0."""
    return (condition == wanted).to(like.dtype)


@handles("masked_fill")
def _masked_fill(b: Builder, x: Any, mask: Any, value: Any) -> Value:
    return where(b, mask, value, x)


def negated(b: Builder, x: Any) -> Any:
    """1 − x."""
    if isinstance(x, Given):
        return b.told(torch.rsub, x, 1)
    return b.pointwise("rsub", x, b.scalar(1)) if isinstance(x, Value) else 1 - x


def _truth(b: Builder, x: Any) -> Any:
    if isinstance(x, int | float):
        return float(bool(x))
    if isinstance(x, Given):
        return b.told(_picked, b.told(torch.ne, x, 0), True, b.scalar(0))
    return x.ne(0).to(b.dtype) if isinstance(x, Tensor) else negated(b, equal(b, x, 0))
