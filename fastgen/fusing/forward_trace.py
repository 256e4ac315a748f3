"""A forward as a ``torch.fx`` graph, taken only where nothing that Python did on the way is lost in it.

A graph holds calls of layers and of torch's functions, and no more: contexts, switches of torch's state, what Python
asked a layer and what other functions did are frozen or gone. So those are refused, by what they are and not by name.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any, NoReturn

from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .code import ASKS, Ran, running
from .op_recorder import NotProvenError
from .torch_names import is_constant, is_op, reached

_BUILTINS = {"range", "len", "tuple", "list", "int", "float", "enumerate", "zip", "reversed"}
_PLAIN = (int, float, str, bool, type(None))
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_CONTEXTS = {"SETUP_WITH", "BEFORE_WITH", "BEFORE_ASYNC_WITH", "LOAD_SPECIAL", "SETUP_FINALLY"}
_EFFECTS = {"STORE_GLOBAL", "STORE_ATTR", "DELETE_GLOBAL", "DELETE_ATTR", "IMPORT_NAME"}


def check_code(base: type[nn.Module]) -> None:
    """Look at what the forward of ``base`` is written in.

    Raises:
        NotProvenError: it is not a plain function of tensors, or does more than compute.
    """
    forward = base.forward
    if not isinstance(forward, types.FunctionType):
        raise NotProvenError("its forward is not a plain function")
    parameters = list(inspect.signature(forward).parameters.values())
    if len(parameters) < 2 or any(
        p.kind is not p.POSITIONAL_OR_KEYWORD or p.default is not p.empty for p in parameters
    ):
        raise NotProvenError("its forward takes other than plain arguments, or one with a default")
    code = forward.__code__
    if any(isinstance(constant, types.CodeType) for constant in code.co_consts):
        raise NotProvenError("its forward has a function or a comprehension in it")
    if "__class__" in code.co_freevars:
        raise NotProvenError("its forward uses super(), and only its own code is looked at, or __class__")
    if code.co_freevars:
        raise NotProvenError("its forward reads variables of a function around it")
    instructions = list(dis.get_instructions(code))
    if getattr(code, "co_exceptiontable", b"") or any(each.opname in _CONTEXTS for each in instructions):
        raise NotProvenError("its forward has a with or a try statement in it, which a trace does not see")
    for i, each in enumerate(instructions):
        if each.opname in _EFFECTS:
            raise NotProvenError(f"its forward does more than compute ({each.opname} {each.argval})")
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            _check_global(forward, [each.argval, *_attributes(instructions[i + 1 :])])


def _attributes(instructions: list[dis.Instruction]) -> Iterator[str]:
    """Names of the attributes that are loaded one from the other, from the first instruction on."""
    for each in instructions:
        if each.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            return
        yield each.argval


def _check_global(forward: types.FunctionType, path: list[str]) -> None:
    name = path[0]
    if name not in forward.__globals__:
        if name in _BUILTINS and hasattr(builtins, name):
            return
        raise NotProvenError(f"its forward uses {name}, which is not torch's")
    value, used = reached(forward.__globals__[name], path[1:])
    known = used > 0 and is_constant(value)  # a global number of torch's; one of the user's may change
    if known or (is_op(value) and used == len(path) - 1):
        return
    dotted = ".".join(path[: used + 1])
    if asked := ASKS.intersection((*path, str(getattr(value, "__name__", "")))):
        raise NotProvenError(f"its forward asks torch for its state ({', '.join(sorted(asked))})")
    raise NotProvenError(f"its forward uses {dotted}, which is not torch's or no function that a trace sees")


class _NothingIsComputed(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # saves the import of all of torch.compile

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotProvenError(f"its forward computes with tensors that do not come from its input ({func})")


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


class _Layer:
    """Stands for a module in a forward that is traced: it can be called and hands out what it holds, no more."""

    __slots__ = ("_module", "_path")

    def __init__(self, module: nn.Module, path: str) -> None:
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_path", path)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return nn.Module.__call__(object.__getattribute__(self, "_module"), *args, **kwargs)

    def __getattribute__(self, name: str) -> Any:
        module, path = (object.__getattribute__(self, own) for own in ("_module", "_path"))
        path = f"{path}.{name}"
        if name not in vars(module) and not hasattr(type(module), name):
            inner = module._modules.get(name)
            if inner is not None:
                return _Layer(inner, path)
            if isinstance(module._parameters.get(name, module._buffers.get(name)), Tensor):
                return getattr(module, name)
        raise NotProvenError(f"its forward reads self.{path}, which may change")

    def _refuse(self, *_: Any) -> NoReturn:
        raise NotProvenError(f"its forward looks into self.{object.__getattribute__(self, '_path')}")

    __bool__ = __len__ = __iter__ = __getitem__ = __contains__ = __eq__ = __hash__ = _refuse


def trace(module: nn.Module, training: bool) -> tuple[fx.Graph, set[str]]:
    """The graph of ``module``'s forward, and the names of the numbers that it read."""
    base, read = type(module), set()
    code = base.forward.__code__

    class Watched(base):  # type: ignore[misc,valid-type]
        def __getattribute__(self, name: str) -> Any:
            if sys._getframe(1).f_code is code:
                read.add(name)
            return super().__getattribute__(name)

        def __getattr__(self, name: str) -> Any:
            value = super().__getattr__(name)
            in_forward = isinstance(value, nn.Module) and sys._getframe(1).f_code is code
            return _Layer(value, name) if in_forward else value

    twin = Watched.__new__(Watched)
    state = {name: dict(value) if isinstance(value, dict) else value for name, value in vars(module).items()}
    object.__setattr__(twin, "__dict__", {**state, "training": training})
    ran: Ran = {}
    try:
        with _NothingIsComputed(), running(ran):
            graph = _Tracer().trace(twin)
    except NotProvenError:
        raise
    except Exception as error:
        raise NotProvenError(f"torch.fx cannot trace its forward: {error}") from error
    properties = [inspect.getattr_static(base, name, None) for name in read]
    known = {code, *(getattr(each.fget, "__code__", None) for each in properties if isinstance(each, property))}
    if others := sorted(each.co_name for each in ran if each not in known):
        raise NotProvenError(f"its forward calls {others[0]}, and only its own code is looked at")
    held = {name for each in (module._modules, module._parameters, module._buffers) for name in each} | {"training"}
    for name in read:
        value = getattr(module, name)
        if isinstance(value, CONTAINERS) or (name not in held and type(value) not in _PLAIN):
            raise NotProvenError(f"its forward reads self.{name}, a {type(value).__name__}")
    return graph, {name for name in read if name not in held or getattr(module, name) is None}
