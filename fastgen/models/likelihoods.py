"""What a decoder's output means: p(x|z), pixel by pixel independent given z.

A decoder ends in ``P = likelihood.param_channels(C)`` channels; colour k reads the k-th of C equal, contiguous parts.

    bernoulli     log p = v·l − softplus(l)            v = value / (levels − 1), l = logit
    gaussian      log p = log N(x; μ, σ²) + log Δ      μ and σ learned for every pixel; Δ = 2 / (levels − 1)
    categorical   log p = log softmax(l)[value]
    logistic      log p = log(σ((x + Δ/2 − μ)/s) − σ((x − Δ/2 − μ)/s)), without bound below at 0, above at levels − 1
                  (arXiv:1701.05517, eq. 2, with one component)

x = 2·value / (levels − 1) − 1, in [−1, 1]. "categorical", "logistic" and "bernoulli" of two levels are laws on values:
their nats can be compared, and told as bits/dim. The Gaussian's is the density at the midpoint of a value's interval
times its width Δ, whose sum over values is near 1 and can exceed it by a hundredth. Dequantised, it is the density at a
place drawn uniformly from the interval: on average its log is at most that of the interval's probability, and so its
nats are a bound on those of a law on values (Theis et al. 2016, arXiv:1511.01844, section 3.1). With more than two
levels "bernoulli" reads a grey value as the probability of white, as is customary for grey MNIST: its nats are the
expected nats of images binarised at random with these probabilities, and cannot be compared with those of the others.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import distributions
from .._checks import check_dense, check_device, check_flag, check_integer, check_levels, check_option, check_tensor
from .._draws import uniforms_of_batch
from ..distributions import Distribution
from ..ops.binary_cross_entropy import summed
from ..ops.discretized_logistic_mixture import LOG_SCALE_MIN


class Likelihood:
    """What the likelihoods share.

    Args:
        levels: values are integers in [0, levels).
    """

    name: str
    per_color: int
    """Parameters of a pixel's colour."""
    of_values = True
    """Whether this is a law on the discrete values: their probabilities add up to 1."""
    caveat = ""
    """What has to be said beside a likelihood that is not."""

    def __init__(self, levels: int) -> None:
        self.levels = levels
        self.width = 2 / (levels - 1)

    def param_channels(self, channels: int) -> int:
        """P, the number of parameter channels for images of ``channels`` colours."""
        return channels * self.per_color

    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        """The log-likelihood log p(x|z), summed over the dimensions of an image.

        Args:
            params: (*, N, P, H, W), floating point; half types are computed in float32.
            values: (N, C, H, W), integers in [0, levels).

        Returns:
            (*, N) nats, differentiable in ``params``.

        Raises:
            ValueError: shapes do not fit, or a value is out of range.
            TypeError: ``params`` are not floating point, or ``values`` are not integers.
        """
        check_tensor("values", values, ("N", "C", "H", "W"))
        check_levels(values, self.levels)
        check_dense("params", params)
        N, C, H, W = values.shape
        expected = (N, self.param_channels(C), H, W)
        if not params.is_floating_point():
            raise TypeError(f"params: expected a floating-point tensor, got {params.dtype}")
        if tuple(params.shape[-4:]) != expected:
            raise ValueError(f"params: expected shape (*, {', '.join(map(str, expected))}), got {tuple(params.shape)}")
        check_device("values", values, "params", params)
        return self.log_prob_of(params, values)

    def log_prob_of(self, params: Tensor, values: Tensor) -> Tensor:
        """``log_prob`` of images that a model has checked."""
        params = params.float() if params.dtype in (torch.float16, torch.bfloat16) else params
        return self._log_prob(_by_color(params, self.per_color), values).flatten(-3).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        """Expected values (N, C, H, W) in [0, levels − 1]; of a law on a line, its mean, or the nearest there."""
        raise NotImplementedError

    def draw(self, params: Tensor, uniforms: Tensor) -> Tensor:
        """Values (N, C, H, W), int64, by inverting the cumulative distribution at ``uniforms`` (N, C, H, W)."""
        raise NotImplementedError

    def _log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        """Parameters (*, N, C, per_color, H, W) and values (N, C, H, W) → (*, N, C, H, W)"""
        raise NotImplementedError

    def _nearest(self, x: Tensor) -> Tensor:
        """The value in [0, levels) that is nearest to ``x``."""
        return ((x + 1) / self.width).round().clamp(0, self.levels - 1).to(torch.int64)


class BernoulliLikelihood(Likelihood):
    """One logit; of more than two levels, a value is read as a probability, and drawn as one."""

    name, per_color = "bernoulli", 1

    def __init__(self, levels: int) -> None:
        super().__init__(levels)
        if levels > 2:
            self.of_values = False
            self.caveat = "; of images made black and white at random by their greys, not of the greys themselves"

    def log_prob_of(self, params: Tensor, values: Tensor) -> Tensor:
        white = values.to(torch.promote_types(params.dtype, torch.float32))
        return -summed(params, white / (self.levels - 1) if self.levels > 2 else white)

    def mean(self, params: Tensor) -> Tensor:
        return torch.sigmoid(params) * (self.levels - 1)

    def draw(self, params: Tensor, uniforms: Tensor) -> Tensor:
        if self.levels > 2:
            return self.mean(params).round().to(torch.int64)
        return distributions.Bernoulli().draw(params, uniforms)


class GaussianLikelihood(Likelihood):
    """Mean μ and r, with σ² = exp(r) + (Δ/2)²: a σ far below Δ would only say that values are discrete.

    Args:
        levels: values are integers in [0, levels).
        dequantize: whether ``log_prob`` adds uniform noise of a value's width to the values, other at every call.
    """

    name, per_color = "gaussian", 2
    of_values = False
    caveat = "; of a density, times the width of a value: no law on the values"

    def __init__(self, levels: int, dequantize: bool = False) -> None:
        super().__init__(levels)
        self.dequantize = check_flag("dequantize", dequantize)
        if self.dequantize:
            self.of_values, self.caveat = True, "; of values with uniform noise, whose density bounds a law on them"

    def moments(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """μ and σ², (N, C, H, W) each: the learned mean and diagonal of the covariance."""
        mean, r = _by_color(params, self.per_color).unbind(-3)
        return mean, torch.exp(r.clamp(max=20)) + (self.width / 2) ** 2

    def _log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        mean, variance = self.moments(params.flatten(-4, -3))
        x = values.to(params.dtype) * self.width - 1
        if self.dequantize:
            x = x + self.width * (uniforms_of_batch(len(values), tuple(values.shape[1:]), params) - 0.5)
        return math.log(self.width) - 0.5 * ((x - mean) ** 2 / variance + torch.log(2 * math.pi * variance))

    def mean(self, params: Tensor) -> Tensor:
        return ((self.moments(params)[0] + 1) / self.width).clamp(0, self.levels - 1)

    def draw(self, params: Tensor, uniforms: Tensor) -> Tensor:
        mean, variance = self.moments(params)
        return self._nearest(mean + variance.sqrt() * normals_from(uniforms))


class CategoricalLikelihood(Likelihood):
    """One logit for each level."""

    name = "categorical"

    def __init__(self, levels: int) -> None:
        super().__init__(levels)
        self.per_color = levels

    def _log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        shape = params.shape[:-3] + params.shape[-2:]  # (*, N, C, H, W)
        values = values.to(torch.int64).expand(shape).reshape(-1, *shape[-3:])
        return self._distribution()._log_prob(params.flatten(-4, -3).flatten(0, -4), values).reshape(shape)

    def mean(self, params: Tensor) -> Tensor:
        p = torch.softmax(_by_color(params, self.levels), dim=-3)
        return torch.einsum("...lhw,l->...hw", p, torch.arange(self.levels, dtype=p.dtype, device=p.device))

    def draw(self, params: Tensor, uniforms: Tensor) -> Tensor:
        return self._distribution().draw(params, uniforms)

    def _distribution(self) -> Distribution:
        return distributions.Categorical(self.levels)


class LogisticLikelihood(Likelihood):
    """Mean μ and log s, of one discretised logistic."""

    name, per_color = "logistic", 2

    def _log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        mean, log_scale = params.unbind(-3)
        log_scale = log_scale.clamp(min=LOG_SCALE_MIN)
        inverse = torch.exp(-log_scale)
        center = values.to(params.dtype) * self.width - 1 - mean
        above, below = (center + self.width / 2) * inverse, (center - self.width / 2) * inverse
        log_cdf, log_rest = F.logsigmoid(above), F.logsigmoid(-below)
        # σ(a) − σ(b) = σ(a)·σ(−b)·(1 − e^(b−a)): no difference of numbers that are close
        between = log_cdf + log_rest + torch.log(-torch.expm1(-self.width * inverse))
        return torch.where(values == 0, log_cdf, torch.where(values == self.levels - 1, log_rest, between))

    def mean(self, params: Tensor) -> Tensor:
        mean = _by_color(params, self.per_color).select(-3, 0)
        return ((mean + 1) / self.width).clamp(0, self.levels - 1)

    def draw(self, params: Tensor, uniforms: Tensor) -> Tensor:
        mean, log_scale = _by_color(params, self.per_color).unbind(-3)
        u = (uniforms.double() + 2**-25).to(params.dtype)
        return self._nearest(mean + torch.exp(log_scale.clamp(min=LOG_SCALE_MIN)) * torch.logit(u))


LIKELIHOODS: dict[str, type[Likelihood]] = {
    kind.name: kind for kind in (BernoulliLikelihood, GaussianLikelihood, CategoricalLikelihood, LogisticLikelihood)
}  # fmt: skip


def likelihood(name: str, levels: int, dequantize: bool = False) -> Likelihood:
    """The likelihood called ``name``.

    Raises:
        ValueError: there is none of that name, or it is of discrete values, which need no noise.
    """
    check_option("likelihood", name, list(LIKELIHOODS))
    levels = check_integer("levels", levels, 2)
    if not check_flag("dequantize", dequantize):
        return LIKELIHOODS[name](levels)
    if name != GaussianLikelihood.name:
        raise ValueError(f"dequantize: expected False with the likelihood {name}, which is of no density, got True")
    return GaussianLikelihood(levels, dequantize)


def normals_from(uniforms: Tensor) -> Tensor:
    """Standard normal numbers by the inverse Gaussian CDF of uniform ones, multiples of 2⁻²⁴ in [0, 1)."""
    return torch.special.ndtri(uniforms.double() + 2**-25).to(uniforms.dtype)


def _by_color(params: Tensor, per_color: int) -> Tensor:
    """(*, N, C·k, H, W) → (*, N, C, k, H, W)"""
    return params.unflatten(-3, (-1, per_color))
