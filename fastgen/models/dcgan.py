"""DCGAN: Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks", 2016, arXiv:1511.06434.

    z ~ N(0, I) ── [ up-convolution, batch norm, ReLU ] × k ── up-convolution ── tanh ── image                figure 1
    image ── convolution, LeakyReLU ── [ convolution, batch norm, LeakyReLU ] × (k − 1) ── convolution ── score

Its guidelines (section 3), each where the code follows it: (1) strides in place of pooling; (2) batch norm in both,
but for the generator's last layer and the discriminator's first; (3) no fully connected hidden layers; (4) ReLU in the
generator, tanh at its end; (5) LeakyReLU of slope 0.2 in the discriminator. Weights begin as N(0, 0.02) (section 4).

Modules and names of weights are those of PyTorch's example, examples/dcgan/main.py, whose checkpoints load strictly
into ``generator`` and ``discriminator``, and the other way round.
"""

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._checks import check_option
from ..nn import Conv2dChain, ConvTranspose2dChain
from .adversarial import AdversarialModel
from .discriminators import (
    NORMALIZATIONS,
    Conditioning,
    Discriminator,
    Normalization,
    normalization_named,
    with_planes,
)
from .game import Game
from .model import check_positive
from .networks import check_class, halved, with_class


class DCGAN(AdversarialModel):
    """DCGAN, Radford, Metz and Chintala 2016, arXiv:1511.06434: a generator and a discriminator of convolutions.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        latent: dimensions of z.
        channels: of the layer next to the image in both networks; each further one has twice as many.
        normalization: of the discriminator's layers: batch, as in the paper; spectral, layer, instance or none, which
            go with a gradient penalty, too.
        conditioning: with classes: concat, beside z and beside the image; auxiliary, an auxiliary classifier; or
            projection. The generator reads a class beside z in all three.
        classes: number of classes, or None for an unconditional model.
        image_size: one size or (H, W), in pixels; it is halved, rounded down, to 4 to 7 pixels on its shorter side.
        game: settings of the game, ``Game`` or by name.
    """

    recipes: ClassVar = {
        "paper": {"channels": 128, "batch_size": 128, "ema": 0.0},
        "small": {"channels": 32, "epochs": 7, "batch_size": 64, "lr": 4e-4},
    }
    """paper: section 4: Adam at 2e-4 with β₁ = 0.5, batches of 128. z is uniform there; its scenes were trained on for
    five epochs, faces and ImageNet for a number that it does not say; the number of filters is that of figure 1."""

    def __init__(
        self,
        in_channels: int = 3,
        levels: int = 256,
        latent: int = 100,
        channels: int = 64,
        normalization: Normalization = "batch",
        conditioning: Conditioning = "concat",
        classes: int | None = None,
        image_size: int | tuple[int, int] = 64,
        game: Game | None = None,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size, latent, game)
        check_positive(channels=channels)
        self.channels = int(channels)
        self.normalization = check_option("normalization", normalization, NORMALIZATIONS)
        self.conditioning: Any = conditioning
        widths, sizes = stages(self.sides, self.channels)
        self.generator = DCGANGenerator(in_channels, latent, widths, sizes, classes)
        self.discriminator = DCGANDiscriminator(in_channels, widths, sizes[-1], normalization, classes, conditioning)
        self.apply(begin)
        self.normalize(normalization)


class DCGANGenerator(nn.Module):
    """z (N, latent), or (N, latent, 1, 1), and labels (N,) of a conditional one → images (N, C, H, W) in [−1, 1].

    Args:
        out_channels: C, colours.
        latent: dimensions of z.
        widths: channels of each stage, from the image inwards.
        sizes: (h, w) of the image and of each stage.
        classes: number of classes, or None.
    """

    def __init__(
        self,
        out_channels: int,
        latent: int,
        widths: list[int],
        sizes: list[tuple[int, int]],
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        outwards = [*widths[::-1], out_channels]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent + (classes or 0), widths[-1], sizes[-1], 1, 0, bias=False)]
        for (inputs, outputs), (H, W) in zip(pairwise(outwards), sizes[-2::-1], strict=True):
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(True)]  # guidelines 2 and 4
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, (H % 2, W % 2), bias=False)]  # guideline 1
        self.main = ConvTranspose2dChain(*layers, nn.Tanh())

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        check_class(labels, z.shape[0], self.classes)
        z = with_class(z.flatten(1), labels, self.classes)  # (N, latent + K)
        return self.main(z[:, :, None, None])  # (N, C, H, W)


class DCGANDiscriminator(Discriminator):
    """Images (N, C, H, W) in [−1, 1] → scores (N,): logits, as PyTorch's example has them before its sigmoid.

    Args:
        in_channels: C, colours.
        widths: channels of each stage, from the image inwards.
        start: (h, w) of the innermost stage.
        normalization: batch, spectral, layer, instance or none.
        classes: number of classes, or None.
        conditioning: concat, auxiliary or projection.
    """

    def __init__(
        self,
        in_channels: int,
        widths: list[int],
        start: tuple[int, int],
        normalization: Normalization = "batch",
        classes: int | None = None,
        conditioning: Conditioning = "concat",
    ) -> None:
        super().__init__(widths[-1] * start[0] * start[1], classes, conditioning)
        self.inner = (widths[-1], *start)
        bias = normalization in ("spectral", "none")  # nothing else shifts a channel
        layers: list[nn.Module] = [nn.Conv2d(in_channels + self.beside, widths[0], 4, 2, 1, bias=bias)]
        layers += [nn.LeakyReLU(0.2, True)]  # guideline 5; guideline 2: no batch norm here
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=bias)]  # guideline 1
            layers += [normalization_named(normalization, outputs), nn.LeakyReLU(0.2, True)]
        self.main = Conv2dChain(*layers, nn.Conv2d(widths[-1], 1, start, 1, 0, bias=bias))  # guideline 3

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.main[:-1](with_planes(x, labels, self.beside)).flatten(1)  # (N, F)

    def score(self, features: Tensor) -> Tensor:
        return self.main[-1](features.unflatten(1, self.inner)).flatten()


def stages(sides: tuple[int, int], channels: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Channels of each stage, and its (h, w) with the image's first, from the image inwards: halved to 4 to 7 pixels.

    Raises:
        ValueError: the image is too small to be halved.
    """
    count = 1
    while min(sides) >> (count + 1) >= 4:
        count += 1
    if min(sides) < 2:
        raise ValueError(f"image_size: expected sides of 2 pixels or more, got {sides}")
    return [channels * 2**stage for stage in range(count)], halved(sides, count)


@torch.no_grad()
def begin(layer: nn.Module) -> None:
    """Weights N(0, 0.02) around 0, and around 1 for batch norm, as PyTorch's example has them."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
