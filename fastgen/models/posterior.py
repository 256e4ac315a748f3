"""Posterior: what an encoder says of the codes of images."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.rsample_kl import LOGVAR_MAX, LOGVAR_MIN


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag exp(logvar)); (N, latent) each."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def of(cls, h: Tensor) -> "Posterior":
        """Of mean and logvar as halves, (N, 2 · latent)."""
        return cls(*h.chunk(2, dim=1))

    def kl_per_dimension(self) -> Tensor:
        """KL(q(z_j|x) ‖ p(z_j)) = ½ (μ² + σ² − 1 − log σ²), (N, latent) nats."""
        logvar = self.logvar.clamp(LOGVAR_MIN, LOGVAR_MAX)
        return 0.5 * (self.mean**2 + torch.expm1(logvar) - logvar)
