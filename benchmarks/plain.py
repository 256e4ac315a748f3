"""The models of bench_models.py as they are written without fastgen."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench_masked_conv2d import activate
from fastgen.models.gated_pixelcnn import GatedLayer
from fastgen.models.pixelcnnpp_layers import GatedBlock, ShiftedConv2d
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


def concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat((x, -x), dim=1))


class PlainShiftedConv2d(ShiftedConv2d):
    def forward(self, x: Tensor, dropout: nn.Module | None = None) -> Tensor:
        x = concat_elu(x) if self.activated else x
        return self.conv(F.pad(x if dropout is None else dropout(x), self.padding))


class PlainGatedBlock(GatedBlock):
    def forward(self, x: Tensor, other: Tensor | None, labels: Tensor | None) -> Tensor:
        h = self.input(x) if self.other is None else self.input(x) + self.other(concat_elu(other))
        h = self.output(h, self.dropout)
        a, b = (h if self.class_bias is None else h + self.class_bias(labels)[:, :, None, None]).chunk(2, dim=1)
        return x + a * torch.sigmoid(b)


PLAIN = {GatedLayer: PlainGatedLayer, ShiftedConv2d: PlainShiftedConv2d, GatedBlock: PlainGatedBlock}


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
        elif type(module) in PLAIN:
            module.__class__ = PLAIN[type(module)]
    return model


# ---- a variational autoencoder


class VAE(nn.Module):
    """Kingma and Welling 2014, arXiv:1312.6114, of two networks: x → (μ, log σ²) side by side, and z → logits."""

    def __init__(self, sampler: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder, self.sampler = encoder, decoder, sampler

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, kl = self.sampler(self.encoder(x))
        return self.decoder(z), kl


def connected(pixels: int, hidden: int, latents: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder with the sizes of pytorch/examples."""
    encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latents))
    return encoder, nn.Sequential(nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, pixels))


def convolutional(channels: int, latents: int, size: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of images of one colour: two convolutions that halve them, and two that double them again."""
    inner, small = 2 * channels, size // 4
    encoder = nn.Sequential(
        nn.Conv2d(1, channels, 4, 2, 1), nn.ReLU(), nn.Conv2d(channels, inner, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(inner * small**2, 2 * latents),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(latents, inner * small**2), nn.ReLU(), nn.Unflatten(1, (inner, small, small)),
        nn.ConvTranspose2d(inner, channels, 4, 2, 1), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.ConvTranspose2d(channels, 1, 4, 2, 1),
    )  # fmt: skip
    return encoder, decoder


class HandWritten(nn.Module):
    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = h.chunk(2, dim=1)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return z, -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1)


class Reference(nn.Module):
    """Draws the noise of :class:`fastgen.nn.GaussianRSample`, in plain torch."""

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        seed = torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=h.device)
        return rsample_kl_reference(*h.chunk(2, dim=1), seed)


# ---- the networks of a DCGAN


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


def discriminator(channels: int, size: int) -> nn.Sequential:
    """Radford et al. 2016, arXiv:1511.06434, section 3: from images of ``size`` to logits (N, 1, 1, 1)."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    width = channels
    while width < channels * size // 8:
        layers.append(nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, True)]
        width *= 2
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 0, bias=False))


class RealAndFake(nn.Module):
    """A discriminator on both, each a batch of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(real), self.network(fake)
