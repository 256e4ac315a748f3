"""gated_residual_block against masked convolution, gate, 1×1 convolution and residual, one after the other.

    python benchmarks/bench_gated_residual_block.py [--device cuda] [--quick] [--tuned] [--output FILE.json]

"cropped" is as in bench_masked_conv2d.py. Operations are those of live taps and of the 1×1 convolution. Least traffic:
forward reads the image and writes the result; backward reads the upstream gradient and the image and writes the image's
gradient; what the gate reads is written and read again, since the alternative is to compute the convolution twice.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench_masked_conv2d import activate, against_masked
from cases import Case
from fastgen.ops import gated_residual_block, masked_conv2d_mask
from harness import alone

#: N, C, H, k
BLOCKS = {
    "cpu": ((16, 64, 28, 3), (16, 128, 28, 3)),
    "cuda": ((128, 128, 32, 3), (64, 64, 28, 3), (64, 256, 64, 3), (128, 128, 32, 5)),
}
QUICK = ((2, 4, 6, 3),)


def case(N: int, C: int, H: int, k: int, device: str, quick: bool) -> Case:
    p = k // 2
    taps = masked_conv2d_mask(torch.empty(2 * C, C, k, k), "B")

    def inputs() -> list[Tensor]:
        weight, weight_out = torch.randn(2 * C, C, k, k) / (C * k * k) ** 0.5, torch.randn(C, C, 1, 1) / C**0.5
        return [torch.randn(N, C, H, H), weight, torch.randn(2 * C), weight_out, torch.randn(C), taps.float()]

    def ours(x: Tensor, w: Tensor, b: Tensor, w2: Tensor, b2: Tensor, live: Tensor) -> Tensor:
        return gated_residual_block(x, w, b, w2, b2)

    def masked(x: Tensor, w: Tensor, b: Tensor, w2: Tensor, b2: Tensor, live: Tensor) -> Tensor:
        return x + F.conv2d(activate(F.conv2d(x, w * live, b, padding=p), "gated"), w2, b2)

    def cropped(x: Tensor, w: Tensor, b: Tensor, w2: Tensor, b2: Tensor, live: Tensor) -> Tensor:
        gated = activate(F.conv2d(F.pad(x, (p, p, p, 0)), (w * live)[:, :, : p + 1], b), "gated")
        return x + F.conv2d(gated, w2, b2)

    forms = against_masked(ours, masked, cropped, device, quick)
    y, weights = N * H * H * C, (2 * k * k + 1) * C * C
    products = 2 * y * (2 * C * int(taps[0, 0].sum()) + C)
    return Case(
        f"gated_residual_block {k}x{k}, {C} channels", (N, C, H, H), inputs, forms, kind="conv",
        moved=(2 * y + weights, 2 * y + weights + 7 * y + 2 * weights), flops=(products, 3 * products),
        leaves=(0, 1, 2, 3, 4),
    )  # fmt: skip


def cases(device: str, quick: bool = False) -> list[Case]:
    return [case(*block, device, quick) for block in (QUICK if quick else BLOCKS[device])]


if __name__ == "__main__":
    alone(__doc__, "gated_residual_block", cases)
