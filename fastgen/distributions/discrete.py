"""Laws that no order of the levels matters to: of two of them, or of any number."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_integer
from .distribution import Distribution


class Bernoulli(Distribution):
    """Two levels; one channel per colour, the logit of value 1."""

    def __init__(self) -> None:
        super().__init__(levels=2)

    def param_channels(self, channels: int) -> int:
        return check_integer("channels", channels, 1)

    def _log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(params, values.to(params.dtype), reduction="none")

    def _draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        return (uniforms < torch.sigmoid(logits)).to(torch.int64)

    def __repr__(self) -> str:
        return "Bernoulli()"


class Categorical(Distribution):
    """Any number of levels; one logit for each, those of a colour side by side: colour k has [k·L, (k + 1)·L)."""

    def param_channels(self, channels: int) -> int:
        return check_integer("channels", channels, 1) * self.levels

    def _by_level(self, params: Tensor) -> Tensor:
        """(N, C·L, H, W) → (N, L, C, H, W)"""
        return params.unflatten(1, (-1, self.levels)).transpose(1, 2)

    def _log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        return -F.cross_entropy(self._by_level(params), values, reduction="none")

    def _draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        cdf = torch.softmax(self._by_level(logits), dim=1).cumsum(dim=1)
        below = (cdf <= uniforms.unsqueeze(1)).sum(dim=1)
        return below.clamp_(max=self.levels - 1)  # rounding can leave the last entry of the cdf below u
