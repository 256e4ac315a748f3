"""Log-likelihood of pixels under a discretised mixture of logistics (PixelCNN++, arXiv:1701.05517, section 2.1-2.2)."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_device, check_integer
from ._dtypes import check_dense, check_floating
from ._registry import call, define_op

KERNELS = {
    "CPU": "csrc/discretized_logistic_mixture_cpu.cpp",
    "CUDA": "fastgen/ops/discretized_logistic_mixture_triton.py",
}

#: Log-scales are clamped here, as in openai/pixel-cnn: the narrowest scale is about a ninth of one of 256 levels.
LOG_SCALE_MIN = -7.0

#: Number of colours → parameter channels of one mixture component.
CHANNELS = {1: 3, 3: 10}

#: More levels than float32 tells apart; sizes stay far from wrapping.
LEVELS_MAX = 2**30

#: What values may be: torch has few operations on unsigned integers of more than eight bits.
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)

_TINY = 1e-30  # 1 − exp(−t) and t are divided by each other: neither may be zero


class _Terms(NamedTuple):
    """Everything of one pixel that forward and backward share; K components are dimension 2."""

    logits: Tensor  # (N, K, H, W)
    log_probs: Tensor  # (N, C, K, H, W), of each colour under each component
    x: Tensor  # (N, C, 1, H, W), values scaled to [−1, 1]
    coeffs: Tensor | None  # (N, 3, K, H, W): green on red, blue on red, blue on green
    grad_means: Tensor  # (N, C, K, H, W), derivatives of log_probs
    grad_log_scales: Tensor


def _terms(params: Tensor, values: Tensor, levels: int) -> _Terms:
    dtype = torch.promote_types(params.dtype, torch.float32)
    C, P = values.shape[1], params.shape[1]
    K = P // CHANNELS[C]
    logits, rest = params.to(dtype).split((K, P - K), dim=1)
    parts = rest.unflatten(1, (C, (P - K) // (C * max(K, 1)), K))  # (N, C, 2 or 3, K, H, W)
    v = values.unsqueeze(2).to(torch.int64)
    first, last = v == 0, v == levels - 1
    x = torch.where((v < 0) | (v >= levels), math.nan, (2 * v.to(dtype) - (levels - 1)) / (levels - 1))

    means, coeffs = parts[:, :, 0], None
    if C == 3:
        coeffs = torch.tanh(parts[:, :, 2])
        red, green = x[:, 0], x[:, 1]
        shift = (torch.zeros_like(means[:, 0]), coeffs[:, 0] * red, coeffs[:, 1] * red + coeffs[:, 2] * green)
        means = means + torch.stack(shift, dim=1)

    log_scales = parts[:, :, 1].clamp(min=LOG_SCALE_MIN)
    inverse_scales = torch.exp(-log_scales)
    centered, half = inverse_scales * (x - means), inverse_scales / (levels - 1)
    upper, lower = half + centered, half - centered  # distances from the bin's edges, both positive inside the bin
    width = (2 * half).clamp(min=_TINY)
    fraction = _fraction(width)
    middle = math.log(2 / (levels - 1)) - log_scales + torch.log(fraction)  # log(1 − exp(−width)), never of zero
    log_probs = (
        torch.where(last, 0, F.logsigmoid(upper))
        + torch.where(first, 0, F.logsigmoid(lower))
        + torch.where(first | last, 0, middle)
    )

    grad_upper, grad_lower = torch.where(last, 0, torch.sigmoid(-upper)), torch.where(first, 0, torch.sigmoid(-lower))
    grad_log_scales = -(upper * grad_upper + lower * grad_lower) - torch.where(first | last, 0, 1 / fraction - width)
    grad_log_scales = torch.where(parts[:, :, 1] < LOG_SCALE_MIN, 0, grad_log_scales)
    return _Terms(logits, log_probs, x, coeffs, inverse_scales * (grad_lower - grad_upper), grad_log_scales)


def _fraction(width: Tensor) -> Tensor:
    """(1 − exp(−width)) / width; near zero, where the derivatives of that cancel, its series Σ (−width)ⁿ / (n + 1)!."""
    near = width < 0.1
    far = torch.where(near, 1, width)
    series = torch.ones_like(width)
    for n in range(9, 0, -1):
        series = 1 - width / (n + 1) * series
    return torch.where(near, series, -torch.expm1(-far) / far)


def discretized_logistic_mixture_reference(params: Tensor, values: Tensor, levels: int) -> Tensor:
    terms = _terms(params, values, levels)
    joint = terms.logits + terms.log_probs.sum(dim=1)
    return torch.logsumexp(joint, dim=1) - torch.logsumexp(terms.logits, dim=1)


def discretized_logistic_mixture_backward_reference(
    grad_log_likelihood: Tensor, params: Tensor, values: Tensor, levels: int
) -> Tensor:
    terms = _terms(params, values, levels)
    grad = grad_log_likelihood.unsqueeze(1)
    posterior = grad * torch.softmax(terms.logits + terms.log_probs.sum(dim=1), dim=1)
    grad_logits = posterior - grad * torch.softmax(terms.logits, dim=1)
    grad_means = posterior.unsqueeze(1) * terms.grad_means
    parts = [grad_means, posterior.unsqueeze(1) * terms.grad_log_scales]
    if terms.coeffs is not None:
        red, green, to_green, to_blue = terms.x[:, 0], terms.x[:, 1], grad_means[:, 1], grad_means[:, 2]
        slope = 1 - terms.coeffs * terms.coeffs
        parts.append(slope * torch.stack((to_green * red, to_blue * red, to_blue * green), dim=1))
    grad_params = torch.cat((grad_logits, torch.stack(parts, dim=2).flatten(1, 3)), dim=1)
    return torch.empty_like(params).copy_(grad_params)


def _fake(params: Tensor, values: Tensor, levels: int) -> Tensor:
    N, _, H, W = params.shape
    return params.new_empty((N, H, W), dtype=torch.promote_types(params.dtype, torch.float32))


def _fake_backward(grad_log_likelihood: Tensor, params: Tensor, values: Tensor, levels: int) -> Tensor:
    return torch.empty_like(params)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    params, values, ctx.levels = inputs
    ctx.save_for_backward(params, values)


def _backward(ctx: Any, grad_log_likelihood: Tensor) -> tuple[Tensor, None, None]:
    backward = torch.ops.fastgen.discretized_logistic_mixture_backward.default
    return call(backward, grad_log_likelihood, *ctx.saved_tensors, ctx.levels), None, None


define_op(
    "discretized_logistic_mixture(Tensor params, Tensor values, int levels) -> Tensor",
    kernels=KERNELS,
    reference=discretized_logistic_mixture_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    triton_float64=True,
)
define_op(
    "discretized_logistic_mixture_backward(Tensor grad_log_likelihood, Tensor params, Tensor values, int levels)"
    " -> Tensor",
    kernels=KERNELS,
    reference=discretized_logistic_mixture_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
    composite=True,
    triton_float64=True,
)


def discretized_logistic_mixture(params: Tensor, values: Tensor, levels: int = 256) -> Tensor:
    """Log-likelihood of every pixel under a mixture of K logistics, discretised to ``levels`` values.

    log p(v) = log Σₖ softmax(π)ₖ Π_c P(v_c | μₖ_c, sₖ_c),  x = 2v / (levels − 1) − 1,  h = 1 / (levels − 1)

    P(v | μ, s) = σ((x + h − μ) / s) − σ((x − h − μ) / s), where the lowest value's bin reaches to −∞ and the highest's
    to ∞. A pixel's colours share the component k; the mean of green is μ + tanh(c₀)·red and that of blue is
    μ + tanh(c₁)·red + tanh(c₂)·green, of scaled values x. log s is clamped to at least −7.

    Equivalent to openai/pixel-cnn's ``discretized_mix_logistic_loss``, but for its thresholds: the difference of
    sigmoids is taken in logarithms, log σ(a) + log σ(−b) + log(1 − e^(b − a)), exact however small it is, so neither
    its floor of 1e-12 nor its approximation by the density below 1e-5 is needed.

    The loss in nats per image and in bits per dimension::

        loss = -discretized_logistic_mixture(params, images).sum((1, 2)).mean()
        bits_per_dim = loss / (math.log(2) * C * H * W)

    Args:
        params: (N, P, H, W), float32, float64, float16 or bfloat16; any strides. Half types are computed in float32.
            The order of channels is openai/pixel-cnn's. C = 3: P = 10·K; K logits, then for each colour K means, K
            log-scales and K coefficients (those of red's place are c₀, of green's c₁, of blue's c₂). C = 1: P = 3·K;
            K logits, K means, K log-scales.
        values: (N, C, H, W), integers in [0, levels), C of 1 or 3. uint8 and int64 are read as they are. Images scaled
            to [−1, 1] become values by ``((x + 1) * 127.5).round().to(torch.uint8)``.
        levels: number of values, at least 2.

    Returns:
        (N, H, W), nats, contiguous, float32 (float64 for float64). Finite wherever the parameters are below 1e30.

    Raises:
        ValueError: shapes do not fit, devices differ, ``levels`` is below 2, or a value is out of range. The last is
            looked for on the CPU only; on a GPU that would wait for the device, and under ``torch.compile`` it would
            break the graph. There, the likelihood of such a pixel is NaN.
        TypeError: ``params`` are of another dtype, or ``values`` are not integers.

    Gradients: first and second order, to ``params``, in their layout. Below the clamp, the gradient of a
    log-scale is exactly zero. Nothing but the arguments is kept for the backward pass.

    Source: Salimans, Karpathy, Chen and Kingma 2017, arXiv:1701.05517, eq. 2-3.
    """
    levels = check_integer("levels", check_integer("levels", levels, 2), 2, LEVELS_MAX)
    check_floating("params", params)
    if check_dense("values", values).dtype not in INTEGERS:
        raise TypeError(f"values: expected an integer tensor, got {values.dtype}")
    if values.dim() != 4 or values.shape[1] not in CHANNELS:
        raise ValueError(f"values: expected shape (N, 1 or 3, H, W), got {tuple(values.shape)}")
    N, C, H, W = values.shape
    if params.dim() != 4 or (params.shape[0], *params.shape[2:]) != (N, H, W):
        raise ValueError(f"params: expected shape {(N, 'P', H, W)}, got {tuple(params.shape)}".replace("'", ""))
    if params.shape[1] == 0 or params.shape[1] % CHANNELS[C]:
        raise ValueError(f"params: expected {CHANNELS[C]}·K channels for {C} colours, got {params.shape[1]}")
    check_device("values", values, "params", params)
    if values.device.type == "cpu" and values.numel() and not torch.compiler.is_compiling():
        low, high = (bound.item() for bound in values.aminmax())
        if low < 0 or high >= levels:
            raise ValueError(f"values: expected integers in [0, {levels}), got values from {low} to {high}")
    if values.dtype not in (torch.uint8, torch.int64):
        values = values.to(torch.int64)
    return call(torch.ops.fastgen.discretized_logistic_mixture.default, params, values, levels)
