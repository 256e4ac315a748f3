"""categorical_cross_entropy against torch's, as images of many levels are trained with.

    python benchmarks/bench_categorical_cross_entropy.py [--device cuda] [--quick] [--output FILE.json]

"eager" gives ``F.cross_entropy`` the logits by level, half types in float32. A call gives the loss in nats per value.
Least traffic: forward reads the logits, backward reads them and writes their gradient. Operations are about 20 for each
logit, and 20 more backward.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case, Form, compiled
from fastgen.ops import categorical_cross_entropy
from harness import alone

#: N, C, L, H, W
SHAPES = {
    "cpu": ((16, 3, 256, 32, 32), (16, 1, 256, 28, 28), (16, 3, 64, 32, 32), (1, 3, 256, 32, 32)),
    "cuda": ((64, 3, 256, 32, 32), (64, 1, 256, 28, 28)),
}
QUICK = ((2, 3, 32, 4, 4),)


def case(shape: tuple[int, ...], quick: bool) -> Case:
    N, C, L, H, W = shape

    def inputs() -> list[Tensor]:
        return [3 * torch.randn(N, C * L, H, W), torch.randint(L, (N, C, H, W))]

    def ours(params: Tensor, values: Tensor) -> Tensor:
        return categorical_cross_entropy(params, values, L).mean()

    def eager(params: Tensor, values: Tensor) -> Tensor:
        wide = params.to(torch.promote_types(params.dtype, torch.float32))
        return F.cross_entropy(wide.unflatten(1, (C, L)).transpose(1, 2), values)

    forms = {
        "fastgen": Form(ours),
        "fastgen, channels_last": Form(ours, channels_last=True),
        "eager": Form(eager),
        "eager, channels_last": Form(eager, channels_last=True),
    }
    if not quick:
        forms["torch.compile"] = compiled(eager)
        forms["torch.compile, channels_last"] = compiled(eager, channels_last=True)
    logits = N * C * L * H * W
    return Case(
        f"categorical_cross_entropy of {L} levels, {C} colour{'s' * (C > 1)}", shape, inputs, forms,
        moved=(logits, 3 * logits), flops=(20 * logits, 40 * logits), leaves=(0,),
    )  # fmt: skip


def cases(device: str, quick: bool = False) -> list[Case]:
    return [case(shape, quick) for shape in (QUICK if quick else SHAPES[device])]


if __name__ == "__main__":
    alone(__doc__, "categorical_cross_entropy", cases)
