"""Which dtypes the ops take, and what autocast makes of mixed ones."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .._checks import FLOATING, check_tensor
from .._constants import constant

#: What is a tensor and no more.
PLAIN = (Tensor, torch.nn.Parameter)

__all__ = [
    "FLOATING",
    "PLAIN",
    "Rounded",
    "autocast_dtype",
    "check_dense",
    "check_floating",
    "in_dtype",
    "layer_dtype",
    "lowered",
    "multiplies",
    "pairs_pay",
    "widened",
]


def check_dense(name: str, tensor: Any) -> Tensor:
    """``tensor``, one whose elements lie in strides as they are.

    Raises:
        TypeError: no tensor, or a sparse or quantised one.
    """
    check_tensor(name, tensor)
    if tensor.is_quantized:
        raise TypeError(f"{name}: expected a tensor that is not quantised, got {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got {tensor.layout}")
    return tensor


def check_floating(name: str, tensor: Tensor) -> None:
    if type(tensor) in PLAIN and tensor.dtype in FLOATING and tensor.layout is torch.strided:
        return  # at each call of an op, and after a product nothing of Python is in the caches
    check_dense(name, tensor)
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {tensor.dtype}")


@constant  # torch 2.11's compiler knows no way into it
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def without_autocast(tensors: Sequence[Tensor | None]) -> AbstractContextManager[Any]:
    """In which ``torch.autocast`` is off on the device of the first of these: of a backward, which knows none."""
    device = next((each.device.type for each in tensors if each is not None), "cpu")
    if not _has_autocast(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype that ``torch.autocast`` wants of ``tensor``; None where it is off, as it is for float64."""
    device = tensor.device.type
    if not _has_autocast(device) or not torch.is_autocast_enabled(device):
        return None
    if tensor.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(device)


#: Values of ``ONEDNN_MAX_CPU_ISA`` that leave oneDNN no products of halves; torch goes by the CPU all the same.
_WITHOUT_HALVES = ("SSE41", "AVX", "AVX2", "AVX2_VNNI")


def _multiplied() -> dict[torch.dtype, bool]:
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", ""))
    ops, there = torch.ops.mkldnn, torch.backends.mkldnn.is_available() and limit.upper() not in _WITHOUT_HALVES
    return {
        torch.bfloat16: there and bool(ops._is_mkldnn_bf16_supported()),
        torch.float16: there and bool(ops._is_mkldnn_fp16_supported()),
    }


_MULTIPLIED = _multiplied()


#: Whether kernels may use AVX-512: ``ATEN_CPU_CAPABILITY`` limits torch's, and ours.
_HAS_AVX512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
#: Whether products of halves are a matrix unit's, which oneDNN uses, and ours do not: there nothing was measured.
_HAS_AMX = bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def pairs_pay() -> bool:
    """Whether our products of pairs of bfloat16 outrun torch's: by AVX-512 they do, with instructions for them or
    without; by AVX2 where torch has no instructions, and runs loops.
    """
    return not _HAS_AMX and (_HAS_AVX512 or not multiplies(torch.bfloat16))


def layer_dtype(x: Tensor, weights: Sequence[Tensor]) -> torch.dtype | None:
    """The dtype that the ops of whole layers compute images in on a CPU, float32 or bfloat16; None: in neither.

    Autocast's, else that of x and all weights.
    """
    autocast = autocast_dtype(x)
    dtype = x.dtype if autocast is None else autocast
    taken = (dtype,) if autocast is None else (torch.float32, dtype)
    if dtype not in (torch.float32, torch.bfloat16) or any(each.dtype not in taken for each in (x, *weights)):
        return None
    return None if dtype == torch.bfloat16 and _HAS_AMX else dtype


def lowered(image: Tensor) -> Tensor:
    """``image`` as those ops read it under autocast."""
    dtype = autocast_dtype(image)
    return image if dtype is None else image.to(dtype)


class Rounded:
    """A weight as a convolution has read it: an optimiser may step before the backward, as autocast allows.

    Gradients of gradients see the weight itself, of which what was rounded is no function; if it has changed, an error.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight, self._version = weight, weight._version

    def read(self, taps: Tensor) -> Tensor:
        """taps: what was rounded."""
        if not torch.is_grad_enabled():
            return taps
        if self.weight._version != self._version:
            raise RuntimeError("weight: has been modified by an inplace operation since it was convolved with")
        return self.weight.to(taps.dtype)


def in_dtype(dtype: torch.dtype, *tensors: Tensor | None) -> tuple[Any, ...]:
    return tuple(each if each is None else each.to(dtype) for each in tensors)


def widened(tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """What those ops read in float32 whatever the images are in: weights, biases, what a class adds."""
    return in_dtype(torch.float32, *tensors)


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for products of these halves, and torch uses them."""
    return _MULTIPLIED.get(dtype, False)
