"""Swapping: a module keeps its place, its name and everything it holds, and changes its class.

The new class is a subclass of the old one, made here, which overrides forward. So the object stays the object that
optimisers, hooks, DDP and other modules know, ``isinstance`` and the class's name answer as before, and nothing is
written into the module: undoing it is giving the old class back.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Hashable
from types import FunctionType
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

#: Made classes; one goes when no module has it any more.
_CLASSES: WeakValueDictionary[tuple[type, type, Hashable], type[nn.Module]] = WeakValueDictionary()


class Fused(nn.Module):
    """What the made classes have in common: they know what they were, and can be copied and pickled."""

    _fastgen_base: type[nn.Module]
    _fastgen_kind: type[nn.Module]
    _fastgen_spec: Any

    @classmethod
    def _fastgen_members(cls, base: type[nn.Module], spec: Any) -> dict[str, Any]:
        """What a class of this kind has beside a forward."""
        return {}

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A made class is not importable: it is named by what it was made of."""
        reduced: Any = super().__reduce_ex__(max(protocol, 2))
        make, arguments, *state = reduced
        if make is not copyreg.__newobj__ or arguments != (type(self),):  # type: ignore[attr-defined]
            return make, arguments, *state  # the user's own way; it makes a module that is not fused
        return _new, (self._fastgen_base, self._fastgen_kind, self._fastgen_spec), *state

    def _get_name(self) -> str:
        return f"{super()._get_name()}[fused]"


def _new(base: type[nn.Module], kind: type[Fused], spec: Hashable) -> nn.Module:
    made = fused_class(base, kind, spec)
    return made.__new__(made)


def fused_class(base: type[nn.Module], kind: type[Fused], spec: Hashable) -> type[nn.Module]:
    """The subclass of ``base`` that runs as ``kind`` says; the same one for the same arguments."""
    made = _CLASSES.get((base, kind, spec))
    if made is None:
        made = _CLASSES[base, kind, spec] = make_class(base, kind, spec, **kind._fastgen_members(base, spec))
    return made


def make_class(base: type[nn.Module], kind: type[Fused], spec: Hashable, **members: Any) -> type[nn.Module]:
    names = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    ours = {"_fastgen_base": base, "_fastgen_kind": kind, "_fastgen_spec": spec}
    if "forward" in vars(kind):
        members["forward"] = _forward(base, kind)
    return type(base.__name__, (kind, base), {**names, **ours, **members})


def _forward(base: type[nn.Module], kind: type[nn.Module]) -> Any:
    """The forward of ``kind`` with the signature of that of ``base``, which torch.export and torch.fx look at.

    It is that code, and not a function that calls it: a compiler would find the way to it again at each call.
    """
    own: Any = kind.forward
    forward = FunctionType(own.__code__, own.__globals__, own.__name__, own.__defaults__, own.__closure__)
    forward.__kwdefaults__ = own.__kwdefaults__
    return functools.wraps(base.forward)(forward)


def is_fused(module: nn.Module) -> bool:
    return isinstance(module, Fused)


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class that the module has, or had before it was fused."""
    return module._fastgen_base if isinstance(module, Fused) else type(module)


def restore(modules: list[tuple[str, nn.Module]]) -> list[str]:
    """Give fused modules among (path, module) their own classes back; all of them or none. Returns the paths.

    Raises:
        ValueError: the class of one was changed again since, as registering a parametrization does.
    """
    fused = [(path, module) for path, module in modules if isinstance(module, Fused)]
    for path, module in fused:
        if "_fastgen_base" not in vars(type(module)):
            raise ValueError(
                f"model: expected modules with the classes that fuse gave them, got {path or 'model'} of class "
                f"{type(module).__name__}, which was changed since (by a parametrization?); undo that change first"
            )
    for _, module in fused:
        module.__class__ = module._fastgen_base  # type: ignore[assignment]
    return [path for path, _ in fused]
