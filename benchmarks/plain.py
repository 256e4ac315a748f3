"""The models of bench_models.py as they are written without fastgen."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench_masked_conv2d import activate
from fastgen.models.gated_pixelcnn import GatedLayer
from fastgen.nn import MaskedConv2d
from fastgen.ops import masked_conv2d_mask
from fastgen.ops.rsample_kl import rsample_kl_reference

# ---- autoregressive models


class PlainMaskedConv2d(MaskedConv2d):
    """As most write it: the mask multiplied into the weight, then one op after the other."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        p = activate(F.conv2d(x, self.weight * self.taps, self.bias, padding=self.padding), self.activation)
        return p if residual is None else p + residual


class PlainGatedLayer(GatedLayer):
    def forward(
        self, v: Tensor, h: Tensor, labels: Tensor | None, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        above = self.vertical(F.pad(v, (0, 0, self.vertical.kernel_size[0] - 1, 0)))
        here = self.horizontal(h, residual=self.link(above))
        found = self.dropout(activate(here, "gated"))
        return activate(above, "gated"), self.out(found, residual=h if self.residual else None)


def plain(model: nn.Module) -> nn.Module:
    """A copy of the model in which no op of fastgen is left."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module) is MaskedConv2d:
            taps = masked_conv2d_mask(
                module.weight, module.mask, module.activation, module.color_groups, module.groups_order
            )
            module.register_buffer("taps", taps.to(module.weight), persistent=False)
            module.__class__ = PlainMaskedConv2d
        elif type(module) is GatedLayer:
            module.__class__ = PlainGatedLayer
    return model


# ---- a variational autoencoder


class VAE(nn.Module):
    """Kingma and Welling 2014, arXiv:1312.6114, with the sizes of pytorch/examples."""

    def __init__(self, sampler: nn.Module, pixels: int, hidden: int, latents: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, pixels))
        self.sampler = sampler

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, kl = self.sampler(*self.encoder(x).chunk(2, dim=1))
        return self.decoder(z), kl


class HandWritten(nn.Module):
    def forward(self, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return z, -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1)


class Reference(nn.Module):
    """Draws the noise of :class:`fastgen.nn.GaussianRSample`, in plain torch."""

    def forward(self, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        seed = torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=mu.device)
        return rsample_kl_reference(mu, logvar, seed)


# ---- the generator of a DCGAN


def generator(latents: int, channels: int, size: int) -> nn.Sequential:
    """Radford et al. 2016, arXiv:1511.06434, Figure 1: from (N, latents, 1, 1) to images of ``size``."""
    width = channels * size // 8
    layers: list[nn.Module] = [nn.ConvTranspose2d(latents, width, 4, 1, 0, bias=False)]
    while width > channels:
        layers += [nn.BatchNorm2d(width), nn.ReLU(True)]
        layers.append(nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False))
        width //= 2
    layers += [nn.BatchNorm2d(width), nn.ReLU(True), nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers)
