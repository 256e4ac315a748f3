"""conv2d_weight: a convolution of stride 2 with its gradients in bfloat16, that to the weight by this op.

    fastgen bench --suite kernels --only conv2d_weight --dtypes bfloat16 [--threads 2] [--json FILE.json]

In other dtypes, and on a GPU, all forms are torch's convolution. Least traffic: forward the image, the weight and the
result once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case, Form, compiled
from fastgen.ops.conv2d_weight import conv2d_bfloat16
from harness import alone

# N, I, O, size of the image: a convolutional VAE's, a DCGAN's discriminator's
LAYERS = (
    (16, 32, 64, 14), (128, 32, 64, 14), (16, 64, 128, 32), (128, 64, 128, 32), (16, 128, 256, 16),
    (128, 128, 256, 16), (16, 256, 512, 8), (128, 256, 512, 8),
)  # fmt: skip
QUICK = (4, 16, 16, 8)


def ours(image: Tensor, weight: Tensor) -> Tensor:
    if image.dtype != torch.bfloat16 or image.device.type != "cpu":
        return eager(image, weight)
    return conv2d_bfloat16(image, weight, None, [2, 2], [1, 1])


def eager(image: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(image, weight, None, 2, 1)


def layer(sizes: tuple[int, int, int, int], quick: bool) -> Case:
    N, I, O, H = sizes

    def inputs() -> list[Tensor]:
        return [torch.randn(N, I, H, H), torch.randn(O, I, 4, 4) / (4 * I**0.5)]

    forms = {
        "fastgen": Form(ours, channels_last=True),
        "eager": Form(eager),
        "eager, channels_last": Form(eager, channels_last=True),
    }
    if not quick:
        forms["torch.compile"] = compiled(eager)
    x, y, w = N * I * H * H, N * O * H * H // 4, 16 * I * O
    flops = 2 * y * 16 * I
    name = f"conv2d_weight, {I} to {O} channels"
    return Case(name, (N, I, H, H), inputs, forms, (x + y + w, 3 * x + 2 * y + 3 * w), (flops, 3 * flops), kind="conv")


def cases(device: str, quick: bool = False) -> list[Case]:
    return [layer(sizes, quick) for sizes in ((QUICK,) if quick else LAYERS)]


if __name__ == "__main__":
    alone(__doc__, "conv2d_weight", cases)
