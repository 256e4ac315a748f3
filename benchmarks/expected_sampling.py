"""How long sampling should take on a GPU, before anyone has measured it: from bytes, operations and waits.

    python benchmarks/expected_sampling.py

Prints the table of docs/gpu_sampling.md, by ``fastgen.ops.sample_cuda``, which shares images out by the same numbers.
"""

from collections.abc import Iterable

import torch

import checkout  # noqa: F401
from bench_sampling import READ, build
from fastgen import sampling
from fastgen.ops.sample_cuda import Gpu, teams_of
from fastgen.sampling.native_executor import work_of

MODELS = {
    "pixelcnn": "PixelCNN, 28×28",
    "gated-pixelcnn": "Gated PixelCNN, 28×28",
    "pixelcnn++": "PixelCNN++, 160 channels, 32×32",
    "image-gpt": "ImageGPT, 12 layers of 256, 32×32",
}
BATCHES = (1, 16, 64, 256)
HEAD = (
    "| model | weights a step | instructions | waits | steps | images | teams | blocks of a team | expected "
    "| reading | waiting |"
)


def shown(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def rows(names: Iterable[str] = tuple(MODELS)) -> list[str]:
    """Of the table, without its head."""
    torch.manual_seed(0)
    found, gpu = [], Gpu()
    for name in names:
        model, shape, law = build(name, small=False)
        plan = sampling.compile(model.eval(), shape, law, READ.get(name, "[-1, 1]")).plan
        work = work_of(plan).of_program(*plan.encode())
        for n in BATCHES:
            teams = teams_of(n, work, gpu)
            time = work.seconds(n, teams, gpu)
            of_a_step = [work.moving(n, teams, gpu), work.waiting(teams, gpu)]
            what = f"{MODELS[name]} | {work.weights / 1e6:.2f} MB | {work.instructions} | {work.waits} | {work.steps}"
            what = what if n == BATCHES[0] else " | | | |"
            found.append(
                f"| {what} | {n} | {-(-n // teams.chunk)} | {teams.blocks} | {shown(time)} "
                f"| {1e6 * of_a_step[0]:.0f} µs | {1e6 * of_a_step[1]:.0f} µs |"
            )
    return found


if __name__ == "__main__":
    print(HEAD, "|---" * HEAD.count(" |") + "|", *rows(), sep="\n")
