"""``fastgen demo``: learn real digits, measure, draw and complete them: one picture, in less than three minutes."""

import copy
import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import sampling
from .._checks import check_number
from .._extras import require
from .._files import check_can_write
from .._philox import uniforms
from .._version import __version__
from ..data import Dataset, load, load_for_training
from ..metrics import nearest
from ..models import GatedPixelCNN
from ..training import Recipe, Trainer, describe
from . import check_seed, parse
from .demo_page import Results, draw_page

MODEL: dict[str, Any] = {"channels": 32, "layers": 4}
RECIPE = Recipe(epochs=44, batch_size=32, lr=1.5e-2, weight_decay=0.7, warmup=50, schedule="cosine")
"""Both chosen by the likelihood of the watched images, never by that of the held-out ones."""

CLASSES = 10
EACH = 10
"""Images drawn of each class."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Learn real 8x8 digits, measure, draw and complete them: one picture, in two minutes on one CPU core."""

    out: Path = Path("fastgen-demo.png")
    """Picture to write."""
    seconds: float = 120.0
    """Train for about so long at most; a slow machine trains for fewer epochs."""
    seed: int = 0
    """Of weights, data order and images."""


def main(arguments: list[str]) -> str:
    """Run the demo as the arguments say."""
    options = parse(Demo, "demo", arguments)
    check_seed(options.seed)
    check_number("seconds", options.seconds, 0)
    check_can_write("out", options.out, (".png",))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # images this small gain little from more, and the numbers are the same on any machine
    try:
        results = learn_measure_draw(options)
    finally:
        torch.set_num_threads(threads)
    draw_page(results).save(options.out)
    bits = ", ".join(f"{name} {value:.3f}" for name, value in results.bits.items())
    speed, count = results.images_per_cpu_second, len(results.drawn)
    return (
        f"trained     {results.training}\n"
        f"measured    exact bits/dim of p(x), labels not given, of {results.held_out} held-out digits:"
        f" {bits} ± {results.bits_error:.3f}\n"
        f"classified  {results.accuracy:.1%} of held-out digits right by Bayes' rule; no classifier was trained\n"
        f"drawn       {count} at a time, images/CPU-second: naive {speed['naive']:,.0f},"
        f" compiled {speed['compiled']:,.0f} ({speed['compiled'] / speed['naive']:.0f} times as fast);"
        f" {results.same} of {count} images are the same\n"
        f"conditions  {results.conditions}\n"
        f"picture     {options.out}"
    )


def learn_measure_draw(options: Demo) -> Results:
    """All of the demo but the picture."""
    say = require("tqdm").tqdm.write
    train, watched = load_for_training("digits")
    held_out = load("digits", split="test")
    say(
        f"{len(train):,} real digits to train on, {len(watched)} of the rest watched while training,"
        f" {len(held_out)} held out to the end; 8x8, 17 levels"
    )

    torch.manual_seed(options.seed)
    model = GatedPixelCNN(1, train.levels, classes=CLASSES, image_size=train.shape[1:], **MODEL)
    recipe = replace(RECIPE, seed=options.seed)
    recipe = replace(recipe, epochs=min(recipe.epochs, affordable_epochs(options.seconds, model, train, recipe)))
    trainer = Trainer(model, recipe)
    started = time.perf_counter()
    trainer.fit(train, watched, lambda record: say(describe(record, recipe.epochs, "watched")))
    seconds = time.perf_counter() - started
    weights = sum(parameter.numel() for parameter in model.parameters())
    model = trainer.ema

    cpu = torch.backends.cpu.get_cpu_capability()
    bits, bits_error, accuracy = bits_without_labels(model, held_out)
    drawn, images_per_cpu_second, same = race(model, train.shape, options.seed)
    given = some_of_each(held_out, 1)
    return Results(
        training=f"{weights:,} weights, {recipe.epochs} epochs in {seconds:.0f} s on one CPU thread",
        conditions=f"fastgen {__version__}, torch {torch.__version__}, {cpu}, seed {options.seed}",
        bits={
            "uniform": math.log2(train.levels),
            "independent pixels": bits_of_independent_pixels(train, watched, held_out),
            "Gated PixelCNN": bits,
        },
        bits_error=bits_error,
        held_out=len(held_out),
        accuracy=accuracy,
        images_per_cpu_second=images_per_cpu_second,
        same=same,
        levels=train.levels,
        real=some_of_each(held_out, EACH).values,
        drawn=drawn,
        given=given.values,
        completed=[complete_top_half(model, given, (options.seed + k) % 2**63) for k in range(3)],
        neighbours=list(train.values[nearest(drawn[::EACH], train.values, 4)[0].T]),
    )


def affordable_epochs(seconds: float, model: GatedPixelCNN, train: Dataset, recipe: Recipe) -> int:
    """How many epochs fit in ``seconds``, by the time that a few steps of a copy of ``model`` take."""
    few = train.subset(10 * recipe.batch_size)
    trial = Trainer(copy.deepcopy(model), replace(recipe, epochs=2))
    times: list[float] = []
    trial.fit(few, few.subset(1), lambda record: times.append(record["seconds"]))
    return max(1, int(seconds * len(few) / (times[-1] * len(train))))


def bits_without_labels(model: GatedPixelCNN, images: Dataset) -> tuple[float, float, float]:
    """Exact likelihood of images whose class is not told, p(x) = Σ_y p(x | y) / 10, and what follows for the class.

    Returns:
        Bits/dim, its standard error, and how often argmax_y p(x | y), Bayes' rule, is the label.
    """
    assert images.labels is not None
    values = images.values.long()
    with torch.no_grad():
        given = [model.log_prob(values, torch.full((len(values),), label)) for label in range(CLASSES)]
    joint = torch.stack(given, dim=1).double()  # [N, 10] nats
    bits = -(joint.logsumexp(dim=1) - math.log(CLASSES)) / (images.dims * math.log(2))
    right = (joint.argmax(dim=1) == images.labels).double().mean()
    return bits.mean().item(), bits.std().item() / math.sqrt(len(bits)), right.item()


def bits_of_independent_pixels(train: Dataset, watched: Dataset, held_out: Dataset) -> float:
    """Bits/dim of one histogram per pixel, with the pseudo-count that suits the watched images best."""
    counts = F.one_hot(train.values.long(), train.levels).sum(dim=0).double()  # [C, H, W, L]

    def bits(images: Dataset, pseudo: float) -> float:
        log_p = ((counts + pseudo) / (counts + pseudo).sum(dim=-1, keepdim=True)).log2()
        values = images.values.long().unsqueeze(-1)
        return -log_p.expand(len(values), *log_p.shape).gather(-1, values).mean().item()

    return bits(held_out, min((0.01, 0.03, 0.1, 0.3, 1.0, 3.0), key=lambda pseudo: bits(watched, pseudo)))


def race(model: GatedPixelCNN, shape: tuple[int, int, int], seed: int) -> tuple[Tensor, dict[str, float], int]:
    """Draw EACH images of every class with both samplers, from the same uniforms.

    Returns:
        The compiled sampler's images, class by class; images per CPU-second of both, its own as the median of five; and
        how many images are the same.
    """
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    u = uniforms(seed, len(labels), shape)
    samplers = {"naive": (1, sampling.NaiveSampler(model, shape)), "compiled": (5, sampling.compile(model, shape))}
    images, speed = {}, {}
    for name, (times, sampler) in samplers.items():
        sampler.sample(uniforms=u[:1], labels=labels[:1])  # the first call allocates
        seconds = []
        for _ in range(times):
            started = time.process_time()
            images[name] = sampler.sample(uniforms=u, labels=labels)
            seconds.append(time.process_time() - started)
        speed[name] = len(labels) / statistics.median(seconds)
    same = (images["naive"] == images["compiled"]).flatten(1).all(dim=1).sum()
    return images["compiled"], speed, int(same)


def some_of_each(images: Dataset, n: int) -> Dataset:
    """The first ``n`` images of every class, class by class."""
    assert images.labels is not None
    return images.pick(torch.cat([(images.labels == label).nonzero()[:n, 0] for label in range(CLASSES)]))


def complete_top_half(model: GatedPixelCNN, images: Dataset, seed: int) -> Tensor:
    """Draw what is below the top half of ``images``, knowing nothing else: first the class, from p(y | top half)."""
    values, half = images.values.long(), images.shape[1] // 2
    x = model.distribution.to_input(values)
    with torch.no_grad():
        seen = [model(x, torch.full((len(values),), label)) for label in range(CLASSES)]
    top = [model.distribution.log_prob(params, values)[:, :, :half].sum(dim=(1, 2, 3)) for params in seen]
    posterior = torch.stack(top, dim=1).softmax(dim=1)
    labels = posterior.multinomial(1, generator=torch.Generator().manual_seed(seed))[:, 0]
    mask = torch.arange(images.shape[1])[:, None].expand(images.shape[1:]) < half
    return sampling.compile(model, images.shape).sample(seed=seed, labels=labels, known=values, known_mask=mask)
