# mypy: disallow-untyped-defs=False, check-untyped-defs=False
"""What the Triton kernels of conv_transpose2d_bn share: normalisation, tiles, layouts."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._conv_transpose2d_bn_forms import is_product
from ._triton import INTERPRETED, capability, float32_precision, tanh

BLOCK = 1024  # of kernels over one index


@triton.jit
def activation(a, slope, ACTIVATION: tl.constexpr):
    """NaN stays NaN, as in torch."""
    if ACTIVATION == "relu":
        a = tl.where(a <= 0, 0.0, a)
    elif ACTIVATION == "leaky_relu":
        a = tl.where(a <= 0, a * slope, a)
    elif ACTIVATION == "tanh":
        a = tanh(a)
    return a


@triton.jit
def activation_backward(grad, result, slope, ACTIVATION: tl.constexpr):
    """From the activation's result; slope ≥ 0 keeps its sign."""
    if ACTIVATION == "relu":
        grad = tl.where(result <= 0, 0.0, grad)
    elif ACTIVATION == "leaky_relu":
        grad = tl.where(result > 0, grad, grad * slope)
    elif ACTIVATION == "tanh":
        grad = grad * (1 - result * result)
    return grad


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """Float32 to ``dtype``, to nearest even; the interpreter would cut bfloat16 off instead of rounding it."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        x = tl.where(x == x, (bits & -65536).to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@triton.jit
def vectors(center_ptr, scale_ptr, shift_ptr, c, mask):
    """Center, scale and shift of channels ``c``, float32."""
    center = tl.load(center_ptr + c, mask=mask, other=0.0)
    scale = tl.load(scale_ptr + c, mask=mask, other=0.0)
    shift = tl.zeros_like(scale)
    if shift_ptr is not None:
        shift = tl.load(shift_ptr + c, mask=mask, other=0.0).to(tl.float32)
    return center, scale, shift


@triton.jit
def normalized(x, center, scale, shift, there, slope, ACTIVATION: tl.constexpr):
    """act((x − center) · scale + shift) for [rows, channels], in the dtype of x; padding is zero after all of it."""
    a = (x.to(tl.float32) - center[None, :]) * scale[None, :] + shift[None, :]
    return rounded(tl.where(there, activation(a, slope, ACTIVATION), 0.0), x.dtype)


@dataclass(frozen=True)
class Tiles:
    """Sizes of a product's tiles, and how it is launched: a pure function of dtype, sizes and device."""

    m: int
    n: int
    k: int
    precision: str
    warps: int
    stages: int

    @property
    def launched(self) -> dict[str, Any]:
        return {"PRECISION": self.precision, "num_warps": self.warps, "num_stages": self.stages}


#: The largest tile, by what a product is for and what it multiplies in: as large as registers allow.
LARGEST = {
    ("result", "half"): (128, 128, 64), ("grad_x", "half"): (128, 64, 32), ("grad_weight", "half"): (128, 64, 32),
    ("result", "tf32"): (64, 64, 32), ("grad_x", "tf32"): (64, 32, 32), ("grad_weight", "tf32"): (64, 32, 32),
    ("result", "ieee"): (64, 64, 16), ("grad_x", "ieee"): (64, 64, 16), ("grad_weight", "ieee"): (64, 32, 16),
}  # fmt: skip


def tiles(product: str, x: Tensor, M: int, N: int, K: int) -> Tiles:
    """For a product of (M, K) by (K, N) in the dtype of ``x``; at least 16 in each direction."""
    precision = float32_precision() if x.dtype == torch.float32 else "ieee"
    largest = LARGEST[product, precision if x.dtype == torch.float32 else "half"]
    sizes = zip(largest, (M, N, K), strict=True)
    m, n, k = (min(limit, max(16, triton.next_power_of_2(size))) for limit, size in sizes)
    return Tiles(m, n, k, precision, 8 if m * n >= 128 * 128 else 4, 2 if capability(x)[0] == 12 else 3)


def covered(geometry: list[Any]) -> bool:
    """Whether the kernels compute this convolution: otherwise torch does, between kernels of ours."""
    _stride, _padding, _output_padding, dilation, groups = geometry
    return list(dilation) == [1, 1] and groups == 1


def strides_and_padding(x: Tensor, weight: Tensor, geometry: list[Any]) -> dict[str, int]:
    """Of one pixel without padding every result pixel is a phase of its own, with one tap: a matrix product."""
    stride, padding = geometry[:2]
    SH, SW = weight.shape[2:] if is_product(x, *geometry) else stride
    return {"KH": weight.shape[2], "KW": weight.shape[3], "SH": SH, "SW": SW, "PH": padding[0], "PW": padding[1]}


def by_tap(weight: Tensor) -> Tensor:
    """(KH, KW, I, O), contiguous; packed anew each time, so it cannot go stale."""
    return weight.permute(2, 3, 0, 1).contiguous()


def pixels_last(x: Tensor) -> Tensor:
    """The same (N, C, H, W), with memory (N, H, W, C), in which every kernel here works."""
    return x.contiguous(memory_format=torch.channels_last)
