"""Pixel models against the same networks in plain torch, by the nats they reach in the same minutes.

    FASTGEN_DATA=... python benchmarks/nats_in_minutes.py row-lstm [--minutes 20] [--threads 2] [--seed 0] [--json FILE]

Both begin with the same weights, and a check that they compute the same nats; they see the same batches of 16 binarised
digits in the same order, with the same Adam, learning rate, clipping and moving average. Plain torch multiplies masks
into its kernels at each step, as most code does, and walks a PixelRNN in loops, written as well as they can be: see
``plain.py`` and ``bench_pixel_rnn.py``. They take turns of a few seconds, so that whatever slows the machine down slows
both; the learning rate falls to zero, by a cosine, over each one's own minutes. Then the averages of the weights are
evaluated on all test images. Loading, evaluation and the check are no part of the minutes; without ``--json`` nothing
is written.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench_pixel_rnn import LOOPS
from cases import assert_parity
from environment import environment
from fastgen._files import write_atomic
from fastgen.data import load
from fastgen.models import DiagonalBiLSTM, GatedPixelCNN, PixelCNN, RowLSTM
from fastgen.models.autoregressive import AutoregressiveModel
from fastgen.training.ema import EMA
from plain import plain

MODELS: dict[str, tuple[Callable[..., AutoregressiveModel], dict[str, int], float]] = {
    "pixelcnn": (PixelCNN, {"channels": 32, "layers": 7}, 3e-3),
    "gated-pixelcnn": (GatedPixelCNN, {"channels": 32, "layers": 5}, 3e-3),
    "row-lstm": (RowLSTM, {"channels": 16, "layers": 7}, 3e-3),
    "diagonal-bilstm": (DiagonalBiLSTM, {"channels": 16, "layers": 7}, 3e-3),
}
"""What is built, its size, and its largest learning rate."""
BATCH, CLIP, EMA_DECAY = 16, 1.0, 0.999
"""Images in a step; largest norm of the gradient, of nats per pixel; decay of the average of the weights."""


def in_plain_torch(model: AutoregressiveModel) -> nn.Module:
    """The same network and weights, and no op of fastgen. The states that a PixelRNN begins with are zero, and stay."""
    copied = plain(model)
    for layer in copied.modules():
        if type(layer) in LOOPS:
            layer.__class__ = LOOPS[type(layer)]
            for name in ("hidden", "cell"):
                delattr(layer, name)
    return copied


class Side:
    """One way to train: weights, their average, an optimiser, and the seconds that it has had."""

    def __init__(self, model: nn.Module, nats: Callable[[nn.Module, Tensor], Tensor], lr: float, seed: int) -> None:
        self.model, self.nats, self.lr = model, nats, lr
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.average = EMA(model)
        self.order = np.random.default_rng(seed)
        self.batches: list[Tensor] = []
        self.seconds, self.steps = 0.0, 0
        self.recent: list[float] = []
        self.curve: list[dict[str, float]] = []

    def train(self, values: Tensor, until: float, minutes: float) -> None:
        """Steps until ``until`` seconds are spent, of ``minutes`` in all."""
        self.model.train()
        while self.seconds < until:
            started = time.perf_counter()
            if not self.batches:
                self.batches = list(torch.from_numpy(self.order.permutation(len(values))).split(BATCH))
            batch = values[self.batches.pop()]
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, self.seconds / (60 * minutes))))
            self.optimizer.zero_grad()
            loss = self.nats(self.model, batch).mean() / batch[0].numel()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()
            self.steps += 1
            self.average.update(min(EMA_DECAY, self.steps / (10 + self.steps)))
            self.recent.append(float(loss.detach()) * batch[0].numel())
            self.seconds += time.perf_counter() - started
        if self.recent:  # none where the last step took more than a turn
            nats = sum(self.recent) / len(self.recent)
            self.curve.append({"seconds": self.seconds, "steps": self.steps, "train_nats": nats})
            self.recent = []

    @torch.no_grad()
    def evaluate(self, values: Tensor) -> dict[str, float]:
        """Nats of the averaged weights on all images, with the standard error."""
        model = self.average.module.eval()
        each = torch.cat([self.nats(model, part) for part in values.split(100)]).double()
        nats, error = float(each.mean()), float(each.std() / len(each) ** 0.5)
        return {
            "nats": nats,
            "standard_error": error,
            "images": len(each),
            "steps": self.steps,
            "seconds": self.seconds,
        }


def ours(model: nn.Module, values: Tensor) -> Tensor:
    """(N,) nats, by the model's own law."""
    return -cast(AutoregressiveModel, model).log_prob(values)


def theirs(model: nn.Module, values: Tensor) -> Tensor:
    """(N,) nats, as they are written by hand."""
    x = values.to(next(model.parameters()).dtype)
    return F.binary_cross_entropy_with_logits(model(2 * x - 1), x, reduction="none").flatten(1).sum(1)


def main() -> None:
    """Train both, and print what they reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--minutes", type=float, default=20, help="of training, for each of both")
    parser.add_argument("--turn", type=float, default=10, help="seconds of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="test images that are evaluated, drawn from all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train, test = (load("binarized-mnist", split=split) for split in ("train", "test"))
    if options.limit is not None:
        test = test.subset(options.limit)
    make, size, lr = MODELS[options.model]
    torch.manual_seed(options.seed)
    model = make(**size)
    peer = in_plain_torch(copy.deepcopy(model))
    some = test.values[:BATCH]
    with torch.no_grad():
        assert_parity(ours(model, some), theirs(peer, some), theirs(copy.deepcopy(peer).double(), some))
    sides = {"fastgen": Side(model, ours, lr, options.seed), "plain torch": Side(peer, theirs, lr, options.seed)}
    turns = max(1, round(60 * options.minutes / options.turn))
    for turn in range(1, turns + 1):
        for name, side in sides.items():
            side.train(train.values, 60 * options.minutes * turn / turns, options.minutes)
            last = side.curve[-1]
            print(f"{last['seconds']:.0f} s, {name}: {last['steps']} steps, {last['train_nats']:.2f}", flush=True)
    settings = {"model": options.model, "minutes": options.minutes, "turn": options.turn, "seed": options.seed}
    settings |= size | {"lr": lr, "batch_size": BATCH, "clip": CLIP, "ema": EMA_DECAY, "data": "binarized-mnist"}
    found: dict[str, Any] = {"environment": environment("cpu"), "options": settings, "results": {}, "curves": {}}
    found["options"]["weights"] = sum(each.numel() for each in model.parameters())
    for name, side in sides.items():
        found["results"][name] = result = side.evaluate(test.values)
        found["curves"][name] = side.curve
        print(
            f"{options.model}, {name}: {result['nats']:.2f} ± {result['standard_error']:.2f} nats"
            f" on {len(test)} test images after {result['seconds']:.0f} s, {result['steps']} steps",
            flush=True,
        )
    if options.json:
        write_atomic(options.json, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
