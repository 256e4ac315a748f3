"""GaussianRSample: the sampling layer of a variational autoencoder."""

import torch
from torch import Tensor, nn

from .._checks import check_instance, check_tensor
from ..ops._composites import is_program
from ..ops._gaussian_rsample import gaussian_rsample

_RUN = torch.ops.fastgen.gaussian_rsample.default


class GaussianRSample(nn.Module):
    """z ~ N(μ, σ²) with gradients, and KL(N(μ, σ²) ‖ N(0, I)) in nats per example (arXiv:1312.6114, section 2.4).

    The noise's seed comes from torch's generator of the device, or from ``generator``, so ``torch.manual_seed`` makes
    it repeatable. No parameters: its state_dict is empty.

    Shapes: mu, logvar (N, \\*) → z (N, \\*), kl (N,); or mu and logvar as the halves of one tensor (N, 2D, \\*), as a
    layer gives them, which is read where it is: ``sample(h)`` is ``sample(*h.chunk(2, dim=1))``, and faster. See
    ``fastgen.ops.rsample_kl``.
    """

    def forward(
        self, mu: Tensor, logvar: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        if not isinstance(mu, Tensor):
            check_tensor("mu", mu)
        if generator is not None:
            check_instance("generator", generator, torch.Generator, "a torch.Generator or None")
            if generator.device.type != mu.device.type:
                raise ValueError(f"generator: expected the device of mu, {mu.device}, got {generator.device}")
        elif is_program():
            drawn: tuple[Tensor, Tensor] = _RUN(mu, logvar)
            return drawn
        return gaussian_rsample(mu, logvar, generator)
