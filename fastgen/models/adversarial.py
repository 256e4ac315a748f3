"""What adversarial models share: a generator of images from noise, a discriminator that tells them from the data's.

    z ~ prior ── generator ── image in [−1, 1]          image ── discriminator ── score: is it of the data?

They draw, and know no p(x). Both play by ``Game``; how they are trained is ``AdversarialObjective``.
"""

import math
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from .._checks import check_finite, check_instance, check_integer, check_option
from .._draws import uniforms_of_batch
from .._philox import uniforms_like
from ..conditions import Labels
from ..measures import Measure
from .adversarial_objective import AdversarialObjective
from .discriminators import spectrally_normalized
from .drawing import draw_in_parts
from .game import GAME_FIELDS, Game, as_game
from .likelihoods import normals_from
from .model import DecodingModel, check_positive
from .networks import as_widths

Prior = Literal["normal", "uniform"]
PRIORS = ("normal", "uniform")
BY_PIXELS = {
    "pixel_distance": Measure("kernel distance of averaged pixels and their contrast, drawn to held-out images"),
    "diversity": Measure("mean distance of two drawn images, that of two held-out ones being 1"),
}


class AdversarialModel(DecodingModel):
    """Base of adversarial models: a subclass sets ``generator`` and ``discriminator``, and ``defaults``.

    Attributes:
        generator: (z (N, latent), labels int64 (N,) or None) → images (N, C, H, W) in [−1, 1].
        discriminator: (images, labels or None) → scores (N,).
        latent: dimensions of z.
        prior: of z: normal, N(0, I); uniform, of unit variance, each in ±√3.
        game: settings of the game, JSON-ready.
    """

    defaults: ClassVar = {
        "optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999), "clip": 0.0, "drop_last": True, "ema": 0.99,
    }  # fmt: skip
    """Adam as DCGAN has it; no clipping; batches of one size, since their statistics count; a short average."""
    needs: ClassVar = {
        "conditioning": {"conditional": ()},
        "class_weight": {"conditioning": ("auxiliary",)},
        "fake_class_weight": {"conditioning": ("auxiliary",)},
        "generator_class_weight": {"conditioning": ("auxiliary",)},
    }
    unaveraged: ClassVar[tuple[str, ...]] = ("discriminator",)
    per_dimension = False
    """Losses are of an image as a whole."""

    generator: Any
    discriminator: Any
    settings: Any

    def __init__(
        self,
        in_channels: int,
        levels: int,
        classes: int | None,
        image_size: int | tuple[int, int] | None,
        latent: int,
        game: Game | dict[str, Any] | None = None,
        prior: str = "normal",
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size)
        check_positive(latent=latent)
        self.latent = int(latent)
        self.settings = as_game(game, dict(self.defaults))
        self.prior = check_option("prior", prior, PRIORS)

    def normalize(self, normalization: str) -> None:
        """Put spectral normalisation into the discriminator where ``normalization`` is "spectral"; others are layers.

        Raises:
            ValueError: the settings and the network are known not to go together.
        """
        if normalization == "spectral":
            spectrally_normalized(self.discriminator)
        self.settings.check_discriminator(self.discriminator)

    @property
    def game(self) -> dict[str, Any]:
        """The settings of the game, by name."""
        return self.settings.config

    @classmethod
    def default_game(cls) -> Game:
        """The game that the model's paper plays."""
        return as_game(None, dict(cls.defaults))

    def objective(self) -> AdversarialObjective:
        """Two players, who moves when, and by what the outcome is measured.

        Raises:
            ValueError: the settings and the networks are known not to go together; the message says why.
        """
        return AdversarialObjective(self)

    def losses(self, values: Tensor, labels: Tensor | None = None, progress: float = 1.0) -> dict[str, Tensor]:
        """What the discriminator minimises, beside images drawn anew, and what else its player watches, (N,) each."""
        return self.objective().discriminated(values, labels, progress)

    @property
    def measures(self) -> dict[str, Measure]:
        kind = self.settings.loss
        told = BY_PIXELS | {"loss": Measure(f"what the discriminator minimises, {kind}: no likelihood")}
        if self.settings.pair.threshold is None:
            return told | {"wasserstein": Measure("score of an image less that of a drawn one, by the critic")}
        right = "share of {} images that the discriminator tells right"
        told["accuracy_on_real"] = Measure(right.format("held-out"))
        return told | {"accuracy_on_fake": Measure(right.format("drawn"))}

    def to_images(self, values: Tensor) -> Tensor:
        """Integers (N, C, H, W) in [0, levels) → images as generator and discriminator know them, in [−1, 1]."""
        if self.settings.dequantize:
            self.check_levels(values)
            x = values.to(next(self.parameters()).dtype)
            return ((x + uniforms_of_batch(len(x), tuple(x.shape[1:]), x)) * (2 / self.levels) - 1).to(x.dtype)
        return 2 * self.to_input(values) - 1

    def to_values(self, images: Tensor) -> Tensor:
        """Images in [−1, 1] → floating point in [0, levels − 1]; what is beyond is cut.

        To the nearest integer they are the values that ``to_images`` made them of; a dequantised value v was anywhere
        in [v, v + 1) / levels of the range.
        """
        if self.settings.dequantize:
            return ((images + 1) * (self.levels / 2) - 0.5).clamp(0, self.levels - 1)
        return ((images + 1) * ((self.levels - 1) / 2)).clamp(0, self.levels - 1)

    def noise(self, n: int) -> Tensor:
        """Z for training, (n, latent): in a step that of an image depends on seed, step, player and place in the batch.

        Outside of training it is from torch's generator.
        """
        like, n = next(self.generator.parameters()), check_integer("n", n, 0)
        return self._codes_from(uniforms_of_batch(n, (self.latent,), like)).to(like.dtype)

    def draw_codes(self, n: int, seed: int, *, first: int = 0, temperature: float = 1.0) -> Tensor:
        """Z of ``n`` images, (n, latent): that of image i depends on (seed, first + i) alone."""
        like = next(self.generator.parameters())
        z = self._codes_from(uniforms_like(like, seed, n, (self.latent,), first)).to(like.dtype)
        return check_finite("temperature", temperature * z, f"one that leaves codes finite, not {temperature}")

    def _codes_from(self, u: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) → z."""
        return normals_from(u) if self.prior == "normal" else (2 * u - 1) * math.sqrt(3)

    def decode(self, z: Tensor, labels: Labels | None = None) -> Tensor:
        """The images of codes (N, latent), floating point (N, C, H, W) in [0, levels − 1]; as the modules' mode is."""
        self.check_codes(z)
        return self.to_values(self.generator(z, self.check_labels(z.shape[0], labels)))

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        labels: Labels | None = None,
        temperature: float = 1.0,
        first: int = 0,
    ) -> Tensor:
        """Draw images, in eval mode: image i depends on (seed, first + i) and its label, and on no other image.

        Args:
            n: how many.
            seed: any 64-bit integer; by default one from torch's generator.
            labels: integers (n,), a tensor, an array or a list, or one for all; for a model with classes.
            temperature: scales the codes; below 1 gives less varied images, nearer to that of the code 0.
            first: index of the first image.

        Returns:
            int64 (n, C, H, W) in [0, levels).

        Raises:
            ValueError: an argument does not fit, or an image is not finite.
        """
        found = self.check_labels(check_integer("n", n, 1), labels)
        return draw_in_parts(self, n, seed, found, temperature, first, _images)


def _images(model: Any, count: int, seed: int, first: int, labels: Tensor | None, temperature: float) -> Tensor:
    images = model.generator(model.draw_codes(count, seed, first=first, temperature=temperature), labels)
    return model.to_values(check_finite("model", images, "finite images"))  # before what is infinite is cut


class AdversarialPair(AdversarialModel):
    """Any generator and any discriminator: ``fastgen.training.Trainer`` trains them, and they are sampled from.

    Equivalent to:
        the loop of the DCGAN example of PyTorch, with every loss and penalty of ``fastgen.losses``.

    Args:
        generator: (z (N, latent)) → images (N, C, H, W) in [−1, 1]; with ``classes``, (z, labels).
        discriminator: images → scores (N,), or (N, 1) or (N, 1, 1, 1); with ``classes``, (images, labels). It ends in
            a score, and in no sigmoid.
        latent: dimensions of z.
        in_channels: C, colours.
        image_size: one size or (H, W).
        levels: values of a pixel.
        classes: number of classes, or None for networks that are told none.
        game: settings of the game.
        code_shape: of one z as the generator reads it; (latent, 1, 1) for most generators of convolutions.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        latent: int = 100,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 64,
        levels: int = 256,
        classes: int | None = None,
        game: Game | dict[str, Any] | None = None,
        code_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size, latent, game)
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            check_instance(name, network, nn.Module, "a module")
        self.code_shape = (self.latent,) if code_shape is None else as_widths("code_shape", code_shape)
        if math.prod(self.code_shape) != self.latent:
            raise ValueError(f"code_shape: expected {self.latent} numbers, latent, got {self.code_shape}")
        self.settings.check_discriminator(discriminator)
        self.generator = _Generator(generator, self.code_shape, (self.in_channels, *self.sides))
        self.discriminator = _Discriminator(discriminator)


class _Generator(nn.Module):
    def __init__(self, network: nn.Module, shape: tuple[int, ...], image: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.shape, self.image = network, shape, image

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        z = z.view(-1, *self.shape)
        images: Tensor = self.network(z) if labels is None else self.network(z, labels)
        expected = (z.shape[0], *self.image)
        if tuple(images.shape) != expected:
            raise ValueError(f"generator: expected images {expected}, got {tuple(images.shape)}")
        return images


class _Discriminator(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        scores = self.network(x) if labels is None else self.network(x, labels)
        if scores.numel() != len(x):
            raise ValueError(
                f"discriminator: expected one score for each of {len(x)} images, got {tuple(scores.shape)}"
            )
        return scores.view(-1)


__all__ = ["GAME_FIELDS", "AdversarialModel", "AdversarialObjective", "AdversarialPair", "Game", "Prior"]
