"""What the Triton kernels share: products, scalar functions, the precision of float32, and how a kernel is launched.

Imported by ``*_triton.py`` only, and those only when an op meets its first CUDA tensor: fastgen itself runs without
triton. With ``TRITON_INTERPRET=1`` the kernels run on CPU tensors, in Triton's interpreter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Whether kernels run in Triton's interpreter. It multiplies the bit patterns of half types, so ``dot`` widens them.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """Acc + a @ b, accumulated in float32 (float64 for float64); PRECISION ("ieee", "tf32") concerns float32."""
    if INTERPRETED:
        a = a.to(acc.dtype)
        b = b.to(acc.dtype)
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@triton.jit
def expm1(x):
    """exp(x) − 1 in float32, without cancellation near 0: Taylor to degree 7 where |x| < ¼."""
    small = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7))))))
    return tl.where(tl.abs(x) < 0.25, small, tl.exp(x) - 1)


@triton.jit
def tanh(x):
    """In float32, from e = expm1(−2|x|): −e / (2 + e), with the sign of x; exact near 0, NaN stays NaN."""
    e = expm1(-2 * tl.abs(x))
    t = -e / (2 + e)
    return tl.where(x < 0, -t, t)


def float32_precision() -> str:
    """How float32 convolutions multiply: "tf32" where torch's own flag (``cudnn.conv``) allows it, else "ieee"."""
    setting = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    if setting == "none":  # says nothing itself: the flag above it speaks
        setting = torch.backends.cudnn.fp32_precision
    return "tf32" if setting == "tf32" else "ieee"


def capability(tensor: Tensor) -> tuple[int, int]:
    """Compute capability that a launch on ``tensor`` is for."""
    if _recorder is not None:
        return _recorder.capability
    return torch.cuda.get_device_capability(tensor.device) if tensor.is_cuda else (8, 0)


@dataclass(frozen=True)
class Launch:
    """A launch that was recorded instead of made: all that is needed to compile it."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


@dataclass
class _Recorder:
    capability: tuple[int, int]
    launches: list[Launch] = field(default_factory=list)


_recorder: _Recorder | None = None


@contextmanager
def recording(capability: tuple[int, int]) -> Iterator[list[Launch]]:
    """Inside, ``launch`` lists what it would launch on a GPU of this capability; tensors may be on device "meta"."""
    global _recorder
    _recorder = _Recorder(capability)
    try:
        yield _recorder.launches
    finally:
        _recorder = None


def launch(
    kernel: Any, grid: tuple[int, ...], *args: Any, num_warps: int = 4, num_stages: int = 3, **constants: Any
) -> None:
    """Launch ``kernel`` on the current stream; ``constants`` are its ``tl.constexpr`` parameters. No grid, no launch.

    Args:
        kernel: a ``@triton.jit`` function whose ``constexpr`` parameters come last.
        grid: number of programs along each axis.
        *args: run-time arguments, in order; tensors become pointers.
        num_warps: as Triton takes it.
        num_stages: as Triton takes it.
        **constants: by name.
    """
    if 0 in grid:
        return
    if _recorder is not None:
        _recorder.launches.append(Launch(kernel, grid, args, constants, num_warps, num_stages))
        return
    kernel[grid](*args, **constants, num_warps=num_warps, num_stages=num_stages)


def on_device_of(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """``kernel``, run with the device of its first tensor as the current one: Triton launches there."""

    def guarded(*args: Any) -> Any:
        with torch.cuda.device_of(next(arg for arg in args if isinstance(arg, Tensor))):
            return kernel(*args)

    return guarded
