"""discretized_logistic_mixture in Triton: one launch each way, a tile of pixels × components per program."""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._triton import launch
from .discretized_logistic_mixture import CHANNELS

LOG_SCALE_MIN = tl.constexpr(-7.0)  # as in the reference
TINY_WIDTH = tl.constexpr(1e-30)


@triton.jit
def exp_of_scale(x):
    # Without the error that rounding x·log₂ e would make: it is multiplied by distances of hundreds of scales.
    # x = n·ln 2 + r, as in csrc/math.h; x ≤ 7, and below −87 the result stays that of −87.
    if x.dtype == tl.float64:
        y = tl.exp(x)
    else:
        x = tl.where(x < -87, -87, x)
        n = tl.floor(x * 1.44269504 + 0.5)
        r = (x - n * 0.693359375) + n * 2.12194440e-4
        y = tl.exp2(n) * tl.exp(r)
    return y


@triton.jit
def expm1(x):
    # exp(x) − 1 without cancellation near 0: Taylor where |x| < ¼, to as many terms as the dtype needs
    TERMS: tl.constexpr = 15 if x.dtype == tl.float64 else 8
    series = x / TERMS + 1
    for i in tl.static_range(1, TERMS - 1):
        series = series * x / (TERMS - i) + 1
    return tl.where(tl.abs(x) < 0.25, x * series, tl.exp(x) - 1)


@triton.jit
def tanh(x):
    e = expm1(-2 * tl.abs(x))
    t = -e / (2 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def load_value(values, inside, LEVELS: tl.constexpr, ACC: tl.constexpr):
    # [BLOCK, 1]: values scaled to [−1, 1], NaN where out of range; whether their bins have an upper and a lower edge
    LAST: tl.constexpr = LEVELS - 1
    v = tl.load(values, mask=inside, other=0).to(tl.int64)
    numerator = (2 * v - LAST).to(ACC)
    denominator = tl.full(numerator.shape, LAST, ACC)
    x = tl.div_rn(numerator, denominator) if numerator.dtype == tl.float32 else numerator / denominator
    x = tl.where((v >= 0) & (v <= LAST), x, float("nan"))
    return x, (v != LAST).to(ACC), (v != 0).to(ACC)


@triton.jit
def discretized_logistic(x, has_upper, has_lower, mean, log_scale, H: tl.constexpr):
    # P = exp(exponent) / divisor, times 2h where the bin has both edges, and the derivatives of log P: the formula of
    # csrc/discretized_logistic_mixture.h, where it is explained
    clamped = tl.where(log_scale < LOG_SCALE_MIN, LOG_SCALE_MIN, log_scale)
    inverse_scale = exp_of_scale(-clamped)
    centered = inverse_scale * (x - mean)
    half = inverse_scale * H
    a = half + centered
    b = half - centered
    exp_a = has_upper * tl.exp(-tl.abs(a))
    exp_b = has_lower * tl.exp(-tl.abs(b))
    denominator = (1 + exp_a) * (1 + exp_b)
    width = tl.where(half + half < TINY_WIDTH, TINY_WIDTH, half + half)
    inverse_fraction = -width / expm1(-width)
    is_middle = has_upper * has_lower

    exponent = has_upper * tl.where(a > 0, 0, a) + has_lower * tl.where(b > 0, 0, b) - is_middle * clamped
    divisor = denominator * tl.where(is_middle > 0, inverse_fraction, 1)

    grad_a = has_upper * tl.where(a < 0, 1, exp_a) * (1 + exp_b) / denominator
    grad_b = has_lower * tl.where(b < 0, 1, exp_b) * (1 + exp_a) / denominator
    grad_log_scale = -(a * grad_a + b * grad_b) - is_middle * (inverse_fraction - width)
    grad_log_scale = tl.where(log_scale < LOG_SCALE_MIN, 0, grad_log_scale)
    return exponent, divisor, inverse_scale * (grad_b - grad_a), grad_log_scale


@triton.jit
def load_channels(params, channel, stride_c, inside, ACC: tl.constexpr):
    return tl.load(params + channel * stride_c, mask=inside, other=0).to(ACC)


@triton.jit
def evaluate(
    params, values, k, stride_c, values_stride_c, inside, pixel_inside,
    C: tl.constexpr, K: tl.constexpr, LEVELS: tl.constexpr, H: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # [BLOCK, KP] exponent and divisor of Π_c P; [BLOCK, 1] how many factors 2h are left out; then x, the tanh of the
    # coefficients, and the derivatives for every colour
    x0, upper, lower = load_value(values, pixel_inside, LEVELS, ACC)
    mean = load_channels(params, K + k, stride_c, inside, ACC)
    log_scale = load_channels(params, 2 * K + k, stride_c, inside, ACC)
    exponent, divisor, mean0, scale0 = discretized_logistic(x0, upper, lower, mean, log_scale, H)
    middles = upper * lower
    x1 = x0
    c0, c1, c2, mean1, scale1, mean2, scale2 = mean0, mean0, mean0, mean0, mean0, mean0, mean0
    if C == 3:
        x1, upper, lower = load_value(values + values_stride_c, pixel_inside, LEVELS, ACC)
        c0 = tanh(load_channels(params, 3 * K + k, stride_c, inside, ACC))
        mean = load_channels(params, 4 * K + k, stride_c, inside, ACC) + c0 * x0
        log_scale = load_channels(params, 5 * K + k, stride_c, inside, ACC)
        e, d, mean1, scale1 = discretized_logistic(x1, upper, lower, mean, log_scale, H)
        exponent += e
        divisor *= d
        middles += upper * lower
        x2, upper, lower = load_value(values + 2 * tl.cast(values_stride_c, tl.int64), pixel_inside, LEVELS, ACC)
        c1 = tanh(load_channels(params, 6 * K + k, stride_c, inside, ACC))
        c2 = tanh(load_channels(params, 9 * K + k, stride_c, inside, ACC))
        mean = load_channels(params, 7 * K + k, stride_c, inside, ACC) + c1 * x0 + c2 * x1
        log_scale = load_channels(params, 8 * K + k, stride_c, inside, ACC)
        e, d, mean2, scale2 = discretized_logistic(x2, upper, lower, mean, log_scale, H)
        exponent += e
        divisor *= d
        middles += upper * lower
    return exponent, divisor, middles, x0, x1, c0, c1, c2, mean0, scale0, mean1, scale1, mean2, scale2


@triton.jit
def tile_of(HW, BLOCK: tl.constexpr, KP: tl.constexpr):
    # which image and which of its pixels this program has, [BLOCK, 1], and the components, [1, KP]
    tiles = tl.cdiv(HW, BLOCK)
    n = (tl.program_id(0) // tiles).to(tl.int64)
    pixel = (tl.program_id(0) % tiles).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    return n, pixel, tl.arange(0, KP)[None, :].to(tl.int64)


# Math     log Σₖ softmax(π)ₖ Π_c P(v_c | μₖ_c, sₖ_c)                                        arXiv:1701.05517 eq. 2-3
# Shapes   params (N, P, HW), values (N, C, HW), any strides; result (N, HW) contiguous; 64-bit offsets
# Traffic  1 read of params and values, 1 write of a P-th of it
# Launch   grid N·⌈HW / BLOCK⌉, 8 warps, [BLOCK, KP] pixels × components, KP the power of two that holds K
# Numerics float32 inside (float64 for float64); one fixed order of sums
# Ragged   pixels and components masked; components beyond K weigh exp(−∞)
@triton.jit
def discretized_logistic_mixture_kernel(
    params, values, result, HW, stride_n, stride_c, stride_p, values_stride_n, values_stride_c, values_stride_p,
    C: tl.constexpr, K: tl.constexpr, LEVELS: tl.constexpr, H: tl.constexpr, LOG_WIDTH: tl.constexpr, ACC: tl.constexpr,
    BLOCK: tl.constexpr, KP: tl.constexpr,
):  # fmt: skip
    n, pixel, k = tile_of(HW, BLOCK, KP)
    inside = (pixel < HW) & (k < K)
    params += n * stride_n + pixel * stride_p
    values += n * values_stride_n + pixel * values_stride_p
    logit = tl.where(k < K, load_channels(params, k, stride_c, inside, ACC), float("-inf"))
    exponent, divisor, middles, _, _, _, _, _, _, _, _, _, _, _ = evaluate(
        params, values, k, stride_c, values_stride_c, inside, pixel < HW, C, K, LEVELS, H, ACC
    )
    exponent += logit
    prior_max = tl.max(logit, axis=1, keep_dims=True)
    joint_max = tl.max(exponent, axis=1, keep_dims=True)
    prior = tl.sum(tl.exp(logit - prior_max), axis=1, keep_dims=True)
    joint = tl.sum(tl.exp(exponent - joint_max) / divisor, axis=1, keep_dims=True)
    log_likelihood = joint_max + tl.log(joint) - (prior_max + tl.log(prior)) + middles * LOG_WIDTH
    tl.store(result + n * HW + pixel, log_likelihood, mask=pixel < HW)


# Math     the derivative of the above; the forward pass is computed again
# Traffic  1 read of params, values and the gradient that arrives, 1 write of params
@triton.jit
def discretized_logistic_mixture_backward_kernel(
    grad, params, values, grad_params, HW,
    stride_n, stride_c, stride_p, values_stride_n, values_stride_c, values_stride_p,
    grad_stride_n, grad_stride_c, grad_stride_p,
    C: tl.constexpr, K: tl.constexpr, LEVELS: tl.constexpr, H: tl.constexpr, ACC: tl.constexpr,
    BLOCK: tl.constexpr, KP: tl.constexpr,
):  # fmt: skip
    n, pixel, k = tile_of(HW, BLOCK, KP)
    inside = (pixel < HW) & (k < K)
    params += n * stride_n + pixel * stride_p
    values += n * values_stride_n + pixel * values_stride_p
    grad_params += n * grad_stride_n + pixel * grad_stride_p
    logit = tl.where(k < K, load_channels(params, k, stride_c, inside, ACC), float("-inf"))
    exponent, divisor, _, x0, x1, c0, c1, c2, mean0, scale0, mean1, scale1, mean2, scale2 = evaluate(
        params, values, k, stride_c, values_stride_c, inside, pixel < HW, C, K, LEVELS, H, ACC
    )
    exponent += logit
    prior = tl.exp(logit - tl.max(logit, axis=1, keep_dims=True))
    joint = tl.exp(exponent - tl.max(exponent, axis=1, keep_dims=True)) / divisor
    upstream = tl.load(grad + n * HW + pixel, mask=pixel < HW, other=0)
    share = joint * (upstream / tl.sum(joint, axis=1, keep_dims=True))  # of each component, times what arrives
    prior *= upstream / tl.sum(prior, axis=1, keep_dims=True)
    store_channels(grad_params, k, grad_stride_c, share - prior, inside)
    store_channels(grad_params, K + k, grad_stride_c, share * mean0, inside)
    store_channels(grad_params, 2 * K + k, grad_stride_c, share * scale0, inside)
    if C == 3:
        green = share * mean1
        blue = share * mean2
        store_channels(grad_params, 3 * K + k, grad_stride_c, (1 - c0 * c0) * green * x0, inside)
        store_channels(grad_params, 4 * K + k, grad_stride_c, green, inside)
        store_channels(grad_params, 5 * K + k, grad_stride_c, share * scale1, inside)
        store_channels(grad_params, 6 * K + k, grad_stride_c, (1 - c1 * c1) * blue * x0, inside)
        store_channels(grad_params, 7 * K + k, grad_stride_c, blue, inside)
        store_channels(grad_params, 8 * K + k, grad_stride_c, share * scale2, inside)
        store_channels(grad_params, 9 * K + k, grad_stride_c, (1 - c2 * c2) * blue * x1, inside)


@triton.jit
def store_channels(grad_params, channel, stride_c, value, inside):
    tl.store(grad_params + channel * stride_c, value, mask=inside)


def _constants(params: Tensor, values: Tensor, levels: int) -> dict[str, Any]:
    """The kernels' constants. A tile has 512 pixels × components over 8 warps, two a thread; in float64, where that
    would spill, over 4 warps, and half as many for three colours.
    """
    C = values.shape[1]
    K = params.shape[1] // CHANNELS[C]
    KP = triton.next_power_of_2(K)
    double = params.dtype == torch.float64
    return {
        "C": C, "K": K, "LEVELS": levels, "H": 1 / (levels - 1), "ACC": tl.float64 if double else tl.float32,
        "BLOCK": max(1, (256 if double and C == 3 else 512) // KP), "KP": KP, "num_warps": 4 if double else 8,
    }  # fmt: skip


def discretized_logistic_mixture_triton(params: Tensor, values: Tensor, levels: int) -> Tensor:
    N, _, H, W = params.shape
    result = params.new_empty((N, H, W), dtype=torch.promote_types(params.dtype, torch.float32))
    constants = _constants(params, values, levels)
    params, values = params.flatten(2), values.flatten(2)
    grid = (N * triton.cdiv(H * W, constants["BLOCK"]),)
    launch(
        discretized_logistic_mixture_kernel, grid,
        params, values, result, H * W, *params.stride(), *values.stride(),
        LOG_WIDTH=math.log(2 / (levels - 1)), **constants,
    )  # fmt: skip
    return result


def discretized_logistic_mixture_backward_triton(
    grad_log_likelihood: Tensor, params: Tensor, values: Tensor, levels: int
) -> Tensor:
    N, _, H, W = params.shape
    grad_params = torch.empty_like(params)
    target = grad_params.flatten(2)
    constants = _constants(params, values, levels)
    params, values = params.flatten(2), values.flatten(2)
    grid = (N * triton.cdiv(H * W, constants["BLOCK"]),)
    launch(
        discretized_logistic_mixture_backward_kernel, grid,
        grad_log_likelihood.contiguous(), params, values, target, H * W,
        *params.stride(), *values.stride(), *target.stride(), **constants,
    )  # fmt: skip
    target = target.unflatten(2, (H, W))
    return grad_params if target.stride() == grad_params.stride() else grad_params.copy_(target)
