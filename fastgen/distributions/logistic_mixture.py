"""DiscretizedLogisticMixture: what PixelCNN++ predicts of a pixel (arXiv:1701.05517, section 2.1-2.2)."""

import torch
from torch import Tensor

from .._checks import check_integer
from ..ops.discretized_logistic_mixture import CHANNELS, LOG_SCALE_MIN, discretized_logistic_mixture
from .distribution import Distribution, Marginal

_STEPS, _LR, _PIXELS, _LOG_SCALE, _NARROWEST, _SPREAD = 400, 0.05, 2048, -2.0, -6.0, 0.01
"""Of one law for all pixels: steps of Adam, its learning rate at first, how many pixels it is fitted to at most, the
log-scales it begins with and those it may end with, from which a gradient still leads away; and how far around its
means and log-scales a network begins."""


class DiscretizedLogisticMixture(Distribution):
    """A mixture of K logistics, of which each value has the part between the edges of its bin.

    P(v) = Σₖ softmax(π)ₖ (F((x + h − μₖ) / sₖ) − F((x − h − μₖ) / sₖ)),  F = σ,  x = 2v / (L − 1) − 1,  h = 1 / (L − 1)

    The lowest bin reaches to −∞, the highest to ∞, so that the L probabilities add up to 1. The three colours of a
    pixel share the component k, and the means of green and blue move with the values before them; one colour has no
    such coefficients, and so a third of the parameters of a logistic less.

    A draw is of exactly this law: one uniform chooses the component, by the first colour; another the place in its
    logistic, of which the bin is the value. ``continuous`` has what public samplers of PixelCNN++ draw instead.

    Args:
        components: K, how many logistics a pixel has; 10 in the paper.
        levels: L, any number.
    """

    uniforms_per_value = 2  # for the component, of which a pixel reads its first colour's alone, and for the value
    couples_colors = True

    def __init__(self, components: int = 10, levels: int = 256) -> None:
        super().__init__(levels)
        self.components = check_integer("components", components, 1)

    def continuous(self, levels: int = 2**16) -> "DiscretizedLogisticMixture":
        """The same logistics on a grid so fine that values are as good as continuous.

        Public samplers of PixelCNN++ draw from the logistics themselves, clamp to [−1, 1], and let the network read on
        from that, where it was trained on ``levels`` values: another law than the one whose likelihood is reported. To
        draw as they do, sample from this one, and round at the end::

            fine = model.distribution.continuous()
            sampler = fastgen.sampling.compile(model, (3, 32, 32), fine, "[-1, 1]")
            images = (sampler.sample(16) * (model.levels - 1) / (fine.levels - 1)).round().long()

        Args:
            levels: of the grid.
        """
        return type(self)(self.components, levels)

    def param_channels(self, channels: int) -> int:
        """P = 10·K for three colours, 3·K for one; in the order of ``fastgen.ops.discretized_logistic_mixture``."""
        if check_integer("channels", channels, 1) not in CHANNELS:
            raise ValueError(f"channels: expected 1 or 3 colours, which a mixture of logistics couples, got {channels}")
        return CHANNELS[channels] * self.components

    def _log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        return discretized_logistic_mixture(params, values, self.levels).unsqueeze(1)

    def _marginal(self, pixels: Tensor) -> Marginal:
        """By Adam, from logistics that are spread over the values that there are.

        Means and log-scales begin a hundredth as far apart as weights, and means no further than their scale: where
        few values are frequent, a logistic is nearly as narrow as one, and would miss it wherever its mean is another.
        """
        K, C, last, device = self.components, pixels.shape[1], self.levels - 1, pixels.device
        distinct, counts = pixels.unique(dim=0, return_counts=True)
        if len(distinct) > _PIXELS:
            drawn = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0), device="cpu")[:_PIXELS]
            distinct, counts = pixels[drawn.to(device)], torch.ones(_PIXELS, dtype=torch.int64, device=device)
        frequencies = counts.to(torch.float32) / counts.sum()
        by_brightness = distinct[distinct.sum(1).argsort(stable=True)]
        chosen = by_brightness[(torch.arange(K, device=device) * 2 + 1) * len(distinct) // (2 * K)]  # (K, C)
        parts = torch.zeros(C, (CHANNELS[C] - 1) // C, K, dtype=torch.float32, device=device)
        parts[:, 0] = 2 * chosen.T.to(torch.float32) / last - 1
        parts[:, 1] = _LOG_SCALE
        params = torch.cat((parts.new_zeros(K), parts.flatten())).requires_grad_()
        log_scales = params.detach()[K:].view_as(parts)[:, 1]
        optimizer = torch.optim.Adam([params], lr=_LR)
        values = distinct.T[None, :, None].contiguous()  # (1, C, 1, M)
        for step in range(_STEPS):
            optimizer.param_groups[0]["lr"] = _LR * (1 - step / _STEPS)
            log_prob = self._log_prob(params.view(1, -1, 1, 1).expand(-1, -1, 1, len(distinct)), values)
            (params.grad,) = torch.autograd.grad(-(log_prob.flatten() * frequencies).sum(), params)
            optimizer.step()
            log_scales.clamp_(min=_NARROWEST)
        std = torch.full_like(params, _SPREAD, requires_grad=False)
        std[:K] = 1
        std[K:].view_as(parts)[:, 0] = log_scales.exp().clamp(max=_SPREAD)
        return Marginal(params.detach(), std)

    def _draw_color(self, params: Tensor, uniforms: Tensor, values: Tensor, k: int, temperature: float) -> Tensor:
        C, K, last = values.shape[1], self.components, self.levels - 1
        params, uniforms = params.double(), uniforms.double()
        cdf = (params[:, :K] / temperature).softmax(1).cumsum(1)
        chosen = (cdf <= uniforms[:, :1]).sum(1).clamp_(max=K - 1)  # (N, H, W)
        parts = params[:, K:].unflatten(1, (C, -1, K))  # (N, C, 2 or 3, K, H, W)
        index = chosen[:, None, None, None].expand(*parts.shape[:3], 1, *chosen.shape[1:])
        parts = parts.gather(3, index).squeeze(3)
        mean, scale = parts[:, k, 0], parts[:, k, 1].clamp(min=LOG_SCALE_MIN).exp() * temperature
        for earlier in range(k):
            mean = mean + parts[:, earlier + k - 1, 2].tanh() * (2 * values[:, earlier].double() / last - 1)
        x = mean + scale * uniforms[:, 2 * k + 1].logit()
        bin = ((x + 1) * last / 2 + 0.5).floor()
        return torch.where(bin > 0, bin, 0).clamp(max=last).long()  # what is no number is 0, as in compiled code

    def __repr__(self) -> str:
        return f"DiscretizedLogisticMixture(components={self.components}, levels={self.levels})"
