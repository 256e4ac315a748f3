"""binary_cross_entropy against torch's, as VAEs are trained with.

    python benchmarks/bench_binary_cross_entropy.py [--device cuda] [--quick] [--output FILE.json]

A call gives the nats of each image, in float32. Least traffic: forward reads logits and targets, backward reads both
and writes the gradient. Operations are about 25 for each logit, and 20 more backward.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case, Form, compiled
from fastgen.ops import binary_cross_entropy
from harness import alone

SHAPES = {
    "cpu": ((16, 784), (128, 784), (128, 3, 32, 32), (64, 3, 64, 64)),
    "cuda": ((128, 784), (128, 3, 32, 32), (64, 3, 64, 64)),
}
QUICK = ((16, 784),)


def case(shape: tuple[int, ...], quick: bool) -> Case:
    def inputs() -> list[Tensor]:
        return [3 * torch.randn(shape), torch.rand(shape)]

    def ours(logits: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy(logits, target)

    def eager(logits: Tensor, target: Tensor) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        return F.binary_cross_entropy_with_logits(logits.to(wide), target.to(wide), reduction="none").flatten(1).sum(1)

    forms = {"fastgen": Form(ours), "eager": Form(eager)}
    if len(shape) == 4:
        forms["fastgen, channels_last"] = Form(ours, channels_last=True)
        forms["eager, channels_last"] = Form(eager, channels_last=True)
    if not quick:
        forms["torch.compile"] = compiled(eager)
    logits = math.prod(shape)
    return Case(
        "binary_cross_entropy", shape, inputs, forms,
        moved=(2 * logits, 5 * logits), flops=(25 * logits, 45 * logits), leaves=(0,),
    )  # fmt: skip


def cases(device: str, quick: bool = False) -> list[Case]:
    return [case(shape, quick) for shape in (QUICK if quick else SHAPES[device])]


if __name__ == "__main__":
    alone(__doc__, "binary_cross_entropy", cases)
