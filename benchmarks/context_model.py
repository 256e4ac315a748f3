"""A context model of learned image compression, decoded position by position: Python's loop of its users, and a walk.

    python benchmarks/context_model.py [--channels 192] [--size 16] [--threads 1] [--json FILE]

The model is that of Minnen, Ballé and Toderici 2018 (arXiv:1809.02736), figure 1: a masked 5×5 convolution on the
latents decoded so far, and three 1×1 layers on its result and the hyperprior's features. The loop is the usual one: for
each position the latents around it are cut out of a padded map, convolved with the masked weights, joined with the
features, and passed through the layers. Both decode the same symbols: the residuals are given, as an entropy decoder
would answer them, and a latent is its mean, rounded, and its residual.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import checkout  # noqa: F401
from environment import environment
from fastgen._files import write_atomic
from fastgen.sampling import Walker


class ContextModel(nn.Module):
    """(N, M, H, W) latents and (N, 2·M, H, W) features → means and scales (N, 2·M, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        M = channels
        self.context = nn.Conv2d(M, 2 * M, 5, padding=2)
        mask = torch.ones(5, 5)
        mask[2, 2:] = 0
        mask[3:] = 0
        self.register_buffer("mask", mask)
        widths = (4 * M, 4 * M * 10 // 12, 4 * M * 8 // 12, 2 * M)
        self.layers = nn.Sequential(
            nn.Conv2d(widths[0], widths[1], 1), nn.LeakyReLU(),
            nn.Conv2d(widths[1], widths[2], 1), nn.LeakyReLU(),
            nn.Conv2d(widths[2], widths[3], 1),
        )  # fmt: skip

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        context = F.conv2d(latents, self.context.weight * self.mask, self.context.bias, padding=2)
        return self.layers(torch.cat([features, context], 1))


@torch.no_grad()
def by_loop(model: ContextModel, features: Tensor, residuals: Tensor) -> Tensor:
    """The latents, as CompressAI's ``JointAutoregressiveHierarchicalPriors`` decodes them."""
    H, W = residuals.shape[2:]
    padded = F.pad(torch.zeros_like(residuals), (2, 2, 2, 2))
    weight = model.context.weight * model.mask
    for h in range(H):
        for w in range(W):
            crop = padded[:, :, h : h + 5, w : w + 5]
            context = F.conv2d(crop, weight, model.context.bias)
            params = model.layers(torch.cat([features[:, :, h : h + 1, w : w + 1], context], 1))
            padded[:, :, h + 2, w + 2] = decoded(params[:, :, 0, 0], residuals[:, :, h, w])
    return padded[:, :, 2:-2, 2:-2]


def by_walk(walker: Walker, features: Tensor, residuals: Tensor) -> Tensor:
    latents = torch.zeros_like(residuals)
    for step in walker.walk(condition=features):
        values = decoded(step.params, residuals[:, :, step.row, step.column])
        latents[:, :, step.row, step.column] = values
        step.reveal(values)
    return latents


def decoded(params: Tensor, residual: Tensor) -> Tensor:
    """Rounded to whole numbers, so that rounding of sums seldom shows."""
    means, _ = params.chunk(2, 1)
    return residual + means.round()


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measured(channels: int, size: int, batch: int, repeats: int = 7) -> dict[str, Any]:
    torch.manual_seed(0)
    model = ContextModel(channels).eval()
    features, residuals = (
        torch.randn(batch, 2 * channels, size, size), torch.randint(-3, 4, (batch, channels, size, size)).float(),
    )  # fmt: skip
    walker = Walker(model, (channels, size, size), condition=features[0])
    expected, got = by_loop(model, features, residuals), by_walk(walker, features, residuals)
    if not torch.equal(expected, got):
        raise AssertionError(f"{int((expected != got).sum())} of {got.numel()} symbols differ")
    runs = {
        "loop": lambda: by_loop(model, features, residuals),
        "walk": lambda: by_walk(walker, features, residuals),
    }
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            spent[name].append(seconds(run))
    medians = {name: round(1e3 * statistics.median(values), 2) for name, values in spent.items()}
    return {
        "shape": [batch, channels, size, size], "dtype": "float32", "threads": torch.get_num_threads(),
        "milliseconds": medians, "ratio": round(medians["loop"] / medians["walk"], 2),
        "differing_symbols": 0,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=192)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [measured(options.channels, options.size, batch) for batch in (1, 4)]
    report = json.dumps({"benchmark": "context model", "environment": environment("cpu"), "cases": cases}, indent=1)
    if options.json:
        write_atomic(options.json, (report + "\n").encode())
    sys.stdout.write(report + "\n")


if __name__ == "__main__":
    main()
