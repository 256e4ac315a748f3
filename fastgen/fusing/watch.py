"""What a forward reads of its module's attributes, and whether it writes any: a trace of tensors does not see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .record import NotProvenError

#: (path of the module, name, value): attributes that have to be what they were for a proof to hold.
Reads = tuple[tuple[str, str, Any], ...]
_CONSTANT = (int, float, str, torch.dtype, torch.device, type, FunctionType, BuiltinFunctionType)
_INTERNAL = frozenset(vars(nn.Module()))


@contextmanager
def watching(twin: nn.Module, seen: set[tuple[str, str]]) -> Iterator[None]:
    """Collect the (path, name) of the attributes of ``twin`` and of the modules in it that are read.

    Raises:
        NotProvenError: at the end, if an attribute was written; whoever reads it later would miss it.
    """
    modules = list(twin.named_modules())
    before = [(path, each, type(each), _held(each)) for path, each in modules]
    for path, each in modules:
        each.__class__ = _watched(type(each), path, seen)
    try:
        yield
    finally:
        for _, each, own, _ in before:
            each.__class__ = own
    for path, each, _, held in before:
        now = _held(each)
        changed = [name for name in {**held, **now} if held.get(name) is not now.get(name)]
        if changed:
            raise NotProvenError(f"its forward writes {_attribute(path, changed[0])}")


def _held(module: nn.Module) -> dict[str, Any]:
    attributes = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
    return {**attributes, **module._parameters, **module._buffers, **module._modules, "training": module.training}


def _watched(own: type[nn.Module], path: str, seen: set[tuple[str, str]]) -> type[nn.Module]:
    def __getattribute__(self: nn.Module, name: str) -> Any:  # noqa: N807
        seen.add((path, name))
        return own.__getattribute__(self, name)

    return type(own.__name__, (own,), {"__getattribute__": __getattribute__})


def frozen_reads(module: nn.Module, seen: set[tuple[str, str]]) -> Reads:
    """The values that these attributes have in ``module`` now, in a form that can be compared and hashed.

    Raises:
        NotProvenError: one is an object that could change without being another.
    """
    reads = []
    for path, name in sorted(seen):
        owner = module.get_submodule(path)
        if name in _INTERNAL or name not in vars(owner) or isinstance(vars(owner)[name], Tensor | RemovableHandle):
            continue
        reads.append((path, name, _frozen(vars(owner)[name], _attribute(path, name))))
    return tuple(reads)


def unchanged(module: nn.Module, reads: Reads) -> bool:
    """Whether these attributes are what they were."""
    for path, name, value in reads:
        owner = module.get_submodule(path) if path else module
        if _plain(owner.__dict__.get(name)) != value:
            return False
    return True


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _frozen(value: Any, what: str) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(each, what) for each in value)
    if value is None or isinstance(value, _CONSTANT):
        return value
    raise NotProvenError(f"its forward reads {what}, a {type(value).__name__}, which may change")


def _attribute(path: str, name: str) -> str:
    return f"self.{path}.{name}" if path else f"self.{name}"
