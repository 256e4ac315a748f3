"""What of torch a forward may use, told by what a name stands for and not by the name."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F

_CONSTANTS = (torch.dtype, torch.device, torch.layout, torch.memory_format, int, float, str, bool)


@functools.cache
def _overridable() -> dict[int, Any]:
    """By id, the functions that a trace sees being called, and nothing of what is in them."""
    found = [each for listed in torch.overrides.get_overridable_functions().values() for each in listed]
    return {id(each): each for each in (*found, F.sigmoid, F.tanh)}  # these two call a method and do no more


def is_op(value: Any) -> bool:
    """Whether it is a function of torch that computes with tensors: a trace sees it, and it asks and sets nothing."""
    if id(value) in _overridable():
        return True
    name = str(getattr(value, "__name__", "_"))
    return not name.startswith("_") and getattr(torch._C._VariableFunctions, name, None) is value


def is_constant(value: Any) -> bool:
    return isinstance(value, _CONSTANTS)


def reached(value: Any, path: Sequence[str]) -> tuple[Any, int]:
    """What the attributes ``path`` of ``value`` lead to, modules of torch all but the last, and how many it took."""
    used = 0
    while isinstance(value, ModuleType) and value.__name__.split(".")[0] == "torch" and used < len(path):
        value = getattr(value, path[used], None)
        used += 1
    return value, used
