"""What a plan was made from: everything that a model holds, as numbers that change when any of it does.

Pointers and version counters miss what is written behind autograd's back (``.data``, NumPy). So each tensor has a
digest of its content, ``fastgen.ops.checksum``, that sees order. All is looked at before each image that is drawn: so
types that are met mostly are known exactly, and all tensors are read by one call of compiled code.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Container, Sequence
from dataclasses import is_dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from .._places import storage_of
from ..ops.checksum import checksum as checksums

#: By path: the digest of a tensor, or a number, word or function itself.
State = dict[str, Any]

_CPU = torch.device("cpu")
_INTERNAL = frozenset(vars(nn.Module()))
_DEEPEST = 4  # containers in containers
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, type)
_FUNCTIONS = (FunctionType, BuiltinFunctionType)
_LEAVES = (
    Tensor, np.ndarray, *_PLAIN, *_FUNCTIONS, np.generic, MethodType, partial, range, slice, set, frozenset,
)  # fmt: skip
_THEMSELVES = frozenset((*_PLAIN, *_FUNCTIONS))  # types, exactly, of what is its own digest
_COMMON = _THEMSELVES | {Tensor, nn.Parameter, np.ndarray}


def state_of(model: nn.Module, without: frozenset[str] = frozenset()) -> State:
    """What ``model`` holds, but for the paths in ``without``."""
    held = holdings(model)
    for path in without:
        held.pop(path, None)
    return digests(held)


def holdings(model: nn.Module) -> dict[str, Any]:
    """Path → what is held there: parameters, buffers, plain attributes and what is in them, classes and hooks."""
    found: dict[str, Any] = {}
    for kind, hooks in (("pre_hook", _module._global_forward_pre_hooks), ("hook", _module._global_forward_hooks)):
        for index, hook in enumerate(tuple(hooks.values())):
            found[f"<every module's {kind} {index}>"] = hook
    _find("", model, found, set())
    return found


def _find(path: str, held: Any, found: dict[str, Any], seen: set[int], depth: int = 0) -> None:
    some = type(held) is not tuple  # which most of what comes here is
    if some and isinstance(held, nn.Module):
        if id(held) in seen:
            found[path] = held  # which one it is: what that holds is found at its first place
        else:
            seen.add(id(held))
            _find_in_module(path and f"{path}.", held, found, seen)
    elif some and isinstance(held, _LEAVES):
        found[path] = held
    elif depth < _DEEPEST and isinstance(held, (list, tuple, deque)):
        for index, each in enumerate(tuple(held)):
            if type(each) in _COMMON:
                found[f"{path}[{index}]"] = each
            else:
                _find(f"{path}[{index}]", each, found, seen, depth + 1)
    elif depth < _DEEPEST and type(held) in (dict, OrderedDict, defaultdict):
        for key, each in tuple(held.items()):
            _find(f"{path}[{key!r}]", each, found, seen, depth + 1)
    elif depth < _DEEPEST and (type(held) is SimpleNamespace or (is_dataclass(held) and hasattr(held, "__dict__"))):
        for name, each in tuple(vars(held).items()):
            _find(f"{path}.{name}", each, found, seen, depth + 1)
    elif callable(held):
        found[path] = held


def _find_in_module(at: str, module: nn.Module, found: dict[str, Any], seen: set[int]) -> None:
    """Copies are walked, since another thread's forward may write attributes meanwhile."""
    found[f"{at}__class__"] = type(module)
    own = vars(module).copy()
    plain = {name: own[name] for name in own if name not in _INTERNAL}
    hooks = {name: tuple(own[name].values()) for name in _HOOKS if own.get(name)}
    for members in (module._parameters, module._buffers, module._modules, plain, hooks):
        if members:
            for name, held in tuple(members.items()):
                if type(held) in _COMMON:
                    found[at + name] = held
                else:
                    _find(at + name, held, found, seen)


def digests(held: dict[str, Any]) -> State:
    """Of tensors and arrays: dtype, shape, device and a checksum that sees order; anything else is its own."""
    found, read = held.copy(), defaultdict[torch.device, dict[str, Tensor]](dict)
    for path, each in held.items():
        if type(each) in _THEMSELVES:
            continue
        if isinstance(each, Tensor):
            found[path] = each.dtype, each.shape, each.device
            if each.is_quantized:
                found[path] += tuple(map(repr, _scales(each)))
                each = each.int_repr()
            read[each.device][path] = each if each.layout == torch.strided else each.detach().to_dense()
        elif isinstance(each, np.ndarray):
            found[path] = id(each) if each.dtype.hasobject else (str(each.dtype), each.shape)
            if not each.dtype.hasobject:
                read[_CPU][path] = torch.from_numpy(np.ascontiguousarray(each).view(np.uint8))
        elif isinstance(each, set):
            found[path] = frozenset(each)  # as it is now
    for tensors in read.values():
        for path, number in zip(tensors, checksums(list(tensors.values())), strict=True):
            found[path] = *found[path], number
    return found


def _scales(quantized: Tensor) -> tuple[Any, ...]:
    if quantized.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return quantized.q_scale(), quantized.q_zero_point()
    return quantized.q_per_channel_scales().tolist(), quantized.q_per_channel_zero_points().tolist()


def digest(held: Any) -> Any:
    """What ``digests`` has for it."""
    return digests({"": held})[""]


def checksum(tensor: Tensor) -> int:
    """Of a tensor's elements in their order; 0 of one that has none."""
    return checksums([tensor])[0]


# ---- what a forward leaves behind


def left_over(held: dict[str, Any], reading: Sequence[Tensor], batch: int) -> str | None:
    """The path of a tensor that an earlier forward of another batch has left, where one can be told.

    It is the one that the op which failed was ``reading``, or else the only one whose size says so.
    """
    kept = [
        path
        for path, each in held.items()
        if isinstance(each, Tensor) and not isinstance(each, nn.Parameter)
        if each.dim() > 1 and each.shape[0] not in (1, batch)
    ]
    read = {storage_of(tensor) for tensor in reading}
    found = [path for path in kept if storage_of(held[path]) in read] or kept
    return found[0] if len(found) == 1 else None


def set_before_read(before: dict[str, Any], after: dict[str, Any], read: Container[int]) -> frozenset[str]:
    """Paths of what a forward has set and not read before: nothing that it depends on.

    Args:
        before: what the model held.
        after: what it holds now.
        read: storages of the tensors that the forward has read.
    """
    changed = {path for path in {**before, **after} if before.get(path) is not after.get(path)}

    def counts(held: Any) -> bool:
        return isinstance(held, np.ndarray) or (isinstance(held, Tensor) and storage_of(held) in read)

    return frozenset(path for path in changed if not counts(before.get(path)))
