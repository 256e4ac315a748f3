"""conv_transpose2d_bn, Triton: the convolution, with normalisation at its loads and statistics at its stores."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._conv_transpose2d_bn_backward_triton import conv_transpose2d_bn_backward_triton
from ._conv_transpose2d_bn_forms import convolve, result_shape
from ._conv_transpose2d_bn_norm import activate_, layout
from ._conv_transpose2d_bn_norm_triton import (
    combine_kernel,
    conv_transpose2d_bn_apply_backward_triton,
    conv_transpose2d_bn_apply_triton,
    conv_transpose2d_bn_finalize_backward_triton,
    conv_transpose2d_bn_finalize_triton,
    conv_transpose2d_bn_fold_triton,
)
from ._conv_transpose2d_bn_shared_triton import (
    BLOCK,
    activation,
    by_tap,
    covered,
    normalized,
    pixels_last,
    rounded,
    strides_and_padding,
    tiles,
    vectors,
)
from ._triton import dot, launch

__all__ = [
    "conv_transpose2d_bn_apply_backward_triton",
    "conv_transpose2d_bn_apply_triton",
    "conv_transpose2d_bn_backward_triton",
    "conv_transpose2d_bn_finalize_backward_triton",
    "conv_transpose2d_bn_finalize_triton",
    "conv_transpose2d_bn_fold_triton",
    "conv_transpose2d_bn_triton",
]


@triton.jit
def mean_and_m2(y, valid, count):
    """Mean and Σ(y − mean)² of every column, over valid rows. What rounding the sum left out is in Σ(y − mean)."""
    rows = tl.maximum(count, 1.0)
    mean = tl.sum(tl.where(valid, y, 0.0), axis=0) / rows
    difference = tl.where(valid, y - mean[None, :], 0.0)
    error = tl.sum(difference, axis=0) / rows
    return mean + error, tl.sum(difference * difference, axis=0) - rows * error * error


@triton.jit
def conv_transpose2d_bn_kernel(
    x_ptr, center_ptr, scale_ptr, shift_ptr, w_ptr, bias_ptr, y_ptr, count_ptr, mean_ptr, m2_ptr,
    M, H, W, HO, WO, HQ, WQ, SLOTS, x_slope, slope,
    CIN: tl.constexpr, COUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, X_ACTIVATION: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """conv_transpose2d_bn: forward, as SH · SW convolutions without stride, one per phase of the result's pixels.

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


@triton.jit
def statistics_kernel(y_ptr, count_ptr, mean_ptr, m2_ptr, M, C, SLOTS, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """Count, mean and M2 per tile of an image that another kernel stored.

    Shapes    y (M, C), mean, m2 (C, SLOTS), count (SLOTS,)
    Traffic   1 read per element: memory bound
    Launch    grid ⌈M / BLOCK_M⌉ × ⌈C / BLOCK_C⌉
    """
    slot = tl.program_id(0)
    m = slot.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (m < M)[:, None] & (c < C)[None, :]
    y = tl.load(y_ptr + m[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)  # [BLOCK_M, BLOCK_C]
    count = tl.sum((m < M).to(tl.float32), axis=0)
    mean, m2 = mean_and_m2(y, mask, count)
    slots = c.to(tl.int64) * SLOTS + slot
    tl.store(mean_ptr + slots, mean, mask=c < C)
    tl.store(m2_ptr + slots, m2, mask=c < C)
    tl.store(count_ptr + slot, count)


def conv_transpose2d_bn_triton(
    x: Tensor,
    center: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    x_activation: str,
    x_slope: float,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    y_activation: str,
    slope: float,
    take_statistics: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    geometry: list[Any] = [stride, padding, output_padding, dilation, groups]
    size = result_shape(x, weight, *geometry)
    N, O, HO, WO = size
    float32: Any = {"dtype": torch.float32, "device": x.device}
    if covered(geometry):
        y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        constants = strides_and_padding(x, weight, geometry)
        HQ, WQ = triton.cdiv(HO, constants["SH"]), triton.cdiv(WO, constants["SW"])
        M, phases = N * HQ * WQ, constants["SH"] * constants["SW"]
        tile = tiles("result", x, M, O, weight.shape[0])
        slots = triton.cdiv(M, tile.m) * phases
        parts = [torch.empty(shape, **float32) for shape in ((slots,), (O, slots), (O, slots))]
        launch(
            conv_transpose2d_bn_kernel, (slots * triton.cdiv(O, tile.n),), pixels_last(x), center, scale, shift,
            by_tap(weight), bias, y, *(parts if take_statistics else (None, None, None)),
            M, *x.shape[2:], HO, WO, HQ, WQ, slots, x_slope, slope,
            CIN=weight.shape[0], COUT=O, **constants, X_ACTIVATION=x_activation, ACTIVATION=y_activation,
            BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, **tile.launched,
        )  # fmt: skip
    else:
        z = x
        if center is not None and scale is not None:
            z = conv_transpose2d_bn_apply_triton(x, center, scale, shift, x_activation, x_slope, True)
        y = pixels_last(activate_(convolve(z, weight, bias, *geometry), y_activation, slope))
        M = N * HO * WO
        slots = triton.cdiv(M, 64)
        parts = [torch.empty(shape, **float32) for shape in ((slots,), (O, slots), (O, slots))]
        if take_statistics:
            grid = (slots, triton.cdiv(O, 32))
            launch(statistics_kernel, grid, y, *parts, M, O, slots, BLOCK_M=64, BLOCK_C=32)
    if not take_statistics:
        return y.contiguous(memory_format=layout(channels_last)), x.new_empty(0), x.new_empty(0)
    mean, m2 = torch.zeros(O, **float32), torch.zeros(O, **float32)
    if slots:
        launch(combine_kernel, (O,), *parts, mean, m2, slots, BLOCK=BLOCK)
    return y.contiguous(memory_format=layout(channels_last)), mean, m2
