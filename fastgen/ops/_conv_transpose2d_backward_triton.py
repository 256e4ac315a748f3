"""Transposed convolution, Triton: gradients to image, to weight and to bias."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._conv_transpose2d_bn_convolve import Stored
from ._layouts import layout_of
from ._records import Activation, Convolution
from ._triton import dot, launch
from .batch_norm import Deferred
from .batch_norm_triton import (
    BLOCK,
    CHANNELS,
    PIXELS,
    activation,
    activation_backward,
    normalized,
    rounded,
    sum_slots_kernel,
    vector_gradients,
    vectors,
)
from .conv_transpose2d_triton import by_tap, strides_and_padding, tiles

#: Programs that keep a large GPU busy: the gradient to the weight is divided into so many.
PROGRAMS = 264


@triton.jit
def total_gradient(
    grad_ptr, y_ptr, mean_ptr, grad_mean_ptr, grad_m2_ptr, offsets, c, inside, c_valid, count, slope,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Gradient to the convolution's result, through itself, its mean and its M2: [rows, channels c], float32."""
    grad = tl.load(grad_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION != "none":
        y = tl.load(y_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        grad = activation_backward(grad, y, slope, ACTIVATION)
    if grad_mean_ptr is not None:
        y = tl.load(y_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + c, mask=c_valid, other=0.0)
        constant = tl.load(grad_mean_ptr + c, mask=c_valid, other=0.0) / count
        slant = 2 * tl.load(grad_m2_ptr + c, mask=c_valid, other=0.0)
        grad += constant[None, :] + slant[None, :] * (y - mean[None, :])
        grad = tl.where(inside, grad, 0.0)
    return grad


@triton.jit
def grad_image_kernel(
    grad_ptr, y_ptr, mean_ptr, grad_mean_ptr, grad_m2_ptr, w_ptr, x_ptr, center_ptr, scale_ptr, shift_ptr, grad_x_ptr,
    sum_ptr, product_ptr, M, H, W, HO, WO, SLOTS, count, x_slope, slope,
    CIN: tl.constexpr, COUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, X_ACTIVATION: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Backward: gradient to x, a convolution with stride (SH, SW).

    Math      grad_z[i] = Σ_k dy[S·i − P + k] · w[k]ᵀ;  dy = act'(y) · grad + grad_mean / count + 2 grad_m2 (y − mean);
              grad_x = g · scale, g = act'(z) · grad_z;  per tile Σ g and Σ g · (x − center)
    Shapes    grad, y (N, HO, WO, COUT), w (KH, KW, CIN, COUT), x, grad_x (N, H, W, CIN), M = N · H · W; 64-bit offsets
    Launch    grid ⌈M / BLOCK_M⌉ · ⌈CIN / BLOCK_N⌉, tiles of pixels outermost
    Numerics  dy and grad_z rounded to the dtype of x, as torch stores them; float32 accumulation and sums
    """
    COLUMNS: tl.constexpr = (CIN + BLOCK_N - 1) // BLOCK_N
    STEPS: tl.constexpr = (COUT + BLOCK_K - 1) // BLOCK_K
    tile = tl.program_id(0) // COLUMNS
    m = tile.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) % COLUMNS * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    image, iy, ix = m // (H * W), (m // W % H).to(tl.int32), (m % W).to(tl.int32)

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for i in range(KH * KW * STEPS):
        tap = i // STEPS
        oy, ox = iy * SH - PH + tap // KW, ix * SW - PW + tap % KW
        there = (m < M) & (oy >= 0) & (oy < HO) & (ox >= 0) & (ox < WO)
        c = i % STEPS * BLOCK_K + k
        offsets = ((image * HO + oy) * WO + ox)[:, None] * COUT + c[None, :]
        grad = total_gradient(
            grad_ptr, y_ptr, mean_ptr, grad_mean_ptr, grad_m2_ptr, offsets, c, there[:, None] & (c < COUT)[None, :],
            c < COUT, count, slope, ACTIVATION,
        )  # fmt: skip
        grad = rounded(grad, grad_ptr.dtype.element_ty)  # [BLOCK_M, BLOCK_K]
        w_offsets = (tap * CIN + n)[None, :] * COUT + c[:, None]
        w = tl.load(w_ptr + w_offsets, mask=(c < COUT)[:, None] & (n < CIN)[None, :], other=0.0)  # [BLOCK_K, BLOCK_N]
        acc = dot(grad, w, acc, PRECISION)

    mask = (m < M)[:, None] & (n < CIN)[None, :]
    offsets = m[:, None] * CIN + n[None, :]
    if scale_ptr is not None:
        center, scale, shift = vectors(center_ptr, scale_ptr, shift_ptr, n, n < CIN)
        x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32) - center[None, :]
        z = activation(x * scale[None, :] + shift[None, :], x_slope, X_ACTIVATION)
        acc = activation_backward(rounded(acc, grad_x_ptr.dtype.element_ty).to(tl.float32), z, x_slope, X_ACTIVATION)
        acc = tl.where(mask, acc, 0.0)
        tl.store(sum_ptr + n.to(tl.int64) * SLOTS + tile, tl.sum(acc, axis=0), mask=n < CIN)
        tl.store(product_ptr + n.to(tl.int64) * SLOTS + tile, tl.sum(acc * x, axis=0), mask=n < CIN)
        acc *= scale[None, :]
    tl.store(grad_x_ptr + offsets, rounded(acc, grad_x_ptr.dtype.element_ty), mask=mask)


@triton.jit
def grad_weight_kernel(
    grad_ptr, y_ptr, mean_ptr, grad_mean_ptr, grad_m2_ptr, x_ptr, center_ptr, scale_ptr, shift_ptr, part_ptr,
    M, H, W, HO, WO, ROWS, count, x_slope, slope,
    CIN: tl.constexpr, COUT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, X_ACTIVATION: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Backward: gradient to the weight, one part per range of ROWS pixels.

    Math      part[r, k] = Σ_{i in range r} z[i]ᵀ · dy[S·i − P + k], z and dy as in the other two kernels
    Shapes    part (parts, KH · KW, CIN, COUT) float32; the others as above
    Launch    grid ⌈CIN / BLOCK_M⌉ · ⌈COUT / BLOCK_N⌉ × KH · KW × parts
    """
    COLUMNS: tl.constexpr = (COUT + BLOCK_N - 1) // BLOCK_N
    i = tl.program_id(0) // COLUMNS * BLOCK_M + tl.arange(0, BLOCK_M)
    o = tl.program_id(0) % COLUMNS * BLOCK_N + tl.arange(0, BLOCK_N)
    tap = tl.program_id(1)
    first = tl.program_id(2).to(tl.int64) * ROWS
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(0, ROWS, BLOCK_K):
        k = step + tl.arange(0, BLOCK_K)
        m = first + k
        row_valid = (m < M) & (k < ROWS)
        oy = (m // W % H).to(tl.int32) * SH - PH + tap // KW
        ox = (m % W).to(tl.int32) * SW - PW + tap % KW
        there = row_valid & (oy >= 0) & (oy < HO) & (ox >= 0) & (ox < WO)
        inside = there[:, None] & (i < CIN)[None, :]
        z = tl.load(x_ptr + m[:, None] * CIN + i[None, :], mask=inside, other=0.0)  # [BLOCK_K, BLOCK_M]
        if scale_ptr is not None:
            center, scale, shift = vectors(center_ptr, scale_ptr, shift_ptr, i, i < CIN)
            z = normalized(z, center, scale, shift, inside, x_slope, X_ACTIVATION)
        offsets = ((m // (H * W) * HO + oy) * WO + ox)[:, None] * COUT + o[None, :]
        grad = total_gradient(
            grad_ptr, y_ptr, mean_ptr, grad_mean_ptr, grad_m2_ptr, offsets, o, there[:, None] & (o < COUT)[None, :],
            o < COUT, count, slope, ACTIVATION,
        )  # fmt: skip
        grad = rounded(grad, grad_ptr.dtype.element_ty)  # [BLOCK_K, BLOCK_N]
        acc = dot(tl.trans(z), grad, acc, PRECISION)
    part = tl.program_id(2).to(tl.int64) * (KH * KW) + tap
    offsets = (part * CIN + i)[:, None] * COUT + o[None, :]
    tl.store(part_ptr + offsets, acc, mask=(i < CIN)[:, None] & (o < COUT)[None, :])


@triton.jit
def sum_parts_kernel(
    part_ptr, grad_ptr, PARTS, SIZE, CIN, COUT, KW, stride_i, stride_o, stride_y, stride_x, BLOCK: tl.constexpr
):
    """Gradient to the weight from its parts, one after the other, in the layout of the weight.

    Shapes    part (PARTS, KH, KW, CIN, COUT) float32, grad (CIN, COUT, KH, KW) with the strides given
    Launch    grid ⌈SIZE / BLOCK⌉, SIZE = elements of a part
    """
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    part_ptr += e
    for _ in range(0, PARTS):
        total += tl.load(part_ptr, mask=e < SIZE, other=0.0)
        part_ptr += SIZE
    o, i, tap = e % COUT, e // COUT % CIN, e // (COUT * CIN)
    target = i * stride_i + o * stride_o + tap // KW * stride_y + tap % KW * stride_x
    tl.store(grad_ptr + target, rounded(total, grad_ptr.dtype.element_ty), mask=e < SIZE)


@triton.jit
def grad_bias_kernel(
    grad_ptr, y_ptr, mean_ptr, grad_mean_ptr, grad_m2_ptr, sum_ptr, M, C, SLOTS, count, slope,
    ACTIVATION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Backward: Σ dy per tile of pixels.

    Shapes    grad, y (M, C), sum (C, SLOTS)
    Traffic   1 or 2 reads per element: memory bound
    Launch    grid ⌈M / BLOCK_M⌉ × ⌈C / BLOCK_C⌉
    """
    slot = tl.program_id(0)
    m = slot.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    grad = total_gradient(
        grad_ptr, y_ptr, mean_ptr, grad_mean_ptr, grad_m2_ptr, m[:, None] * C + c[None, :], c,
        (m < M)[:, None] & (c < C)[None, :], c < C, count, slope, ACTIVATION,
    )  # fmt: skip
    tl.store(sum_ptr + c.to(tl.int64) * SLOTS + slot, tl.sum(grad, axis=0), mask=c < C)


class Operands:
    """What all gradients load: channels_last images, and the constants of the kernels."""

    def __init__(self, stored: Stored, x: Deferred, convolution: Convolution, result_activation: Activation) -> None:
        grad_y, grad_mean, grad_m2, y, mean = stored
        self.x, self.convolution, self.slope = x, convolution, result_activation.slope
        (N, I, H, W), (O, HO, WO) = x.raw.shape, y.shape[1:]
        self.gradient = (grad_y, y, mean, grad_mean, grad_m2)
        self.sizes = (N * H * W, H, W, HO, WO)
        self.pixels = N * HO * WO
        self.constants: dict[str, Any] = {
            "CIN": I, "COUT": O, **strides_and_padding(x.raw, convolution),
            "X_ACTIVATION": x.activation, "ACTIVATION": result_activation.name,
        }  # fmt: skip


def grad_image(operands: Operands) -> tuple[Tensor, ...]:
    """Gradient to x, channels_last, and where it was normalised on its load, to center, scale and shift."""
    x, (M, *sizes), kinds = operands.x, operands.sizes, operands.constants
    I, O = kinds["CIN"], kinds["COUT"]
    grad_x = torch.empty_like(x.raw, memory_format=torch.channels_last)
    tile = tiles("grad_x", x.raw, M, I, O)
    slots = triton.cdiv(M, tile.m)
    sums = None if x.scale is None else x.scale.new_empty(2, I, slots)
    launch(
        grad_image_kernel, (slots * triton.cdiv(I, tile.n),), *operands.gradient, by_tap(operands.convolution.weight),
        *x[:4], grad_x, *((None, None) if sums is None else sums), M, *sizes, slots, float(operands.pixels),
        x.negative_slope, operands.slope, **kinds, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, **tile.launched,
    )  # fmt: skip
    return (grad_x,) if sums is None or x.scale is None else (grad_x, *vector_gradients(sums, x.scale))


def grad_weight(operands: Operands) -> Tensor:
    """In the layout of the weight."""
    x, (M, *sizes), kinds = operands.x, operands.sizes, operands.constants
    weight, I, O = operands.convolution.weight, kinds["CIN"], kinds["COUT"]
    grad = torch.empty_like(weight, memory_format=layout_of(weight))
    tile = tiles("grad_weight", x.raw, I, O, M)
    grid = (triton.cdiv(I, tile.m) * triton.cdiv(O, tile.n), kinds["KH"] * kinds["KW"])
    wanted = min(triton.cdiv(PROGRAMS, grid[0] * grid[1]), triton.cdiv(M, 4 * tile.k))
    rows = triton.cdiv(triton.cdiv(M, max(wanted, 1)), tile.k) * tile.k
    parts = max(triton.cdiv(M, max(rows, 1)), 1)
    part = torch.empty((parts, grid[1], I, O), dtype=torch.float32, device=x.raw.device)
    launch(
        grad_weight_kernel, (*grid, parts), *operands.gradient, *x[:4], part, M, *sizes, rows, float(operands.pixels),
        x.negative_slope, operands.slope, **kinds, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, **tile.launched,
    )  # fmt: skip
    launch(
        sum_parts_kernel, (triton.cdiv(weight.numel(), BLOCK),), part, grad, parts, weight.numel(), I, O, kinds["KW"],
        *grad.stride(), BLOCK=BLOCK,
    )  # fmt: skip
    return grad


def grad_bias(operands: Operands) -> Tensor:
    O, weight = operands.constants["COUT"], operands.convolution.weight
    grad = weight.new_empty(O)
    slots = triton.cdiv(operands.pixels, PIXELS)
    sums = torch.empty((O, slots), dtype=torch.float32, device=weight.device)
    launch(
        grad_bias_kernel, (slots, triton.cdiv(O, CHANNELS)), *operands.gradient, sums, operands.pixels, O, slots,
        float(operands.pixels), operands.slope, ACTIVATION=operands.constants["ACTIVATION"],
        BLOCK_M=PIXELS, BLOCK_C=CHANNELS,
    )  # fmt: skip
    launch(sum_slots_kernel, (O,), sums, None, None, None, None, grad, slots, BLOCK=BLOCK)
    return grad
