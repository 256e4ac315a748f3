"""What a forward asks its tensors beside computing with them: trials have few sizes, one layout, one state of autograd.

An answer that is not a tensor may decide what Python does next. So questions are refused, but for those that trials go
through all answers of (dtypes, numbers of dimensions), and for sizes as long as nobody computes or compares with them.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .code import is_users
from .op_recorder import NotProvenError

#: Answers that the recorder sees or that trials go through, and what answers nothing.
_HARMLESS = {"dtype", "device", "dim", "ndim", "ndimension", "item", "__bool__", "__int__", "__float__", "__setitem__"}
_SIZES = {"shape", "size", "numel", "nelement"}
_EFFECTS = {"requires_grad_", "retain_grad", "share_memory_", "pin_memory", "resize_", "set_"}
#: Of torch, between who asks and the answer.
_LAYERS = {"torch.overrides", "torch._tensor"}


class Questions(TorchFunctionMode):
    """Refuses the questions of users' code while it is entered.

    Args:
        holds: whether the module itself holds a tensor, whose size then is the module's affair.
    """

    def __init__(self, holds: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self._holds = holds

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") in _LAYERS:
            frame = frame.f_back
        args = tuple(each.plain() if isinstance(each, _Shape) else each for each in args)
        answer = func(*args, **(kwargs or {}))
        if not is_users(frame.f_globals):
            return answer
        slot = str(getattr(func, "__name__", ""))
        name = func.__self__.__name__ if slot in ("__get__", "__set__") else slot
        if (slot == "__set__" and name != "data") or name in _EFFECTS:
            raise NotProvenError(f"its forward changes more of a tensor than its values ({name})")
        if name == "device":
            _check_comparisons(frame.f_code)
        if slot == "__set__" or name in _HARMLESS or any(isinstance(each, Tensor) for each in tree_leaves(answer)):
            return answer
        if name not in _SIZES:
            raise NotProvenError(f"its forward asks a tensor for its {name}")
        if isinstance(args[0], Tensor) and self._holds(args[0]):
            return answer
        return _Shape(map(_Size, answer)) if isinstance(answer, tuple) else _Size(answer)


def _check_comparisons(code: CodeType) -> None:
    """There is one device in trials: who asks for it may not look at it."""
    compares = any(each.opname in ("COMPARE_OP", "CONTAINS_OP") for each in dis.get_instructions(code))
    if compares or {"type", "index"}.intersection(code.co_names):
        raise NotProvenError("its forward asks a tensor for its device, and compares something")


def _refuse(*_: Any) -> NoReturn:
    raise NotProvenError("its forward computes with the size of a tensor, or compares it")


class _Size(int):
    """A size that can be handed on to torch, and nothing else."""


class _Shape(tuple[Any, ...]):
    """A shape of such sizes."""

    def plain(self) -> torch.Size:
        return torch.Size(int.__add__(each, 0) for each in self)


_OPERATIONS = """
    add radd sub rsub mul rmul floordiv rfloordiv truediv rtruediv mod rmod divmod rdivmod pow rpow lshift rlshift
    rshift rrshift and rand or ror xor rxor neg pos abs invert lt le gt ge eq ne bool int float hash round trunc
    ceil floor str repr format
"""
for _name in _OPERATIONS.split():
    setattr(_Size, f"__{_name}__", _refuse)
