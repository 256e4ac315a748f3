"""Autoencoders, in the three ages that a course tells of: linear and sigmoid; deep; ReLU convolutional.

    x ── encoder ── code ── decoder ── x̂          L = ‖x − x̂‖²                  Hinton and Salakhutdinov, Science 2006

Age 1: one linear layer each way, each followed by a sigmoid (Rumelhart, Hinton and Williams 1986). Without the sigmoids
the least L is that of PCA with as many components as the code has dimensions: both span the same subspace (Baldi and
Hornik 1989). Age 2: deep, fully connected. Age 3: convolutions down, up-convolutions up, with ReLU.

The sizes say which: ``Autoencoder(hidden=(), channels=())`` is of the first age, ``hidden=(512, 128)`` of the second,
``channels=(32, 64)`` of the third. x and x̂ are in [0, 1].
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .._checks import check_flag, check_floating, check_number
from .._shadow import evaluated
from ..measures import Measure
from .model import LatentModel, check_positive
from .networks import Activation, Decoder, Encoder, as_widths

AGES: dict[str, dict] = {
    "linear": {"hidden": (), "channels": (), "squash": True},
    "deep": {"hidden": (512, 128), "channels": (), "squash": False},
    "convolutional": {"hidden": (), "channels": (32, 64), "squash": False},
}
"""The sizes of each age; without ``squash`` the linear one is PCA's equal."""


class Autoencoder(LatentModel):
    """Autoencoder of one of three ages: linear and sigmoid; deep; convolutional with up-convolutions.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        latent: dimensions of the code.
        hidden: widths of the fully connected layers, from the image to the code; the decoder has them reversed.
        channels: of the convolutions; each halves the image.
        activation: between layers.
        squash: a sigmoid on the code, as in the first age.
        sigmoid: a sigmoid on the image, which keeps it in (0, 1).
        image_size: one size or (H, W).
    """

    recipes: ClassVar = {
        "paper": {"latent": 30, "hidden": (1000, 500, 250), "activation": "sigmoid"},
        "small": {"latent": 16, "epochs": 10, "lr": 2e-3, "schedule": "cosine"},
    }
    """paper: the 784-1000-500-250-30 network of handwritten digits, Science 2006. It began with weights of restricted
    Boltzmann machines and was trained by conjugate gradients: neither is here, and the optimiser is the default's."""

    @classmethod
    def arguments(
        cls,
        age: Literal["linear", "deep", "convolutional"] = "deep",
        hidden: tuple[int, ...] | None = None,
        channels: tuple[int, ...] | None = None,
        sigmoid: bool = True,
    ) -> dict[str, Any]:
        """Sizes by their age.

        Args:
            age: sets the sizes that are not given.
            hidden: widths of the fully connected layers, from the image to the code; by default the age's.
            channels: of the convolutions, each of which halves the image; by default the age's.
            sigmoid: sigmoids on the image and, in the linear age, on the code; without them the linear one is PCA's
                equal.
        """
        given = {name: widths for name, widths in (("hidden", hidden), ("channels", channels)) if widths is not None}
        sizes = AGES[age] | given
        return sizes | {"squash": sizes["squash"] and sigmoid, "sigmoid": sigmoid}

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 256,
        latent: int = 32,
        hidden: tuple[int, ...] = (512, 128),
        channels: tuple[int, ...] = (),
        activation: Activation = "relu",
        squash: bool = False,
        sigmoid: bool = True,
        image_size: int | tuple[int, int] = 28,
    ) -> None:
        super().__init__(in_channels, levels, None, image_size)
        check_positive(latent=latent)
        self.latent = int(latent)
        self.hidden = as_widths("hidden", hidden)
        self.channels = as_widths("channels", channels)
        self.activation = activation
        self.squash = check_flag("squash", squash)
        self.sigmoid = check_flag("sigmoid", sigmoid)
        self.encoder = Encoder(
            in_channels, self.sides, latent, self.hidden, self.channels, activation, squash=squash
        )  # fmt: skip
        self.decoder = Decoder(in_channels, self.sides, latent, self.hidden, self.channels, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (N, C, H, W) in [0, 1] → x̂, (N, C, H, W); in (0, 1) with a sigmoid."""
        self.check_dtype("x", check_floating("x", x, ("N", self.in_channels, *self.sides)))
        return self._decode(self.encoder(x))

    def losses(self, values: Tensor, labels: Tensor | None = None, progress: float = 1.0) -> dict[str, Tensor]:
        """{"squared_error": ‖x − x̂‖²}, (N,)."""
        self.check_images(values)
        check_number("progress", progress, 0, 1)
        x = self.to_input(values)
        error = x - self(x).to(x.dtype)
        return {"squared_error": (error * error).flatten(1).sum(1)}

    @property
    def measures(self) -> dict[str, Measure]:
        return {"squared_error": Measure("‖x − x̂‖² of an image, its values in [0, 1]")}

    def encode(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_images(values)
        self.check_labels(values.shape[0], labels)
        return self.encoder(self.to_input(values))

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_codes(z)
        self.check_labels(z.shape[0], labels)
        return self._decode(z).clamp(0, 1) * (self.levels - 1)

    preview_rows = ("given", "reconstructed")

    def preview(self, n: int, seed: int, values: Tensor, labels: Tensor | None) -> list[Tensor]:
        """Held-out images, and what becomes of them."""
        with evaluated(self) as model:
            return [values[:n], model.reconstruct(values[:n])]

    def _decode(self, z: Tensor) -> Tensor:
        image = self.decoder(z)
        return torch.sigmoid(image) if self.sigmoid else image
