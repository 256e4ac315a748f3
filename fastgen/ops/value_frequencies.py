"""How often a range coder takes each value to be: a law's probabilities as integers, the same on every processor.

    Fᵥ = v + ⌊cdf(v)·(2²⁴ − L)⌋,  fᵥ = Fᵥ₊₁ − Fᵥ ≥ 1,  Σᵥ fᵥ = 2²⁴

Fᵥ₊₁ − Fᵥ > P(v)·(2²⁴ − L), so that no value costs more than log₂(2²⁴ / (2²⁴ − L)) bits over −log₂ P(v): 2.2e-5 of 256
levels. What decodes has to find the very integers that were encoded with. So all is double, made of sums, products,
quotients and ⌊⌋ alone, one after the other as they stand here: IEEE 754 leaves no choice, and no library's exp is
asked.
"""

import math

import torch
from torch import Tensor

from .._checks import check_integer, check_tensor
from ._registry import call, define_op
from .discretized_logistic_mixture import CHANNELS, LOG_SCALE_MIN

KERNELS = {"CPU": "csrc/value_frequencies_cpu.cpp"}

TOTAL = 2**24
"""What the frequencies of a row add up to."""

MOST_LEVELS = 65_536

_LOWEST, _SHIFT = -700.0, 6755399441055744.0  # exp is a normal number; 1.5·2⁵²: adding it rounds to an integer
_LN2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)  # its first digits, and the rest
_NARROW, _SMALLEST = 2.0**-10, 1e-30  # widths of a bin


def value_frequencies_reference(
    params: Tensor, values: Tensor | None, color: int, levels: int, components: int
) -> Tensor:
    params = params.double()
    if values is not None and components:
        below = _below_edges(params, values.double(), color, levels, components)
    elif params.shape[1] == 1:
        below = _sigmoid(-params)
    else:
        weights = (_exp(params - params.amax(1, keepdim=True)) * 2.0**32).floor().long()  # exact sums, in any order
        total = weights.cumsum(1)
        below = total[:, :-1].double() / total[:, -1:].double()
    room = TOTAL - levels
    until = torch.where(below > 0, below * room, 0).floor().clamp(max=room).long()
    until = torch.nn.functional.pad(until.cummax(1).values, (1, 1))
    until[:, -1] = room
    return (until.diff(dim=1) + 1).int()


def _below_edges(params: Tensor, values: Tensor, color: int, levels: int, components: int) -> Tensor:
    """P(value ≤ v | the colours before), v from 0 to L − 2, of a mixture."""
    C, last, device = values.shape[1], levels - 1, params.device
    parts = params[:, components:].unflatten(1, (C, -1, components))  # (N, C, 2 or 3, K)
    x = (2 * values - last) / last

    def logistic(c: int) -> tuple[Tensor, Tensor]:
        mean, log_scale = parts[:, c, 0], parts[:, c, 1]
        for earlier in range(c):
            mean = mean + _tanh(parts[:, earlier + c - 1, 2]) * x[:, earlier, None]
        return mean, _exp(-torch.where(log_scale > LOG_SCALE_MIN, log_scale, LOG_SCALE_MIN))

    exponent, factor = params[:, :components], torch.ones_like(params[:, :components])
    for c in range(color):  # how likely each component is, now that these are known
        mean, inverse_scale = logistic(c)
        half, centered = inverse_scale * (1 / last), inverse_scale * (x[:, c, None] - mean)
        a, b = half + centered, half - centered
        upper, lower = values[:, c, None] != last, values[:, c, None] != 0
        width = torch.where(half + half > _SMALLEST, half + half, _SMALLEST)
        fraction = torch.where(width < _NARROW, width * (1 - width * (0.5 - width / 6)), 1 - _exp(-width))
        bounds = (1 + torch.where(upper, _exp(-a.abs()), 0)) * (1 + torch.where(lower, _exp(-b.abs()), 0))
        factor = factor * (torch.where(upper & lower, fraction, 1) / bounds)
        exponent = exponent + (torch.where(upper & (a < 0), a, 0) + torch.where(lower & (b < 0), b, 0))
    weights = _exp(exponent - exponent.amax(1, keepdim=True)) * factor
    mean, inverse_scale = logistic(color)
    edges = (torch.arange(1, 2 * last, 2, dtype=torch.float64, device=device) - last) / last
    total, below = torch.zeros_like(weights[:, :1]), torch.zeros(len(params), last, dtype=torch.float64, device=device)
    for j in range(components):
        each = slice(j, j + 1)
        total = total + weights[:, each]
        below = below + weights[:, each] * _sigmoid(inverse_scale[:, each] * (edges - mean[:, each]))
    return below / total


def _exp(x: Tensor) -> Tensor:
    """Of x ≤ 700; what is below −700, or no number, as −700."""
    x = torch.where(x > _LOWEST, x, _LOWEST)
    n = (x * 1.4426950408889634 + _SHIFT) - _SHIFT
    r = (x - n * _LN2[0]) - n * _LN2[1]
    p = torch.full_like(r, 1 / math.factorial(13))
    for k in range(12, -1, -1):
        p = p * r + 1 / math.factorial(k)
    return p * ((n.long() + 1023) << 52).view(torch.float64)


def _sigmoid(x: Tensor) -> Tensor:
    e = _exp(-x.abs())
    part = 1 / (1 + e)
    return torch.where(x < 0, e * part, part)


def _tanh(x: Tensor) -> Tensor:
    e = _exp(-2 * x.abs())
    magnitude = (1 - e) / (1 + e)
    return torch.where(x < 0, -magnitude, magnitude)


def value_frequencies(
    params: Tensor, levels: int, values: Tensor | None = None, color: int = 0, components: int = 0
) -> Tensor:
    """Frequencies of the values of N pixels' colour, of the law that their parameters say.

    Equivalent to, but for what rounding to integers of at least 1 does to them::

        torch.stack([distribution.log_prob(params, v).exp() for v in range(levels)]) * 2**24

    Args:
        params: float32 (N, P). The logit of value 1 for two levels (P = 1); a logit of each level (P = levels); or with
            ``components`` those of a mixture of logistics as ``fastgen.distributions.DiscretizedLogisticMixture`` has
            them, of all colours. What is not finite is no error: it gives frequencies that mean nothing, the same ones
            in compiled code and in the reference.
        levels: L, 2 to 65,536.
        values: int64 (N, C), those of the pixel, of which a mixture reads the colours before ``color``.
        color: of which frequencies are asked.
        components: K of the mixture; 0 for the other laws.

    Returns:
        int32 (N, levels), each at least 1, 2²⁴ in a row. A row depends on nothing but its own parameters and values;
        the reference and compiled code answer with the same integers. There is no gradient.

    Raises:
        ValueError: a shape or a number does not fit.
        TypeError: a dtype does not fit.
    """
    levels = check_integer("levels", levels, 2, MOST_LEVELS)
    components = check_integer("components", components, 0)
    check_tensor("params", params, ("N", "P"), [torch.float32])
    N, P = params.shape
    if components:
        check_tensor("values", values, (N, "C"), [torch.int64])
        assert values is not None
        C = values.shape[1]
        color = check_integer("color", color, 0, C - 1)
        if CHANNELS.get(C, -1) * components != P:
            raise ValueError(
                f"params: expected {', '.join(f'{each}·{components} of {c}' for c, each in CHANNELS.items())} colours,"
                f" got {P} for {C}"
            )
    elif levels != P and (P, levels) != (1, 2):
        raise ValueError(f"params: expected {levels} logits{' or 1' * (levels == 2)} in a row, got {P}")
    found: Tensor = call(torch.ops.fastgen.value_frequencies.default, params, values, color, levels, components)
    return found


def _fake(params: Tensor, values: Tensor | None, color: int, levels: int, components: int) -> Tensor:
    return params.new_empty((params.shape[0], levels), dtype=torch.int32)


define_op(
    "value_frequencies(Tensor params, Tensor? values, int color, int levels, int components) -> Tensor",
    kernels=KERNELS,
    reference=value_frequencies_reference,
    fake=_fake,
    backward=None,
)
