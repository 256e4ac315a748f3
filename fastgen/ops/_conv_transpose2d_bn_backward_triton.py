# mypy: disallow-untyped-defs=False, check-untyped-defs=False
"""conv_transpose2d_bn_backward, Triton: gradients to image, to weight and to bias."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._conv_transpose2d_bn_conv import (
    is_channels_last,
    total_gradient_reference,
)
from ._conv_transpose2d_bn_forms import convolve_backward
from ._conv_transpose2d_bn_norm import layout
from ._conv_transpose2d_bn_norm_triton import (
    CHANNELS,
    PIXELS,
    conv_transpose2d_bn_apply_backward_triton,
    conv_transpose2d_bn_apply_triton,
    sum_slots_kernel,
    vector_gradients,
)
from ._conv_transpose2d_bn_shared_triton import (
    BLOCK,
    activation,
    activation_backward,
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
    """conv_transpose2d_bn_backward: gradient to x, a convolution with stride (SH, SW).

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
    """conv_transpose2d_bn_backward: gradient to the weight, one part per range of ROWS pixels.

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
    """conv_transpose2d_bn_backward: Σ dy per tile of pixels.

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


def conv_transpose2d_bn_backward_triton(
    grad_y: Tensor,
    grad_mean: Tensor | None,
    grad_m2: Tensor | None,
    y: Tensor,
    mean: Tensor,
    x: Tensor,
    center: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    x_activation: str,
    x_slope: float,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    slope: float,
    output_mask: list[bool],
) -> tuple[Tensor, ...]:
    tensors: Any = (grad_y, grad_mean, grad_m2, y, mean)
    prologue: Any = (x, center, scale, shift, x_activation, x_slope)
    geometry: list[Any] = [stride, padding, output_padding, dilation, groups]
    if not covered(geometry):
        return _general(tensors, prologue, weight, geometry, activation, slope, output_mask)
    channels_last = is_channels_last(x)
    x, y, grad_y = pixels_last(x), pixels_last(y), pixels_last(grad_y)
    (N, I, H, W), (O, HO, WO) = x.shape, y.shape[1:]
    M, pixels = N * H * W, N * HO * WO
    gradient = (grad_y, y, mean, grad_mean, grad_m2)
    vectors = (center, scale, shift)
    geometric = strides_and_padding(x, weight, geometry)
    kinds: dict[str, Any] = {"CIN": I, "COUT": O, **geometric, "X_ACTIVATION": x_activation, "ACTIVATION": activation}
    grads = [x.new_empty(0), mean.new_empty(0), mean.new_empty(0), mean.new_empty(0), x.new_empty(0), x.new_empty(0)]
    if output_mask[0]:
        grads[0] = torch.empty_like(x, memory_format=torch.channels_last)
        tile = tiles("grad_x", x, M, I, O)
        slots = triton.cdiv(M, tile.m)
        sums = None if scale is None else scale.new_empty(2, I, slots)
        launch(
            grad_image_kernel, (slots * triton.cdiv(I, tile.n),), *gradient, by_tap(weight), x, *vectors, grads[0],
            *((None, None) if sums is None else sums), M, H, W, HO, WO, slots, float(pixels), x_slope, slope,
            **kinds, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, **tile.launched,
        )  # fmt: skip
        grads[0] = grads[0].contiguous(memory_format=layout(channels_last))
        if scale is not None and sums is not None:
            grads[1:4] = vector_gradients(sums, scale)
    if output_mask[1]:
        grads[4] = torch.empty_like(weight, memory_format=layout(is_channels_last(weight)))
        tile = tiles("grad_weight", x, I, O, M)
        grid = (triton.cdiv(I, tile.m) * triton.cdiv(O, tile.n), geometric["KH"] * geometric["KW"])
        wanted = min(triton.cdiv(PROGRAMS, grid[0] * grid[1]), triton.cdiv(M, 4 * tile.k))
        rows = triton.cdiv(triton.cdiv(M, max(wanted, 1)), tile.k) * tile.k
        parts = max(triton.cdiv(M, max(rows, 1)), 1)
        part = torch.empty((parts, grid[1], I, O), dtype=torch.float32, device=x.device)
        launch(
            grad_weight_kernel, (*grid, parts), *gradient, x, *vectors, part, M, H, W, HO, WO, rows, float(pixels),
            x_slope, slope, **kinds, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, **tile.launched,
        )  # fmt: skip
        launch(
            sum_parts_kernel, (triton.cdiv(weight.numel(), BLOCK),), part, grads[4], parts, weight.numel(), I, O,
            geometric["KW"], *grads[4].stride(), BLOCK=BLOCK,
        )  # fmt: skip
    if output_mask[2]:
        grads[5] = weight.new_empty(O)
        slots = triton.cdiv(pixels, PIXELS)
        sums = mean.new_empty((O, slots), dtype=torch.float32)
        launch(
            grad_bias_kernel, (slots, triton.cdiv(O, CHANNELS)), *gradient, sums, pixels, O, slots, float(pixels),
            slope, ACTIVATION=activation, BLOCK_M=PIXELS, BLOCK_C=CHANNELS,
        )  # fmt: skip
        launch(sum_slots_kernel, (O,), sums, None, None, None, None, grads[5], slots, BLOCK=BLOCK)
    return tuple(grads)


def _general(
    tensors: Any, prologue: Any, weight: Tensor, geometry: list[Any], kind: str, slope: float, output_mask: list[bool]
) -> tuple[Tensor, ...]:
    """Dilated or grouped: torch's convolution, the kernels for what is around it."""
    x, *vectors, x_activation, x_slope = prologue
    scale = vectors[1]
    z = (
        x
        if scale is None
        else conv_transpose2d_bn_apply_triton(x, vectors[0], scale, vectors[2], x_activation, x_slope, True)
    )
    grad_y, grad_mean, grad_m2, y, mean = tensors
    grad = total_gradient_reference(grad_y, grad_mean, grad_m2, y, mean, kind, slope)
    empty = mean.new_empty(0)
    grads = [x.new_empty(0), empty, empty.clone(), empty.clone(), x.new_empty(0), x.new_empty(0)]
    for i, result in zip((0, 4, 5), convolve_backward(grad, z, weight, geometry, output_mask), strict=True):
        grads[i] = grads[i] if result is None else result
    if output_mask[0] and scale is not None:
        grads[:4] = conv_transpose2d_bn_apply_backward_triton(grads[0], *prologue)
    if output_mask[0]:
        grads[0] = grads[0].contiguous(memory_format=layout(is_channels_last(x)))
    if output_mask[1]:
        grads[4] = grads[4].contiguous(memory_format=layout(is_channels_last(weight)))
    return tuple(grads)
