"""Compiled against naive sampling, in CPU-seconds of one thread.

    python benchmarks/bench_sampling.py [--models gated-pixelcnn pixelcnn pixelcnn++] [--batches 1 16 64]
                                        [--tuned] [--output FILE.json]

Naive sampling is counted as one full forward times the number of pixels: what it costs to run the model once for every
pixel, with nothing else in the loop. Both run in inference mode and eval mode, alternately, in this process, after it
was checked that they draw the same images and that the compiled path sees what one forward sees. ``--tuned`` counts a
forward of ``torch.compile`` as well. The ceiling beside each ratio is the one of arithmetic, H·W; a ratio can pass it
only where the arithmetic itself runs faster. ``sgemm_share`` is the rate of the plan's products, over all of the
sampler's time, against torch's own product in this process, one thread, (64, 384) by (384, 256).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgen import models, sampling
from fastgen.distributions import Categorical, Distribution
from harness import write  # puts the folder of the tests on the path

# isort: split
from foreign import ShiftedPixelCNN

MODELS = ["gated-pixelcnn", "pixelcnn", "pixelcnn++"]


#: A model, the shape of its images, and the distribution of a value.
Case = tuple[nn.Module, tuple[int, int, int], Distribution]


def case(name: str, small: bool) -> Case:
    """What is measured, or a model of the same kind that is small enough for naive sampling."""
    if name == "pixelcnn++":  # its shape, with a categorical head instead of the mixture of logistics
        if small:
            return ShiftedPixelCNN(filters=8, levels=3, params=6), (3, 8, 8), Categorical(2)
        return ShiftedPixelCNN(filters=160, blocks=5, levels=3, params=768), (3, 32, 32), Categorical(256)
    model = models.build(name, **({"channels": 8, "layers": 2, "image_size": 8} if small else {}))
    return model, (model.in_channels, *model.image_size), model.distribution


def check_parity(name: str) -> None:
    """Same uniforms, same images on a small model; forced agrees with one forward on the one that is measured."""
    small, shape, distribution = case(name, small=True)
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from the zeros that a last layer may begin with
    uniforms = torch.rand(2, *shape)
    naive = sampling.NaiveSampler(small, shape, distribution).sample(uniforms=uniforms)
    compiled = sampling.compile(small, shape, distribution).sample(uniforms=uniforms)
    if not torch.equal(compiled, naive):
        raise AssertionError(
            f"{name}: {(compiled != naive).sum()} of {naive.numel()} values differ from naive sampling"
        )
    model, shape, distribution = case(name, small=False)
    model.eval()
    values = torch.randint(distribution.levels, (1, *shape))
    x = distribution.to_input(values)
    with torch.inference_mode():
        eager = model(x)
    torch.testing.assert_close(sampling.compile(model, shape, distribution).forced(values), eager, rtol=0, atol=1e-4)


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Of the processor and of the clock on the wall."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def sgemm_rate() -> float:
    """GFLOP/s of torch's matrix product at the size of a batch."""
    a, b = torch.randn(64, 384), torch.randn(384, 256)
    out = torch.empty(64, 256)
    spent = min(seconds(lambda: [torch.mm(a, b, out=out) for _ in range(200)])[0] for _ in range(10))
    return 200 * 2 * 64 * 384 * 256 / spent / 1e9


def summary(seconds: list[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(seconds), 5),
        "min": round(min(seconds), 5),
        "max": round(max(seconds), 5),
        "runs": len(seconds),
    }


def measure(name: str, batch: int, repeats: int, tuned: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    model, shape, distribution = case(name, small=False)
    model.eval()
    pixels = shape[1] * shape[2]
    sampler = sampling.compile(model, shape, distribution)
    flops = batch * sum(i.rows.count * i.columns.count * i.flops for i in sampler.plan.instructions)
    x = distribution.to_input(torch.randint(distribution.levels, (batch, *shape)))
    runs: dict[str, Callable[[], Tensor]] = {
        "forward": torch.inference_mode()(lambda: model(x)),
        "compiled": lambda: sampler.sample(batch, seed=0),
    }
    if tuned:
        fast = torch.compile(model)
        runs["tuned_forward"] = torch.inference_mode()(lambda: fast(x))
    for run in runs.values():
        run()
    spent: dict[str, list[tuple[float, float]]] = {each: [] for each in runs}
    sgemm = 0.0
    for _ in range(repeats):
        sgemm = max(sgemm, sgemm_rate())
        for each, run in runs.items():
            spent[each].append(seconds(run))
    cpu = {each: statistics.median(c for c, _ in times) for each, times in spent.items()}
    ratios = {each.replace("forward", "ratio"): round(cpu[each] * pixels / cpu["compiled"], 1) for each in runs}
    ratios.pop("compiled")
    result = {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "shape": [batch, *shape],
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "cpu_s": {each: summary([c for c, _ in times]) for each, times in spent.items()},
        "wall_s": {each: summary([w for _, w in times]) for each, times in spent.items()},
        "compiled_cpu_s_per_image": round(cpu["compiled"] / batch, 5),
        "gflops": round(flops / cpu["compiled"] / 1e9, 1),
        "sgemm_gflops": round(sgemm, 1),
        "sgemm_share": round(flops / cpu["compiled"] / 1e9 / sgemm, 3),
        "steps": sampler.plan.steps,
        **ratios,
        "ceiling": pixels,
    }
    print(
        f"{name}, batch {batch}: {cpu['compiled']:.4g} CPU-s, {result['ratio']}x, {result['sgemm_share']:.0%} of sgemm"
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS[:2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tuned", action="store_true", help="also count torch.compile's forward; compiles for minutes")
    parser.add_argument("--output", type=Path, help="write the JSON here, not to the terminal")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in options.models:
        check_parity(name)
    cases = [
        measure(name, batch, options.repeats, options.tuned) for name in options.models for batch in options.batches
    ]
    write("sampling", cases, options.output)


if __name__ == "__main__":
    main()
