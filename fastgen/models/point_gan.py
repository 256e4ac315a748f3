"""GAN of points: Goodfellow et al., "Generative Adversarial Nets", 2014, arXiv:1406.2661, by any loss and penalty.

    z ~ N(0, I) ── generator ── x          x ── judge ── score: is x of the data?

    judge      makes   −E[log D(x)] − E[log(1 − D(G(z)))]   small      Algorithm 1
    generator  makes   −E[log D(G(z))]                      small      section 3, the loss that does not saturate

It draws points, and knows no p(x). Two laws that everybody plays it on:

    ring    eight Gaussians around a circle, of which a generator that collapses covers a part        arXiv:1611.02163
    line    one Gaussian: the best judge is known, D*(x) = p(x) / (p(x) + q(x))              arXiv:1406.2661, figure 1
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .._checks import check_floating, check_integer, check_number
from ..losses import clip_weights, gradient_penalty, r1_penalty
from .game import Game, as_game, check_betas
from .model import check_positive
from .networks import mlp

RADIUS, SPREAD, MODES = 2.0, 0.1, 8
"""Of the ring: of the circle, of each Gaussian, and their number."""
MEAN, DEVIATION = 4.0, 0.5
"""Of the line's Gaussian."""
COVERS = 0.008
"""Share of points that covers a mode, 20 of 2,500: more than stray ones."""


class PointGAN(nn.Module):
    """A generator against a judge, both fully connected with ReLU; points are drawn by the generator's average.

    Args:
        dims: D, of the points, and of the noise that they are made from.
        hidden: widths of the hidden layers of both.
        game: settings of the game, ``Game`` or by name; points have no levels to dequantise, and no classes.
    """

    def __init__(
        self, dims: int = 2, hidden: tuple[int, ...] = (128, 128), game: Game | dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        check_positive(dims=dims)
        self.dims = dims
        self.settings = as_game(game, {})
        for name in ("dequantize", "class_weight", "fake_class_weight", "generator_class_weight"):
            if (value := getattr(self.settings, name)) != getattr(Game, name):
                raise ValueError(f"game: expected no {name}, since points have neither levels nor classes, got {value}")
        self.generator, self.judge = (mlp((dims, *hidden, outputs), nn.ReLU) for outputs in (dims, 1))
        self.settings.check_discriminator(self.judge)
        self.average = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(0.995))

    def fit(
        self,
        x: Tensor | Callable[[int], Tensor],
        steps: int,
        batch_size: int = 256,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.9),
        on_round: Callable[[int], object] | None = None,
    ) -> "PointGAN":
        """Train for ``steps`` moves of the generator, by Adam at a rate that falls to zero; returns the model itself.

        Args:
            x: points (N, D), floating point, around zero and of a spread of about 1; or what makes so many new ones.
            steps: 0 or more.
            batch_size: points in a move.
            lr: learning rate that both begin with, where the game has none of a player's own.
            betas: of Adam, likewise.
            on_round: called after each move of the generator with how many there were.
        """
        if isinstance(x, Tensor):
            check_floating("x", x, ("N", self.dims))
        steps, batch_size = check_integer("steps", steps, 0), check_integer("batch_size", batch_size, 1)
        lr, betas, game = check_number("lr", lr, 0), check_betas("betas", betas) or betas, self.settings
        judge, generator = (
            torch.optim.Adam(net.parameters(), lr=own or lr, betas=its or betas)
            for net, own, its in (
                (self.judge, game.discriminator_lr, game.discriminator_betas),
                (self.generator, game.generator_lr, game.generator_betas),
            )
        )
        rates = [player.param_groups[0]["lr"] for player in (judge, generator)]
        for step in range(steps):
            for player, rate in zip((judge, generator), rates, strict=True):
                player.param_groups[0]["lr"] = rate * (1 - step / steps)
            for _ in range(game.discriminator_steps):
                true = x[torch.randint(len(x), (batch_size,))] if isinstance(x, Tensor) else x(batch_size)
                with torch.no_grad():
                    fake = self.generator(torch.randn(batch_size, self.dims))
                _move(judge, self._judged(true, fake).mean())
                if game.weight_clip:
                    clip_weights(self.judge.parameters(), game.weight_clip)
            drawn = self.generator(torch.randn(batch_size, self.dims))
            _move(generator, game.pair.generator(self.score(drawn)).mean())
            self.average.update_parameters(self.generator)
            if on_round is not None:
                on_round(step + 1)
        return self

    def score(self, points: Tensor) -> Tensor:
        """What the judge says of points: (N, D) → (N,)."""
        return self.judge(points).flatten()

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """``n`` points (n, D)."""
        return self.average(torch.randn(check_integer("n", n, 0), self.dims))

    def _judged(self, true: Tensor, fake: Tensor) -> Tensor:
        game = self.settings
        loss = game.pair.discriminator(self.score(true), self.score(fake), game.label_smoothing)
        if game.gradient_penalty:
            loss = loss + game.gradient_penalty * gradient_penalty(self.score, true, fake)
        return loss + game.r1 * r1_penalty(self.score, true) if game.r1 else loss


def ring(n: int) -> Tensor:
    """``n`` points of eight Gaussians around a circle, (n, 2), from torch's generator."""
    return centres()[torch.randint(MODES, (check_integer("n", n, 0),))] + SPREAD * torch.randn(n, 2)


def centres() -> Tensor:
    """Of the ring's Gaussians, (8, 2): all different, since the circle's end is its beginning."""
    angle = torch.arange(MODES) * (2 * math.pi / MODES)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)


def line(n: int) -> Tensor:
    """``n`` points of N(4, 0.5²), (n, 1), from torch's generator."""
    return MEAN + DEVIATION * torch.randn(check_integer("n", n, 0), 1)


def covered(points: Tensor) -> tuple[int, float]:
    """How many of the ring's eight modes points cover, and the share of points that lie in one.

    A point lies in a mode within three standard deviations of its centre; a mode is covered by 0.8% of all points or
    more, 20 of 2,500, which stray points do not reach.

    Args:
        points: floating point (N, 2), N > 0.
    """
    check_floating("points", points, ("N", 2))
    if not len(points):
        raise ValueError("points: expected one or more, got none")
    distance, mode = torch.cdist(points, centres().to(points)).min(dim=1)
    inside = distance <= 3 * SPREAD
    counts = mode[inside].bincount(minlength=MODES)
    return int((counts >= COVERS * len(points)).sum()), inside.double().mean().item()


def _move(player: torch.optim.Optimizer, loss: Tensor) -> None:
    player.zero_grad()
    loss.backward()
    player.step()
