"""gated_activation against chunk, tanh, sigmoid and mul.

    python benchmarks/bench_gated_activation.py [--device cuda] [--threads 2] [--quick] [--output FILE.json]

Least traffic: forward 2 reads and 1 write for each result, backward 3 reads and 2 writes.
"""

import math

import torch
from torch import Tensor

from cases import Case, Form, compiled
from fastgen.ops import gated_activation
from fastgen.ops.gated_activation import gated_activation_reference
from harness import alone

SHAPES = {
    "cpu": ((16, 256, 28, 28), (64, 256, 28, 28), (16, 256, 1, 1)),
    "cuda": ((128, 256, 32, 32), (16, 256, 28, 28), (16, 256, 1, 1)),
}
QUICK = ((2, 8, 5, 5),)


def case(shape: tuple[int, ...], quick: bool) -> Case:
    def inputs() -> list[Tensor]:
        return [torch.randn(shape)]

    forms = {"fastgen": Form(gated_activation), "eager": Form(gated_activation_reference)}
    if not quick:
        forms["torch.compile"] = compiled(gated_activation_reference)
    y = math.prod(shape) // 2
    return Case("gated_activation", shape, inputs, forms, moved=(3 * y, 8 * y), flops=(3 * y, 13 * y))


def cases(device: str, quick: bool = False) -> list[Case]:
    return [case(shape, quick) for shape in (QUICK if quick else SHAPES[device])]


if __name__ == "__main__":
    alone(__doc__, "gated_activation", cases)
