"""What the Python code of a forward depends on beside its arguments and its module: a trace of tensors hides it.

Every function that runs on the way, of torch, of Python and of fastgen excepted, is looked at: the global numbers that
it reads are kept, to be compared at each call; what could change unnoticed, or does more than compute, is refused.
"""

from __future__ import annotations

import builtins
import dis
import gc
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F

from .op_recorder import NotProvenError
from .torch_names import is_switch, only_computes, reached

#: (name of the module, dotted name in it, value): globals that have to be what they were for a proof to hold.
Names = tuple[tuple[str, str, Any], ...]
#: The functions that ran, with the variables that each could see.
Ran = dict[CodeType, tuple[dict[str, Any], dict[str, Any]]]
ASKS = {"is_grad_enabled", "is_autocast_enabled", "is_inference_mode_enabled", "initial_seed", "is_compiling"}
PLAIN = (int, float, str, bool, type(None), torch.dtype, torch.device)
_BUILTINS = {
    "range", "len", "tuple", "list", "int", "float", "super", "enumerate", "zip", "reversed", "isinstance", "hasattr",
    "getattr", "setattr", "min", "max", "abs", "sum", "bool", "str", "dict", "set", "sorted", "type", "any", "all",
    "slice", "map", "filter", "round", "pow", "divmod", "property", "staticmethod", "NotImplemented", "Ellipsis",
}  # fmt: skip
_MISSING = object()


@contextmanager
def running(ran: Ran) -> Iterator[None]:
    """Collect the functions of users that run meanwhile, in this thread.

    No garbage is collected meanwhile: whoever is told of a collection (``gc.callbacks``) is not called by the forward.
    """
    before, collects = sys.getprofile(), gc.isenabled()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code not in ran and (is_users(frame.f_globals) or is_switch(frame)):
            free = {name: frame.f_locals.get(name) for name in frame.f_code.co_freevars}
            ran[frame.f_code] = frame.f_globals, free

    gc.disable()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()


def is_users(names: dict[str, Any]) -> bool:
    root = str(names.get("__name__", "")).split(".")[0]
    if root.startswith("namedtuple_"):  # what Python makes of a named tuple
        return False
    return root not in ("torch", "fastgen") and (root == "__main__" or root not in sys.stdlib_module_names)


def frozen_names(ran: Ran) -> Names:
    """The global numbers that these functions read.

    Raises:
        NotProvenError: one reads what could change without being noticed, writes a global, or does more than compute.
    """
    found: dict[tuple[str, str], Any] = {}
    inside = {name for code in ran for name in code.co_cellvars}
    for code, (names, free) in ran.items():
        if not is_users(names):
            raise NotProvenError(f"its forward changes how torch computes or draws ({names['__name__']})")
        for name, value in free.items():
            if name not in inside and name != "__class__" and not _is_code(value):
                raise NotProvenError(f"its forward reads {name}, a variable of a function around it")
        instructions = [each for each in dis.get_instructions(code) if each.opname != "CACHE"]
        for i, each in enumerate(instructions):
            if each.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                raise NotProvenError(f"its forward writes the global {each.argval}")
            if each.opname == "IMPORT_NAME" and each.argval != "math":
                raise NotProvenError(f"its forward imports {each.argval}")
            if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                path = [each.argval]
                while instructions[i + len(path)].opname in ("LOAD_ATTR", "LOAD_METHOD"):
                    path.append(instructions[i + len(path)].argval)
                known = _known(names, path)
                if known is not None:
                    found[names["__name__"], known] = _value(names, known.split("."))
    for (module, dotted), value in found.items():
        if _value(_module(module), dotted.split(".")) != value:
            raise NotProvenError(f"its forward reads the global {dotted}, which no imported module has")
    return tuple(sorted((*key, value) for key, value in found.items()))


def _known(names: dict[str, Any], path: list[str]) -> str | None:
    """The dotted name of a number that is to be compared at each call; None for what cannot change."""
    value = names.get(path[0], _MISSING)
    if value is _MISSING:
        own = getattr(builtins, path[0], None)
        if path[0] in _BUILTINS or (isinstance(own, type) and issubclass(own, BaseException)):
            return None
        raise NotProvenError(f"its forward uses {path[0]}, which may do more than compute")
    used = 1
    while isinstance(value, (ModuleType, type)) and used < len(path) and not is_torchs(value):
        value = getattr(value, path[used], _MISSING)
        used += 1
    dotted = ".".join(path[:used])
    if isinstance(value, ModuleType) and is_torchs(value):
        value, more = reached(value, path[used:])
        dotted = ".".join(path[: used + more])
        if asked := ASKS.intersection((*path, name_of(value))):
            raise NotProvenError(f"its forward asks torch for its state ({', '.join(sorted(asked))})")
        if only_computes(value):
            return None
    if is_torchs(value) and not only_computes(value):
        raise NotProvenError(f"its forward uses {dotted}, which may do more than compute")
    if _is_code(value):
        return None
    if isinstance(value, PLAIN) or (isinstance(value, tuple) and all(isinstance(each, PLAIN) for each in value)):
        return dotted
    kind = "module" if isinstance(value, ModuleType) else type(value).__name__
    raise NotProvenError(f"its forward reads the global {dotted}, a {kind}, which may change")


def _is_code(value: Any) -> bool:
    """Whether it is a function whose own code is looked at when it runs, or one that only computes, or a class."""
    if is_torchs(value):
        return only_computes(value)
    if isinstance(value, BuiltinFunctionType):
        return value in vars(math).values()
    return isinstance(value, (FunctionType, MethodType, type))


def is_torchs(value: Any) -> bool:
    """Whether it is a module, function or class of torch."""
    if isinstance(value, torch.Tensor):
        return False
    if not isinstance(value, (ModuleType, FunctionType, BuiltinFunctionType, type)):
        return type(value).__module__.split(".")[0] == "torch" and callable(value) and not hasattr(value, "forward")
    if isinstance(value, ModuleType):
        return value.__name__.split(".")[0] == "torch"
    where = getattr(value, "__module__", None) or ""
    return where.split(".")[0] == "torch" or any(value is getattr(each, name_of(value), None) for each in (torch, F))


def name_of(value: Any) -> str:
    return str(getattr(value, "__name__", ""))


def _value(names: dict[str, Any], path: list[str]) -> Any:
    value = names.get(path[0], _MISSING)
    for name in path[1:]:
        value = getattr(value, name, _MISSING)
    return value


def unchanged_names(names: Names) -> bool:
    """Whether these globals are what they were."""
    return all(_value(_module(module), dotted.split(".")) == value for module, dotted, value in names)


def _module(name: str) -> dict[str, Any]:
    return vars(sys.modules[name]) if name in sys.modules else {}
