"""``fastgen toy``: games of points, where everything can be seen: eight Gaussians on a ring, or one on a line.

ring    a generator that collapses covers a part of the modes; a critic with a gradient penalty, all of them
line    data, generator and discriminator over time, as in figure 1 of Goodfellow et al. 2014
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from .._checks import check_integer
from .._console import several
from .._extras import require
from .._files import check_can_write
from ..models.game import Game, Loss
from ..models.point_gan import DEVIATION, MEAN, RADIUS, PointGAN, centres, covered, line, ring
from ..pictures import save_figure
from ..pictures.animation import save_animation
from . import check_seed, parse

SHOWN = 2500
"""Points that a mode is counted by, and that are drawn."""
STILLS = (0.0, 0.1, 0.3, 1.0)
"""Parts of the training at which the picture shows the game."""
FRAMES = 40
BINS = 60
USUAL: dict[str, dict[str, Any]] = {
    "ring": {"loss": "wasserstein", "discriminator_steps": 1, "lr": 1e-3, "generator_lr": 1e-3, "rounds": 1500},
    "line": {"loss": "non-saturating", "discriminator_steps": 10, "lr": 3e-3, "generator_lr": 1e-3, "rounds": 600},
}
"""What options are where nobody gives them: on the line D moves so often that it is nearly the best there is."""
CRITIC = {"gradient_penalty": 0.1, "discriminator_steps": 5}
"""With wasserstein: those of WGAN-GP's own toys."""


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Let two networks play for points, and draw data, generator and discriminator over time."""

    what: tyro.conf.Positional[Literal["ring", "line"]]
    """ring, eight Gaussians around a circle; or line, one Gaussian."""
    loss: Loss | None = None
    """What both minimise; default: wasserstein on the ring, non-saturating on the line."""
    gradient_penalty: float | None = None
    """Weight of the gradient penalty; default: 0.1 with wasserstein, else 0."""
    r1: float = 0.0
    """Weight of half the discriminator's squared slope at real points."""
    weight_clip: float = 0.0
    """Clamp the discriminator's weights to so much."""
    discriminator_steps: int | None = None
    """Moves of the discriminator for one of the generator; default: 5 with wasserstein, else 1 on the ring, and 10 on
    the line, where it is to be nearly the best there is."""
    lr: float | None = None
    """Learning rate that the discriminator begins with, and which falls to zero; default: 1e-3 on the ring, 3e-3 on the
    line."""
    generator_lr: float | None = None
    """That of the generator; default: 1e-3."""
    rounds: int | None = None
    """Moves of the generator; default: 1,500 on the ring, 600 on the line."""
    seeds: tuple[int, ...] = (0,)
    """A game for each: of weights, noise and points."""
    out: Path = Path("fastgen-toy.png")
    """Picture to write; beside it, as .gif, the same as an animation."""


@dataclass(frozen=True)
class Moment:
    """A game after so many rounds: points that the generator draws, and the discriminator's scores on the grid."""

    rounds: int
    points: Tensor
    scores: Tensor


def main(arguments: list[str]) -> str:
    """Play and draw as the arguments say."""
    options = parse(Toy, "toy", arguments)
    check_can_write("out", options.out, (".png",))
    if not options.seeds:
        raise ValueError("seeds: expected one or more, got none")
    for seed in options.seeds:
        check_seed(seed)
    loss, own = options.loss or USUAL[options.what]["loss"], vars(options)
    usual = {"gradient_penalty": 0.0} | USUAL[options.what] | (CRITIC if loss == "wasserstein" else {})
    if options.weight_clip:
        usual["gradient_penalty"] = 0.0
    names = ("gradient_penalty", "discriminator_steps", "generator_lr", "lr", "rounds")
    chosen = {name: usual[name] if own[name] is None else own[name] for name in names}
    lr, rounds = chosen.pop("lr"), check_integer("rounds", chosen.pop("rounds"), 1)
    game = Game(loss=loss, r1=options.r1, weight_clip=options.weight_clip, **chosen)
    data, threads = (ring if options.what == "ring" else line), torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small gain nothing from more
    try:
        games = [_play(options.what, data, game, rounds, lr, seed) for seed in options.seeds]
    finally:
        torch.set_num_threads(threads)
    said = [f"{options.what}, {_described(game)}, {several(rounds, 'round')}"]
    draw = _draw_ring if options.what == "ring" else _draw_line
    for seed, (moments, seconds) in zip(options.seeds, games, strict=True):
        said.append(f"seed {seed}: {_outcome(options.what, moments[-1])}, {seconds:.1f} s")
    stills = [[moments[_at(part, len(moments))] for part in STILLS] for moments, _ in games]
    title = f"{'Eight Gaussians' if options.what == 'ring' else 'One Gaussian'}: {_described(game)}"
    save_figure(draw(stills, options.seeds, game, title), options.out)
    frames = [
        _pixels(draw([[moments[index]] for moments, _ in games], options.seeds, game, ""))
        for index in range(len(games[0][0]))
    ]
    animation = options.out.with_suffix(".gif")
    save_animation(frames, animation)
    return "\n".join([*said, f"picture {options.out}, animation {animation}"])


def _play(
    what: str, data: Callable[[int], Tensor], game: Game, rounds: int, lr: float, seed: int
) -> tuple[list[Moment], float]:
    """The moments of one game, from the first to the last, and the seconds that it took."""
    torch.manual_seed(seed)
    model = PointGAN(2 if what == "ring" else 1, (128, 128, 128) if what == "ring" else (64, 64), game)
    grid, every, moments, noticed = _grid(what), max(1, rounds // (FRAMES - 1)), [], 0.0
    noise = torch.Generator().manual_seed(seed)

    def look(done: int) -> None:
        nonlocal noticed
        if done % every and done < rounds:
            return
        begun = time.perf_counter()
        with torch.no_grad():
            z = torch.randn(SHOWN, model.dims, generator=noise)
            averaged = done and what == "ring"  # on the line D is held against the generator that it plays with
            net = model.average if averaged else model.generator
            moments.append(Moment(done, net(z), model.score(grid)))
        noticed += time.perf_counter() - begun

    def moved(done: int) -> None:
        look(done)
        bar.update()

    look(0)
    started = time.perf_counter()
    noticed = 0.0
    with require("tqdm").tqdm(total=rounds, desc=f"seed {seed}", unit="round", leave=False, disable=None) as bar:
        model.fit(data, rounds, lr=lr, on_round=moved)
    return moments, time.perf_counter() - started - noticed


def _grid(what: str) -> Tensor:
    """Where the discriminator is asked."""
    if what == "line":
        return torch.linspace(MEAN - 6 * DEVIATION, MEAN + 6 * DEVIATION, 201)[:, None]
    ticks = torch.linspace(-1.6 * RADIUS, 1.6 * RADIUS, 48)
    return torch.cartesian_prod(ticks, ticks).flip(1)  # the second coordinate varies slowest


def _outcome(what: str, last: Moment) -> str:
    if what == "ring":
        modes, share = covered(last.points)
        return f"{modes} of 8 modes covered, {share:.0%} of points within 3 standard deviations of one"
    mean, deviation = last.points.mean().item(), last.points.std().item()
    return f"mean {mean:.3f} of {MEAN:g}, standard deviation {deviation:.3f} of {DEVIATION:g}"


def _described(game: Game) -> str:
    parts: list[str] = [game.loss]
    parts += [f"gradient penalty {game.gradient_penalty:g}"] if game.gradient_penalty else []
    parts += [f"R1 {game.r1:g}"] if game.r1 else []
    parts += [f"weights within {game.weight_clip:g}"] if game.weight_clip else []
    parts += [f"{game.discriminator_steps} moves of D a round"] if game.discriminator_steps > 1 else []
    return ", ".join(parts)


def _at(part: float, count: int) -> int:
    return round(part * (count - 1))


def _figure(rows: int, columns: int, title: str, tall: float = 2.5) -> tuple[Any, Any]:
    size = (2.5 * columns + 0.4, tall * rows + 0.3 + 0.4 * bool(title))
    figure = require("matplotlib.figure").Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure, axes


def _draw_ring(games: list[list[Moment]], seeds: tuple[int, ...], game: Game, title: str) -> Any:
    """A row for each game: its points at each moment, above where the discriminator scores high."""
    figure, axes = _figure(len(games), len(games[0]), title)
    far, true = 1.6 * RADIUS, centres()
    for row, moments, seed in zip(axes, games, seeds, strict=True):
        for axis, moment in zip(row, moments, strict=True):
            scores = moment.scores.view(48, 48).numpy()
            axis.imshow(scores, origin="lower", extent=(-far, far, -far, far), cmap="Blues", alpha=0.6)
            axis.scatter(*moment.points.T.numpy(), s=1, linewidths=0, color="C1")
            axis.scatter(*true.T.numpy(), s=12, marker="+", linewidths=0.8, color="0.2")
            axis.set(xlim=(-far, far), ylim=(-far, far), xticks=[], yticks=[], box_aspect=1)
            modes, share = covered(moment.points)
            axis.set_title(f"round {moment.rounds:,}: {modes} of 8, {share:.0%} within 3σ", fontsize=8)
        row[0].set_ylabel(f"seed {seed}", fontsize=9)
    return figure


def _draw_line(games: list[list[Moment]], seeds: tuple[int, ...], game: Game, title: str) -> Any:
    """A row for each game: densities of data and generator, and D, at each moment."""
    figure, axes = _figure(len(games), len(games[0]), title)
    x = _grid("line")[:, 0]
    density = torch.exp(-0.5 * ((x - MEAN) / DEVIATION) ** 2) / (DEVIATION * math.sqrt(2 * math.pi))
    edges = np.linspace(x[0].item(), x[-1].item(), BINS + 1)
    for row, moments, seed in zip(axes, games, seeds, strict=True):
        for axis, moment in zip(row, moments, strict=True):
            drawn, _ = np.histogram(moment.points.numpy(), bins=edges, density=False)
            axis.stairs(drawn / (len(moment.points) * (edges[1] - edges[0])), edges, color="C2", label="generator")
            axis.plot(x, density, ":", color="0.1", label="data")
            decides = game.pair.threshold is not None
            told = torch.sigmoid(moment.scores) if game.loss in ("minimax", "non-saturating") else moment.scores
            axis.plot(x, told, "--", color="C0", label="D" if decides else "critic")
            axis.set(xlim=(edges[0], edges[-1]), yticks=[])
            axis.set_ylim(0, 1.6) if game.loss in ("minimax", "non-saturating") else None
            axis.set_title(f"round {moment.rounds:,}", fontsize=8)
        row[0].set_ylabel(f"seed {seed}", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=7)
    return figure


def _pixels(figure: Any) -> np.ndarray:
    """A figure as 8-bit colours (height, width, 3)."""
    canvas = require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
