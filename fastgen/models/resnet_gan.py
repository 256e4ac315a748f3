"""WGAN-GP's residual networks: Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, "Improved Training of Wasserstein
GANs", 2017, arXiv:1704.00028.

    critic     makes   E f(G(z)) − E f(x) + λ·E (‖∇f(x̂)‖ − 1)²   small,   x̂ = ε·x + (1 − ε)·G(z)       eq. 3, λ = 10
    generator  makes   −E f(G(z))                                 small,   once for five moves of the critic

    z ~ N(0, I) ── linear ── [ up-block ] × k ── batch norm, ReLU, 3×3 ── tanh ── image
    image ── [ down-block ] × 2 ── [ block ] × 2 ── ReLU, mean over pixels ── linear ── score               at 32 pixels
    image ── 3×3 ── [ down-block ] × k ── linear ── score                                                   at 64 pixels

Layer by layer as in the published code (igul222/improved_wgan_training): gan_cifar_resnet.py, whose blocks have one
width; and gan_64x64.py, whose widths double inwards, up to eightfold. Sides are halved, rounded down, to 4 to 7 pixels
on the shorter side: 28 → 14 → 7 has two up-blocks; a side that was odd gets its last row back as zeros before the
convolution. The critic has no normalisation at 32 pixels, and layer norm at 64 (``normalization``); batch norm would
make an image's score depend on those beside it, whose slope is no longer one image's.

With spectral norm or projection, features are summed over pixels in place of averaged, as in the networks of spectral
normalisation and of projection (pfnet-research/sngan_projection, snresnet_32.py); with the loss hinge and both they are
these, but for the generator's width, which is twice the discriminator's there.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_option
from .adversarial import AdversarialModel
from .dcgan import stages
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
from .networks import check_class, with_class
from .residual_blocks import ConditionalBatchNorm2d, DownBlock, Norm, UpBlock, begun

Widths = Literal["by-size", "constant", "doubling"]
WIDTHS = ("by-size", "constant", "doubling")


class ResNetGAN(AdversarialModel):
    """WGAN-GP's residual networks, Gulrajani et al. 2017, arXiv:1704.00028.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        latent: dimensions of z.
        channels: of the layer next to the image in both networks; the paper has 128 at 32 pixels and 64 at 64.
        widths: constant, the networks for 32 pixels, all of whose blocks are so wide; doubling, those for 64, whose
            blocks are twice as wide at each halving, up to eight times; by-size takes these from 64 pixels on.
        normalization: of the discriminator's blocks: none, layer or spectral; batch without a penalty.
        conditioning: with classes: auxiliary, an auxiliary classifier, as in the paper; projection; or concat, beside z
            and beside the image. With the first two the generator's batch norms are conditional.
        classes: number of classes, or None for an unconditional model.
        image_size: one size or (H, W), in pixels.
        game: settings of the game, ``Game`` or by name.
    """

    defaults: ClassVar = {
        **AdversarialModel.defaults, "betas": (0.0, 0.9), "schedule": "linear", "loss": "wasserstein",
        "gradient_penalty": 10.0, "discriminator_steps": 5, "dequantize": True,
    }  # fmt: skip
    recipes: ClassVar = {
        "paper": {
            **{"channels": 128, "batch_size": 64, "epochs": 640, "ema": 0.0},
            **{"fake_class_weight": 0.0, "generator_class_weight": 0.1},
        },
        "small": {"channels": 16, "discriminator_steps": 3, "lr": 1e-3, "epochs": 10, "channels_last": True},
    }
    """paper: gan_cifar_resnet.py: 100,000 moves of the generator, each after five of the critic on batches of 64, are
    640 epochs of CIFAR-10. With classes, an auxiliary classifier learns from real images alone, and weighs 0.1 in the
    generator's loss. The generator's own batches are of 128 images there, and the classes of those are drawn."""

    def __init__(
        self,
        in_channels: int = 3,
        levels: int = 256,
        latent: int = 128,
        channels: int = 128,
        widths: Widths = "by-size",
        normalization: Normalization = "none",
        conditioning: Conditioning = "auxiliary",
        classes: int | None = None,
        image_size: int | tuple[int, int] = 32,
        game: Game | None = None,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size, latent, game)
        check_positive(channels=channels)
        self.channels = int(channels)
        self.widths = check_option("widths", widths, WIDTHS)
        self.normalization = check_option("normalization", normalization, NORMALIZATIONS)
        self.conditioning = conditioning
        doubling = widths == "doubling" or (widths == "by-size" and min(self.sides) >= 64)
        sizes = stages(self.sides, 1)[1]
        wide = [self.channels * (2 ** min(stage, 3) if doubling else 1) for stage in range(len(sizes))]
        self.generator = ResNetGenerator(in_channels, latent, wide, sizes, classes, conditioning)
        self.discriminator = ResNetDiscriminator(
            in_channels, wide, sizes, doubling, normalization, classes, conditioning
        )
        self.normalize(normalization)


class ResNetGenerator(nn.Module):
    """z (N, latent), and labels (N,) of a conditional one → images (N, C, H, W) in [−1, 1].

    Args:
        out_channels: C, colours.
        latent: dimensions of z.
        widths: channels at the image's size and at each stage, inwards.
        sizes: (h, w) of the image and of each stage.
        classes: number of classes, or None.
        conditioning: concat, beside z; else by conditional batch norms.
    """

    def __init__(
        self,
        out_channels: int,
        latent: int,
        widths: list[int],
        sizes: list[tuple[int, int]],
        classes: int | None = None,
        conditioning: Conditioning = "concat",
    ) -> None:
        super().__init__()
        self.start, self.classes = (widths[-1], *sizes[-1]), classes
        self.beside = classes if conditioning == "concat" else None
        self.norms_are_told = classes is not None and conditioning != "concat"
        norm: Norm = nn.BatchNorm2d
        if classes is not None and self.norms_are_told:
            norm = partial(_conditional, classes)
        H, W = sizes[-1]
        self.linear = begun(nn.Linear(latent + (self.beside or 0), widths[-1] * H * W), relu=False)
        blocks = []
        for (inputs, outputs), (tall, wide), (h, w) in zip(
            pairwise(widths[::-1]), sizes[-2::-1], sizes[:0:-1], strict=True
        ):
            blocks.append(UpBlock(inputs, outputs, norm, (tall - 2 * h, wide - 2 * w)))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.BatchNorm2d(widths[0])
        self.last = begun(nn.Conv2d(widths[0], out_channels, 3, padding=1), relu=False)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        check_class(labels, z.shape[0], self.classes)
        h = self.linear(with_class(z, labels, self.beside)).unflatten(1, self.start)
        for block in self.blocks:
            h = block(h, labels if self.norms_are_told else None)
        return torch.tanh(self.last(F.relu(self.norm(h))))


class ResNetDiscriminator(Discriminator):
    """Images (N, C, H, W) in [−1, 1] → scores (N,).

    Args:
        in_channels: C, colours.
        widths: channels at the image's size and at each stage, inwards.
        sizes: (h, w) of the image and of each stage.
        doubling: whether it is the network for 64 pixels, which ends at the innermost stage, and reads all of it.
        normalization: none, layer, spectral, instance or batch.
        classes: number of classes, or None.
        conditioning: concat, auxiliary or projection.
    """

    def __init__(
        self,
        in_channels: int,
        widths: list[int],
        sizes: list[tuple[int, int]],
        doubling: bool = False,
        normalization: Normalization = "none",
        classes: int | None = None,
        conditioning: Conditioning = "concat",
    ) -> None:
        sums = normalization == "spectral" or (classes is not None and conditioning == "projection")
        pooling = "sum" if sums else "none" if doubling else "mean"
        width = widths[-1] * (math.prod(sizes[-1]) if pooling == "none" else 1)
        super().__init__(width, classes, conditioning)
        self.pooling = pooling
        norm: Norm = partial(normalization_named, normalization)
        inputs = in_channels + self.beside
        blocks: list[nn.Module]
        if doubling:
            blocks = [begun(nn.Conv2d(inputs, widths[0], 3, padding=1), relu=False)]
            blocks += [DownBlock(narrow, wide, norm) for narrow, wide in pairwise(widths)]
        else:
            d, halvings = widths[0], min(2, min(sizes[0]).bit_length() - 1)
            blocks = [DownBlock(inputs, d, norm, first=True)]
            blocks += [DownBlock(d, d, norm, pools=index < halvings) for index in range(1, 4)]
        self.blocks = nn.Sequential(*blocks)
        self.last = begun(nn.Linear(width, 1), relu=False)
        for name in ("embedding", "classifier"):
            if hasattr(self, name):
                begun(getattr(self, name), relu=False)

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.blocks(with_planes(x, labels, self.beside))
        if self.pooling == "none":
            return h.flatten(1)
        pool: Callable[..., Tensor] = torch.sum if self.pooling == "sum" else torch.mean
        return pool(F.relu(h), dim=(2, 3))  # (N, F)

    def score(self, features: Tensor) -> Tensor:
        return self.last(features).flatten()


def _conditional(classes: int, channels: int) -> nn.Module:
    return ConditionalBatchNorm2d(channels, classes)
