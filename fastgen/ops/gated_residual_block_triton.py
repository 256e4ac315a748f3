"""gated_residual_block on CUDA: one launch where a program can hold all channels, two where not.

The backward never writes the gradient of the gate: the 1×1 product of grad_y ends in the gate's own backward.

    1  grad_pre and the gate's value, from grad_y · W_out and pre               gated_residual_block_grad_pre_kernel
    2  grad_weight_out, grad_bias_out from grad_y and the gate's value          as any masked_conv2d
    3  grad_x = grad_y + (grad_pre, taps reversed)                              the residual is its epilogue
    4  grad_weight, grad_bias from grad_pre and x
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._layouts import layout_of
from ._masked_conv2d_triton import along_k, check_image, gate_backward, live_taps, product, tile_of
from ._triton import dot, float32_precision, launch, tanh
from .masked_conv2d_triton import Epilogue, convolve, correlate, pixels, prefix


@triton.jit
def gated_residual_block_kernel(
    x, weight, bias, weight_out, bias_out, y, pre, M, H, W, stride_n,
    C: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, TAPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, PRECISION: tl.constexpr, FLAT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """gated_residual_block_kernel: forward

    Math     y = x + W_out · (tanh(a)·σ(b)) + b_out, [a, b] = Σ_k x[m + tap, c] · w[n, tap, c]      arXiv:1606.05328
    Shapes   x (M, C) rows of pixels, w (2C, taps, C), W_out (C, C); y (images, C, H, W), pre (images, 2C, H, W)
    Traffic  x once from memory (TAPS + 1 times through L2), y once; pre once if kept
    Launch   grid ⌈M / BLOCK_M⌉; a program has all channels, BLOCK_N ≥ C
    Numerics products in the dtype of x, the gate rounded to it between them; sums and epilogue in float32
    Ragged   pixels, channels and k masked
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    is_n = n < C
    a, b = product(
        x, weight, first, n, M, H, W, stride_n, C, 1, C, C, KH, KW, TAPS, 1, True, PRECISION, FLAT,
        BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    if bias is not None:
        a += tl.load(bias + n, mask=is_n, other=0.0).to(tl.float32)[None, :]
        b += tl.load(bias + C + n, mask=is_n, other=0.0).to(tl.float32)[None, :]
    store = (first + m < M)[:, None] & is_n[None, :]
    if pre is not None:
        at = tile_of(pre, first, m, n, 2 * C, H * W, CHANNELS_LAST)
        tl.store(at, a.to(pre.dtype.element_ty), mask=store)
        at = tile_of(pre, first, m, C + n, 2 * C, H * W, CHANNELS_LAST)
        tl.store(at, b.to(pre.dtype.element_ty), mask=store)
    gate = (tanh(a) * tl.sigmoid(b)).to(x.dtype.element_ty)
    live = is_n[:, None] & is_n[None, :]
    w = tl.load(weight_out + (n[:, None] + (n * C)[None, :]), mask=live, other=0.0)  # [in, out]
    out = dot(gate, w, tl.zeros((BLOCK_M, BLOCK_N), tl.float32), PRECISION)
    if bias_out is not None:
        out += tl.load(bias_out + n, mask=is_n, other=0.0).to(tl.float32)[None, :]
    out += tl.load(tile_of(x, first, m, n, C, H * W, True), mask=store, other=0.0).to(tl.float32)
    tl.store(tile_of(y, first, m, n, C, H * W, CHANNELS_LAST), out.to(y.dtype.element_ty), mask=store)


@triton.jit
def gated_residual_block_grad_pre_kernel(
    grad_y, weight_out, pre, grad_pre, gated, M, HW,
    C: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """gated_residual_block_grad_pre_kernel: through the 1×1 convolution and the gate

    Math     g = grad_y · W_out; grad_pre = [g·σ(b)·(1 − tanh²(a)), g·tanh(a)·σ(b)·(1 − σ(b))]; gated = tanh(a)·σ(b)
    Shapes   grad_y, gated (M, C), grad_pre (M, 2C) rows of pixels; pre (images, 2C, H, W); W_out (C, C)
    Traffic  one read of grad_y (⌈C / BLOCK_N⌉ through L2) and pre; one write of grad_pre and gated
    Launch   grid ⌈M / BLOCK_M⌉ · ⌈C / BLOCK_N⌉
    Numerics products in the dtype of x, float32 inside, one rounding at the store
    Ragged   pixels, channels and k masked
    """
    COLUMNS: tl.constexpr = (C + BLOCK_N - 1) // BLOCK_N
    first = (tl.program_id(0) // COLUMNS).to(tl.int64) * BLOCK_M
    n = tl.program_id(0) % COLUMNS * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    is_m = first + m < M
    g = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range((C + BLOCK_K - 1) // BLOCK_K):
        k = step * BLOCK_K + tl.arange(0, BLOCK_K)
        a = tl.load(tile_of(grad_y, first, m, k, C, HW, True), mask=is_m[:, None] & (k < C)[None, :], other=0.0)
        live = (k < C)[:, None] & (n < C)[None, :]
        w = tl.load(weight_out + ((k * C)[:, None] + n[None, :]), mask=live, other=0.0)  # [out, in]
        g = dot(a, w, g, PRECISION)
    mask = is_m[:, None] & (n < C)[None, :]
    a = tl.load(tile_of(pre, first, m, n, 2 * C, HW, CHANNELS_LAST), mask=mask, other=0.0).to(tl.float32)
    b = tl.load(tile_of(pre, first, m, C + n, 2 * C, HW, CHANNELS_LAST), mask=mask, other=0.0).to(tl.float32)
    grad_a, grad_b = gate_backward(g, a, b)
    at = tile_of(grad_pre, first, m, n, 2 * C, HW, True)
    tl.store(at, grad_a.to(grad_pre.dtype.element_ty), mask=mask)
    tl.store(at + C, grad_b.to(grad_pre.dtype.element_ty), mask=mask)
    gate = tanh(a) * tl.sigmoid(b)
    tl.store(tile_of(gated, first, m, n, C, HW, True), gate.to(gated.dtype.element_ty), mask=mask)


# ---- launches


def fits(C: int, dtype: torch.dtype) -> bool:
    """Whether one program can hold all channels: three accumulators, and the 1×1 weight in shared memory."""
    return C * dtype.itemsize <= 256


def block_tiles(C: int, K: int, dtype: torch.dtype) -> dict[str, Any]:
    """Tiles of ``gated_residual_block_kernel``, from sizes and dtype alone."""
    ieee = dtype == torch.float32 and float32_precision() == "ieee"
    BLOCK_N = max(16, triton.next_power_of_2(C))
    BLOCK_K, FLAT = along_k(C, K, 16 if ieee else 128 // dtype.itemsize)
    return {
        "BLOCK_M": 64 if BLOCK_N == 128 or ieee else 128, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K, "FLAT": FLAT,
        "num_warps": 8, "num_stages": 3,
    }  # fmt: skip


def gated_residual_block_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_out: Tensor, bias_out: Tensor | None, mask: str,
    color_groups: int, groups_order: str, save_preactivation: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As the op's fake kernel says."""
    (images, C, H, W), layout = x.shape, layout_of(x)
    check_image(x, 2 * C)
    like: dict[str, Any] = {"dtype": x.dtype, "device": x.device, "memory_format": layout}
    y = torch.empty(x.shape, **like)
    pre = torch.empty((images, 2 * C, H, W), **like) if save_preactivation else None
    live = live_taps(weight, mask, "gated", color_groups, groups_order)
    one = live_taps(weight_out, "B", "none", color_groups, groups_order)
    packed, strides = prefix(weight, live)
    packed_out, strides_out = prefix(weight_out, one)
    if fits(C, x.dtype):
        tiles = block_tiles(C, live.TAPS * C, x.dtype)
        launch(
            gated_residual_block_kernel, (triton.cdiv(images * H * W, tiles["BLOCK_M"]),),
            pixels(x), packed, bias, packed_out, bias_out, y, pre, images * H * W, H, W, strides[0],
            C=C, CHANNELS_LAST=layout == torch.channels_last, PRECISION=float32_precision(), **live.shape, **tiles,
        )  # fmt: skip
    else:
        gated = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        convolve(pixels(x), packed, strides, live, gated, C, Epilogue(bias, None, pre, "gated"))
        residual = x.contiguous(memory_format=layout)
        convolve(gated, packed_out, strides_out, one, y, C, Epilogue(bias_out, residual))
    return y, x.new_empty(0) if pre is None else pre


def gated_residual_block_backward_triton(
    grad_y: Tensor, preactivation: Tensor, x: Tensor, weight: Tensor, weight_out: Tensor, mask: str,
    color_groups: int, groups_order: str, output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As the op's fake kernel says."""
    (images, C, H, W), layout = x.shape, layout_of(x)
    check_image(x, 2 * C)
    live = live_taps(weight, mask, "gated", color_groups, groups_order)
    one = live_taps(weight_out, "B", "none", color_groups, groups_order)
    grad_y_pixels = pixels(grad_y)
    grad_pre, gated = (
        torch.empty((images, c, H, W), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for c in (2 * C, C)
    )
    BLOCK = min(64, max(16, triton.next_power_of_2(C)))
    launch(
        gated_residual_block_grad_pre_kernel, (triton.cdiv(images * H * W, 64) * triton.cdiv(C, BLOCK),),
        grad_y_pixels, prefix(weight_out, one)[0], preactivation.contiguous(memory_format=layout), grad_pre, gated,
        images * H * W, H * W, C=C,
        CHANNELS_LAST=layout == torch.channels_last, PRECISION=float32_precision(), BLOCK_M=64, BLOCK_N=BLOCK,
        BLOCK_K=min(BLOCK, 128 // x.dtype.itemsize), num_warps=8,
    )  # fmt: skip
    grads = [x.new_empty(0) for _ in range(5)]
    if output_mask[0]:
        grads[0] = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)
        packed, (stride_o, stride_tap, stride_i) = prefix(weight, live)
        residual = Epilogue(residual=grad_y.contiguous(memory_format=layout))
        convolve(grad_pre, packed, (stride_i, stride_tap, stride_o), live, grads[0], C, residual, sign=-1)
    if output_mask[1] or output_mask[2]:
        grads[1:3] = correlate(pixels(x), grad_pre, live, weight, output_mask[1:3])
    if output_mask[3] or output_mask[4]:
        grads[3:] = correlate(gated, grad_y_pixels, one, weight_out, output_mask[3:])
    return grads[0], grads[1], grads[2], grads[3], grads[4]
