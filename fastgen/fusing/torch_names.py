"""What of torch a forward may use, told by what a name stands for and not by the name."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import FrameType, FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F

_SWITCHES = {"torch.amp.autocast_mode", "torch.random", "torch.utils.checkpoint"}
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


def only_computes(value: Any) -> bool:
    """Whether it is something of torch's that a trial may use: an op, a layer, a distribution, a constant, ``no_grad``.

    Without gradients is what a trial sees, since gradients are compared; every other context and switch is not.
    """
    if is_op(value) or is_constant(value) or value is torch.no_grad or value is torch.autograd.Variable:
        return True
    if isinstance(value, FunctionType | type) and value.__module__.startswith("torch.distributions."):
        return True
    return isinstance(value, type) and (value is torch.Size or issubclass(value, torch.Tensor | torch.nn.Module))


def is_switch(frame: FrameType) -> bool:
    """Whether what runs changes how torch computes or draws: of contexts and decorators all but ``no_grad``."""
    where = frame.f_globals.get("__name__")
    if where == "torch.autograd.grad_mode":
        own, before = frame.f_locals.get("self"), frame.f_back
        if isinstance(own, torch.set_grad_enabled) and before is not None and before.f_globals is frame.f_globals:
            return False  # no_grad is made of it
        return not isinstance(own, torch.no_grad)
    return where in _SWITCHES


def is_constant(value: Any) -> bool:
    return isinstance(value, _CONSTANTS)


def reached(value: Any, path: Sequence[str]) -> tuple[Any, int]:
    """What the attributes ``path`` of ``value`` lead to, modules of torch all but the last, and how many it took."""
    used = 0
    while isinstance(value, ModuleType) and value.__name__.split(".")[0] == "torch" and used < len(path):
        value = getattr(value, path[used], None)
        used += 1
    return value, used
