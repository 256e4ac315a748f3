"""A model's shadow: modules of its own that hold the model's tensors.

What runs a model that others may be using runs its shadow. Modes, hooks and attributes that a forward writes are the
shadow's; the weights are the model's, where a write in place arrives as it always does.
"""

import copy
import functools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (dict, OrderedDict, defaultdict, list, tuple, set, deque)


def shadow(model: nn.Module) -> nn.Module:
    """The shadow of ``model``, in eval mode; without what ``torch.compile`` wraps around a module.

    Modules are followed wherever they are held: as submodules, in containers, as the object of a bound method, in the
    closure of a function, by an object. Inference tensors are copied: nobody can write them outside of inference mode.
    """
    with torch.inference_mode(False), torch.no_grad():
        return _Shadows().of(model).eval()


@contextmanager
def evaluated(model: nn.Module) -> Iterator[Any]:
    """The shadow of ``model``, to run as it is written: without gradients, and in its own dtype whatever autocasts."""
    with torch.no_grad(), uncast():
        yield shadow(model)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def uncast() -> Iterator[None]:
    """No autocast on any device where there is some."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


class _Shadows:
    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._seen: list[Any] = []  # no id is used twice while they live

    def of(self, value: Any, copied: bool = True) -> Any:
        """``value`` with every module in it replaced by its shadow.

        ``copied``: containers are always copied, as a forward may write into them; else only where they hold modules.
        """
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            return self._keep(value, _writable(value)) if value.is_inference() else value
        if type(value) in _CONTAINERS or (isinstance(value, tuple) and hasattr(value, "_fields")):
            return self._container(value, copied)
        if isinstance(value, MethodType):
            owner = self.of(value.__self__, copied=False)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if isinstance(value, functools.partial):
            held = (value.func, *value.args, *value.keywords.values())
            first, *others = (self.of(each, copied=False) for each in held)
            args, keywords = others[: len(value.args)], others[len(value.args) :]
            return functools.partial(first, *args, **dict(zip(value.keywords, keywords, strict=True)))
        if isinstance(value, FunctionType) and value.__closure__:
            return self._function(value, value.__closure__)
        if any(isinstance(each, nn.Module) for each in getattr(value, "__dict__", {}).values()):
            return self._object(value)
        return value

    def _keep(self, value: Any, made: Any) -> Any:
        self._seen.append(value)
        self._made[id(value)] = made
        return made

    def _module(self, module: nn.Module) -> nn.Module:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(inner, nn.Module):  # what torch.compile wraps: only eager ops can be recorded
            return self._keep(module, self.of(inner))
        if isinstance(module, torch.jit.ScriptModule):
            return self._keep(module, copy.copy(module))
        kind = type(module)
        made = self._keep(module, kind.__new__(kind))
        for name, value in tuple(vars(module).items()):  # another thread's forward may write attributes meanwhile
            if name != "_compiled_call_impl":
                made.__dict__[name] = self.of(value)
        return made

    def _container(self, value: Any, copied: bool) -> Any:
        if isinstance(value, tuple):
            items = [self.of(each, copied) for each in value]
            if all(a is b for a, b in zip(items, value, strict=True)):
                return value
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        made = self._keep(value, copy.copy(value))
        if isinstance(value, dict):
            changed = {key: self.of(each, copied) for key, each in value.items()}
            same = all(changed[key] is each for key, each in value.items())
            made.update(changed)
        else:
            items = [self.of(each, copied) for each in value]
            same = all(a is b for a, b in zip(items, value, strict=True))
            made.clear()
            made.update(items) if isinstance(made, set) else made.extend(items)
        return made if copied or not same else self._keep(value, value)

    def _object(self, value: Any) -> Any:
        """Anything that holds modules and calls them; what cannot be copied that way stays as it is."""
        if isinstance(value, (type, ModuleType)):
            return value
        try:
            made = self._keep(value, object.__new__(type(value)))
        except TypeError:
            return value
        vars(made).update({name: self.of(each, copied=False) for name, each in vars(value).items()})
        return made

    def _function(self, function: FunctionType, closure: tuple[CellType, ...]) -> Any:
        cells = tuple(CellType() for _ in closure)
        made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
        made.__kwdefaults__ = function.__kwdefaults__
        made.__dict__.update(function.__dict__)
        self._keep(function, made)
        same = True
        for cell, mine in zip(closure, cells, strict=True):
            try:
                held = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            mine.cell_contents = self.of(held, copied=False)
            same &= mine.cell_contents is held or mine.cell_contents is made
        return self._keep(function, function) if same else made


def _writable(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
