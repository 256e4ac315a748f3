"""What a plan was made from: everything that a model holds, as numbers that change when any of it does.

Pointers and version counters miss what is written behind autograd's back (``.data``, NumPy), and a sum of bits misses
what is rolled or exchanged. So each tensor has a digest that sees order: Σ word_i · m_i mod 2⁶⁴ over its 32-bit words,
m odd and random (multilinear hashing, arXiv:1202.4961, section 2). Two contents agree by chance once in 2³² at most.
"""

from __future__ import annotations

import functools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Container, Iterator, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._places import storage_of

#: By path: the digest of a tensor, or a number, word or function itself.
State = dict[str, Any]

_BLOCK = 1 << 16
_INTERNAL = frozenset(vars(nn.Module()))
_DEEPEST = 4  # containers in containers
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, type)
_FUNCTIONS = (FunctionType, BuiltinFunctionType)


def state_of(model: nn.Module, without: frozenset[str] = frozenset()) -> State:
    """What ``model`` holds, but for the paths in ``without``."""
    return {path: digest(held) for path, held in holdings(model).items() if path not in without}


def holdings(model: nn.Module) -> dict[str, Any]:
    """Path → what is held there: parameters, buffers, plain attributes and what is in them, classes and hooks."""
    return dict(_walk("", model, set()))


def _walk(path: str, held: Any, seen: set[int], depth: int = 0) -> Iterator[tuple[str, Any]]:
    if isinstance(held, nn.Module):
        if id(held) not in seen:
            seen.add(id(held))
            yield from _of_module(path and f"{path}.", held, seen)
    elif isinstance(held, (Tensor, np.ndarray, *_PLAIN, *_FUNCTIONS)):
        yield path, held
    elif depth < _DEEPEST and isinstance(held, (list, tuple, deque)):
        for index, each in enumerate(tuple(held)):
            yield from _walk(f"{path}[{index}]", each, seen, depth + 1)
    elif depth < _DEEPEST and type(held) in (dict, OrderedDict, defaultdict):
        for key, each in tuple(held.items()):
            yield from _walk(f"{path}[{key!r}]", each, seen, depth + 1)


def _of_module(at: str, module: nn.Module, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Copies are walked, since another thread's forward may write attributes meanwhile."""
    yield f"{at}__class__", type(module)
    plain = tuple(vars(module).items())
    for name, held in (*module._parameters.items(), *tuple(module._buffers.items()), *module._modules.items()):
        yield from _walk(f"{at}{name}", held, seen)
    for name, held in plain:
        if name in _HOOKS:
            yield from _walk(f"{at}{name}", tuple(held.values()), seen)
        elif name not in _INTERNAL:
            yield from _walk(f"{at}{name}", held, seen)


def digest(held: Any) -> Any:
    """Of a tensor or an array: dtype, shape, device and a checksum that sees order; anything else is its own."""
    if isinstance(held, np.ndarray):
        if held.dtype.hasobject:
            return id(held)
        return str(held.dtype), held.shape, checksum(torch.from_numpy(np.ascontiguousarray(held).view(np.uint8)))
    if isinstance(held, Tensor):
        return held.dtype, tuple(held.shape), held.device, checksum(held)
    return held


def checksum(tensor: Tensor) -> int:
    """Of a tensor's elements in their order; 0 of one that has none."""
    if tensor.is_meta or tensor.numel() == 0:
        return 0
    with torch.no_grad():
        tensor = tensor.detach()
        tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
        words = tensor.resolve_conj().resolve_neg().contiguous().view(-1)
        words = words.view({1: torch.int8, 2: torch.int16}.get(words.element_size(), torch.int32))
        return _of_words(words.numpy()) if words.device.type == "cpu" else _of_words_there(words)


def _of_words(words: np.ndarray) -> int:
    multipliers = _multipliers()
    while True:  # blocks stay in a core's cache; NumPy's integer dot is vector code, torch's is not
        blocks = (words[i : i + _BLOCK].astype(np.int64) for i in range(0, len(words), _BLOCK))
        sums = np.array([block @ multipliers[: len(block)] for block in blocks])
        if len(sums) == 1:
            return int(sums[0])
        words = sums.view(np.int32)


def _of_words_there(words: Tensor) -> int:
    """The same on another device, in one pass over whole blocks."""
    multipliers = torch.from_numpy(_multipliers()).to(words.device)
    while True:
        padded = torch.nn.functional.pad(words, (0, -len(words) % _BLOCK))
        sums = (padded.view(-1, _BLOCK) * multipliers).sum(dim=1)
        if len(sums) == 1:
            return int(sums[0])
        words = sums.view(torch.int32)


@functools.cache
def _multipliers() -> np.ndarray:
    return 2 * np.random.RandomState(0).randint(0, 1 << 63, _BLOCK, dtype=np.int64) + 1  # wraps modulo 2⁶⁴


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
