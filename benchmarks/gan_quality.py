"""DCGAN on images of clothes: fastgen's trainer against the public loop, in turns, by what they draw.

    FASTGEN_DATA=... python benchmarks/gan_quality.py [--game wgan-gp] [--epochs 2] [--seeds 0 1 2] [--json FILE]

Both begin with the same weights and see the same images: 28×28, 32 filters, z 100, batches of 64. The public loop is
that of PyTorch's DCGAN example (two losses of D on batches of their own, a fake of which both players learn, sigmoid
and binary cross-entropy), or the one of WGAN-GP (three critic steps, a penalty of weight 10), with Adam as there.
Ours does what a run does: an average of the generator, gradient norms, non-finite checks, fresh noise for each player.
After each epoch 10,000 images of both, drawn in eval mode, are held to as many test images; ``feature_fid`` is no FID.
Seconds are of this process, one after the other; without ``--json`` nothing is written.
"""

import argparse
import json
import statistics
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from environment import environment
from fastgen import quality
from fastgen._extras import require
from fastgen.data import load
from fastgen.models import DCGAN
from fastgen.pictures import save_figure
from fastgen.training import Recipe, Trainer

GAMES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "dcgan": ({}, {"lr": 4e-4, "betas": (0.5, 0.999)}, "batch"),
    "wgan-gp": (
        {"loss": "wasserstein", "gradient_penalty": 10.0, "discriminator_steps": 3},
        {"lr": 5e-4, "betas": (0.0, 0.9)},
        "none",
    ),
}
"""Settings of the game, of both optimisers, and the discriminator's normalisation: those of the small recipes."""
SIZES = {"in_channels": 1, "levels": 256, "latent": 100, "channels": 32, "image_size": 28}
BATCH = 64


def public_networks(model: DCGAN, norm: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Generator and discriminator as people write them, with the weights of ``model``."""
    nz, ngf = model.latent, model.channels
    generator = nn.Sequential(
        nn.ConvTranspose2d(nz, 2 * ngf, 7, 1, 0, bias=False), nn.BatchNorm2d(2 * ngf), nn.ReLU(True),
        nn.ConvTranspose2d(2 * ngf, ngf, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf), nn.ReLU(True),
        nn.ConvTranspose2d(ngf, 1, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip
    bias = norm == "none"
    between = nn.Identity() if norm == "none" else nn.BatchNorm2d(2 * ngf)
    discriminator = nn.Sequential(
        nn.Conv2d(1, ngf, 4, 2, 1, bias=bias), nn.LeakyReLU(0.2, True),
        nn.Conv2d(ngf, 2 * ngf, 4, 2, 1, bias=bias), between, nn.LeakyReLU(0.2, True),
        nn.Conv2d(2 * ngf, 1, 7, 1, 0, bias=bias),
    )  # fmt: skip
    for network, ours in ((generator, model.generator), (discriminator, model.discriminator)):
        network.load_state_dict({name.removeprefix("main."): weight for name, weight in ours.state_dict().items()})
    return generator, discriminator


class Public:
    """The public loops."""

    def __init__(self, model: DCGAN, name: str) -> None:
        game, optimizer, norm = GAMES[name]
        self.generator, self.discriminator = public_networks(model, norm)
        self.latent, self.steps, self.penalty = (
            model.latent,
            game.get("discriminator_steps", 1),
            game.get("gradient_penalty"),
        )
        both = (self.generator, self.discriminator)
        self.g, self.d = (torch.optim.Adam(each.parameters(), **optimizer) for each in both)
        self.done = 0

    def step(self, real: Tensor) -> None:
        """One batch."""
        self.done += 1
        n = len(real)
        self.d.zero_grad()
        if self.penalty is None:
            ones, zeros = torch.ones(n), torch.zeros(n)
            F.binary_cross_entropy(torch.sigmoid(self.discriminator(real)).view(-1), ones).backward()
            fake = self.generator(torch.randn(n, self.latent, 1, 1))
            F.binary_cross_entropy(torch.sigmoid(self.discriminator(fake.detach())).view(-1), zeros).backward()
            self.d.step()
            self.g.zero_grad()
            F.binary_cross_entropy(torch.sigmoid(self.discriminator(fake)).view(-1), ones).backward()
            self.g.step()
            return
        with torch.no_grad():
            fake = self.generator(torch.randn(n, self.latent, 1, 1))
        mix = torch.rand(n, 1, 1, 1)
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(self.discriminator(between).sum(), between, create_graph=True)
        penalty = self.penalty * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
        (self.discriminator(fake).mean() - self.discriminator(real).mean() + penalty).backward()
        self.d.step()
        if self.done % self.steps == 0:
            self.g.zero_grad()
            (-self.discriminator(self.generator(torch.randn(n, self.latent, 1, 1))).mean()).backward()
            self.g.step()

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Integers (n, 1, 28, 28), in eval mode."""
        self.generator.eval()
        generator = torch.Generator().manual_seed(0)
        parts = [self.generator(torch.randn(250, self.latent, 1, 1, generator=generator)) for _ in range(n // 250)]
        self.generator.train()
        return ((torch.cat(parts) + 1) * 127.5).round().to(torch.uint8)


def contest(name: str, seed: int, epochs: int, reference: quality.Reference, train: Any, n: int) -> list[dict]:
    """One seed, both ways: after each epoch, what each reaches and how long a step took."""
    game, optimizer, norm = GAMES[name]
    torch.manual_seed(seed)
    model = DCGAN(**SIZES, normalization=norm, game=game)  # type: ignore[arg-type]
    public = Public(model, name)
    known = {each.name for each in fields(Recipe)}
    options = {key: value for key, value in model.defaults.items() if key in known} | optimizer
    trainer = Trainer(model, Recipe(**{**options, "epochs": epochs, "batch_size": BATCH, "seed": seed}))
    found: list[dict] = []
    ours = [0.0]
    trains = trainer._train_epoch

    def timed(*data: Any) -> None:
        """An epoch's steps, and no evaluation."""
        started = time.process_time()
        trains(*data)
        ours[0] = time.process_time() - started

    def between(record: dict) -> None:
        """After each epoch of ours, one of theirs, on the same images in the same order."""
        steps = len(train) // BATCH
        drawn = trainer.ema.sample(n, seed=0)
        raw = model.sample(n, seed=0)
        started = time.process_time()
        order = np.random.default_rng([seed, record["epoch"] - 1]).permutation(len(train))
        for first in range(0, steps * BATCH, BATCH):
            public.step(train.values[order[first : first + BATCH]].float() / 127.5 - 1)
        theirs = time.process_time() - started
        scores = {"fastgen": drawn, "fastgen, not averaged": raw, "public": public.sample(n)}
        row: dict[str, Any] = {"game": name, "seed": seed, "epoch": record["epoch"], "steps": record["step"]}
        for way, images in scores.items():
            score = reference.score(images)
            row[way] = score.numbers() | {"missing": list(score.classes.missing) if score.classes else []}
        row["fastgen"]["ms"], row["public"]["ms"] = 1e3 * ours[0] / steps, 1e3 * theirs / steps
        found.append(row)
        fid = {way: row[way]["feature_fid"] for way in scores}
        print(
            f"{name}, seed {seed}, step {record['step']}: feature_fid {fid['fastgen']:.1f} (not averaged"
            f" {fid['fastgen, not averaged']:.1f}), public {fid['public']:.1f};"
            f" {row['fastgen']['ms']:.1f} and {row['public']['ms']:.1f} ms CPU a step",
            flush=True,
        )

    trainer._train_epoch = timed  # type: ignore[method-assign]
    trainer.fit(train, train.subset(2), between)
    return found


def draw(rows: list[dict], floors: dict[str, dict], path: Path) -> None:
    """``feature_fid`` over steps, a line for each seed of each way, and those of the floors that are not above them."""
    figure = require("matplotlib.figure").Figure(figsize=(6.4, 4), dpi=110, layout="constrained")
    axis = figure.subplots()
    for way, color in (("fastgen", "C0"), ("public", "C1")):
        for seed in sorted({row["seed"] for row in rows}):
            mine = [row for row in rows if row["seed"] == seed]
            steps = [row["steps"] for row in mine]
            label = way if seed == rows[0]["seed"] else None
            mark = "o-" if way == "fastgen" else "x--"
            axis.plot(steps, [row[way]["feature_fid"] for row in mine], mark, color=color, label=label, markersize=4)
    shown = [row[way]["feature_fid"] for row in rows for way in ("fastgen", "public")]
    axis.set_ylim(0, 1.1 * max(shown))
    for name, floor in floors.items():
        if floor["feature_fid"] > 1.1 * max(shown):
            continue
        axis.axhline(floor["feature_fid"], color="0.6", linewidth=0.8, linestyle=":")
        axis.text(1, floor["feature_fid"], f" {name}", transform=axis.get_yaxis_transform(), va="center", fontsize=8)
    axis.set(xlabel="steps of 64 images", ylabel="feature_fid, 10,000 images")
    axis.set_title(f"{rows[0]['game']}, 28×28, 32 filters, Fashion-MNIST", fontsize=10)
    axis.legend(frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Train and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=list(GAMES), default="dcgan")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--n", type=int, default=10_000, help="images that are compared, a multiple of 250")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="picture of the learning curves")
    options = parser.parse_args()
    if options.n % 250:
        parser.error(f"--n: expected a multiple of 250, got {options.n}")
    train, test = load("fashion-mnist"), load("fashion-mnist", split="test")
    classifier = quality.feature_classifier(train, test)
    reference = quality.Reference(test, train, classifier, options.n, 0)
    some = train if options.limit is None else train.subset(options.limit)
    found: dict[str, Any] = {"environment": environment("cpu"), "options": {"game": options.game}}
    found["options"] |= {"epochs": options.epochs, "images": len(some), "compared": options.n}
    found |= {"classifier": classifier.identity.as_dict(), "floors": reference.floors}
    rows: list[dict] = []
    for seed in options.seeds:
        rows += contest(options.game, seed, options.epochs, reference, some, options.n)
        if options.json:
            options.json.write_text(json.dumps(found | {"rows": rows}, indent=1) + "\n")
    last = [row for row in rows if row["epoch"] == options.epochs]
    for way in ("fastgen", "fastgen, not averaged", "public"):
        scores = [row[way]["feature_fid"] for row in last]
        print(f"{way:22} feature_fid {statistics.mean(scores):.1f}: {', '.join(f'{one:.1f}' for one in scores)}")
    ratio = statistics.median(row["public"]["ms"] / row["fastgen"]["ms"] for row in rows)
    print(f"a step is {ratio:.2f} times as fast as the public one, CPU time, median of {len(rows)} epochs")
    if options.plot:
        draw(rows, reference.floors, options.plot)


if __name__ == "__main__":
    main()
