"""Generative adversarial nets: Goodfellow et al., "Generative Adversarial Nets", 2014, arXiv:1406.2661.

    min_G max_D V(D, G) = E[log D(x)] + E[log(1 − D(G(z)))]                                                        eq. 1
    D*(x) = p(x) / (p(x) + q(x))   for a given G, whose images have the law q                             proposition 1
    C(G) = −log 4 + 2·JSD(p ‖ q)   is what is left for G, least where q = p and D* = ½                         theorem 1

    z ~ U(±√3) ── [ linear, ReLU ] × 2 ── linear ── tanh ── image
    image ── [ linear, maxout of 5 ] × 2, dropout ── linear ── score

Sizes are those of the paper's experiments on MNIST, from its published code (goodfeli/adversarial, mnist.yaml): weights
U(±0.05) in the generator and U(±0.005) in the discriminator, whose input is kept with probability 0.8 and hidden
layers with 0.5. Images are in [−1, 1] here, by tanh, and in [0, 1] there, by a sigmoid.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from .._checks import check_number, check_option
from .adversarial import AdversarialModel
from .discriminators import Conditioning, Discriminator
from .game import Game
from .model import check_positive
from .networks import as_widths, check_class, mlp, with_class


class GAN(AdversarialModel):
    """Generative adversarial nets, Goodfellow et al. 2014, arXiv:1406.2661: both fully connected.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        latent: dimensions of z.
        hidden: widths of the generator's layers.
        discriminator_hidden: widths of the discriminator's layers.
        activation: of the discriminator's layers: maxout, of 5 pieces, or relu, which is leaky here, of slope 0.2.
        dropout: part of the discriminator's hidden units that is dropped while training; of its input 0.4 of that.
        prior: of z: uniform, of unit variance, as in the paper; or normal.
        conditioning: with classes: concat, auxiliary or projection.
        classes: number of classes, or None for an unconditional model.
        image_size: one size or (H, W).
        game: settings of the game, ``Game`` or by name.
    """

    defaults: ClassVar = {**AdversarialModel.defaults, "batch_size": 100}
    recipes: ClassVar = {
        "paper": {"optimizer": "sgd", "lr": 0.1, "betas": (0.5, 0.999), "epochs": 250, "ema": 0.0},
        "small": {"hidden": (256, 512), "discriminator_hidden": (128, 128), "epochs": 30, "prior": "normal"},
    }
    """paper: its published code: SGD at 0.1, which falls there by 1.000004 each step, to 1e-6 at least, and momentum
    0.5, which rises there to 0.7 over 250 epochs; neither change is an option here. It ends when somebody stops it."""

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 256,
        latent: int = 100,
        hidden: tuple[int, ...] = (1200, 1200),
        discriminator_hidden: tuple[int, ...] = (240, 240),
        activation: Literal["maxout", "relu"] = "maxout",
        dropout: float = 0.5,
        prior: Literal["uniform", "normal"] = "uniform",
        conditioning: Conditioning = "concat",
        classes: int | None = None,
        image_size: int | tuple[int, int] = 28,
        game: Game | None = None,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size, latent, game, prior)
        self.hidden = as_widths("hidden", hidden)
        self.discriminator_hidden = as_widths("discriminator_hidden", discriminator_hidden)
        if not self.discriminator_hidden:
            raise ValueError("discriminator_hidden: expected one width or more, got none")
        self.activation = check_option("activation", activation, ("maxout", "relu"))
        self.dropout = check_number("dropout", dropout, 0, 0.95)
        self.conditioning = conditioning
        shape = (in_channels, *self.sides)
        self.generator = GANGenerator(shape, latent, self.hidden, classes)
        self.discriminator = GANDiscriminator(
            shape, self.discriminator_hidden, activation, self.dropout, classes, conditioning
        )
        self.settings.check_discriminator(self.discriminator)


class GANGenerator(nn.Module):
    """z (N, latent), and labels (N,) of a conditional one → images (N, C, H, W) in [−1, 1]."""

    def __init__(
        self, shape: tuple[int, int, int], latent: int, hidden: tuple[int, ...], classes: int | None = None
    ) -> None:
        super().__init__()
        self.shape, self.classes = shape, classes
        C, H, W = shape
        self.layers = mlp((latent + (classes or 0), *hidden, C * H * W), nn.ReLU)
        _uniformly(self.layers, 0.05)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        check_class(labels, z.shape[0], self.classes)
        return torch.tanh(self.layers(with_class(z, labels, self.classes))).unflatten(1, self.shape)


class GANDiscriminator(Discriminator):
    """Images (N, C, H, W) in [−1, 1] → scores (N,)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        hidden: tuple[int, ...],
        activation: str = "maxout",
        dropout: float = 0.5,
        classes: int | None = None,
        conditioning: Conditioning = "concat",
    ) -> None:
        super().__init__(hidden[-1], classes, conditioning)
        C, H, W = shape
        layers: list[nn.Module] = [nn.Dropout(0.4 * dropout)]
        for inputs, outputs in zip((C * H * W + self.beside, *hidden), hidden, strict=False):
            layers += [Maxout(inputs, outputs)] if activation == "maxout" else [nn.Linear(inputs, outputs)]
            layers += [nn.Dropout(dropout)] if activation == "maxout" else [nn.LeakyReLU(0.2), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(hidden[-1], 1)
        if activation == "maxout":
            _uniformly(self, 0.005)

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(with_class(x.flatten(1), labels, self.beside))

    def score(self, features: Tensor) -> Tensor:
        return self.last(features).flatten()


class Maxout(nn.Module):
    """The largest of ``pieces`` linear maps, unit by unit: Goodfellow et al. 2013, arXiv:1302.4389, eq. 1.

    Args:
        inputs: numbers of x.
        outputs: units.
        pieces: k.
    """

    def __init__(self, inputs: int, outputs: int, pieces: int = 5) -> None:
        super().__init__()
        check_positive(inputs=inputs, outputs=outputs, pieces=pieces)
        self.pieces = pieces
        self.linear = nn.Linear(inputs, outputs * pieces)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) → (N, outputs)"""
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


@torch.no_grad()
def _uniformly(network: nn.Module, most: float) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.weight, -most, most)
            nn.init.zeros_(layer.bias)
