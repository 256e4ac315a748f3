"""The one way of checking arguments: every error names the argument, what was expected, and what came.

Numbers may be Python's or NumPy's; a bool is no number. What is no number where one is expected, or no word of a list,
is a ValueError; what is no tensor, or one of another dtype, is a TypeError. Each check returns its argument in the form
that the code behind it reads, so a caller writes ``n = check_integer("n", n, 1)``.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_WIDE = (torch.uint16, torch.uint32, torch.uint64)


def describe(value: Any) -> str:
    """What came, in a few words: a tensor's or an array's dtype and shape, or the value itself, cut short."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({type(value).__name__})"


def listed(names: Iterable[Any], most: int = 5) -> str:
    """``names`` with commas between, the first ``most`` of them and how many more there are; long ones cut short."""
    names = [str(name) for name in names]
    some = [name if len(name) <= 200 else f"{name[:100]}…{name[-90:]}" for name in names[:most]]
    return ", ".join(some) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def check_integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """``value`` as an int in [low, high].

    Raises:
        ValueError: it is not an integer, or outside of the range.
    """
    if isinstance(value, torch.SymInt):  # a size under torch.export or torch.compile: to look at it would fix it
        return value  # type: ignore[return-value]
    if (
        isinstance(value, (bool, np.bool_))
        or not isinstance(value, (int, np.integer))
        or (low is not None and value < low)
        or (high is not None and value > high)
    ):
        expected = "a positive integer" if (low, high) == (1, None) else f"an integer{_range(low, high)}"
        raise ValueError(f"{name}: expected {expected}, got {describe(value)}")
    return int(value)


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """``value`` as it came (a NumPy number as Python's), finite and in [low, high].

    Raises:
        ValueError: it is not a real number, outside of the range, infinite or NaN.
    """
    if isinstance(value, (torch.SymInt, torch.SymFloat)):
        return value  # type: ignore[return-value]
    if (
        isinstance(value, (bool, np.bool_))
        or not isinstance(value, (int, float, np.floating, np.integer))
        or not low <= value <= high
        or not -math.inf < value < math.inf  # no isfinite: a compiler with dynamic numbers cannot trace it
    ):
        raise ValueError(f"{name}: expected a finite number{_range(low, high)}, got {describe(value)}")
    return value.item() if isinstance(value, np.generic) else value


def check_flag(name: str, value: Any) -> bool:
    """``value`` as a bool: it is one, or 0 or 1.

    Raises:
        ValueError: it is anything else; text is not read for its truth.
    """
    if value is True or value is False:
        return value
    if not isinstance(value, (int, np.integer, np.bool_)) or value not in (0, 1):
        raise ValueError(f"{name}: expected True or False, got {describe(value)}")
    return bool(value)


def check_option(name: str, value: Any, allowed: Sequence[str]) -> str:
    """``value``, one of the words ``allowed``.

    Raises:
        ValueError: it is another, or no text.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {describe(value)}")
    return value


def check_pair(name: str, value: Any, low: int = 1) -> tuple[int, int]:
    """One integer for both, or two of them, each at least ``low``.

    Raises:
        ValueError: it is neither, there are not two, or one is too small.
    """
    if not isinstance(value, (tuple, list)):  # torch.Size is a tuple
        value = (value, value)
    if len(value) != 2:
        raise ValueError(f"{name}: expected one integer or two of them, got {describe(value)}")
    first, second = (check_integer(name, one, low) for one in value)
    return first, second


def check_tensor(
    name: str,
    value: Any,
    shape: Sequence[int | str] | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
) -> Tensor:
    """``value``, a tensor of a shape and one of several dtypes.

    Args:
        name: of the argument.
        value: what came.
        shape: a number is a size that must be met, a word names one that is free: ("N", 3, "H", "W").
        dtypes: those that are taken; all by default.

    Raises:
        TypeError: it is no tensor, or of another dtype.
        ValueError: the shape differs.
    """
    wanted = "a tensor" if shape is None else f"a tensor of shape ({_join(shape)})"
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected {wanted}, got {describe(value)}")
    if shape is not None and (
        value.dim() != len(shape)
        or any(not isinstance(want, str) and want != got for want, got in zip(shape, value.shape, strict=True))
    ):
        raise ValueError(f"{name}: expected shape ({_join(shape)}), got {tuple(value.shape)}")
    if dtypes is not None and value.dtype not in dtypes:
        words = [str(dtype).removeprefix("torch.") for dtype in dtypes]
        listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
        raise TypeError(f"{name}: expected {listed}, got {value.dtype}")
    return value


def check_dense(name: str, value: Any, shape: Sequence[int | str] | None = None) -> Tensor:
    """``value``, a dense tensor of integers or real numbers.

    Raises:
        TypeError: it is no tensor, or complex, quantised or sparse.
        ValueError: the shape differs.
    """
    check_tensor(name, value, shape)
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        kind = "a quantised" if value.is_quantized else "a complex" if value.is_complex() else "a sparse"
        raise TypeError(f"{name}: expected a dense tensor of real numbers, got {kind} one, {value.dtype}")
    return value


def check_numbers(name: str, value: Any, shape: Sequence[int | str] | None = None) -> Tensor:
    """``value``, a dense tensor of integers or real numbers that are there to be read: not on the meta device.

    Raises:
        TypeError: it is no tensor, or complex, quantised or sparse.
        ValueError: the shape differs, or it is on the meta device.
    """
    if check_dense(name, value, shape).is_meta:
        raise ValueError(f"{name}: expected a tensor with values, got one on the meta device")
    return value


def check_floating(name: str, value: Any, shape: Sequence[int | str] | None = None) -> Tensor:
    """``value``, a dense tensor in float32, float64, float16 or bfloat16.

    Raises:
        TypeError: it is no tensor, of another dtype, quantised or sparse.
        ValueError: the shape differs.
    """
    check_dense(name, value, shape)
    if value.dtype not in FLOATING:
        few = " of 16 bits or more" if value.is_floating_point() else ""
        raise TypeError(f"{name}: expected a floating-point tensor{few}, got {value.dtype}")
    return value


def check_values(values: Tensor, levels: int | None, name: str = "values") -> None:
    """Raise unless ``values`` are integers in [0, levels). In a graph of ``torch.compile`` only their dtype is seen."""
    check_dense(name, values)
    if values.is_floating_point() or values.is_complex():
        raise TypeError(f"{name}: expected an integer tensor, got {values.dtype}")
    if levels is None or torch.compiler.is_compiling() or values.is_meta or values.numel() == 0:
        return
    values = values.double() if values.dtype in _WIDE else values  # which torch cannot compare; too large stays large
    low, high = (int(bound) for bound in values.aminmax())
    if low < 0 or high >= levels:
        raise ValueError(f"{name}: expected integers in [0, {levels}), got values from {low} to {high}")


def check_whole(name: str, x: Tensor, levels: int) -> None:
    """Raise unless ``x``, floating point, is of whole numbers in [0, levels), where they are to be looked at.

    That is on a CPU, and neither in a trace nor in a transform.
    """
    hidden = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if hidden or torch._C._len_torch_dispatch_stack() or x.device.type != "cpu" or not x.numel():
        return
    if not ((x >= 0) & (x < levels) & (x == x.round())).all():
        low, high = (float(bound) for bound in x.detach().aminmax())
        raise ValueError(
            f"{name}: expected whole numbers in [0, {levels}), got numbers from {low:g} to {high:g}, or between"
        )


def check_levels(values: Tensor, levels: int, name: str = "values") -> None:
    """``check_values``, of which the range is looked at on a CPU alone: elsewhere a look would wait for the device."""
    check_dense(name, values)
    check_values(values, levels if values.device.type == "cpu" else None, name)


def check_same(name: str, value: Tensor | None, other_name: str, other: Tensor) -> None:
    """``value``, where there is one, has the dtype and the device of ``other``.

    Raises:
        TypeError: no tensor, or another dtype.
        ValueError: another device.
    """
    if value is None:
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor or None, got {describe(value)}")
    if value.dtype != other.dtype:
        raise TypeError(f"{name}: expected the dtype of {other_name}, {other.dtype}, got {value.dtype}")
    check_device(name, value, other_name, other)


def check_device(name: str, value: Tensor | None, other_name: str, other: Tensor) -> None:
    """``value``, where there is one, is on the device of ``other``.

    Raises:
        ValueError: it is on another.
    """
    if value is not None and value.device != other.device:
        raise ValueError(f"{name}: expected the device of {other_name}, {other.device}, got {value.device}")


def check_finite(name: str, value: Tensor, expected: str = "finite numbers") -> Tensor:
    """``value``, every element of which is finite; at integers nobody looks, nor in a graph of ``torch.compile``.

    Raises:
        ValueError: one is infinite or NaN.
    """
    exact = not value.is_floating_point() and not value.is_complex()
    if not exact and not torch.compiler.is_compiling() and not value.is_meta and not value.isfinite().all():
        raise ValueError(f"{name}: expected {expected}, got inf or nan")
    return value


def check_instance(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> Any:
    """``value``, an instance of ``kind``, which the message calls ``expected``; a class of that kind is named as such.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, kind):
        return value
    if isinstance(value, type) and issubclass(value, kind):
        raise TypeError(
            f"{name}: expected {expected}, got the class {value.__name__} itself: call it, {value.__name__}(…)"
        )
    raise TypeError(f"{name}: expected {expected}, got {describe(value)}")


def _range(low: float | None, high: float | None) -> str:
    low, high = (None if bound is None or math.isinf(bound) else bound for bound in (low, high))
    if low is not None and 0 < low < 1e-4:
        low = f"{low:.0e}".replace("e-0", "e-")  # type: ignore[assignment]
    if low is None:
        return "" if high is None else f" of at most {high}"
    return f" of at least {low}" if high is None else f" from {low} to {high}"


def _join(shape: Sequence[int | str]) -> str:
    return ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
