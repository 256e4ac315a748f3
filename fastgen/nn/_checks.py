"""Argument checks that the modules share: the sizes of layers, their options, and where their parameters lie."""

from typing import Any

import torch

from .._checks import FLOATING, check_integer, check_pair, describe

SIZE_MAX = 2**31 - 1


def check_size(name: str, value: Any, low: int = 1) -> int:
    """``value`` as an int, a size that a layer can have.

    Raises:
        ValueError: it is not an integer from ``low`` to 2³¹ - 1.
    """
    return check_integer(name, check_integer(name, value, low), low, SIZE_MAX)


def check_sizes(name: str, value: Any, low: int = 1) -> tuple[int, int]:
    """One size for both, or two of them.

    Raises:
        ValueError: it is neither, or one is not an integer from ``low`` to 2³¹ - 1.
    """
    first, second = (check_size(name, one, low) for one in check_pair(name, value, low))
    return first, second


def check_odd(name: str, value: Any) -> tuple[int, int]:
    """One odd size for both, or two of them.

    Raises:
        ValueError: it is neither, or one is even.
    """
    sizes = check_sizes(name, value)
    if sizes[0] % 2 == 0 or sizes[1] % 2 == 0:
        raise ValueError(f"{name}: expected odd sizes, got {sizes}")
    return sizes


def check_placed(device: Any, dtype: Any) -> dict[str, Any]:
    """``device`` and ``dtype`` of parameters, by name; None stands for torch's default.

    Raises:
        ValueError: ``device`` is none that torch knows.
        TypeError: ``dtype`` is none that the ops take.
    """
    if device is not None and not isinstance(device, torch.device):
        if isinstance(device, bool) or not isinstance(device, (str, int)):
            raise ValueError(f"device: expected a torch.device, its name or None, got {describe(device)}")
        try:
            device = torch.device(device)
        except RuntimeError:
            raise ValueError(f"device: expected one that torch knows, got {describe(device)}") from None
    if dtype is not None and dtype not in FLOATING:
        raise TypeError(f"dtype: expected float32, float64, float16, bfloat16 or None, got {describe(dtype)}")
    return {"device": device, "dtype": dtype}
