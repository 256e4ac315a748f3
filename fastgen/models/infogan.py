"""Chen et al., "InfoGAN: Interpretable Representation Learning by Information Maximizing Generative Adversarial Nets",
2016, arXiv:1606.03657.

    min_{G,Q} max_D  V(D, G) − λ·L_I(G, Q)          L_I = E[log Q(c | G(z, c))] + H(c) ≤ I(c; G(z, c))     eq. 5 and 6

    z = noise ⊕ categories, one-hot ⊕ continuous codes ── generator ── image
    image ── trunk ┬─ linear ── score
                   └─ linear, batch norm, LeakyReLU ── linear ── Q: logits of each category, means of continuous codes

Nobody names a code: the generator comes to use each for something that Q can read off its images. Sizes are those of
appendix C.1 for MNIST: two convolutions and 1,024 units in the trunk, the same mirrored in the generator, 74 numbers in
z, of which 62 are noise. D and Q share the trunk; Q's weights are moved by the discriminator's player, and both
players' losses have −λ·L_I, as in the authors' code (openai/InfoGAN, infogan_trainer.py).
"""

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._checks import check_finite, check_flag, check_integer, check_number
from .._draws import uniforms_of_batch
from .._philox import uniforms_like
from .._shadow import evaluated
from ..measures import Measure
from ..nn import Conv2dChain, ConvTranspose2dChain
from .adversarial import AdversarialModel
from .dcgan import begin, stages
from .discriminators import Discriminator, Judged
from .game import Game
from .infogan_codes import CodeLayout, CodePosterior, CodeTraversal
from .infogan_objective import InfoGANObjective
from .model import check_positive
from .networks import as_widths, check_class


class InfoGAN(AdversarialModel):
    """InfoGAN, Chen et al. 2016, arXiv:1606.03657: codes that images tell, found without labels.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        latent: dimensions of z: of the noise, the one-hot categories and the continuous codes together.
        categories: of each categorical code the number of its categories.
        continuous: how many continuous codes.
        channels: of the layer next to the image in both networks; each further one has twice as many.
        hidden: units of the fully connected layer of both.
        code_hidden: units of the layer that Q alone has.
        category_weight: λ of the categorical codes.
        continuous_weight: λ of the continuous ones; the paper has 0.1 where their Gaussian has a variance of its own.
        learned_variance: Q tells a variance of each continuous code; otherwise it is 1, as in the authors' code.
        image_size: one size or (H, W).
        game: settings of the game, ``Game`` or by name.
    """

    defaults: ClassVar = {**AdversarialModel.defaults, "generator_lr": 1e-3, "batch_size": 128}
    needs: ClassVar = AdversarialModel.needs | {
        "category_weight": {"categories": ()}, "continuous_weight": {"continuous": ()},
        "learned_variance": {"continuous": ()},
    }  # fmt: skip
    recipes: ClassVar = {
        "paper": {"epochs": 11, "ema": 0.0},
        "small": {"channels": 32, "hidden": 256, "batch_size": 64, "epochs": 6},
    }
    """paper: appendix C.1: Adam with β₁ = 0.5, 2e-4 for D and Q, 1e-3 for G; 5,000 rounds of batches of 128, as in the
    authors' code, are 11 epochs of MNIST. Leaks are of 0.1, as in its tables, and of 0.01 in that code."""

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 256,
        latent: int = 74,
        categories: tuple[int, ...] = (10,),
        continuous: int = 2,
        channels: int = 64,
        hidden: int = 1024,
        code_hidden: int = 128,
        category_weight: float = 1.0,
        continuous_weight: float = 1.0,
        learned_variance: bool = False,
        image_size: int | tuple[int, int] = 28,
        game: Game | None = None,
    ) -> None:
        super().__init__(in_channels, levels, None, image_size, latent, game, prior="uniform")
        check_positive(channels=channels, hidden=hidden, code_hidden=code_hidden)
        self.categories = as_widths("categories", categories)
        self.continuous = check_integer("continuous", continuous, 0)
        for name, count in [("categories", count) for count in self.categories]:
            check_integer(name, count, 2)
        own = sum(self.categories) + self.continuous
        if not own or own > self.latent:
            raise ValueError(
                f"latent: expected one code or more, and the {own} dimensions of the codes in z at least, got {latent}"
            )
        self.layout = CodeLayout(self.latent - own, self.categories, self.continuous)
        self.channels, self.hidden, self.code_hidden = int(channels), int(hidden), int(code_hidden)
        self.category_weight = float(check_number("category_weight", category_weight, 0))
        self.continuous_weight = float(check_number("continuous_weight", continuous_weight, 0))
        self.learned_variance = check_flag("learned_variance", learned_variance)
        widths, sizes = stages(self.sides, self.channels)
        told = sum(self.categories) + self.continuous * (2 if learned_variance else 1)
        self.generator = InfoGANGenerator(in_channels, self.latent, self.hidden, widths, sizes)
        self.discriminator = InfoGANDiscriminator(in_channels, widths, sizes[-1], self.hidden, self.code_hidden, told)
        self.settings.check_discriminator(self.discriminator)
        self.apply(_begin)

    def objective(self) -> InfoGANObjective:
        return InfoGANObjective(self)

    @property
    def measures(self) -> dict[str, Measure]:
        bound = "bound on the information that drawn images tell of {}, by Q"
        return super().measures | {
            "category_information": Measure(bound.format("categorical codes"), "nats"),
            "continuous_information": Measure(bound.format("continuous codes"), "nats"),
            "clustering_error": Measure(
                "share of held-out images that are not of the class that their category is matched with, one to one"
            ),
        }

    def noise(self, n: int) -> Tensor:
        """Z for training, (n, latent), by each image's place in the batch."""
        like = next(self.generator.parameters())
        return self.layout.from_uniforms(uniforms_of_batch(n, (self.layout.uniforms,), like)).to(like.dtype)

    def draw_codes(self, n: int, seed: int, *, first: int = 0, temperature: float = 1.0) -> Tensor:
        """Z of ``n`` images, (n, latent): that of image i depends on (seed, first + i) alone.

        ``temperature`` scales noise and continuous codes; categories stay what they are.
        """
        like = next(self.generator.parameters())
        u = uniforms_like(like, seed, n, (self.layout.uniforms,), first)
        z = self.layout.from_uniforms(u, temperature).to(like.dtype)
        return check_finite("temperature", z, f"one that leaves codes finite, not {temperature}")

    def codes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What ``z`` (N, latent) holds beside noise: categories int64 (N, codes), continuous codes (N, continuous)."""
        self.check_codes(z)
        return self.layout.codes(z)

    def with_codes(self, z: Tensor, categories: Any = None, continuous: Any = None) -> Tensor:
        """``z`` with other codes and the noise it has.

        Args:
            z: (N, latent).
            categories: integers (N, codes); or (codes,), or one, for all of N; None leaves those that z has.
            continuous: numbers (N, continuous); or (continuous,), or one, for all; None leaves them.

        Returns:
            (N, latent).

        Raises:
            ValueError: a shape does not fit, or a category does not exist.
            TypeError: categories are no integers.
        """
        self.check_codes(z)
        return self.layout.replaced(z, categories, continuous)

    def infer(self, values: Tensor) -> CodePosterior:
        """Q(c|x) of images, in eval mode: what it reads of one depends on no other.

        Its batch norms have the statistics of drawn images, by which Q learned to read.
        """
        self.check_images(values)
        with evaluated(self) as model:
            return self.layout.posterior(model.discriminator.read(2 * self.to_input(values) - 1)[1])

    def code_traversals(self, rows: int = 3, steps: int = 10, seed: int = 0) -> list[CodeTraversal]:
        """Every code taken through its values, the rest of z staying: categories first.

        Args:
            rows: of each code, each of another z.
            steps: values of a continuous code, from −2 to 2; a categorical one has its categories, at most as many.
            seed: of the z.
        """
        rows, steps = check_integer("rows", rows, 1), check_integer("steps", steps, 2)
        return self.layout.traversals(self.draw_codes(rows, seed), steps)


class InfoGANGenerator(nn.Module):
    """z (N, latent) → images (N, C, H, W) in [−1, 1]; widths and sizes of stages from the image inwards."""

    def __init__(
        self, out_channels: int, latent: int, hidden: int, widths: list[int], sizes: list[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.inner = (widths[-1], *sizes[-1])
        flat = widths[-1] * sizes[-1][0] * sizes[-1][1]
        self.linear = nn.Sequential(
            *(nn.Linear(latent, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(True)),
            *(nn.Linear(hidden, flat, bias=False), nn.BatchNorm1d(flat), nn.ReLU(True)),
        )
        layers: list[nn.Module] = []
        for (inputs, outputs), (H, W) in zip(pairwise([*widths[::-1], out_channels]), sizes[-2::-1], strict=True):
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(True)] if layers else []
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, (H % 2, W % 2), bias=sizes[0] == (H, W))]
        self.main = ConvTranspose2dChain(*layers, nn.Tanh())

    def forward(self, z: Tensor, labels: None = None) -> Tensor:
        check_class(labels, z.shape[0], None)
        return self.main(self.linear(z).unflatten(1, self.inner))


class InfoGANDiscriminator(Discriminator):
    """Images (N, C, H, W) in [−1, 1] → scores (N,); ``read`` tells scores, and what Q tells of codes."""

    def __init__(
        self, in_channels: int, widths: list[int], start: tuple[int, int], hidden: int, code_hidden: int, told: int
    ) -> None:
        super().__init__(hidden)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.1, True)]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs)]
            layers += [nn.LeakyReLU(0.1, True)]
        layers += [nn.Flatten(), nn.Linear(widths[-1] * start[0] * start[1], hidden, bias=False)]
        self.trunk = Conv2dChain(*layers, nn.BatchNorm1d(hidden), nn.LeakyReLU(0.1, True))
        self.q = nn.Sequential(
            *(nn.Linear(hidden, code_hidden, bias=False), nn.BatchNorm1d(code_hidden), nn.LeakyReLU(0.1, True)),
            nn.Linear(code_hidden, told),
        )
        self.last = nn.Linear(hidden, 1)

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.trunk(x)  # (N, hidden)

    def score(self, features: Tensor) -> Tensor:
        return self.last(features).flatten()

    def read(self, x: Tensor) -> tuple[Judged, Tensor]:
        """(scores (N,), what Q tells (N, numbers)), float32 at least."""
        features = self.features(x)
        scores, told = (
            each if each.dtype == torch.float64 else each.float() for each in (self.score(features), self.q(features))
        )
        return Judged(scores, None), told


@torch.no_grad()
def _begin(layer: nn.Module) -> None:
    begin(layer)
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm1d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
