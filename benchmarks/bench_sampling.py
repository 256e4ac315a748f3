"""Compiled against naive sampling, in CPU-seconds of one thread.

    python benchmarks/bench_sampling.py [--models gated-pixelcnn pixelcnn pixelcnn++ pixelcnn++-mixture image-gpt
                                                  pixelsnail]
                                        [--batches 1 16 64] [--device cuda] [--tuned] [--output FILE.json]

Naive sampling is counted as one full forward times the number of pixels: what it costs to run the model once for every
pixel, with nothing else in the loop. Both run in inference mode and eval mode, alternately, in this process, after it
was checked that they draw the same images and that the compiled path sees what one forward sees. ``--tuned`` counts a
forward of ``torch.compile`` as well. The ceiling beside each ratio is the one of arithmetic, H·W; a ratio can pass it
only where the arithmetic itself runs faster, or where attention to earlier pixels alone has less of it. "bfloat16"
and "float16" are the compiled samplers of these precisions, each with its largest error of a logit, and by how many
nats it makes images of the compiled sampler less likely. ``sgemm_share`` is the rate of the plan's products, over all
of the sampler's time, against torch's own product in this process, one thread, (64, 384) by (384, 256).

With ``--device cuda`` the forward and the compiled sampler run on the GPU; "host" is the compiled sampler on the CPU,
with ``--threads``, of one image. All are then counted in seconds on the wall.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import checkout  # noqa: F401
from fastgen import models, sampling
from fastgen.distributions import Categorical, Distribution
from fastgen.sampling.precision import PRECISIONS
from foreign import ShiftedPixelCNN
from harness import Bench, finish, run
from parity import LOGITS_AGREE

MODELS = ["gated-pixelcnn", "pixelcnn", "pixelcnn++", "pixelcnn++-mixture", "image-gpt", "pixelsnail"]

#: Those whose times on a GPU are expected, see expected_sampling.py.
EXPECTED = ("pixelcnn", "gated-pixelcnn", "pixelcnn++", "image-gpt")

#: What a model says itself that it reads; the others read [-1, 1].
READ: dict[str, str | None] = {"image-gpt": None}

#: Up to so many images the CPU draws the same beside a GPU: sixteen of the largest would take it minutes.
HOST = 1

#: A model, the shape of its images, and the distribution of a value.
Model = tuple[nn.Module, tuple[int, int, int], Distribution]


def build(name: str, small: bool) -> Model:
    """What is measured, or a model of the same kind that is small enough for naive sampling."""
    if name == "pixelcnn++":  # its shape, with a categorical head instead of the mixture of logistics
        if small:
            return ShiftedPixelCNN(filters=8, levels=3, params=6), (3, 8, 8), Categorical(2)
        return ShiftedPixelCNN(filters=160, blocks=5, levels=3, params=768), (3, 32, 32), Categorical(256)
    if name == "pixelcnn++-mixture":  # fastgen's own, with the head of the paper
        sizes = {"channels": 8, "blocks": 1, "resolutions": 2, "image_size": 8} if small else {}
        own = models.PixelCNNPP(**sizes)
        own.begin_training(torch.randint(own.levels, (4, own.in_channels, *own.sides)))  # weights of no scale explode
        return own, (own.in_channels, *own.sides), own.distribution
    if name == "image-gpt":  # a transformer of 12 layers over 32 x 32 pixels of 256 levels
        sizes = {"channels": 8, "layers": 2, "heads": 2, "image_size": 8} if small else {"channels": 256, "heads": 4}
        own = models.build(name, in_channels=1, levels=256, **({"image_size": 32, "layers": 12} | sizes))
        torch.nn.init.normal_(own.output.weight, std=0.1)  # which begins with zeros
        return own, (1, *own.image_size), own.distribution
    if name == "pixelsnail":
        sizes = {"channels": 8, "blocks": 2, "layers": 1, "keys": 4, "values": 8, "image_size": 8} if small else {}
        own = models.build(name, in_channels=1, levels=2, **({"channels": 64, "image_size": 28} | sizes))
        return own, (1, *own.image_size), own.distribution
    model = models.build(name, **({"channels": 8, "layers": 2, "image_size": 8} if small else {}))
    return model, (model.in_channels, *model.image_size), model.distribution


def check_parity(name: str, quick: bool = False) -> None:
    """Same uniforms, same images on a small model; forced agrees with one forward on the one that is measured.

    ``quick``: the small model is the one that is measured.
    """
    small, shape, distribution = build(name, small=True)
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from the zeros that a last layer may begin with
    by_forwards = sampling.NaiveSampler(small, shape, distribution, READ.get(name, "[-1, 1]"))
    uniforms = torch.rand(2, *by_forwards.uniforms_shape)
    naive = by_forwards.sample(uniforms=uniforms)
    compiled = sampling.compile(small, shape, distribution, READ.get(name, "[-1, 1]")).sample(uniforms=uniforms)
    if not torch.equal(compiled, naive):
        raise AssertionError(
            f"{name}: {(compiled != naive).sum()} of {naive.numel()} values differ from naive sampling"
        )
    model, shape, distribution = build(name, small=quick)
    model.eval()
    values = torch.randint(distribution.levels, (1, *shape))
    sampler = sampling.compile(model, shape, distribution, READ.get(name, "[-1, 1]"))
    with torch.inference_mode():
        eager = model(sampler.to_input(values))
    forced = sampler.forced(values)
    torch.testing.assert_close(forced, eager, rtol=0, atol=LOGITS_AGREE)


def check_seen(name: str, host: sampling.Sampler, there: sampling.Sampler) -> None:
    """What the GPU's executor sees of an image is what the CPU's sees."""
    images = host.sample(1, seed=1)
    seen = there.forced(images.to(next(there.model.parameters()).device)).cpu()
    torch.testing.assert_close(seen, host.forced(images), rtol=0, atol=LOGITS_AGREE, msg=lambda text: f"{name}: {text}")


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


@dataclass(frozen=True)
class SamplingCase:
    """A model, how many images at a time, how often each is timed, and whether torch.compile's forward is too."""

    model: str
    batch: int
    repeats: int = 5
    tuned: bool = False

    @property
    def name(self) -> str:
        return f"sample {self.model}, {self.batch} at a time"

    def results(self, bench: Bench) -> Iterator[dict[str, Any]]:
        """One case; on the CPU with one thread, whatever the process has."""
        threads = torch.get_num_threads()
        torch.manual_seed(0)
        try:
            if bench.device == "cpu":
                torch.set_num_threads(1)
            check_parity(self.model, bench.quick)
            yield self._measured(bench)
        finally:
            torch.set_num_threads(threads)

    def _measured(self, bench: Bench) -> dict[str, Any]:
        model, shape, distribution = build(self.model, small=bench.quick)
        model.eval()
        pixels, batch = shape[1] * shape[2], self.batch
        sampler = host = sampling.compile(model, shape, distribution, READ.get(self.model, "[-1, 1]"))
        if bench.device != "cpu":
            there = copy.deepcopy(model).to(bench.device)
            sampler = sampling.compile(there, shape, distribution, READ.get(self.model, "[-1, 1]"))
            check_seen(self.model, host, sampler)
        flops = batch * sum(i.rows.count * i.columns.count * i.flops for i in sampler.plan.instructions)
        x = sampler.to_input(torch.randint(distribution.levels, (batch, *shape)))
        runs = self._runs(bench.device, model, x, sampler)
        rounded: dict[str, sampling.Sampler] = {}
        for each in PRECISIONS[1:]:
            rounded[each] = sampling.compile(
                sampler.model, shape, distribution, READ.get(self.model, "[-1, 1]"), precision=each
            )
            runs[each] = partial(rounded[each].sample, batch, seed=0)
        if bench.device != "cpu" and batch <= HOST:
            runs["host"] = lambda: host.sample(batch, seed=0)
        spent = _in_turn(runs, self.repeats)
        clock = "cpu" if bench.device == "cpu" else "wall"
        medians = {each: statistics.median(time[clock == "wall"] for time in times) for each, times in spent.items()}
        ratios = {
            each.replace("forward", "ratio"): round(medians[each] * pixels / medians["compiled"], 1)
            for each in medians
            if each not in ("compiled", *PRECISIONS, "host")
        }
        rate, sgemm = 1e-9 * flops / medians["compiled"], 0.0 if bench.quick else sgemm_rate()
        return {
            "case": self.name,
            "model": self.model,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "shape": [batch, *shape],
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "clock": clock,
            "cpu_s": {each: summary([c for c, _ in times]) for each, times in spent.items()},
            "wall_s": {each: summary([w for _, w in times]) for each, times in spent.items()},
            f"compiled_{clock}_s_per_image": round(medians["compiled"] / batch, 5),
            "gflops": round(rate, 1),
            "sgemm_gflops": round(sgemm, 1),
            "sgemm_share": round(rate / sgemm, 3) if sgemm else None,
            "steps": sampler.plan.sequential_draws,
            **self._rounding(sampler, rounded, medians),
            **({} if "host" not in medians else {"host_ratio": round(medians["host"] / medians["compiled"], 2)}),
            "executor": sampler.instruction_set,
            **ratios,
            "ceiling": pixels,
        }

    def _rounding(
        self, exact: sampling.Sampler, rounded: dict[str, sampling.Sampler], medians: dict[str, float]
    ) -> dict[str, float]:
        """What each precision gives, and what it costs."""
        if not rounded:
            return {}
        found, images = {}, exact.sample(2, seed=1)
        expected = exact.forced(images)
        likely = exact.distribution.log_prob(expected, images).double().sum().item() / 2
        for each, sampler in rounded.items():
            seen = sampler.forced(images)
            error = (seen - expected).abs().max().item()
            if not error < 0.1 * expected.abs().max().item():
                raise AssertionError(f"{self.model}: in {each} a parameter is {error:.2g} off")
            found[f"{each}_ratio"] = round(medians["compiled"] / medians[each], 2)
            found[f"{each}_logit_error"] = round(error, 6)
            nats = likely - exact.distribution.log_prob(seen, images).double().sum().item() / 2
            found[f"{each}_nats"] = round(nats, 5)
        return found

    def _runs(
        self, device: str, model: nn.Module, x: Tensor, sampler: sampling.Sampler
    ) -> dict[str, Callable[[], Any]]:
        there, x = copy.deepcopy(model).to(device), x.to(device)
        forms = {"forward": there, "tuned_forward": torch.compile(there)} if self.tuned else {"forward": there}
        runs: dict[str, Callable[[], Any]] = {each: _forward(form, x) for each, form in forms.items()}
        return runs | {"compiled": lambda: sampler.sample(self.batch, seed=0)}


def _forward(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    @torch.inference_mode()
    def forward() -> None:
        model(x)
        if x.is_cuda:
            torch.cuda.synchronize()

    return forward


def _in_turn(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """(CPU-seconds, seconds on the wall) of each run, round by round, after one round that does not count."""
    for run_once in runs.values():
        run_once()
    spent: dict[str, list[tuple[float, float]]] = {each: [] for each in runs}
    for _ in range(repeats):
        for each, run_once in runs.items():
            spent[each].append(seconds(run_once))
    return spent


def cases(device: str, quick: bool = False) -> list[SamplingCase]:
    """The suite's; on CUDA those whose times docs/gpu_sampling.md expects, the smallest first."""
    if quick:
        return [SamplingCase(name, 2, repeats=1) for name in MODELS[:2]]
    if device == "cpu":
        return [SamplingCase(name, batch) for batch in (1, 16, 64) for name in MODELS[:2]]
    return [SamplingCase(name, batch, repeats=3) for batch in (1, 16, 64, 256) for name in EXPECTED]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS[:2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the compiled sampler, with --device cuda")
    parser.add_argument("--tuned", action="store_true", help="also count torch.compile's forward; compiles for minutes")
    parser.add_argument("--output", type=Path, help="write the JSON here, not to the terminal")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    entries = [
        SamplingCase(name, batch, options.repeats, options.tuned)
        for name in options.models
        for batch in options.batches
    ]
    finish(run("sampling", entries, Bench(options.device), options.output), options.output)


if __name__ == "__main__":
    main()
