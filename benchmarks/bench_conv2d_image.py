"""conv2d_image, the first convolution of an encoder or a discriminator, with the gradients to image, weight and bias.

    python benchmarks/bench_conv2d_image.py [--threads 2] [--quick] [--output FILE.json]

On a GPU the op is torch's convolution. Least traffic: forward the image, the weight and the result once.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case, Form, compiled
from fastgen.ops.conv2d_image import conv2d_image
from harness import alone

# N, I, O, size of the image
LAYERS = ((16, 1, 32, 28), (128, 1, 32, 28), (16, 3, 64, 64), (128, 3, 64, 64))
QUICK = (2, 3, 5, 8)


def ours(image: Tensor, weight: Tensor, bias: Tensor, channels_last: bool) -> Tensor:
    return conv2d_image(image, weight, bias, [2, 2], [1, 1], channels_last)


def eager(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(image, weight, bias, 2, 1)


def layer(sizes: tuple[int, int, int, int], quick: bool) -> Case:
    N, I, O, H = sizes

    def inputs() -> list[Tensor]:
        return [torch.randn(N, I, H, H), torch.randn(O, I, 4, 4) / (4 * I**0.5), torch.randn(O)]

    forms = {
        "fastgen": Form(partial(ours, channels_last=False)),
        "fastgen, channels_last": Form(partial(ours, channels_last=True), channels_last=True),
        "eager": Form(eager),
        "eager, channels_last": Form(eager, channels_last=True),
    }
    if not quick:
        forms["torch.compile"] = compiled(eager)
    x, y, w = N * I * H * H, N * O * H * H // 4, 16 * I * O
    flops = 2 * y * 16 * I
    name = f"conv2d_image, {I} to {O} channels"
    return Case(name, (N, I, H, H), inputs, forms, (x + y + w, 3 * x + 2 * y + 3 * w), (flops, 3 * flops), kind="conv")


def cases(device: str, quick: bool = False) -> list[Case]:
    return [layer(sizes, quick) for sizes in ((QUICK,) if quick else LAYERS)]


if __name__ == "__main__":
    alone(__doc__, "conv2d_image", cases)
