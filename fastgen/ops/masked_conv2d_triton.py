"""masked_conv2d on CUDA: matrix products over live taps, gathered from memory as they are needed.

Channels are innermost in memory (NHWC), a pixel is a row m, and the taps before the centre are the first TAPS in raster
order. So a row of the unfolded image has K = TAPS·C elements, k = (tap, channel); dead taps are no part of it.

    forward      y[m, o]      = Σ_k x[m + tap(k), channel(k)] · w[o, k]
    grad_x       gx[m, i]     = Σ_k gp[m − tap(k), channel(k)] · w[channel(k), tap(k), i]    the same kernel
    grad_weight  gw[o, k]     = Σ_m gp[m, o] · x[m + tap(k), channel(k)]                     summed in a fixed order

gp is the gradient of the convolution's result, activation'(pre) · grad_y. It is written once rather than computed where
it is loaded: products load it TAPS times, and a tile that is computed cannot be copied to shared memory asynchronously.

There is no atomic mode: no setting of torch asks for one, and adding partial sums in order is little work.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._layouts import layout_of
from ._masked_conv2d_triton import (
    Live,
    check_image,
    gate_backward,
    is_live,
    live_taps,
    load_taps,
    product,
    product_blocks,
    taps_of,
    tile_of,
    weight_blocks,
)
from ._triton import dot, expm1, float32_precision, launch, tanh


@triton.jit
def masked_conv2d_pack_kernel(
    weight, packed, stride_n, stride_c, stride_h, stride_w,
    C: tl.constexpr, N: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, TAPS: tl.constexpr,
    GROUPS: tl.constexpr, INTERLEAVED: tl.constexpr, MASK_B: tl.constexpr, HALVES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """packed[n, tap, c] = weight[n, c, tap] of the live taps, zero where a colour is dead; grid (N, ⌈K / BLOCK⌉)."""
    n = tl.program_id(0)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = is_live(n, k, C, N, KH, KW, TAPS, GROUPS, INTERLEAVED, MASK_B, HALVES)
    at = n * stride_n + k % C * stride_c + k // C // KW * stride_h + k // C % KW * stride_w
    w = tl.load(weight + at, mask=live, other=0.0)
    tl.store(packed + n * (TAPS * C) + k, w, mask=k < TAPS * C)


@triton.jit
def elu(p):
    return tl.where(p > 0, p, expm1(p))


@triton.jit
def masked_conv2d_kernel(
    x, weight, bias, residual, y, pre, M, H, W, stride_n, stride_tap, stride_c,
    C: tl.constexpr, N: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, TAPS: tl.constexpr,
    SIGN: tl.constexpr, ACTIVATION: tl.constexpr, CHANNELS_LAST: tl.constexpr, PRE_CHANNELS_LAST: tl.constexpr,
    PRECISION: tl.constexpr, FLAT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """masked_conv2d_kernel: forward, and with SIGN = −1 grad_x

    Math     y = activation(Σ_k x[m + SIGN·tap, c] · w[n, tap, c] + bias) + residual         arXiv:1601.06759 §3.4
    Shapes   x (M, C) rows of pixels; w by strides; y, pre, residual (images, channels, H, W)
    Traffic  x once from memory (TAPS times through L2), residual once; y once, pre once if kept
    Launch   grid ⌈M / BLOCK_M⌉ · ⌈N / BLOCK_N⌉, columns fastest: they share their rows of x in L2
    Numerics products in the dtype of x, sums and epilogue in float32, one rounding at the store
    Ragged   rows, columns and k masked; a gate keeps both halves, n and N + n, in one program
    """
    COLUMNS: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    GATED: tl.constexpr = ACTIVATION == "gated"
    first = (tl.program_id(0) // COLUMNS).to(tl.int64) * BLOCK_M
    n = tl.program_id(0) % COLUMNS * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    is_column = n < N
    acc, gate = product(
        x, weight, first, n, M, H, W, stride_n, stride_tap, stride_c, C, N, KH, KW, TAPS, SIGN, GATED, PRECISION,
        FLAT, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    if bias is not None:
        acc += tl.load(bias + n, mask=is_column, other=0.0).to(tl.float32)[None, :]
        if GATED:
            gate += tl.load(bias + N + n, mask=is_column, other=0.0).to(tl.float32)[None, :]
    store = (first + m < M)[:, None] & is_column[None, :]
    CHANNELS: tl.constexpr = 2 * N if GATED else N  # of the convolution
    RESULT: tl.constexpr = 2 * N if ACTIVATION == "concat_elu" else N
    if pre is not None:
        at = tile_of(pre, first, m, n, CHANNELS, H * W, PRE_CHANNELS_LAST)
        tl.store(at, acc.to(pre.dtype.element_ty), mask=store)
        if GATED:
            at = tile_of(pre, first, m, N + n, CHANNELS, H * W, PRE_CHANNELS_LAST)
            tl.store(at, gate.to(pre.dtype.element_ty), mask=store)
    out = acc
    if ACTIVATION == "relu":
        out = tl.where(acc < 0, 0.0, acc)  # NaN stays NaN
    elif ACTIVATION == "elu" or ACTIVATION == "concat_elu":
        out = elu(acc)
    elif GATED:
        out = tanh(acc) * tl.sigmoid(gate)
    if residual is not None:
        at = tile_of(residual, first, m, n, RESULT, H * W, CHANNELS_LAST)
        out += tl.load(at, mask=store, other=0.0).to(tl.float32)
    tl.store(tile_of(y, first, m, n, RESULT, H * W, CHANNELS_LAST), out.to(y.dtype.element_ty), mask=store)
    if ACTIVATION == "concat_elu":
        out = elu(-acc)
        if residual is not None:
            at = tile_of(residual, first, m, N + n, RESULT, H * W, CHANNELS_LAST)
            out += tl.load(at, mask=store, other=0.0).to(tl.float32)
        tl.store(tile_of(y, first, m, N + n, RESULT, H * W, CHANNELS_LAST), out.to(y.dtype.element_ty), mask=store)


@triton.jit
def masked_conv2d_grad_pre_kernel(
    grad_y, pre, grad_pre, M, HW, N: tl.constexpr, ACTIVATION: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """masked_conv2d_grad_pre_kernel: what the activation leaves of the gradient

    Math     gp = activation'(pre) · grad_y; a gate ties n and N + n of pre together, concat_elu those of grad_y
    Shapes   grad_y, pre (images, channels, H, W) in either layout; gp (M, channels) rows of pixels; 64-bit offsets
    Traffic  one read of both, one write; gp has channels innermost whatever the layout was, so nothing copies it again
    Launch   grid ⌈M / BLOCK_M⌉ · ⌈N / BLOCK_N⌉
    Numerics float32 inside, one rounding at the store
    Ragged   pixels and channels masked
    """
    COLUMNS: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    first = (tl.program_id(0) // COLUMNS).to(tl.int64) * BLOCK_M
    n = tl.program_id(0) % COLUMNS * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    mask = (first + m < M)[:, None] & (n < N)[None, :]
    CHANNELS: tl.constexpr = 2 * N if ACTIVATION == "gated" else N  # of pre
    RESULT: tl.constexpr = 2 * N if ACTIVATION == "concat_elu" else N  # of grad_y
    at = tile_of(grad_pre, first, m, n, CHANNELS, HW, True)
    g = tl.load(tile_of(grad_y, first, m, n, RESULT, HW, CHANNELS_LAST), mask=mask, other=0.0).to(tl.float32)
    p = tl.load(tile_of(pre, first, m, n, CHANNELS, HW, CHANNELS_LAST), mask=mask, other=0.0).to(tl.float32)
    if ACTIVATION == "relu":
        out = tl.where(p <= 0, 0.0, g)  # NaN passes it, as in torch
    elif ACTIVATION == "elu":
        out = tl.where(p > 0, g, g * tl.exp(p))
    elif ACTIVATION == "concat_elu":
        minus = tl.load(tile_of(grad_y, first, m, N + n, RESULT, HW, CHANNELS_LAST), mask=mask, other=0.0)
        minus = minus.to(tl.float32)
        out = tl.where(p > 0, g - minus * tl.exp(-p), g * tl.exp(p) - minus)
    else:
        q = tl.load(tile_of(pre, first, m, N + n, CHANNELS, HW, CHANNELS_LAST), mask=mask, other=0.0)
        out, grad_q = gate_backward(g, p, q.to(tl.float32))
        tl.store(at + N, grad_q.to(grad_pre.dtype.element_ty), mask=mask)
    tl.store(at, out.to(grad_pre.dtype.element_ty), mask=mask)


@triton.jit
def masked_conv2d_grad_weight_kernel(
    x, grad_pre, partial, M, H, W,
    C: tl.constexpr, N: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, TAPS: tl.constexpr, PITCH: tl.constexpr,
    TILES_K: tl.constexpr, STEPS: tl.constexpr, PRECISION: tl.constexpr, FLAT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """masked_conv2d_grad_weight_kernel: sums over some of the pixels

    Math     partial[s, n, k] = Σ_m gp[m, n] · x[m + tap, c] over the s-th STEPS·BLOCK_M pixels; Σ_m gp[m, n] at k = K
    Shapes   x (M, C), gp (M, N) rows of pixels; partial (splits, N, PITCH), float32; 64-bit offsets
    Traffic  gp ⌈K / BLOCK_K⌉ times and x TAPS · ⌈N / BLOCK_N⌉ times through L2, each once from memory
    Launch   grid (⌈N / BLOCK_N⌉ · (tiles of k, and one for the bias if it is asked for), splits)
    Numerics float32 sums; which pixels a split has depends on sizes alone, so the same run gives the same bits
    Ragged   pixels, n and k masked
    """
    TILES_N: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    n = tl.program_id(0) % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = tl.program_id(0) // TILES_N
    first = tl.program_id(1).to(tl.int64) * (STEPS * BLOCK_M)
    m = tl.arange(0, BLOCK_M)
    is_n = n < N
    out = partial + tl.program_id(1).to(tl.int64) * (N * PITCH) + n * PITCH
    if tile == TILES_K:
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)  # summed along pixels at the end: many short sums err less
        for step in range(STEPS):
            at = first + step * BLOCK_M
            g = tl.load(tile_of(grad_pre, at, m, n, N, 0, True), mask=(at + m < M)[:, None] & is_n[None, :], other=0.0)
            total += g.to(tl.float32)
        tl.store(out + TAPS * C, tl.sum(total, axis=0), mask=is_n)
    else:
        tap, channel, exists = taps_of(tile, C, TAPS * C, FLAT, BLOCK_K)
        start = (first % (H * W)).to(tl.int32)
        acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
        for step in range(STEPS):
            at = first + step * BLOCK_M
            is_row = at + m < M
            within = start + step * BLOCK_M + m
            row = within % (H * W) // W
            g = tl.load(tile_of(grad_pre, at, m, n, N, 0, True), mask=is_row[:, None] & is_n[None, :], other=0.0)
            a = load_taps(x + at * C, m, row, within % W, is_row, tap, channel, exists, H, W, C, KH, KW, 1, FLAT)
            acc = dot(tl.trans(g), a, acc, PRECISION)
        tl.store(out[:, None] + (tap * C + channel)[None, :], acc, mask=is_n[:, None] & exists[None, :])


@triton.jit
def masked_conv2d_sum_kernel(
    partial, grad_weight, grad_bias, splits,
    C: tl.constexpr, N: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, TAPS: tl.constexpr, PITCH: tl.constexpr,
    GROUPS: tl.constexpr, INTERLEAVED: tl.constexpr, MASK_B: tl.constexpr, HALVES: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """masked_conv2d_sum_kernel: the partial sums, added in a fixed order

    Math     grad_weight[n, c, tap] = Σ_s partial[s, n, (tap, c)], 0 where dead; grad_bias[n] = Σ_s partial[s, n, K]
    Shapes   partial (splits, N, PITCH), grad_weight (N, C, KH, KW) contiguous, grad_bias (N); either may be None
    Traffic  one read of partial, one write
    Launch   grid (N, ⌈(C·KH·KW + 1) / BLOCK⌉), one tile [SPLITS, BLOCK] a program, SPLITS the next power of two
    Numerics float32, a tree whose shape depends on sizes alone, one rounding at the store
    Ragged   splits and k masked
    """
    n = tl.program_id(0)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    s = tl.arange(0, SPLITS)
    live = is_live(n, k, C, N, KH, KW, TAPS, GROUPS, INTERLEAVED, MASK_B, HALVES)
    summed = k == TAPS * C  # the bias, unless it is not wanted and nobody reads this
    if grad_weight is not None:
        summed |= live
    at = partial + ((s.to(tl.int64) * (N * PITCH))[:, None] + (n * PITCH + k)[None, :])
    total = tl.sum(tl.load(at, mask=(s < splits)[:, None] & summed[None, :], other=0.0), axis=0)
    if grad_weight is not None:
        at = grad_weight + n * (C * KH * KW) + k % C * (KH * KW) + k // C
        tl.store(at, tl.where(live, total, 0.0).to(grad_weight.dtype.element_ty), mask=k < C * KH * KW)
    if grad_bias is not None:
        tl.store(grad_bias + n + k * 0, total.to(grad_bias.dtype.element_ty), mask=k == TAPS * C)


# ---- launches


def pixels(tensor: Tensor) -> Tensor:
    """``tensor`` with channels innermost in memory: itself, or one copy."""
    return tensor.contiguous(memory_format=torch.channels_last)


def prefix(weight: Tensor, live: Live) -> tuple[Tensor, tuple[int, int, int]]:
    """``weight`` with its live taps, (tap, I), as the first elements of every row; strides along O, taps and I.

    Itself where it is channels_last and no colour is dead at the centre, else one small copy.
    """
    O, I = weight.shape[:2]
    if live.GROUPS == 1 and weight.is_contiguous(memory_format=torch.channels_last):
        return weight, (live.KH * live.KW * I, I, 1)
    packed = weight.new_empty(O, live.TAPS, I)
    launch(
        masked_conv2d_pack_kernel, (O, triton.cdiv(live.TAPS * I, 256)), weight, packed, *weight.stride(), C=I, N=O,
        BLOCK=256, **live._asdict(),
    )  # fmt: skip
    return packed, (live.TAPS * I, I, 1)


class Epilogue(NamedTuple):
    """What becomes of a convolution's result: ``residual`` lies in memory as that; ``pre`` is what comes before all."""

    bias: Tensor | None = None
    residual: Tensor | None = None
    pre: Tensor | None = None
    activation: str = "none"


def convolve(
    x: Tensor, weight: Tensor, strides: tuple[int, int, int], live: Live, y: Tensor, N: int, epilogue: Epilogue,
    sign: int = 1,
) -> None:  # fmt: skip
    """One launch of ``masked_conv2d_kernel`` from ``x`` (images, C, H, W), channels innermost, into ``y``.

    ``weight`` is a ``prefix``; ``strides``: along y's channels, taps and x's channels. ``N``: y's channels of the
    convolution, those of one half for a gate.
    """
    bias, residual, pre, activation = epilogue
    images, C, H, W = x.shape
    M = images * H * W
    blocks = product_blocks(M, N, C, live.TAPS * C, activation, x.dtype)
    grid = triton.cdiv(M, blocks["BLOCK_M"]) * triton.cdiv(N, blocks["BLOCK_N"])
    launch(
        masked_conv2d_kernel, (grid,), x, weight, bias, residual, y, pre, M, H, W, *strides,
        C=C, N=N, SIGN=sign, ACTIVATION=activation, PRECISION=float32_precision(),
        CHANNELS_LAST=y.is_contiguous(memory_format=torch.channels_last),
        PRE_CHANNELS_LAST=pre is not None and pre.is_contiguous(memory_format=torch.channels_last),
        **live.shape, **blocks,
    )  # fmt: skip


def correlate(x: Tensor, grad_pre: Tensor, live: Live, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias, empty if not wanted, from x and the gradient, both with channels innermost."""
    (images, C, H, W), N = x.shape, grad_pre.shape[1]
    M, K = images * H * W, live.TAPS * C
    grad_weight = weight.new_empty(weight.shape if wanted[0] else 0)
    grad_bias = weight.new_empty(N if wanted[1] else 0)
    if M == 0:  # sums of nothing
        return grad_weight.zero_(), grad_bias.zero_()
    blocks = weight_blocks(M, N, C, K, x.dtype)
    sizes = {"C": C, "N": N, "PITCH": triton.cdiv(K + 1, 16) * 16}
    splits = triton.cdiv(M, blocks["STEPS"] * blocks["BLOCK_M"])
    partial = x.new_empty((splits, N, sizes["PITCH"]), dtype=torch.float32)
    tiles = blocks.pop("TILES_K") * wanted[0]
    launch(
        masked_conv2d_grad_weight_kernel, (triton.cdiv(N, blocks["BLOCK_N"]) * (tiles + wanted[1]), splits),
        x, grad_pre, partial, M, H, W, TILES_K=tiles, PRECISION=float32_precision(), **live.shape, **sizes, **blocks,
    )  # fmt: skip
    SPLITS = triton.next_power_of_2(splits)
    BLOCK = max(16, 4096 // SPLITS)
    launch(
        masked_conv2d_sum_kernel, (N, triton.cdiv(C * live.KH * live.KW + 1, BLOCK)),
        partial, grad_weight if wanted[0] else None, grad_bias if wanted[1] else None, splits,
        SPLITS=SPLITS, BLOCK=BLOCK, **sizes, **live._asdict(),
    )  # fmt: skip
    return grad_weight, grad_bias


def masked_conv2d_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, mask: str, activation: str,
    color_groups: int, groups_order: str, save_preactivation: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As the op's fake kernel says."""
    (images, _, H, W), O, layout = x.shape, weight.shape[0], layout_of(x)
    check_image(x, 2 * O)
    channels = {"concat_elu": 2 * O, "gated": O // 2}.get(activation, O)
    y = torch.empty((images, channels, H, W), dtype=x.dtype, device=x.device, memory_format=layout)
    pre = None
    if save_preactivation and activation != "none":
        pre = torch.empty((images, O, H, W), dtype=x.dtype, device=x.device, memory_format=layout)
    live = live_taps(weight, mask, activation, color_groups, groups_order)
    packed, strides = prefix(weight, live)
    residual = None if residual is None else residual.contiguous(memory_format=layout)
    N = channels if activation == "gated" else O
    convolve(pixels(x), packed, strides, live, y, N, Epilogue(bias, residual, pre, activation))
    return y, x.new_empty(0) if pre is None else pre


def masked_conv2d_backward_triton(
    grad_y: Tensor, preactivation: Tensor, x: Tensor, weight: Tensor, mask: str, activation: str, color_groups: int,
    groups_order: str, output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As the op's fake kernel says."""
    check_image(x, 2 * weight.shape[0])
    live = live_taps(weight, mask, activation, color_groups, groups_order)
    grad_pre = pixels(grad_y) if activation == "none" else activate_backward(grad_y, preactivation, x, activation)
    grad_x, grad_weight, grad_bias = (x.new_empty(0) for _ in range(3))
    if output_mask[0]:
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))
        packed, (stride_o, stride_tap, stride_i) = prefix(weight, live)
        convolve(grad_pre, packed, (stride_i, stride_tap, stride_o), live, grad_x, x.shape[1], Epilogue(), sign=-1)
    if output_mask[1] or output_mask[2]:
        grad_weight, grad_bias = correlate(pixels(x), grad_pre, live, weight, output_mask[1:])
    return grad_x, grad_weight, grad_bias


def activate_backward(grad_y: Tensor, pre: Tensor, x: Tensor, activation: str) -> Tensor:
    """Gradient of the convolution's result, channels innermost."""
    layout = layout_of(x)
    images, O, H, W = pre.shape
    grad_pre = torch.empty(pre.shape, dtype=pre.dtype, device=pre.device, memory_format=torch.channels_last)
    M, N = images * H * W, O // 2 if activation == "gated" else O
    BLOCK_N = min(64, max(16, triton.next_power_of_2(N)))
    launch(
        masked_conv2d_grad_pre_kernel, (triton.cdiv(M, 64) * triton.cdiv(N, BLOCK_N),),
        grad_y.contiguous(memory_format=layout), pre.contiguous(memory_format=layout), grad_pre, M, H * W,
        N=N, ACTIVATION=activation, CHANNELS_LAST=layout == torch.channels_last, BLOCK_M=64, BLOCK_N=BLOCK_N,
        num_warps=8,
    )  # fmt: skip
    return grad_pre
