"""image_lstm on CUDA: a program walks a whole image in one launch; what is too large for that takes a launch per step.

Cells along which c goes are a line: a column of a Row LSTM, a row along diagonals. A step has one cell of each line at
most, that of line l at its position k = step − SKEW·l, and tap t reads line l + t − 1 as the step before has left it.

    forward      [o, f, i, g] = gates + Σ_t h(l + t − 1) · w_t;  a step hands h and c of its lines on
    backward     from the last step on; a step hands on what its lines owe to the h and c of the step before
    grad_weight  every gradient times every state that it has read: one product, as in the reference

Within a program states are moved from line to line in registers, and nothing that it writes is read by it again: no
result depends on when a write is seen. A launch per step reads them in memory, where the launch before has put them.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._triton import dot, float32_precision, launch, tanh
from .image_lstm import TAPS, weight_gradient


@triton.jit
def shifted(lines, BY: tl.constexpr, outside, BLOCK_L: tl.constexpr):
    """Line l + BY where line l was, and ``outside`` where there is none."""
    if BY == 0:
        return lines
    source = tl.arange(0, BLOCK_L)[:, None] + BY
    there = (source >= 0) & (source < BLOCK_L)
    source = tl.broadcast_to(tl.where(there, source, 0), lines.shape)
    return tl.where(there, tl.gather(lines, source, axis=0), outside)


@triton.jit
def load_gates(gates, at, mask, D: tl.constexpr):
    """Four tiles that lie D apart; zeros where there are none."""
    if gates is None:
        o = tl.zeros(mask.shape, tl.float32)
        f, i, g = o, o, o
    else:
        o = tl.load(gates + at, mask=mask, other=0.0)
        f = tl.load(gates + at + D, mask=mask, other=0.0)
        i = tl.load(gates + at + 2 * D, mask=mask, other=0.0)
        g = tl.load(gates + at + 3 * D, mask=mask, other=0.0)
    return o, f, i, g


@triton.jit
def store_gates(gates, at, mask, o, f, i, g, D: tl.constexpr):
    tl.store(gates + at, o, mask=mask)
    tl.store(gates + at + D, f, mask=mask)
    tl.store(gates + at + 2 * D, i, mask=mask)
    tl.store(gates + at + 3 * D, g, mask=mask)


@triton.jit
def run_cells(o, f, i, g, previous, activations, c, h, at, d, mask, D: tl.constexpr):
    """Eq. 3 from the sums on; keeps the gates, c and h, and returns the last two."""
    o = tl.sigmoid(o)
    f = tl.sigmoid(f)
    i = tl.sigmoid(i)
    g = tanh(g)
    new_c = f * previous + i * g
    new_h = o * tanh(new_c)
    store_gates(activations, at * (4 * D) + d, mask, o, f, i, g, D)
    tl.store(c + at * D + d, new_c, mask=mask)
    tl.store(h + at * D + d, new_h, mask=mask)
    return new_c, new_h


@triton.jit
def run_cells_backward(
    owed, carried, grad_h, grad_c, grad_activations, c, activations, grads, initial, at, before, d, k, mask,
    D: tl.constexpr,
):  # fmt: skip
    """Keeps and returns the gradients of the four sums; last, that of c'.

    ``owed`` and ``carried`` are what later cells owe to h and c, ``before`` is where c' lies, ``initial`` c' at k = 0.
    """
    o, f, i, g = load_gates(activations, at * (4 * D) + d, mask, D)
    grad_o, grad_f, grad_i, grad_g = load_gates(grad_activations, at * (4 * D) + d, mask, D)
    previous = tl.where(k > 0, tl.load(c + before * D + d, mask=mask & (k > 0), other=0.0), initial)
    t = tanh(tl.load(c + at * D + d, mask=mask, other=0.0))
    owed += tl.load(grad_h + at * D + d, mask=mask, other=0.0)
    carried += owed * o * (1 - t * t)
    if grad_c is not None:
        carried += tl.load(grad_c + at * D + d, mask=mask, other=0.0)
    grad_o = tl.where(mask, (grad_o + owed * t) * o * (1 - o), 0.0)
    grad_f = tl.where(mask, (grad_f + carried * previous) * f * (1 - f), 0.0)
    grad_i = tl.where(mask, (grad_i + carried * g) * i * (1 - i), 0.0)
    grad_g = tl.where(mask, (grad_g + carried * i) * (1 - g * g), 0.0)
    store_gates(grads, at * (4 * D) + d, mask, grad_o, grad_f, grad_i, grad_g, D)
    return grad_o, grad_f, grad_i, grad_g, carried * f


# ---- a program for each image


@triton.jit
def image_lstm_kernel(
    gates, weight, hidden, cell, activations, c, h, LINES, LENGTH, base, stride_l, stride_k,
    D: tl.constexpr, SKEW: tl.constexpr, TAPS: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """image_lstm_kernel: forward, the whole image

    Math     [o, f, i, g] = gates + Σ_t h(l + t − 1) · w_t; c = σ(f)·c' + σ(i)·tanh(g); h = σ(o)·tanh(c)    eq. 3
    Shapes   gates, activations (N, cells, 4D), c, h (N, cells, D), w (TAPS, D, 4D), hidden, cell (D); 64-bit offsets
    Traffic  4D read and 6D written per cell, w through L1 in every step; bound by the steps, which wait for each other
    Launch   grid N; all lines and channels are one tile, loads run a step ahead where STAGES > 1
    Numerics float32; products by PRECISION
    Ragged   lines, channels and positions masked; a line that has not begun, or has ended, holds the state outside
    """
    first = tl.program_id(0).to(tl.int64) * LINES * LENGTH + base
    line = tl.arange(0, BLOCK_L)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    e = tl.arange(0, BLOCK_D)[:, None]
    state = tl.broadcast_to(tl.load(hidden + d, mask=d < D, other=0.0), (BLOCK_L, BLOCK_D))
    memory = tl.broadcast_to(tl.load(cell + d, mask=d < D, other=0.0), (BLOCK_L, BLOCK_D))
    outside = state if SKEW else tl.zeros_like(state)
    state = tl.where(line < LINES, state, outside)
    for step in tl.range(LENGTH + SKEW * (LINES - 1), num_stages=STAGES):
        k = step - SKEW * line
        inside = (line < LINES) & (k >= 0) & (k < LENGTH)
        mask = inside & (d < D)
        at = first + line.to(tl.int64) * stride_l + k * stride_k
        o, f, i, g = load_gates(gates, at * (4 * D) + d, mask, D)
        for tap in tl.static_range(TAPS):
            read = shifted(state, tap - 1, outside, BLOCK_L)
            w = load_gates(weight, tap * (4 * D * D) + e * (4 * D) + d, (e < D) & (d < D), D)
            o = dot(read, w[0], o, PRECISION)
            f = dot(read, w[1], f, PRECISION)
            i = dot(read, w[2], i, PRECISION)
            g = dot(read, w[3], g, PRECISION)
        new_c, new_h = run_cells(o, f, i, g, memory, activations, c, h, at, d, mask, D)
        memory = tl.where(inside, new_c, memory)
        state = tl.where(inside, new_h, outside)


@triton.jit
def image_lstm_backward_kernel(
    grad_h, grad_c, grad_activations, c, activations, weight, cell, grads, grad_cell,
    LINES, LENGTH, base, stride_l, stride_k,
    D: tl.constexpr, SKEW: tl.constexpr, TAPS: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """image_lstm_backward_kernel: gradients of the gates' sums and of the initial c, the whole image

    Math     the derivative of the above; h(l) is owed Σ_t grads(l − t + 1) · w_tᵀ, c' what is left of c: f · grad_c
    Shapes   as above; grads (N, cells, 4D), w (TAPS, 4D, D), grad_cell (N, D)
    Traffic  7D read and 4D written per cell (12D where all gradients arrive), w through L1 in every step
    Launch   grid N; all lines and channels are one tile, loads run a step ahead where STAGES > 1
    Numerics float32; products by PRECISION; grad_cell is one sum over the lines
    Ragged   lines, channels and positions masked; what is owed to the state outside is the caller's to sum
    """
    n = tl.program_id(0).to(tl.int64)
    first = n * LINES * LENGTH + base
    line = tl.arange(0, BLOCK_L)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    e = tl.arange(0, BLOCK_D)[:, None]
    initial = tl.load(cell + d, mask=d < D, other=0.0)
    owed = tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
    carried = tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
    last = LENGTH + SKEW * (LINES - 1) - 1
    for back in tl.range(last + 1, num_stages=STAGES):
        k = last - back - SKEW * line
        inside = (line < LINES) & (k >= 0) & (k < LENGTH)
        at = first + line.to(tl.int64) * stride_l + k * stride_k
        o, f, i, g, left = run_cells_backward(
            owed, carried, grad_h, grad_c, grad_activations, c, activations, grads, initial, at, at - stride_k, d, k,
            inside & (d < D), D,
        )  # fmt: skip
        carried = tl.where(inside, left, carried)
        owed = tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
        for tap in tl.static_range(TAPS):
            w = load_gates(weight, tap * (4 * D * D) + e * D + d, (e < D) & (d < D), D * D)
            sent = dot(o, w[0], tl.zeros((BLOCK_L, BLOCK_D), tl.float32), PRECISION)
            sent = dot(f, w[1], sent, PRECISION)
            sent = dot(i, w[2], sent, PRECISION)
            sent = dot(g, w[3], sent, PRECISION)
            owed += shifted(sent, 1 - tap, 0.0, BLOCK_L)
    total = tl.sum(carried, axis=0, keep_dims=True)
    tl.store(grad_cell + n * D + d, total, mask=d < D)


# ---- a launch for each step


@triton.jit
def cells_of_step(LINES, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """Of a program of a step: rows (images × lines), their images and lines, and channels."""
    COLUMNS: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    m = (tl.program_id(0) // COLUMNS).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    return m, m // LINES, m % LINES, tl.program_id(0) % COLUMNS * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]


@triton.jit(do_not_specialize=["step"])
def image_lstm_step_kernel(
    gates, weight, hidden, cell, activations, c, h, N, step, LINES, LENGTH, base, stride_l, stride_k,
    D: tl.constexpr, SKEW: tl.constexpr, TAPS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """image_lstm_step_kernel: forward, one step of all images

    Math     as image_lstm_kernel, h and c of the step before from memory
    Shapes   as image_lstm_kernel
    Traffic  5D read and 6D written per cell; states and w through L2 for each tile
    Launch   grid ⌈N·LINES / BLOCK_M⌉ · ⌈D / BLOCK_D⌉, once per step
    Numerics float32; products by PRECISION
    Ragged   rows, channels, k and positions masked
    """
    _m, n, line, d = cells_of_step(LINES, D, BLOCK_M, BLOCK_D)
    k = step - SKEW * line
    inside = (n < N) & (k >= 0) & (k < LENGTH)
    mask = inside & (d < D)
    first = n * LINES * LENGTH + base
    at = first + line * stride_l + k * stride_k
    o, f, i, g = load_gates(gates, at * (4 * D) + d, mask, D)
    for tap in tl.static_range(TAPS):
        other = line + tap - 1
        k_other = step - 1 - SKEW * other
        is_line = (other >= 0) & (other < LINES)
        there = inside & is_line & (k_other >= 0)
        source = (first + other * stride_l + k_other * stride_k) * D
        for block in range((D + BLOCK_K - 1) // BLOCK_K):
            e = block * BLOCK_K + tl.arange(0, BLOCK_K)
            read = tl.load(h + source + e[None, :], mask=there & (e < D)[None, :], other=0.0)
            outside = tl.load(hidden + e, mask=e < D, other=0.0)[None, :]
            if not SKEW:
                outside = tl.where(is_line, outside, 0.0)
            read = tl.where(there, read, outside)
            at_w = tap * (4 * D * D) + e[:, None] * (4 * D) + d
            w = load_gates(weight, at_w, (e < D)[:, None] & (d < D), D)
            o = dot(read, w[0], o, PRECISION)
            f = dot(read, w[1], f, PRECISION)
            i = dot(read, w[2], i, PRECISION)
            g = dot(read, w[3], g, PRECISION)
    previous = tl.load(c + (at - stride_k) * D + d, mask=mask & (k > 0), other=0.0)
    previous = tl.where(k > 0, previous, tl.load(cell + d, mask=d < D, other=0.0))
    run_cells(o, f, i, g, previous, activations, c, h, at, d, mask, D)


@triton.jit(do_not_specialize=["step"])
def image_lstm_backward_step_kernel(
    grad_h, grad_c, grad_activations, c, activations, weight, cell, grads, carried,
    N, step, LINES, LENGTH, base, stride_l, stride_k,
    D: tl.constexpr, SKEW: tl.constexpr, TAPS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """image_lstm_backward_step_kernel: gradients of the gates' sums, one step of all images

    Math     as image_lstm_backward_kernel, gradients of the step after from memory
    Shapes   as there; carried (N, LINES, D) is what is left of each line's gradient of c, in the end of the initial c
    Traffic  8D read and 5D written per cell; gradients and w through L2 for each tile
    Launch   grid ⌈N·LINES / BLOCK_M⌉ · ⌈D / BLOCK_D⌉, once per step
    Numerics float32; products by PRECISION
    Ragged   rows, channels, k and positions masked
    """
    m, n, line, d = cells_of_step(LINES, D, BLOCK_M, BLOCK_D)
    k = step - SKEW * line
    inside = (n < N) & (k >= 0) & (k < LENGTH)
    mask = inside & (d < D)
    first = n * LINES * LENGTH + base
    owed = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for tap in tl.static_range(TAPS):
        other = line + 1 - tap
        k_other = step + 1 - SKEW * other
        there = inside & (other >= 0) & (other < LINES) & (k_other < LENGTH)
        source = (first + other * stride_l + k_other * stride_k) * (4 * D)
        for block in range((4 * D + BLOCK_K - 1) // BLOCK_K):
            e = block * BLOCK_K + tl.arange(0, BLOCK_K)
            sent = tl.load(grads + source + e[None, :], mask=there & (e < 4 * D)[None, :], other=0.0)
            at_w = tap * (4 * D * D) + e[:, None] * D + d
            w = tl.load(weight + at_w, mask=(e < 4 * D)[:, None] & (d < D), other=0.0)
            owed = dot(sent, w, owed, PRECISION)
    at = first + line * stride_l + k * stride_k
    initial = tl.load(cell + d, mask=d < D, other=0.0)
    kept = tl.load(carried + m * D + d, mask=mask, other=0.0)
    _o, _f, _i, _g, left = run_cells_backward(
        owed, kept, grad_h, grad_c, grad_activations, c, activations, grads, initial, at, at - stride_k, d, k, mask, D
    )
    tl.store(carried + m * D + d, left, mask=mask)


# ---- launches


class Walk(NamedTuple):
    """How a scan walks an image: how many lines, how long each; in cells, where position k of line l lies."""

    LINES: int
    LENGTH: int
    base: int
    stride_l: int
    stride_k: int


def walk_of(scan: str, H: int, W: int) -> Walk:
    if scan == "row":
        return Walk(LINES=W, LENGTH=H, base=0, stride_l=1, stride_k=W)
    base, stride_k = (0, 1) if scan == "diagonal" else (W - 1, -1)
    return Walk(LINES=H, LENGTH=W, base=base, stride_l=W, stride_k=stride_k)


def constants_of(scan: str, D: int) -> dict[str, Any]:
    return {"D": D, "SKEW": int(scan != "row"), "TAPS": len(TAPS[scan]), "PRECISION": float32_precision()}


def image_blocks(LINES: int, D: int) -> tuple[int, int]:
    """BLOCK_L, BLOCK_D of a program that has a whole image."""
    return max(16, triton.next_power_of_2(LINES)), max(16, triton.next_power_of_2(D))


def fits(LINES: int, D: int) -> bool:
    """Whether one program can hold the lines of an image: their states, four sums of each, and the weights."""
    BLOCK_L, BLOCK_D = image_blocks(LINES, D)
    return BLOCK_D <= 32 and (1024 if float32_precision() == "tf32" else 512) >= BLOCK_L * BLOCK_D


def image_tiles(LINES: int, D: int, taps: int, loads: int) -> dict[str, Any]:
    """Tiles of a program that has a whole image; ``loads``: how many numbers of a channel a cell loads."""
    BLOCK_L, BLOCK_D = image_blocks(LINES, D)
    ahead = 4 * BLOCK_D * (taps * 4 * BLOCK_D + loads * BLOCK_L)  # bytes of shared memory
    return {
        "BLOCK_L": BLOCK_L, "BLOCK_D": BLOCK_D, "STAGES": 2 if ahead <= 80 << 10 else 1,
        "num_warps": 4 if BLOCK_L * BLOCK_D < 1024 else 8, "num_stages": 1,
    }  # fmt: skip


def step_tiles(D: int) -> dict[str, Any]:
    """Tiles of a launch for each step."""
    BLOCK = min(32, max(16, triton.next_power_of_2(D)))
    return {"BLOCK_M": 64, "BLOCK_D": BLOCK, "BLOCK_K": BLOCK, "num_warps": 8, "num_stages": 3}


def step_grid(N: int, LINES: int, D: int) -> tuple[int]:
    tiles = step_tiles(D)
    return (triton.cdiv(N * LINES, tiles["BLOCK_M"]) * triton.cdiv(D, tiles["BLOCK_D"]),)


def steps_of(walk: Walk, SKEW: int) -> range:
    return range(walk.LENGTH + SKEW * (walk.LINES - 1))


def image_lstm_triton(
    gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, scan: str
) -> tuple[Tensor, Tensor, Tensor]:
    """As the op's fake kernel says."""
    (N, H, W, _), D = gates.shape, hidden.shape[0]
    h, c = (torch.empty((N, H, W, D), dtype=gates.dtype, device=gates.device) for _ in range(2))
    activations = torch.empty((N, H, W, 4 * D), dtype=gates.dtype, device=gates.device)
    packed = weight.permute(2, 1, 0).contiguous()
    tensors = gates.contiguous(), packed, hidden.contiguous(), cell.contiguous(), activations, c, h
    walk, constants = walk_of(scan, H, W), constants_of(scan, D)
    if fits(walk.LINES, D):
        tiles = image_tiles(walk.LINES, D, constants["TAPS"], loads=4)
        launch(image_lstm_kernel, (N,), *tensors, *walk, **constants, **tiles)
        return h, c, activations
    for step in steps_of(walk, constants["SKEW"]):
        grid = step_grid(N, walk.LINES, D)
        launch(image_lstm_step_kernel, grid, *tensors, N, step, *walk, **constants, **step_tiles(D))
    return h, c, activations


def image_lstm_backward_triton(
    grad_h: Tensor, grad_c: Tensor | None, grad_activations: Tensor | None, h: Tensor, c: Tensor,
    activations: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, scan: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As the op's fake kernel says."""
    N, H, W, D = grad_h.shape
    grads = torch.empty((N, H, W, 4 * D), dtype=c.dtype, device=c.device)
    more = (None if one is None else one.contiguous() for one in (grad_c, grad_activations))
    packed = weight.permute(2, 0, 1).contiguous()
    tensors = grad_h.contiguous(), *more, c.contiguous(), activations.contiguous(), packed, cell.contiguous(), grads
    walk, constants = walk_of(scan, H, W), constants_of(scan, D)
    if fits(walk.LINES, D):
        grad_cell = torch.empty((N, D), dtype=c.dtype, device=c.device)
        loads = 7 + (grad_c is not None) + 4 * (grad_activations is not None)
        tiles = image_tiles(walk.LINES, D, constants["TAPS"], loads)
        launch(image_lstm_backward_kernel, (N,), *tensors, grad_cell, *walk, **constants, **tiles)
    else:
        carried = torch.zeros((N, walk.LINES, D), dtype=c.dtype, device=c.device)
        for step in reversed(steps_of(walk, constants["SKEW"])):
            grid = step_grid(N, walk.LINES, D)
            launch(
                image_lstm_backward_step_kernel, grid, *tensors, carried, N, step, *walk, **constants, **step_tiles(D)
            )
        grad_cell = carried.sum(dim=1)
    return grads, weight_gradient(grads, h, hidden, scan), grad_cell
