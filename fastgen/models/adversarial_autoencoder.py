"""Makhzani, Shlens, Jaitly, Goodfellow and Frey, "Adversarial Autoencoders", 2015, arXiv:1511.05644.

    x ── encoder ── z ── decoder ── x̂                ‖x − x̂‖² small: reconstruction
    z of the prior, or of the encoder ── discriminator ── score: is it of the prior?                          figure 1

Three phases for each batch, each with an optimiser of its own: encoder and decoder reconstruct; the discriminator tells
codes of the prior from the encoder's; the encoder, as the generator of codes, makes its own pass for the prior's.

The encoder is deterministic, as in most of the paper; encoder, decoder and discriminator have two layers of 1,000 units
(appendix A). Labels, all or some, come in as the prior is made for:

    mixture, swiss-roll     each class has a component of the prior; the discriminator reads z ⊕ one-hot of K + 1
                            classes, the last of which is "no label", with codes of the whole prior        section 2.3
    normal                  the decoder is told the class, and z is what the class leaves open: style        section 4
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .._checks import check_finite, check_flag, check_integer, check_number, check_option
from .._philox import uniforms_like
from ..conditions import Labels
from ..measures import Measure
from . import priors
from .adversarial_autoencoder_objective import AdversarialAutoencoderObjective
from .drawing import draw_in_parts
from .game import check_betas, check_lr
from .model import LatentModel, check_positive
from .networks import Decoder, Encoder, as_widths, check_class, mlp, with_class


class AdversarialAutoencoder(LatentModel):
    """Adversarial autoencoder, Makhzani et al. 2015, arXiv:1511.05644: codes that follow a prior of one's choice.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        prior: of codes: normal; mixture, Gaussians on a ring; or swiss-roll. See ``fastgen.models.priors``.
        prior_std: standard deviation of the normal prior; 5 in the paper's experiments on MNIST.
        latent: dimensions of the code; 8 by default with a normal prior, and always 2 with the others.
        components: of a mixture or a roll for a model without classes; otherwise each class has one.
        hidden: widths of the encoder's fully connected layers; the decoder has them reversed.
        channels: of the encoder's convolutions, each of which halves the image; none makes it fully connected.
        discriminator_hidden: widths of the discriminator's layers.
        noise: standard deviation of Gaussian noise on what the discriminator reads in training.
        adversarial_lr: learning rate of the discriminator, and of the encoder against it; default: that of
            reconstruction.
        adversarial_betas: of their optimisers; default: those of reconstruction.
        classes: number of classes, or None for a model that is told none.
        unlabelled: the last of the classes says that an image has no label.
        image_size: one size or (H, W).
    """

    defaults: ClassVar = {"optimizer": "adam", "lr": 1e-3, "clip": 0.0, "ema": 0.99, "drop_last": True}
    recipes: ClassVar = {
        "paper": {
            **{"prior_std": 5.0, "optimizer": "sgd", "lr": 0.01, "betas": (0.9, 0.999), "adversarial_lr": 0.1},
            **{"adversarial_betas": (0.1, 0.999), "batch_size": 100, "ema": 0.0},
        },
        "small": {
            **{"hidden": (256, 256), "discriminator_hidden": (256, 256), "noise": 0.1, "epochs": 20},
            **{"batch_size": 100, "adversarial_betas": (0.5, 0.999)},
        },
    }
    """paper: appendix A.1: codes of 8 dimensions, SGD with momentum 0.9 and 0.1; the rates fall to a tenth there after
    50 and 1,000 epochs, which is no option here, and for how long it goes on after that the paper does not say."""
    needs: ClassVar = {
        "prior_std": {"prior": ("normal",)},
        "components": {"prior": ("mixture", "swiss-roll"), "conditional": (False,)},
    }
    unaveraged: ClassVar[tuple[str, ...]] = ("discriminator",)

    @classmethod
    def arguments(cls) -> dict[str, Any]:
        """Which class says that there is no label is said by the data."""
        return {"unlabelled": False}

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 256,
        prior: Literal["normal", "mixture", "swiss-roll"] = "normal",
        prior_std: float = 1.0,
        latent: int | None = None,
        components: int = 10,
        hidden: tuple[int, ...] = (1000, 1000),
        channels: tuple[int, ...] = (),
        discriminator_hidden: tuple[int, ...] = (1000, 1000),
        noise: float = 0.0,
        adversarial_lr: float | None = None,
        adversarial_betas: tuple[float, float] | None = None,
        classes: int | None = None,
        unlabelled: bool = False,
        image_size: int | tuple[int, int] = 28,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size)
        self.prior = check_option("prior", prior, priors.NAMES)
        self.prior_std = float(check_number("prior_std", prior_std, 0))
        latent = (8 if prior == "normal" else 2) if latent is None else latent
        check_positive(latent=latent, components=components)
        if prior != "normal" and latent != 2:
            raise ValueError(f"latent: expected 2 with the prior {prior}, which lies in a plane, got {latent}")
        if prior == "normal" and not self.prior_std:
            raise ValueError("prior_std: expected a positive number, got 0")
        self.unlabelled = check_flag("unlabelled", unlabelled)
        self.regularized = self.classes is not None and prior != "normal"
        if self.unlabelled and (not self.regularized or self.classes == 1):
            raise ValueError(
                "unlabelled: expected images without labels where classes have components of the prior, mixture or"
                f" swiss-roll, got the prior {prior} and {'no' if self.classes is None else self.classes} classes"
            )
        self.latent, self.components = int(latent), int(components)
        self.hidden, self.channels = as_widths("hidden", hidden), as_widths("channels", channels)
        self.discriminator_hidden = as_widths("discriminator_hidden", discriminator_hidden)
        self.noise = float(check_number("noise", noise, 0))
        self.adversarial_lr = check_lr("adversarial_lr", adversarial_lr)
        self.adversarial_betas = check_betas("adversarial_betas", adversarial_betas)
        kinds = {"mixture": priors.RingPrior, "swiss-roll": priors.SwissRollPrior}
        parts = (self.classes or 0) - self.unlabelled if self.regularized else self.components
        self.p_z = priors.NormalPrior(latent, self.prior_std) if prior == "normal" else kinds[prior](parts)
        sizes = (self.hidden, self.channels, "relu")
        told = self.classes if not self.regularized else None
        self.encoder = Encoder(in_channels, self.sides, latent, *sizes)
        self.decoder = Decoder(in_channels, self.sides, latent, *sizes, classes=told)
        self.discriminator = CodeDiscriminator(
            latent, self.discriminator_hidden, self.p_z.components + 1 if self.regularized else None
        )

    def objective(self) -> AdversarialAutoencoderObjective:
        """Three players: reconstruction, the discriminator of codes, and the encoder against it."""
        return AdversarialAutoencoderObjective(self)

    def losses(self, values: Tensor, labels: Tensor | None = None, progress: float = 1.0) -> dict[str, Tensor]:
        """{"squared_error": ‖x − x̂‖²}, (N,)."""
        labels = self.labels(values, labels)
        check_number("progress", progress, 0, 1)
        x = self.to_input(values)
        error = x - self._decode(self.encoder(x), labels).to(x.dtype)
        return {"squared_error": (error * error).flatten(1).sum(1)}

    @property
    def measures(self) -> dict[str, Measure]:
        return {
            "squared_error": Measure("‖x − x̂‖² of an image, its values in [0, 1]"),
            "discriminator_loss": Measure("what the discriminator minimises, 1.386 for codes of the prior", "nats"),
            "prior_distance": Measure("largest Kolmogorov-Smirnov distance of a code's dimension and the prior's"),
            "outside_component": Measure("share of codes that are not nearest to the component of their class"),
        }

    def labels(self, values: Tensor, labels: Any) -> Tensor | None:
        """Those of a batch, checked; None for a model that is told none."""
        self.check_images(values)
        return self.check_labels(values.shape[0], labels if self.classes is not None else None)

    def parts(self, labels: Tensor | None) -> Tensor | None:
        """The component of each label, and beyond them for "no label"; None where a class has no component."""
        return labels if self.regularized else None

    def encode(self, values: Tensor, labels: Any = None) -> Tensor:
        """The code of each image, (N, latent); of the image alone."""
        self.check_images(values)
        return self.encoder(self.to_input(values))

    def decode(self, z: Tensor, labels: Labels | None = None) -> Tensor:
        """The images of codes (N, latent), floating point (N, C, H, W) in [0, levels − 1].

        Labels are needed where the decoder is told the class, and change nothing where a class is a place of the prior.
        """
        self.check_codes(z)
        given = labels is not None or not self.regularized
        found = self.check_labels(z.shape[0], labels) if given else None
        return self._decode(z, found).clamp(0, 1) * (self.levels - 1)

    def draw_codes(
        self, n: int, seed: int, *, first: int = 0, labels: Labels | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Codes of the prior, (n, latent), of the component of their label; that of i depends on (seed, first + i)."""
        like = next(self.decoder.parameters())
        found = self.check_labels(n, labels) if labels is not None else None
        u = uniforms_like(like, seed, n, (self.p_z.uniforms,), first)
        z = self.p_z.from_uniforms(u, self.parts(found), temperature).to(like.dtype)
        return check_finite("temperature", z, f"one that leaves codes finite, not {temperature}")

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        labels: Labels | None = None,
        temperature: float = 1.0,
        first: int = 0,
    ) -> Tensor:
        """Draw images: z of the prior, decoded. Image i depends on (seed, first + i) and its label alone.

        Args:
            n: how many.
            seed: any 64-bit integer; by default one from torch's generator.
            labels: integers (n,), a tensor, an array or a list, or one for all; z is then of their component, or the
                decoder is told. None is the whole prior where classes have components of it.
            temperature: scales the standard deviations of the prior's Gaussians.
            first: index of the first image.

        Returns:
            int64 (n, C, H, W) in [0, levels).

        Raises:
            ValueError: an argument does not fit, or an image is not finite.
        """
        given = labels is not None or not self.regularized
        found = self.check_labels(check_integer("n", n, 1), labels) if given else None
        return draw_in_parts(self, n, seed, found, temperature, first, _images)

    def walk(self, side: int) -> Tensor | None:
        """(K, side, latent): codes through each component of the prior; None for a normal one, which has no parts."""
        found = self.p_z.walk(check_integer("side", side, 1))
        return found if found is None else found.to(next(self.decoder.parameters()))

    def _decode(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return torch.sigmoid(self.decoder(z, None if self.regularized else labels))


def _images(model: Any, count: int, seed: int, first: int, labels: Tensor | None, temperature: float) -> Tensor:
    return model.decode(model.draw_codes(count, seed, first=first, labels=labels, temperature=temperature), labels)


class CodeDiscriminator(nn.Module):
    """Codes (N, latent), and the component int64 (N,) that they are to be of, if any → scores (N,)."""

    def __init__(self, latent: int, hidden: tuple[int, ...], told: int | None = None) -> None:
        super().__init__()
        self.told = told
        self.layers = mlp((latent + (told or 0), *hidden, 1), nn.ReLU)

    def forward(self, z: Tensor, parts: Tensor | None = None) -> Tensor:
        check_class(parts, z.shape[0], self.told, "parts")
        scores = self.layers(with_class(z, parts, self.told)).flatten()
        return scores if scores.dtype == torch.float64 else scores.float()
