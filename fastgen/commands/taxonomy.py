"""``fastgen taxonomy``: the kinds of generative models, fitted to the same points in the plane.

    explicit, tractable      p(x) in closed form: kernel density, Gaussian mixture, PixelCNN (p(x₁)·p(x₂|x₁))
    explicit, approximate    a lower bound on p(x): VAE
    implicit                 samples, and no p(x): GAN                 (the tree of Goodfellow 2016, arXiv:1701.00160)

The points are on a grid of ``LEVELS`` values along each axis, as the values of pixels are: a point is an image of two
pixels, which image models read as they are. So all likelihoods are of the same thing, in nats per point.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._extras import require
from .._files import check_can_write
from ..baselines import GaussianMixture, KernelDensity
from ..data import Dataset
from ..models import VAE, PixelCNN
from ..models.point_gan import PointGAN
from ..pictures import save_figure
from ..training import Recipe, Trainer
from . import check_seed, parse

LEVELS = 64
POINTS = 4000
SHOWN = 1000
STEPS = 2000
"""Of the GAN, for each of its two players."""
DENSITY = "−log of a density, times a value's width of 1"
IMPORTANCE_SAMPLES = 300
"""For each point, to estimate the VAE's p(x)."""


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """Fit tractable, approximate and implicit models to points in the plane, and draw them side by side."""

    out: Path = Path("fastgen-taxonomy.png")
    """Picture to write."""
    effort: float = 1.0
    """Scales how long the networks are trained."""
    seed: int = 0
    """Of points, weights and samples."""


@dataclass(eq=False)
class Fitted:
    """A model after fitting.

    Attributes:
        kind: its place in the tree.
        samples: int64 (SHOWN, 2).
        log_p: log-probability of each value (LEVELS², 2) of the grid, row by row; None if the model has none.
        nats: negative log-likelihood of held-out points and its standard error.
        law: what that is of.
    """

    name: str
    kind: str
    samples: Tensor
    log_p: Tensor | None = None
    nats: tuple[float, float] | None = None
    law: str = ""
    seconds: float = field(default=0.0)


def main(arguments: list[str]) -> str:
    """Fit and draw as the arguments say."""
    options = parse(Taxonomy, "taxonomy", arguments)
    check_seed(options.seed)
    check_can_write("out", options.out, (".png",))
    if not 0 < options.effort < math.inf:
        raise ValueError(f"effort: expected a positive number, got {options.effort}")
    train, held_out = moons(POINTS, options.seed), moons(POINTS, options.seed + 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small gain nothing from more
    try:
        each = require("tqdm").tqdm(FITS, desc="models", unit="model", leave=False, disable=None)
        fitted = [_timed(fit, train, held_out, options) for fit in each]
    finally:
        torch.set_num_threads(threads)
    draw(train, fitted, options.out)
    lines = [f"nats are a mean over {len(held_out):,} points that nothing was fitted to", ""]
    lines.append(f"{'held-out nats':42}fitted and drawn in")
    for model in fitted:
        nats = "none" if model.nats is None else "{:.3f} ± {:.3f}".format(*model.nats)
        lines.append(
            f"{model.name:17}{nats:>17}        {model.seconds:5.1f} s    {model.kind}{model.law and f': {model.law}'}"
        )
    return "\n".join([*lines, f"picture {options.out}"])


def moons(n: int, seed: int) -> Tensor:
    """Two half moons: int64 (n, 2) in [0, LEVELS)."""
    points, _ = require("sklearn.datasets").make_moons(n, noise=0.08, random_state=seed % 2**32)
    low, high = np.array([-1.4, -0.9]), np.array([2.4, 1.4])
    values = np.floor((points - low) / (high - low) * LEVELS)
    return torch.from_numpy(values.clip(0, LEVELS - 1).astype(np.int64))


def grid() -> Tensor:
    """Every point there is, (LEVELS², 2): the second coordinate varies slowest."""
    ticks = torch.arange(LEVELS)
    return torch.stack([ticks.repeat(LEVELS), ticks.repeat_interleave(LEVELS)], dim=1)


def fit_kernels(train: Tensor, held_out: Tensor, options: Taxonomy) -> Fitted:
    """A kernel around every point; a value has the width 1, so that a density is a probability."""
    model = KernelDensity().fit(_within(train))
    samples = model.sample(SHOWN, options.seed % 2**32)
    return _explicit("kernel density", model.log_prob, samples, held_out, DENSITY)


def fit_mixture(train: Tensor, held_out: Tensor, options: Taxonomy) -> Fitted:
    """Gaussians, by expectation maximisation."""
    model = GaussianMixture(8, options.seed % 2**32).fit(_within(train))
    samples = model.sample(SHOWN, options.seed % 2**32)
    return _explicit("Gaussian mixture", model.log_prob, samples, held_out, DENSITY)


def fit_pixelcnn(train: Tensor, held_out: Tensor, options: Taxonomy) -> Fitted:
    """Autoregressive: the first coordinate, then the second given the first, each a categorical distribution."""
    model = PixelCNN(1, LEVELS, channels=32, layers=3, image_size=(1, 2))
    model = _train(model, train, held_out, epochs=_epochs(40, options), batch_size=400, lr=6e-3)
    with torch.no_grad():
        return _explicit(
            "PixelCNN",
            lambda x: model.log_prob(_image(x)),
            model.sample(SHOWN, seed=options.seed),
            held_out,
            model.measures["nats"].words,
        )


def fit_vae(train: Tensor, held_out: Tensor, options: Taxonomy) -> Fitted:
    """Latent variables: p(x) is estimated from below, here by importance samples."""
    model = VAE(
        1, LEVELS, 2, (64, 64), activation="tanh", likelihood="gaussian", image_size=(1, 2), importance_samples=8
    )
    model = _train(model, train, held_out, epochs=_epochs(80, options), batch_size=100, lr=4e-3)
    found = _explicit(
        "VAE",
        lambda x: model.importance_log_prob(_image(x), samples=IMPORTANCE_SAMPLES),
        model.sample(SHOWN, seed=options.seed),
        held_out,
        model.measures_by(IMPORTANCE_SAMPLES)["nats"].words,
    )
    found.kind = "explicit, approximate"
    return found


def fit_gan(train: Tensor, held_out: Tensor, options: Taxonomy) -> Fitted:
    """Implicit: a network that makes points from noise, against one that tells them from the data."""
    model = PointGAN().fit((_within(train) + 0.5) / (LEVELS / 4) - 2, math.ceil(STEPS * options.effort))
    drawn = (model.sample(SHOWN) + 2) * (LEVELS / 4)
    return Fitted("GAN", "implicit", drawn.floor().clamp(0, LEVELS - 1).long())


FITS = (fit_kernels, fit_mixture, fit_pixelcnn, fit_vae, fit_gan)


def draw(train: Tensor, fitted: list[Fitted], path: Path) -> None:
    """Above the probability of every point, all on one scale, below samples; the points of the data first."""
    figure = require("matplotlib.figure").Figure(figsize=(2.3 * (len(fitted) + 1), 5.6), dpi=110, layout="constrained")
    axes = figure.subplots(2, len(fitted) + 1)
    histogram = torch.zeros(LEVELS, LEVELS).index_put_(
        (train[:, 1], train[:, 0]), torch.ones(len(train)), accumulate=True
    )
    panels: list[tuple[str, str, Tensor | None, Tensor]] = [
        ("data", f"{len(train):,} points", histogram / len(train), train[:SHOWN])
    ]
    for model in fitted:
        says = model.kind if model.nats is None else f"{model.kind}: {model.nats[0]:.2f} nats"
        density = None if model.log_p is None else model.log_p.exp().view(LEVELS, LEVELS)
        panels.append((model.name, says, density, model.samples))
    highest = max(float(model.log_p.exp().max()) for model in fitted if model.log_p is not None)
    for (upper, lower), (name, says, density, points) in zip(axes.T, panels, strict=True):
        upper.set_title(f"{name}\n", fontsize=11)
        upper.text(0.5, 1.02, says, ha="center", va="bottom", fontsize=8, color="0.4", transform=upper.transAxes)
        if density is None:
            upper.text(0.5, 0.5, "p(x) is not known", ha="center", va="center", fontsize=8, transform=upper.transAxes)
        else:
            upper.imshow(density.numpy(), origin="lower", cmap="Blues", vmin=0, vmax=highest)
        lower.scatter(*_within(points).T.numpy(), s=1.2, linewidths=0, color="C0")
        lower.set(xlim=(-0.5, LEVELS - 0.5), ylim=(-0.5, LEVELS - 0.5), aspect="equal")
        for axis in (upper, lower):
            axis.set(xticks=[], yticks=[], box_aspect=1)
        lower.set_xticks([0, LEVELS - 1])
        lower.set_xlabel("$x_1$", fontsize=9)
    for axis, row in ((axes[0, 0], "p(x)"), (axes[1, 0], f"{SHOWN:,} samples")):
        axis.set_yticks([0, LEVELS - 1])
        axis.set_ylabel(f"{row}\n$x_2$", fontsize=9)
    figure.suptitle(f"{len(fitted)} models of two half moons, points of {LEVELS} × {LEVELS} values", fontsize=13)
    save_figure(figure, path)


def _timed(fit: Callable[..., Fitted], train: Tensor, held_out: Tensor, options: Taxonomy) -> Fitted:
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    fitted = fit(train, held_out, options)
    fitted.seconds = time.perf_counter() - started
    return fitted


def _explicit(name: str, log_prob: Callable[[Tensor], Tensor], samples: Tensor, held_out: Tensor, law: str) -> Fitted:
    each = -log_prob(held_out).detach().double()
    nats = (each.mean().item(), each.std().item() / math.sqrt(len(each)))
    samples = samples.reshape(-1, 2).round().clamp(0, LEVELS - 1).long()
    return Fitted(name, "explicit, tractable", samples, log_prob(grid()).detach(), nats, law)


def _train(model: Any, train: Tensor, held_out: Tensor, **recipe: Any) -> Any:
    trainer = Trainer(model, Recipe(schedule="cosine", ema=0.99, **recipe))
    trainer.fit(_dataset(train), _dataset(held_out[:500]))
    return trainer.ema.eval()


def _within(points: Tensor) -> Tensor:
    """Points anywhere within their values' intervals, so that none lies on another."""
    return points + torch.rand(points.shape, generator=torch.Generator().manual_seed(0)) - 0.5


def _dataset(points: Tensor) -> Dataset:
    return Dataset(_image(points).to(torch.uint8), None, LEVELS, None, "moons")


def _image(points: Tensor) -> Tensor:
    return points.view(-1, 1, 1, 2)


def _epochs(epochs: int, options: Taxonomy) -> int:
    return max(1, round(epochs * options.effort))
