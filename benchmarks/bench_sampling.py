"""Cached against naive sampling, in CPU-seconds of one thread.

    python benchmarks/bench_sampling.py [--models gated-pixelcnn pixelcnn] [--batches 1 16] [--output FILE.json]

Naive sampling is counted as one full forward times the number of pixels: what it costs to run the model once for every
pixel, with nothing else in the loop. Both run in inference mode and eval mode, alternately, in this process, after it
was checked that they draw the same images and that the cached path sees what one forward sees. The ceiling beside each
ratio is the one of arithmetic, H·W; a ratio can pass it only where the arithmetic itself runs faster.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen import models, sampling
from harness import assert_parity, write


def check_parity(name: str) -> None:
    """Same uniforms, same images on a small model; forced agrees with one forward on the one that is measured."""
    small = models.build(name, channels=8, layers=2, image_size=8)
    torch.nn.init.normal_(small.output.weight)
    shape, uniforms = (1, 8, 8), torch.rand(2, 1, 8, 8)
    naive = sampling.NaiveSampler(small, shape).sample(uniforms=uniforms)
    cached = sampling.compile(small, shape).sample(uniforms=uniforms)
    if not torch.equal(cached, naive):
        raise AssertionError(f"{name}: {(cached != naive).sum()} of {naive.numel()} values differ from naive sampling")
    model = models.build(name)
    values = torch.randint(2, (1, 1, 28, 28))
    x = model.distribution.to_input(values)
    with torch.inference_mode():
        eager, exact = model(x), copy.deepcopy(model).double()(x.double())
    assert_parity(sampling.compile(model, (1, 28, 28)).forced(values), eager, exact)


def cpu_seconds(run: Callable[[], Tensor]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def summary(seconds: list[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(seconds), 5),
        "min": round(min(seconds), 5),
        "max": round(max(seconds), 5),
        "runs": len(seconds),
    }


def measure(name: str, batch: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = models.build(name).eval()
    C, (H, W) = model.in_channels, model.image_size
    sampler = sampling.compile(model, (C, H, W))
    x = model.distribution.to_input(torch.randint(model.levels, (batch, C, H, W)))

    @torch.inference_mode()
    def forward() -> Tensor:
        return model(x)

    def cached() -> Tensor:
        return sampler.sample(batch, seed=0)

    runs: dict[str, list[float]] = {"forward": [], "cached": []}
    forward(), cached()
    for _ in range(repeats):
        runs["forward"].append(cpu_seconds(forward))
        runs["cached"].append(cpu_seconds(cached))
    naive = statistics.median(runs["forward"]) * C * H * W
    spent = statistics.median(runs["cached"])
    return {
        "model": name,
        "config": model.config,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "shape": [batch, C, H, W],
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "forward_cpu_s": summary(runs["forward"]),
        "cached_cpu_s": summary(runs["cached"]),
        "naive_cpu_s": round(naive, 2),
        "cached_cpu_s_per_image": round(spent / batch, 5),
        "ratio": round(naive / spent, 1),
        "ceiling": C * H * W,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(models.NAMES), default=["gated-pixelcnn", "pixelcnn"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in options.models:
        check_parity(name)
    cases = [measure(name, batch, options.repeats) for name in options.models for batch in options.batches]
    write("sampling", cases, options.output)


if __name__ == "__main__":
    main()
