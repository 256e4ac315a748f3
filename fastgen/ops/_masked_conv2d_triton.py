"""What the kernels of masked convolutions share: the product over live taps, and the tiles that it is computed in."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._triton import dot, float32_precision, tanh


@triton.jit
def taps_of(step, C: tl.constexpr, K: tl.constexpr, FLAT: tl.constexpr, BLOCK_K: tl.constexpr):
    """Tap and channel of the k of one step, and which k exist. FLAT: steps run across taps; else a step has one tap."""
    k = tl.arange(0, BLOCK_K)
    if FLAT:
        tap = (step * BLOCK_K + k) // C
        channel = (step * BLOCK_K + k) % C
        exists = step * BLOCK_K + k < K
    else:
        STEPS_PER_TAP: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
        tap = step // STEPS_PER_TAP
        channel = step % STEPS_PER_TAP * BLOCK_K + k
        exists = channel < C
    return tap, channel, exists


@triton.jit
def load_taps(
    x, m, row, column, is_row, tap, channel, exists, H, W,
    C: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SIGN: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """x[m + SIGN · tap, channel], [BLOCK_M, BLOCK_K]; zeros outside of the image. ``x`` points at pixel m = 0."""
    dy = SIGN * (tap // KW - KH // 2)
    dx = SIGN * (tap % KW - KW // 2)
    if FLAT:
        dy = dy[None, :]
        dx = dx[None, :]
    y = row[:, None] + dy
    z = column[:, None] + dx
    inside = is_row[:, None] & (y >= 0) & (y < H) & (z >= 0) & (z < W)
    return tl.load(
        x + ((m * C)[:, None] + ((dy * W + dx) * C + channel[None, :])), mask=inside & exists[None, :], other=0.0
    )


@triton.jit
def is_live(
    n, k, C: tl.constexpr, N: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, TAPS: tl.constexpr,
    GROUPS: tl.constexpr, INTERLEAVED: tl.constexpr, MASK_B: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """Whether w[n, k], k = (tap, channel), is live: before the centre, or at the centre and in a colour that n sees."""
    live = k < TAPS * C
    if GROUPS > 1:
        OF_N: tl.constexpr = N // 2 if HALVES else N  # both halves of a gate are divided into colours alike
        color_in = k % C % GROUPS if INTERLEAVED else k % C * GROUPS // C
        color_out = n % OF_N % GROUPS if INTERLEAVED else n % OF_N * GROUPS // OF_N
        sees = color_in <= color_out if MASK_B else color_in < color_out
        live &= (k // C < KH // 2 * KW + KW // 2) | sees
    return live


@triton.jit
def tile_of(tensor, first, m, channel, C: tl.constexpr, HW, CHANNELS_LAST: tl.constexpr):
    """Pointers to pixels first + m of (N, C, H, W), [BLOCK_M, channels]; 64 bits up to the first image of the tile."""
    if CHANNELS_LAST:
        return tensor + first * C + ((m * C)[:, None] + channel[None, :])
    within = (first % HW).to(tl.int32) + m
    return tensor + first // HW * HW * C + ((within // HW * HW * C + within % HW)[:, None] + (channel * HW)[None, :])


@triton.jit
def product(
    x, weight, first, n, M, H, W, stride_n, stride_tap, stride_c,
    C: tl.constexpr, N: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, TAPS: tl.constexpr,
    SIGN: tl.constexpr, GATED: tl.constexpr, PRECISION: tl.constexpr, FLAT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Σ_k x[m + SIGN·tap, c] · w[n, tap, c], [BLOCK_M, BLOCK_N], in float32; and, GATED, the same of N + n."""
    m = tl.arange(0, BLOCK_M)
    within = (first % (H * W)).to(tl.int32) + m  # pixels from the first image of the tile on
    row = within % (H * W) // W
    column = within % W
    STEPS: tl.constexpr = (TAPS * C + BLOCK_K - 1) // BLOCK_K if FLAT else TAPS * ((C + BLOCK_K - 1) // BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        tap, channel, exists = taps_of(step, C, TAPS * C, FLAT, BLOCK_K)
        a = load_taps(x + first * C, m, row, column, first + m < M, tap, channel, exists, H, W, C, KH, KW, SIGN, FLAT)
        live = exists[:, None] & (n < N)[None, :]  # [BLOCK_K, BLOCK_N]
        w = weight + ((tap * stride_tap + channel * stride_c)[:, None] + (n * stride_n)[None, :])
        acc = dot(a, tl.load(w, mask=live, other=0.0), acc, PRECISION)
        if GATED:
            gate = dot(a, tl.load(w + N * stride_n, mask=live, other=0.0), gate, PRECISION)
    return acc, gate


@triton.jit
def gate_backward(g, p, q):
    """Gradients of tanh(p)·σ(q)."""
    t = tanh(p)
    s = tl.sigmoid(q)
    return g * s * (1 - t * t), g * t * s * (1 - s)


# ---- tiles: pure functions of sizes and dtype, so that the same run gives the same bits


class Live(NamedTuple):
    """Which taps of a weight are live: constants of the kernels, by their names."""

    KH: int
    KW: int
    TAPS: int  # in raster order; with several colours the centre is one of them
    GROUPS: int
    INTERLEAVED: bool
    MASK_B: bool
    HALVES: bool

    @property
    def shape(self) -> dict[str, int]:
        """The constants of kernels that read a weight without dead taps."""
        return {"KH": self.KH, "KW": self.KW, "TAPS": self.TAPS}


def live_taps(weight: Tensor, mask: str, activation: str, color_groups: int, groups_order: str) -> Live:
    KH, KW = weight.shape[2:]
    taps = KH // 2 * KW + KW // 2 + (mask == "B" or color_groups > 1)
    return Live(KH, KW, taps, color_groups, groups_order == "interleaved", mask == "B", activation == "gated")


def check_image(x: Tensor, channels: int) -> None:
    """Kernels count in 64 bits up to an image and in 32 inside of it."""
    H, W = x.shape[2:]
    if (H * W + 128) * max(x.shape[1], channels) >= 2**31:
        raise ValueError(f"x: expected images of fewer than 2^31 elements, got {channels} channels of {H} x {W}")


def along_k(C: int, K: int, most: int) -> tuple[int, bool]:
    """BLOCK_K, and whether steps run across taps: where single taps would be padded by more than a quarter."""
    sizes = [size for size in (128, 64, 32, 16) if size <= most]
    padded = {size: triton.cdiv(C, size) * size for size in sizes}
    best = min(sizes, key=lambda size: padded[size] * (1 + 8 / size))  # each step costs as much as eight more k
    if 4 * padded[best] <= 5 * C:
        return best, False
    return min(most, 64, max(16, triton.next_power_of_2(K))), True  # every k has a tap of its own to be kept


def _columns(N: int, most: int) -> int:
    return min(most, max(16, triton.next_power_of_2(N)))


def product_blocks(M: int, N: int, C: int, K: int, activation: str, dtype: torch.dtype) -> dict[str, Any]:
    """Tiles of ``masked_conv2d_kernel``: powers of two, warps and stages, from sizes and dtype alone."""
    ieee = dtype == torch.float32 and float32_precision() == "ieee"  # no matrix units: operands pass through registers
    twice = activation in ("gated", "concat_elu")  # two results for every column
    BLOCK_N = _columns(N, 128 >> (twice + ieee))
    BLOCK_K, FLAT = along_k(C, K, 16 if ieee else 128 // dtype.itemsize)
    few = triton.cdiv(M, 128) * triton.cdiv(N, BLOCK_N) < 132  # smaller tiles give work to more multiprocessors
    BLOCK_M = 64 if few or (K <= BLOCK_K and not FLAT) else 128  # and hide more of the wait for a single step
    return {
        "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K, "FLAT": FLAT,
        "num_warps": 8 if ieee or BLOCK_M * BLOCK_N > 64 * 64 else 4, "num_stages": 3,
    }  # fmt: skip


#: What one pass of partial sums may hold: two tiles of 128 × 128 for each of 132 multiprocessors, 17 MB.
PARTIAL = 2 * 132 * 128 * 128


def weight_blocks(M: int, N: int, C: int, K: int, dtype: torch.dtype) -> dict[str, Any]:
    """Tiles of ``masked_conv2d_grad_weight_kernel``, and how many of them along the pixels a program adds up."""
    ieee = dtype == torch.float32 and float32_precision() == "ieee"
    BLOCK_N, BLOCK_M = _columns(N, 64 if ieee else 128), 16 if ieee else 128 // dtype.itemsize
    BLOCK_K, FLAT = along_k(C, K, 64 if ieee else 128)
    tiles = triton.cdiv(K, BLOCK_K) if FLAT else K // C * triton.cdiv(C, BLOCK_K)
    splits = min(256, PARTIAL // max(1, tiles * BLOCK_K * triton.cdiv(N, BLOCK_N) * BLOCK_N))
    steps = triton.cdiv(triton.cdiv(M, BLOCK_M), max(1, splits))
    grain = max(1, triton.next_power_of_2(steps) // 8)
    return {
        "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K, "FLAT": FLAT,
        "TILES_K": tiles, "STEPS": triton.cdiv(steps, grain) * grain,  # few different ones: each is compiled
        "num_warps": 8 if BLOCK_N * BLOCK_K >= 64 * 64 else 4, "num_stages": 3,
    }  # fmt: skip
