"""Whether a value that was read is built as another one is, before any of it is believed."""

from typing import Any

import torch
from torch import Tensor

from ._checks import describe


def check_keys(name: str, value: Any, expected: Any) -> dict[Any, Any]:
    """``value``, a dict with the keys ``expected`` and no others.

    Raises:
        ValueError: it is none, or the keys differ.
    """
    if not isinstance(value, dict) or set(value) != set(expected):
        got = ", ".join(map(str, value)) or "none" if isinstance(value, dict) else describe(value)
        raise ValueError(f"{name}: expected {', '.join(map(str, expected)) or 'nothing'}, got {got}")
    return value


def check_alike(name: str, value: Any, like: Any) -> None:
    """``value`` is built as ``like`` is: the same containers, types, shapes, dtypes and layouts; numbers may differ.

    Raises:
        ValueError: the first part that differs, by its place in ``value``.
    """
    if isinstance(like, Tensor):
        if not isinstance(value, Tensor) or _form(value) != _form(like):
            raise ValueError(f"{name}: expected {describe(like)}, got {describe(value)}")
    elif isinstance(like, dict):
        for key in check_keys(name, value, like):
            check_alike(f"{name}.{key}", value[key], like[key])
    elif isinstance(like, (list, tuple)):
        if type(value) is not type(like) or len(value) != len(like):
            got = f"{len(value)}" if isinstance(value, (list, tuple)) else describe(value)
            raise ValueError(f"{name}: expected a {type(like).__name__} of {len(like)}, got {got}")
        for index, (one, other) in enumerate(zip(value, like, strict=True)):
            check_alike(f"{name}.{index}", one, other)
    elif type(value) is not type(like):
        raise ValueError(f"{name}: expected {type(like).__name__}, got {describe(value)}")


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, is_odd(tensor)


def is_odd(tensor: Tensor) -> bool:
    """Whether something other than numbers, each in its own place of this machine's memory, is behind a tensor."""
    return tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized
