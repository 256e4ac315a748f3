"""What models of pixels reach in the same minutes, in nats on all test images: two ways, in turns.

    FASTGEN_DATA=... python benchmarks/nats_in_minutes.py row-lstm [--minutes 20] [--threads 2] [--seed 0] [--json FILE]

``pixelcnn``, ``gated-pixelcnn``, ``row-lstm`` and ``diagonal-bilstm`` stand beside the same network in plain torch, on
binarised digits. Both begin with the same weights, and a check that they compute the same nats. Plain torch multiplies
masks into its kernels at each step, as most code does, and walks a PixelRNN in loops, written as well as they can be:
see ``plain.py`` and ``bench_pixel_rnn.py``. The other contests are of two models of fastgen:

    pixelcnn++           a mixture of logistics against a categorical law by a PixelCNN, on grey digits
    pixelcnn++-heads     the same mixture against a categorical law by the same network
    super-resolution     digits given their 7×7 means, against digits alone
    colour               chroma given luma, of photographs of 16×16 pixels and 16 levels, against chroma alone
    multi-scale          7×7 pixels and the rest given these, against one scale

Both ways see the same batches of 16 images in the same order, with the same Adam, learning rate, clipping and moving
average. They take turns of a few seconds, so that whatever slows the machine down slows both; the learning rate falls
to zero, by a cosine, over each one's own minutes. Then the averages of the weights are evaluated on all test images,
and those that are given something on what belongs to another image, too. Loading, evaluation and checks are no part of
the minutes; without ``--json`` nothing is written.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench_pixel_rnn import LOOPS
from cases import assert_parity
from environment import environment
from fastgen._files import write_atomic
from fastgen.data import Dataset, Downsampled, Given, Grey, load
from fastgen.models import DiagonalBiLSTM, GatedPixelCNN, MultiScale, PixelCNN, PixelCNNPP, RowLSTM
from fastgen.models.autoregressive import AutoregressiveModel
from fastgen.training.ema import EMA
from plain import plain

Nats = Callable[[Any, Tensor, Tensor | None], Tensor]
"""Of a model, values and what is given, (N,)."""

PEERS: dict[str, Callable[[], AutoregressiveModel]] = {
    "pixelcnn": partial(PixelCNN, channels=32, layers=7),
    "gated-pixelcnn": partial(GatedPixelCNN, channels=32, layers=5),
    "row-lstm": partial(RowLSTM, channels=16, layers=7),
    "diagonal-bilstm": partial(DiagonalBiLSTM, channels=16, layers=7),
}
"""Models that stand beside themselves in plain torch."""
GATED = partial(GatedPixelCNN, channels=32, layers=5)
CHROMA = partial(GATED, 2, 31, channels=32, image_size=16)
PLUS = partial(PixelCNNPP, 1, channels=32, blocks=1, resolutions=1, dropout=0.0, image_size=28, components=80)
PAIRS: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "pixelcnn++": {"mixture of logistics": PLUS, "categorical": partial(PixelCNN, 1, 256, 32, 7)},
    "pixelcnn++-heads": {
        "mixture of logistics": PLUS,
        "categorical head": partial(PLUS, distribution="categorical"),
    },
    "super-resolution": {"given": partial(GATED, condition_shape=(1, 7, 7)), "alone": GATED},
    "colour": {"given": partial(CHROMA, condition_shape=(1, 16, 16)), "alone": CHROMA},
    "multi-scale": {"two scales": partial(MultiScale, scales=(7,), channels=32, layers=5), "one scale": GATED},
}
"""Two models of fastgen, the one that a contest is about first."""
DATA: dict[str, tuple[str, dict[str, Any], Given | None]] = {
    "pixelcnn++": ("mnist", {}, None),
    "pixelcnn++-heads": ("mnist", {}, None),
    "super-resolution": ("binarized-mnist", {}, Downsampled(4)),
    "colour": ("cifar10", {"levels": 16, "image_size": 16}, Grey()),
}
"""Of a contest: data, how they are read, and what is given; of all others the binarised digits as they are."""
LR, BATCH, CLIP, EMA_DECAY = 3e-3, 16, 1.0, 0.999
"""Largest learning rate; images in a step; largest norm of the gradient of nats per dimension; decay of the average."""


def in_plain_torch(model: AutoregressiveModel) -> nn.Module:
    """The same network and weights, and no op of fastgen. The states that a PixelRNN begins with are zero, and stay."""
    copied = plain(model)
    for layer in copied.modules():
        if type(layer) in LOOPS:
            layer.__class__ = LOOPS[type(layer)]
            for name in ("hidden", "cell"):
                delattr(layer, name)
    return copied


def ours(model: Any, values: Tensor, given: Tensor | None = None) -> Tensor:
    """(N,) nats, by the model's own law."""
    found: Tensor = -(model.log_prob(values) if given is None else model.log_prob(values, condition=given))
    return found


def theirs(model: nn.Module, values: Tensor, given: Tensor | None = None) -> Tensor:
    """(N,) nats of two levels, as they are written by hand."""
    x = values.to(next(model.parameters()).dtype)
    return F.binary_cross_entropy_with_logits(model(2 * x - 1), x, reduction="none").flatten(1).sum(1)


class Side:
    """One way to train: weights, their average, an optimiser, and the seconds that it has had."""

    def __init__(self, model: nn.Module, nats: Nats, data: Dataset, seed: int) -> None:
        self.model, self.nats, self.data = model, nats, data
        self.order = np.random.default_rng(seed)
        self.batches: list[Tensor] = []
        begin = getattr(model, "begin_training", None)
        if begin is not None:  # weights that begin from the first batch
            begin(*self._next())
        self.optimizer = torch.optim.Adam(model.parameters(), lr=LR)
        self.average = EMA(model)
        self.seconds, self.steps = 0.0, 0
        self.recent: list[float] = []
        self.curve: list[dict[str, float]] = []

    def _next(self) -> tuple[Tensor, Tensor | None]:
        if not self.batches:
            self.batches = list(torch.from_numpy(self.order.permutation(len(self.data))).split(BATCH))
        at, given = self.batches.pop(), self.data.condition
        return self.data.values[at], given[at] if isinstance(given, Tensor) else None

    def train(self, until: float, minutes: float) -> None:
        """Steps until ``until`` seconds are spent, of ``minutes`` in all."""
        self.model.train()
        while self.seconds < until:
            started = time.perf_counter()
            values, given = self._next()
            for group in self.optimizer.param_groups:
                group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * min(1.0, self.seconds / (60 * minutes))))
            self.optimizer.zero_grad()
            loss = self.nats(self.model, values, given).mean() / values[0].numel()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()
            self.steps += 1
            self.average.update(min(EMA_DECAY, self.steps / (10 + self.steps)))
            self.recent.append(float(loss.detach()) * values[0].numel())
            self.seconds += time.perf_counter() - started
        if self.recent:  # none where the last step took more than a turn
            nats = sum(self.recent) / len(self.recent)
            self.curve.append({"seconds": self.seconds, "steps": self.steps, "train_nats": nats})
            self.recent = []

    @torch.no_grad()
    def evaluate(self, test: Dataset) -> dict[str, Any]:
        """Nats of the averaged weights on all images, with the standard error; given their own, and another's."""
        model, given = self.average.module.eval(), test.condition
        told = [given, given.roll(1, 0)] if isinstance(given, Tensor) else [None]
        means = []
        for each in told:
            conditions = [None] * len(test) if each is None else each.split(100)
            parts = zip(test.values.split(100), conditions, strict=False)
            nats = torch.cat([self.nats(model, *part) for part in parts]).double()
            means.append((float(nats.mean()), float(nats.std() / len(nats) ** 0.5)))
        found = {"nats": means[0][0], "standard_error": means[0][1], "dims": test.dims, "images": len(test)}
        if len(means) > 1:
            found["nats_given_anothers"] = means[1][0]
        found["weights"] = sum(each.numel() for each in self.model.parameters())
        return found | {"steps": self.steps, "seconds": self.seconds}


def contenders(name: str, seed: int, train: Dataset, test: Dataset) -> dict[str, Side]:
    """Both ways, after the check that peers compute the same."""
    if name in PAIRS:
        found = {}
        for way, make in PAIRS[name].items():
            torch.manual_seed(seed)
            data = train if way != "alone" else replace(train, condition=None)
            found[way] = Side(make(), ours, data, seed)
        return found
    torch.manual_seed(seed)
    model = PEERS[name]()
    peer, some = in_plain_torch(copy.deepcopy(model)), test.values[:BATCH]
    with torch.no_grad():
        assert_parity(ours(model, some), theirs(peer, some), theirs(copy.deepcopy(peer).double(), some))
    return {"fastgen": Side(model, ours, train, seed), "plain torch": Side(peer, theirs, train, seed)}


def main() -> None:
    """Train both, and print what they reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contest", choices=[*PEERS, *PAIRS])
    parser.add_argument("--minutes", type=float, default=20, help="of training, for each of both")
    parser.add_argument("--turn", type=float, default=10, help="seconds of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="test images that are evaluated, drawn from all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data, how, given = DATA.get(options.contest, ("binarized-mnist", {}, None))
    train, test = (load(data, split=split, **how) for split in ("train", "test"))
    if options.limit is not None:
        test = test.subset(options.limit)
    if given is not None:
        train, test = given.prepare(train), given.prepare(test)
    sides = contenders(options.contest, options.seed, train, test)
    turns = max(1, round(60 * options.minutes / options.turn))
    for turn in range(1, turns + 1):
        for name, side in sides.items():
            side.train(60 * options.minutes * turn / turns, options.minutes)
            last = side.curve[-1]
            print(f"{last['seconds']:.0f} s, {name}: {last['steps']} steps, {last['train_nats']:.2f}", flush=True)
    settings = {"contest": options.contest, "minutes": options.minutes, "turn": options.turn, "seed": options.seed}
    settings |= {"lr": LR, "batch_size": BATCH, "clip": CLIP, "ema": EMA_DECAY, "data": data, "told": str(given)}
    found: dict[str, Any] = {"environment": environment("cpu"), "options": settings, "results": {}, "curves": {}}
    for name, side in sides.items():
        result = side.evaluate(replace(test, condition=None) if name == "alone" else test)
        found["results"][name], found["curves"][name] = result, side.curve
        another = result.get("nats_given_anothers")
        print(
            f"{options.contest}, {name}: {result['nats']:.2f} ± {result['standard_error']:.2f} nats"
            f"{'' if another is None else f' ({another:.2f} given what belongs to another image)'}"
            f" on {len(test)} test images after {result['seconds']:.0f} s, {result['steps']} steps",
            flush=True,
        )
    if options.json:
        write_atomic(options.json, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
