"""Laws that no order of the levels matters to: of two of them, or of any number."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_integer, check_number, check_values
from ..ops.categorical_cross_entropy import cross_entropy
from .distribution import Distribution, Marginal


class _Unordered(Distribution):
    """What both laws share."""

    def cross_entropy(self, params: Tensor, values: Tensor, smoothing: float) -> Tensor:
        """−Σᵤ q(u) log p(u), where q is (1 − ε)·[u = v] + ε / L: what training by smoothed labels minimises.

        Args:
            params: (N, P, H, W), floating point; half types are computed in float32.
            values: v, integers (N, C, H, W) in [0, levels).
            smoothing: ε, in [0, 1]. With 0 it is −log p(v).

        Returns:
            (N, C, H, W), differentiable in ``params``.

        Raises:
            ValueError: shapes do not fit, or a value or ε is out of range.
            TypeError: ``params`` are not floating point, or ``values`` are not integers.

        Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
        """
        check_values(values, self.levels)
        check_number("smoothing", smoothing, 0, 1)
        self._check_params(params, "values", values)
        return self._cross_entropy(self._read(params), values.to(torch.int64), float(smoothing))

    def _log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        return -self._cross_entropy(params, values)

    def _cross_entropy(self, params: Tensor, values: Tensor, smoothing: float = 0.0) -> Tensor:
        raise NotImplementedError

    def _marginal(self, pixels: Tensor) -> Marginal:
        """Each level as often as it is, and once more: no logit is infinite."""
        counts = torch.stack([torch.bincount(of_color, minlength=self.levels) for of_color in pixels.T])
        params = self._logits(((counts + 1).to(torch.float32) / (len(pixels) + self.levels)).log()).flatten()
        return Marginal(params, torch.ones_like(params))

    def _logits(self, log_probs: Tensor) -> Tensor:
        """(C, levels) → (C, P / C)"""
        raise NotImplementedError


class Bernoulli(_Unordered):
    """Two levels; one channel per colour, the logit of value 1."""

    def __init__(self) -> None:
        super().__init__(levels=2)

    def param_channels(self, channels: int) -> int:
        return check_integer("channels", channels, 1)

    def _cross_entropy(self, params: Tensor, values: Tensor, smoothing: float = 0.0) -> Tensor:
        q = values.to(params.dtype)
        q = q * (1 - smoothing) + smoothing / 2 if smoothing else q
        return F.binary_cross_entropy_with_logits(params, q, reduction="none")

    def _draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        return (uniforms < torch.sigmoid(logits)).to(torch.int64)

    def _logits(self, log_probs: Tensor) -> Tensor:
        return log_probs[:, 1:] - log_probs[:, :1]

    def __repr__(self) -> str:
        return "Bernoulli()"


class Categorical(_Unordered):
    """Any number of levels; one logit for each, those of a colour side by side: colour k has [k·L, (k + 1)·L)."""

    def param_channels(self, channels: int) -> int:
        return check_integer("channels", channels, 1) * self.levels

    def _by_level(self, params: Tensor) -> Tensor:
        """(N, C·L, H, W) → (N, L, C, H, W)"""
        return params.unflatten(1, (-1, self.levels)).transpose(1, 2)

    def _cross_entropy(self, params: Tensor, values: Tensor, smoothing: float = 0.0) -> Tensor:
        return cross_entropy(params, values, self.levels, smoothing)

    def _read(self, params: Tensor) -> Tensor:
        return params  # which are widened where they are read

    def _logits(self, log_probs: Tensor) -> Tensor:
        return log_probs

    def _draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        cdf = torch.softmax(self._by_level(logits), dim=1).cumsum(dim=1)
        below = (cdf <= uniforms.unsqueeze(1)).sum(dim=1)
        return below.clamp_(max=self.levels - 1)  # rounding can leave the last entry of the cdf below u
