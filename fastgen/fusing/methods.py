"""The sampling step as a method of the model: ``z = self.reparameterize(mu, logvar)``.

Such a method is tried like a sampling layer, on an object of the model's class that has its numbers and nothing else:
what reads a layer or a tensor of the model is not the formula alone.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from torch import nn

from .code import PLAIN
from .op_recorder import NotProvenError
from .reparameterize import SampleSpec, draw, holds, prove_method
from .swap import Fused, own_class

_DRAWS = {"randn_like", "randn", "normal_", "normal", "rsample", "Normal"}
#: Names of arguments that say what the method is meant to be; of others, nothing is said when it is left.
_MEANT = re.compile(r"^(z_)?(mu|mean|loc)|var|sig|std|scale", re.IGNORECASE)


class SampleMethods(Fused):
    """A model whose sampling methods run as ``fastgen.ops.rsample_kl`` where that was proven, else as they are."""

    _fastgen_spec: tuple[tuple[str, SampleSpec], ...]

    @classmethod
    def _fastgen_members(cls, base: type[nn.Module], spec: Any) -> dict[str, Any]:
        return {name: _method(base, name, each) for name, each in spec}


def _method(base: type[nn.Module], name: str, spec: SampleSpec) -> Callable[..., Any]:
    own: Any = inspect.getattr_static(base, name)
    names = [parameter.name for parameter in _parameters(own)][1:3]

    @functools.wraps(own)
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = (
            args if not kwargs else [kwargs[name] for name in names] if not args and set(kwargs) == set(names) else ()
        )
        return draw(spec, *given) if holds(spec, self, given) else own(self, *args, **kwargs)

    return method


def _parameters(function: FunctionType) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def candidates(module: nn.Module) -> Iterator[tuple[str, bool]]:
    """Names of the methods that take two arguments and draw noise, and whether their arguments say (mu, logvar)."""
    own = own_class(module)
    names = {name: None for each in own.__mro__ if not _is_known(each) for name in vars(each)}
    for name in names:
        function = inspect.getattr_static(own, name)
        if not isinstance(function, FunctionType) or name.startswith("__") or name in vars(module) or name == "forward":
            continue
        required = [p for p in _parameters(function) if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        if len(required) == 3 and _DRAWS.intersection(function.__code__.co_names):
            yield name, all(_MEANT.search(parameter.name) for parameter in required[1:])


def _is_known(each: type) -> bool:
    return each is object or each.__module__.startswith(("torch.", "fastgen."))


def prove(module: nn.Module, name: str) -> SampleSpec | None:
    """What of rsample_kl the method computes; None if it draws nothing.

    Raises:
        NotProvenError: says why it could not be shown to be that.
    """
    own = own_class(module)

    def missing(self: nn.Module, attribute: str) -> Any:
        if hasattr(module, attribute):
            raise NotProvenError(f"its forward reads self.{attribute}, which is more than its arguments and numbers")
        raise AttributeError(attribute)

    members = {"__getattr__": missing, "__module__": own.__module__, "__qualname__": own.__qualname__}
    bare: Any = type(own.__name__, (own,), members)
    twin = bare.__new__(bare)
    nn.Module.__init__(twin)
    for attribute, value in vars(module).items():
        if attribute not in vars(twin) and isinstance(value, PLAIN):
            twin.__dict__[attribute] = value
    try:
        return prove_method(twin, name)
    except NotProvenError as error:
        raise NotProvenError(str(error).replace("its forward", "it")) from error
