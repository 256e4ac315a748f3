"""Which taps of a masked convolution the Triton kernels visit, and in which tiles: pure functions of sizes and dtype."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._triton import float32_precision


class Live(NamedTuple):
    """Which taps of a weight are live; constants of the kernels, by their names."""

    KH: int
    KW: int
    TAPS: int  # in raster order; with several colours the centre is one of them
    GROUPS: int
    INTERLEAVED: bool
    MASK_B: bool


def live_taps(weight: Tensor, mask: str, color_groups: int, groups_order: str) -> Live:
    KH, KW = weight.shape[2:]
    taps = KH // 2 * KW + KW // 2 + (mask == "B" or color_groups > 1)
    return Live(KH, KW, taps, color_groups, groups_order == "interleaved", mask == "B")


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_2(n: int) -> int:
    """The next one, from ``n`` on."""
    return 1 << max(0, n - 1).bit_length()


def along_k(C: int, K: int, most: int) -> tuple[int, bool]:
    """BLOCK_K, and whether steps run across taps: where single taps would be padded by more than a quarter."""
    sizes = [size for size in (128, 64, 32, 16) if size <= most]
    padded = {size: _cdiv(C, size) * size for size in sizes}
    best = min(sizes, key=lambda size: padded[size] * (1 + 8 / size))  # each step costs as much as eight more k
    if 4 * padded[best] <= 5 * C:
        return best, False
    return min(most, max(16, _power_of_2(K))), True


def _columns(N: int, most: int) -> int:
    return min(most, max(16, _power_of_2(N)))


def product_blocks(M: int, N: int, C: int, K: int, activation: str, dtype: torch.dtype) -> dict[str, Any]:
    """Tiles of ``masked_conv2d_kernel``: powers of two, warps and stages, from sizes and dtype alone."""
    ieee = dtype == torch.float32 and float32_precision() == "ieee"  # no matrix units: operands pass through registers
    twice = activation in ("gated", "concat_elu")  # two results for every column
    BLOCK_N = _columns(N, 128 >> (twice + ieee))
    BLOCK_K, FLAT = along_k(C, K, 16 if ieee else 128 // dtype.itemsize)
    few = _cdiv(M, 128) * _cdiv(N, BLOCK_N) < 132  # smaller tiles give work to more multiprocessors
    BLOCK_M = 64 if ieee or few else 128
    return {
        "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K, "FLAT": FLAT,
        "num_warps": 8 if BLOCK_M * BLOCK_N > 64 * 64 else 4, "num_stages": 3,
    }  # fmt: skip


#: What one pass of partial sums may hold: two tiles of 128 × 128 for each of 132 multiprocessors, 17 MB.
PARTIAL = 2 * 132 * 128 * 128


def weight_blocks(M: int, N: int, C: int, K: int, dtype: torch.dtype) -> dict[str, Any]:
    """Tiles of ``masked_conv2d_grad_weight_kernel``, and how many of them along the pixels a program adds up."""
    ieee = dtype == torch.float32 and float32_precision() == "ieee"
    BLOCK_N, BLOCK_M = _columns(N, 64 if ieee else 128), 16 if ieee else 128 // dtype.itemsize
    BLOCK_K, FLAT = along_k(C, K, 64 if ieee else 128)
    tiles = _cdiv(K, BLOCK_K) if FLAT else K // C * _cdiv(C, BLOCK_K)
    splits = min(256, PARTIAL // max(1, tiles * BLOCK_K * _cdiv(N, BLOCK_N) * BLOCK_N))
    steps = _cdiv(_cdiv(M, BLOCK_M), max(1, splits))
    grain = max(1, _power_of_2(steps) // 8)
    return {
        "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K, "FLAT": FLAT,
        "TILES_K": tiles, "STEPS": _cdiv(steps, grain) * grain,  # few different ones: each is compiled
        "num_warps": 8 if BLOCK_N * BLOCK_K > 64 * 64 else 4, "num_stages": 3,
    }  # fmt: skip
