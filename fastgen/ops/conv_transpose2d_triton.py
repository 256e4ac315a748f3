"""Transposed convolution, Triton: forward, with normalisation at its loads and statistics at its stores."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._records import Activation, Convolution
from ._triton import capability, dot, float32_precision, launch
from .batch_norm import Deferred
from .batch_norm_triton import activation, mean_and_m2, normalized, pixels_last, rounded, statistics_parts, vectors
from .conv_transpose2d import is_product, result_shape


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


def covered(convolution: Convolution) -> bool:
    """Whether the kernels compute it: otherwise torch does, between kernels of ours."""
    return list(convolution.dilation) == [1, 1] and convolution.groups == 1


def strides_and_padding(x: Tensor, convolution: Convolution) -> dict[str, int]:
    """Of one pixel without padding every result pixel is a phase of its own, with one tap: a matrix product."""
    (KH, KW), (PH, PW) = convolution.weight.shape[2:], convolution.padding
    SH, SW = (KH, KW) if is_product(x, convolution) else convolution.stride
    return {"KH": KH, "KW": KW, "SH": SH, "SW": SW, "PH": PH, "PW": PW}


def by_tap(weight: Tensor) -> Tensor:
    """(KH, KW, I, O), contiguous; packed anew each time, so it cannot go stale."""
    return weight.permute(2, 3, 0, 1).contiguous()


@triton.jit
def conv_transpose2d_kernel(
    x_ptr, center_ptr, scale_ptr, shift_ptr, w_ptr, bias_ptr, y_ptr, count_ptr, mean_ptr, m2_ptr,
    M, H, W, HO, WO, HQ, WQ, SLOTS, x_slope, slope,
    CIN: tl.constexpr, COUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, X_ACTIVATION: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Forward, as SH · SW convolutions without stride, one per phase of the result's pixels.

    Math      y[SH·q + p] = act(bias + Σ_t z[q + (p + PH) // SH − t] · w[(p + PH) % SH + SH·t]), likewise in columns;
              z = act((x − center) · scale + shift), zero outside; per tile count, mean and M2 of y as stored
    Shapes    x (N, H, W, CIN), w (KH, KW, CIN, COUT), y (N, HO, WO, COUT), M = N · HQ · WQ rows of a phase; 64-bit
    Traffic   each tile of x is read by the phases and channel tiles that run next to each other
    Launch    grid ⌈M / BLOCK_M⌉ · phases · ⌈COUT / BLOCK_N⌉, tiles of x outermost
    Numerics  z rounded to its dtype, float32 accumulation and epilogue, one rounding, statistics of what was rounded
    Ragged    rows, channels and taps masked
    """
    COLUMNS: tl.constexpr = (COUT + BLOCK_N - 1) // BLOCK_N
    TAPS_X: tl.constexpr = (KW + SW - 1) // SW
    TAPS: tl.constexpr = (KH + SH - 1) // SH * TAPS_X
    STEPS: tl.constexpr = (CIN + BLOCK_K - 1) // BLOCK_K
    tile = tl.program_id(0) // (COLUMNS * SH * SW)
    phase = tl.program_id(0) // COLUMNS % (SH * SW)
    m = tile.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) % COLUMNS * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    image, qy, qx = m // (HQ * WQ), (m // WQ % HQ).to(tl.int32), (m % WQ).to(tl.int32)
    py, px = phase // SW, phase % SW
    oy, ox = qy * SH + py, qx * SW + px
    row_valid = (m < M) & (oy < HO) & (ox < WO)

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for i in range(TAPS * STEPS):
        ty, tx = i // STEPS // TAPS_X, i // STEPS % TAPS_X
        iy, ix = qy + (py + PH) // SH - ty, qx + (px + PW) // SW - tx
        ky, kx = (py + PH) % SH + SH * ty, (px + PW) % SW + SW * tx
        rows, columns = tl.where(ky < KH, H, 0), tl.where(kx < KW, W, 0)  # a tap beyond the kernel sees no pixel
        there = row_valid & (iy >= 0) & (iy < rows) & (ix >= 0) & (ix < columns)
        c = i % STEPS * BLOCK_K + k
        inside = there[:, None] & (c < CIN)[None, :]
        z = tl.load(x_ptr + ((image * H + iy) * W + ix)[:, None] * CIN + c[None, :], mask=inside, other=0.0)
        if scale_ptr is not None:
            center, scale, shift = vectors(center_ptr, scale_ptr, shift_ptr, c, c < CIN)
            z = normalized(z, center, scale, shift, inside, x_slope, X_ACTIVATION)  # [BLOCK_M, BLOCK_K]
        w_offsets = ((ky * KW + kx) * CIN + c)[:, None] * COUT + n[None, :]
        live = (c < tl.where(rows * columns > 0, CIN, 0))[:, None] & (n < COUT)[None, :]
        w = tl.load(w_ptr + w_offsets, mask=live, other=0.0)  # [BLOCK_K, BLOCK_N]
        acc = dot(z, w, acc, PRECISION)

    if bias_ptr is not None:
        acc += tl.load(bias_ptr + n, mask=n < COUT, other=0.0).to(tl.float32)[None, :]
    y = rounded(activation(acc, slope, ACTIVATION), y_ptr.dtype.element_ty)
    target = ((image * HO + oy) * WO + ox)[:, None] * COUT + n[None, :]
    tl.store(y_ptr + target, y, mask=row_valid[:, None] & (n < COUT)[None, :])

    if mean_ptr is not None:
        slot = tile * (SH * SW) + phase
        count = tl.sum(row_valid.to(tl.float32), axis=0)
        mean, m2 = mean_and_m2(y.to(tl.float32), row_valid[:, None], count)
        slots = n.to(tl.int64) * SLOTS + slot
        tl.store(mean_ptr + slots, mean, mask=n < COUT)
        tl.store(m2_ptr + slots, m2, mask=n < COUT)
        tl.store(count_ptr + slot, count)  # every tile of channels writes the same


def convolve(
    x: Deferred, convolution: Convolution, y_activation: Activation, take_statistics: bool
) -> tuple[Tensor, list[Tensor]]:
    """The result, channels_last, and the statistics of its tiles, or nothing."""
    image, *prologue = x
    (N, O, HO, WO), I = result_shape(image, convolution), convolution.weight.shape[0]
    y = torch.empty((N, O, HO, WO), dtype=image.dtype, device=image.device, memory_format=torch.channels_last)
    constants = strides_and_padding(image, convolution)
    HQ, WQ = triton.cdiv(HO, constants["SH"]), triton.cdiv(WO, constants["SW"])
    M, phases = N * HQ * WQ, constants["SH"] * constants["SW"]
    tile = tiles("result", image, M, O, I)
    slots = triton.cdiv(M, tile.m) * phases
    parts = statistics_parts(O, slots, image) if take_statistics else []
    launch(
        conv_transpose2d_kernel, (slots * triton.cdiv(O, tile.n),), pixels_last(image), *prologue[:3],
        by_tap(convolution.weight), convolution.bias, y, *(parts or (None, None, None)),
        M, *image.shape[2:], HO, WO, HQ, WQ, slots, x.negative_slope, y_activation.slope,
        CIN=I, COUT=O, **constants, X_ACTIVATION=x.activation, ACTIVATION=y_activation.name,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, **tile.launched,
    )  # fmt: skip
    return y, parts
