"""What a forward reads of its module's attributes, and whether it writes any: a trace of tensors does not see it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .code import PLAIN, Names, Ran, frozen_names, is_torchs, running, unchanged_names
from .op_recorder import NotProvenError
from .torch_names import only_computes

_CONSTANT = (int, float, str, torch.dtype, torch.device, type, FunctionType, BuiltinFunctionType)
_INTERNAL = frozenset(vars(nn.Module()))
#: Stands for a method or a property, which nothing in the instance may hide.
_OF_CLASS = "of its class"


@dataclass(frozen=True)
class Reads:
    """What has to be as it was for a proof to hold: ``attributes`` (path of the module, name, value), and globals."""

    attributes: tuple[tuple[str, str, Any], ...]
    names: Names


@dataclass
class Seen:
    """(path, name) of the attributes that were read, and the functions that ran."""

    attributes: set[tuple[str, str]] = field(default_factory=set)
    ran: Ran = field(default_factory=dict)


@contextmanager
def watching(twin: nn.Module, seen: Seen) -> Iterator[None]:
    """Collect the attributes of ``twin`` and of the modules in it that are read, and the functions that run.

    Raises:
        NotProvenError: at the end, if an attribute was written; whoever reads it later would miss it.
    """
    modules = list(twin.named_modules())
    before = [(path, each, type(each), _held(each)) for path, each in modules]
    for path, each in modules:
        each.__class__ = _watched(type(each), path, seen.attributes)
    try:
        with running(seen.ran):
            yield
    finally:
        for _, each, own, _ in before:
            each.__class__ = own
    for path, each, _, held in before:
        now = _held(each)
        changed = [name for name in {**held, **now} if not _same(held.get(name), now.get(name))]
        if changed:
            raise NotProvenError(f"its forward writes {_attribute(path, changed[0])}")


def _held(module: nn.Module) -> dict[str, Any]:
    attributes = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
    own = {name: _contents(value) for name, value in attributes.items()}
    return {**own, **module._parameters, **module._buffers, **module._modules, "training": module.training}


def _contents(value: Any) -> Any:
    return [_contents(each) for each in value] if isinstance(value, list) else value


def _same(before: Any, after: Any) -> bool:
    """Whether it is the same object; of a list, whether it holds the same ones."""
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(_same, before, after))
    return before is after


def _watched(own: type[nn.Module], path: str, seen: set[tuple[str, str]]) -> type[nn.Module]:
    def __getattribute__(self: nn.Module, name: str) -> Any:  # noqa: N807
        seen.add((path, name))
        return own.__getattribute__(self, name)

    return type(own.__name__, (own,), {"__getattribute__": __getattribute__})


def frozen_reads(module: nn.Module, seen: Seen) -> Reads:
    """The values that these attributes and globals have now, in a form that can be compared and hashed.

    Raises:
        NotProvenError: one is an object that could change without being another.
    """
    classes = {(path, "__class__") for path, _ in seen.attributes}
    reads = []
    for path, name in sorted(seen.attributes | classes):
        owner = module.get_submodule(path)
        if name in _INTERNAL or (name.startswith("__") and name != "__class__"):
            continue
        if name not in vars(owner):
            if inspect.getattr_static(type(owner), name, None) is not None:
                reads.append((path, name, _now(owner, name)))
        elif not isinstance(vars(owner)[name], Tensor | RemovableHandle):
            reads.append((path, name, _frozen(vars(owner)[name], _attribute(path, name))))
    return Reads(tuple(reads), frozen_names(seen.ran))


def unchanged(module: nn.Module, reads: Reads) -> bool:
    """Whether these attributes and globals are what they were."""
    for path, name, value in reads.attributes:
        if _now(module.get_submodule(path) if path else module, name) != value:
            return False
    return unchanged_names(reads.names)


def _now(owner: nn.Module, name: str) -> Any:
    if name == "__class__":
        return f"{type(owner).__module__}.{type(owner).__qualname__}"
    if name in owner.__dict__:
        return _plain(owner.__dict__[name])
    value = getattr(type(owner), name, None)
    return value if isinstance(value, PLAIN) else _OF_CLASS


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _frozen(value: Any, what: str) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(each, what) for each in value)
    if value is None or (isinstance(value, _CONSTANT) and (not is_torchs(value) or only_computes(value))):
        return value
    raise NotProvenError(f"its forward reads {what}, a {type(value).__name__}, which may change")


def _attribute(path: str, name: str) -> str:
    return f"self.{path}.{name}" if path else f"self.{name}"
