"""Batch normalisation, Triton: what loads and stores one vector or one activation, and what convolutions share with it.

Images are channels_last, (pixels, C) in memory. Sums over pixels are written per tile into slots of their own, (C, S),
and combined slot after slot: the same input gives the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._layouts import layout
from ._triton import INTERPRETED, launch, tanh

BLOCK = 1024  # of kernels over one index
PIXELS, CHANNELS = 32, 64  # the tile of kernels over an image


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


@triton.jit
def mean_and_m2(y, valid, count):
    """Mean and Σ(y − mean)² of every column, over valid rows. What rounding the sum left out is in Σ(y − mean)."""
    rows = tl.maximum(count, 1.0)
    mean = tl.sum(tl.where(valid, y, 0.0), axis=0) / rows
    difference = tl.where(valid, y - mean[None, :], 0.0)
    error = tl.sum(difference, axis=0) / rows
    return mean + error, tl.sum(difference * difference, axis=0) - rows * error * error


@triton.jit
def apply_kernel(
    y_ptr, center_ptr, scale_ptr, shift_ptr, z_ptr, M, C, PIXELS, slope,
    ACTIVATION: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """batch_norm_apply: forward.

    Math      z = act((y − center) · scale + shift)
    Shapes    y (M, C), z (M, C) or (N, C, PIXELS); M = N · PIXELS; 64-bit offsets
    Traffic   1 read, 1 write per element: memory bound
    Launch    grid ⌈M / BLOCK_M⌉ × ⌈C / BLOCK_C⌉
    Numerics  float32 inside, one rounding at the store; the centre is subtracted first, so a large mean costs no digits
    """
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (m < M)[:, None] & (c < C)[None, :]
    center, scale, shift = vectors(center_ptr, scale_ptr, shift_ptr, c, c < C)
    y = tl.load(y_ptr + m[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)  # [BLOCK_M, BLOCK_C]
    z = activation((y - center[None, :]) * scale[None, :] + shift[None, :], slope, ACTIVATION)
    if CHANNELS_LAST:
        target = m[:, None] * C + c[None, :]
    else:
        target = ((m // PIXELS) * C * PIXELS + m % PIXELS)[:, None] + c[None, :] * PIXELS
    tl.store(z_ptr + target, rounded(z, z_ptr.dtype.element_ty), mask=mask)


@triton.jit
def apply_backward_kernel(
    grad_ptr, y_ptr, center_ptr, scale_ptr, shift_ptr, grad_y_ptr, sum_ptr, product_ptr, M, C, SLOTS, slope,
    ACTIVATION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """batch_norm_apply_backward: gradient to y, and the sums that the gradients to the vectors are made of.

    Math      g = act'(a) · grad, a = (y − center) · scale + shift;  grad_y = g · scale;  Σ g, Σ g · (y − center)
    Shapes    grad, y, grad_y (M, C); sum, product (C, SLOTS), a slot per tile of pixels
    Traffic   2 reads, 1 write per element: memory bound
    Launch    grid ⌈M / BLOCK_M⌉ × ⌈C / BLOCK_C⌉
    """
    slot = tl.program_id(0)
    m = slot.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (m < M)[:, None] & (c < C)[None, :]
    center, scale, shift = vectors(center_ptr, scale_ptr, shift_ptr, c, c < C)
    offsets = m[:, None] * C + c[None, :]
    y = tl.load(y_ptr + offsets, mask=mask, other=0.0).to(tl.float32) - center[None, :]  # [BLOCK_M, BLOCK_C]
    z = activation(y * scale[None, :] + shift[None, :], slope, ACTIVATION)
    grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    grad = activation_backward(grad, z, slope, ACTIVATION)
    tl.store(grad_y_ptr + offsets, rounded(grad * scale[None, :], grad_y_ptr.dtype.element_ty), mask=mask)
    tl.store(sum_ptr + c * SLOTS + slot, tl.sum(grad, axis=0), mask=c < C)
    tl.store(product_ptr + c * SLOTS + slot, tl.sum(tl.where(mask, grad * y, 0.0), axis=0), mask=c < C)


@triton.jit
def sum_slots_kernel(
    sum_ptr, product_ptr, scale_ptr, grad_center_ptr, grad_scale_ptr, grad_shift_ptr, SLOTS, BLOCK: tl.constexpr
):
    """The last step of a sum over pixels.

    Math      grad_shift = Σ sum, grad_scale = Σ product, grad_center = −scale · Σ sum; without products only the first
    Shapes    sum, product (C, SLOTS), the others (C,)
    Launch    grid C: one program per channel, slot after slot
    """
    c = tl.program_id(0)
    s = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    products = tl.zeros((BLOCK,), tl.float32)
    row = c.to(tl.int64) * SLOTS
    for first in range(0, SLOTS, BLOCK):
        total += tl.load(sum_ptr + row + first + s, mask=first + s < SLOTS, other=0.0)
        if product_ptr is not None:
            products += tl.load(product_ptr + row + first + s, mask=first + s < SLOTS, other=0.0)
    grad_shift = tl.sum(total, axis=0)
    tl.store(grad_shift_ptr + c, rounded(grad_shift, grad_shift_ptr.dtype.element_ty))
    if product_ptr is not None:
        tl.store(grad_center_ptr + c, -tl.load(scale_ptr + c) * grad_shift)
        tl.store(grad_scale_ptr + c, tl.sum(products, axis=0))


@triton.jit
def combine_kernel(count_ptr, mean_ptr, m2_ptr, whole_mean_ptr, whole_m2_ptr, SLOTS, BLOCK: tl.constexpr):
    """Mean and M2 of every channel from those of tiles.

    Math      mean = m₀ + Σ n (m − m₀) / Σ n;  M2 = Σ q + n (m − mean)²   Chan, Golub, LeVeque 1979; m₀: first tile's
    Shapes    count (SLOTS,), mean, m2 (C, SLOTS), whole_mean, whole_m2 (C,)
    Launch    grid C: one program per channel, slot after slot
    Numerics  float32; sums run over differences from a mean, so a large mean costs no digits
    """
    c = tl.program_id(0)
    s = tl.arange(0, BLOCK)
    row = c.to(tl.int64) * SLOTS
    start = tl.load(mean_ptr + row)
    counts = tl.zeros((BLOCK,), tl.float32)
    offsets = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, SLOTS, BLOCK):
        there = first + s < SLOTS
        count = tl.load(count_ptr + first + s, mask=there, other=0.0)
        mean = tl.load(mean_ptr + row + first + s, mask=there, other=0.0)
        counts += count
        offsets += tl.where(count > 0, count * (mean - start), 0.0)
    whole = start + tl.sum(offsets, axis=0) / tl.sum(counts, axis=0)
    m2 = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, SLOTS, BLOCK):
        there = first + s < SLOTS
        count = tl.load(count_ptr + first + s, mask=there, other=0.0)
        mean = tl.load(mean_ptr + row + first + s, mask=there, other=0.0)
        part = tl.load(m2_ptr + row + first + s, mask=there, other=0.0)
        m2 += tl.where(count > 0, part + count * (mean - whole) * (mean - whole), 0.0)
    tl.store(whole_mean_ptr + c, whole)
    tl.store(whole_m2_ptr + c, tl.sum(m2, axis=0))


@triton.jit
def finalize_kernel(
    mean_ptr, m2_ptr, weight_ptr, running_mean_ptr, running_var_ptr, tracked_ptr, scale_ptr, C, count, less, momentum,
    eps, BLOCK: tl.constexpr,
):  # fmt: skip
    """batch_norm_finalize: scale, and the running statistics.

    Math      scale = weight / √(m2 / count + eps);  running ← f · batch + (1 − f) · running, variance m2 / less
              f = momentum, or 1 / tracked where momentum is None; less = count − 1
    Shapes    all (C,)
    Launch    grid ⌈C / BLOCK⌉
    """
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = c < C
    m2 = tl.load(m2_ptr + c, mask=mask, other=0.0)
    scale = 1 / tl.sqrt(m2 / count + eps)
    if weight_ptr is not None:
        scale *= tl.load(weight_ptr + c, mask=mask, other=0.0).to(tl.float32)
    tl.store(scale_ptr + c, scale, mask=mask)
    if running_mean_ptr is not None:
        if momentum is None:
            factor = 1 / tl.load(tracked_ptr).to(tl.float32)
        else:
            factor = momentum
        mean = factor * tl.load(mean_ptr + c, mask=mask, other=0.0)
        mean += (1 - factor) * tl.load(running_mean_ptr + c, mask=mask, other=0.0).to(tl.float32)
        variance = factor * (m2 / less)
        variance += (1 - factor) * tl.load(running_var_ptr + c, mask=mask, other=0.0).to(tl.float32)
        tl.store(running_mean_ptr + c, rounded(mean, running_mean_ptr.dtype.element_ty), mask=mask)
        tl.store(running_var_ptr + c, rounded(variance, running_var_ptr.dtype.element_ty), mask=mask)


@triton.jit
def finalize_backward_kernel(
    grad_ptr, m2_ptr, weight_ptr, grad_m2_ptr, grad_weight_ptr, C, count, eps, BLOCK: tl.constexpr
):
    """batch_norm_finalize_backward.

    Math      r = 1 / √(m2 / count + eps);  grad_m2 = −grad · weight · r³ / (2 count);  grad_weight = grad · r
    Shapes    all (C,)
    Launch    grid ⌈C / BLOCK⌉
    """
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = c < C
    grad = tl.load(grad_ptr + c, mask=mask, other=0.0)
    rstd = 1 / tl.sqrt(tl.load(m2_ptr + c, mask=mask, other=0.0) / count + eps)
    if weight_ptr is not None:
        tl.store(grad_weight_ptr + c, rounded(grad * rstd, grad_weight_ptr.dtype.element_ty), mask=mask)
        grad *= tl.load(weight_ptr + c, mask=mask, other=0.0).to(tl.float32)
    tl.store(grad_m2_ptr + c, grad * rstd * rstd * rstd / (-2 * count), mask=mask)


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


def pixels_last(x: Tensor) -> Tensor:
    """The same (N, C, H, W), with memory (N, H, W, C), in which every kernel here works."""
    return x.contiguous(memory_format=torch.channels_last)


def batch_norm_apply_triton(
    y: Tensor, center: Tensor, scale: Tensor, shift: Tensor | None, activation: str, slope: float, channels_last: bool
) -> Tensor:
    N, C, H, W = y.shape
    M = N * H * W
    y, z = pixels_last(y), torch.empty_like(y, memory_format=layout(channels_last))
    grid = (triton.cdiv(M, PIXELS), triton.cdiv(C, CHANNELS))
    launch(
        apply_kernel, grid, y, center, scale, shift, z, M, C, H * W, slope,
        ACTIVATION=activation, CHANNELS_LAST=channels_last, BLOCK_M=PIXELS, BLOCK_C=CHANNELS,
    )  # fmt: skip
    return z


def batch_norm_apply_backward_triton(
    grad_z: Tensor, y: Tensor, center: Tensor, scale: Tensor, shift: Tensor | None, activation: str, slope: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    N, C, H, W = y.shape
    M = N * H * W
    grad_z, y = pixels_last(grad_z), pixels_last(y)
    grad_y = torch.empty_like(y, memory_format=torch.channels_last)
    slots = triton.cdiv(M, PIXELS)
    sums = scale.new_empty(2, C, slots)
    launch(
        apply_backward_kernel, (slots, triton.cdiv(C, CHANNELS)), grad_z, y, center, scale, shift, grad_y, *sums,
        M, C, slots, slope, ACTIVATION=activation, BLOCK_M=PIXELS, BLOCK_C=CHANNELS,
    )  # fmt: skip
    return grad_y, *vector_gradients(sums, scale)


def vector_gradients(sums: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to center, scale and shift from Σ g and Σ g · (y − center) in slots, (2, C, S)."""
    C, slots = sums.shape[1:]
    grads = torch.empty_like(scale), torch.empty_like(scale), torch.empty_like(scale)
    launch(sum_slots_kernel, (C,), *sums, scale, *grads, slots, BLOCK=BLOCK)
    return grads


def batch_norm_finalize_triton(
    mean: Tensor,
    m2: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    count: int,
    momentum: float | None,
    eps: float,
) -> Tensor:
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    C, scale = mean.shape[0], torch.empty_like(mean)
    launch(
        finalize_kernel, (triton.cdiv(C, BLOCK),), mean, m2, weight, running_mean, running_var, num_batches_tracked,
        scale, C, float(count), float(count - 1), momentum, eps, BLOCK=BLOCK,
    )  # fmt: skip
    if running_mean is not None and running_var is not None:
        torch.autograd.graph.increment_version((running_mean, running_var))
    return scale


def batch_norm_finalize_backward_triton(
    grad_scale: Tensor, m2: Tensor, weight: Tensor | None, count: int, eps: float
) -> tuple[Tensor, Tensor]:
    C, grad_m2 = m2.shape[0], torch.empty_like(m2)
    grad_weight = m2.new_empty(0) if weight is None else torch.empty_like(weight)
    launch(
        finalize_backward_kernel, (triton.cdiv(C, BLOCK),), grad_scale.contiguous(), m2, weight, grad_m2, grad_weight,
        C, float(count), eps, BLOCK=BLOCK,
    )  # fmt: skip
    return grad_m2, grad_weight


def batch_norm_statistics_triton(y: Tensor) -> tuple[Tensor, Tensor]:
    (N, C, H, W), y = y.shape, pixels_last(y)
    slots = triton.cdiv(N * H * W, 64)
    parts = statistics_parts(C, slots, y)
    launch(statistics_kernel, (slots, triton.cdiv(C, 32)), y, *parts, N * H * W, C, slots, BLOCK_M=64, BLOCK_C=32)
    return combined(parts)


def statistics_parts(C: int, slots: int, like: Tensor) -> list[Tensor]:
    """Count, mean and M2 of every tile, for a kernel to write: (S,), (C, S), (C, S), on the device of ``like``."""
    shapes = ((slots,), (C, slots), (C, slots))
    return [torch.empty(shape, dtype=torch.float32, device=like.device) for shape in shapes]


def combined(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and M2 of every channel, (C,), from those of its tiles; zeros without tiles."""
    C, slots = parts[1].shape
    mean, m2 = (torch.zeros(C, dtype=torch.float32, device=parts[0].device) for _ in range(2))
    if slots:
        launch(combine_kernel, (C,), *parts, mean, m2, slots, BLOCK=BLOCK)
    return mean, m2
