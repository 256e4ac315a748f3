"""batch_norm_activation after torch's convolution: the layers of DCGAN's discriminator, in training.

    python benchmarks/bench_batch_norm_activation.py [--device cuda] [--threads 2] [--quick] [--output FILE.json]

And the same without the convolution, which a CPU runs as one op, ``batch_norm_train``. "stages" is what a GPU runs:
statistics, finalize and apply. Least traffic is 2 reads and 1 write forward, 4 reads and 1 write backward; beside a
convolution it is counted as that of one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case, Form, compiled
from fastgen.ops import batch_norm_activation
from harness import alone

# N, I, O, size of the input
LAYERS = {
    "cpu": ((16, 64, 128, 32), (64, 64, 128, 32), (64, 256, 512, 8)),
    "cuda": ((64, 64, 128, 32), (64, 256, 512, 8), (256, 64, 128, 32)),
}
QUICK = (2, 4, 8, 8)
# N, C, size of the input: what follows the convolutions of DCGANs
IMAGES = (
    (128, 32, 14), (16, 32, 14), (128, 128, 16), (128, 64, 32), (16, 128, 16), (128, 256, 8), (16, 512, 4),
)  # fmt: skip
QUICK_IMAGE = (2, 8, 4)


def ours(x: Tensor, weight: Tensor, bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    y = F.conv2d(x, weight, None, 2, 1)
    options = {"training": True, "activation": "leaky_relu", "negative_slope": 0.2}
    return batch_norm_activation(y, bn_weight, bn_bias, None, None, **options)


def stages(x: Tensor, weight: Tensor, bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    """Without a fixed momentum, which torch's own would need."""
    y = F.conv2d(x, weight, None, 2, 1)
    options = {"training": True, "activation": "leaky_relu", "negative_slope": 0.2, "momentum": None}
    return batch_norm_activation(y, bn_weight, bn_bias, None, None, **options)


def eager(x: Tensor, weight: Tensor, bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    y = F.conv2d(x, weight, None, 2, 1)
    return F.leaky_relu(F.batch_norm(y, None, None, bn_weight, bn_bias, training=True), 0.2)


def norm(x: Tensor, bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    options = {"training": True, "activation": "leaky_relu", "negative_slope": 0.2}
    return batch_norm_activation(x, bn_weight, bn_bias, None, None, **options)


def eager_norm(x: Tensor, bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    return F.leaky_relu(F.batch_norm(x, None, None, bn_weight, bn_bias, training=True), 0.2)


def image(sizes: tuple[int, int, int], quick: bool) -> Case:
    N, C, H = sizes
    forms = {
        "fastgen": Form(norm),
        "eager": Form(eager_norm),
        "fastgen, channels_last": Form(norm, channels_last=True),
        "eager, channels_last": Form(eager_norm, channels_last=True),
    }
    if not quick:
        forms["torch.compile"] = compiled(eager_norm)
    x = N * C * H * H
    name = f"batch_norm_activation of {C} channels, leaky_relu, training"
    return Case(
        name, (N, C, H, H), lambda: [torch.randn(N, C, H, H), torch.rand(C) + 0.5, torch.randn(C)], forms,
        (3 * x, 8 * x), (8 * x, 24 * x),
    )  # fmt: skip


def layer(sizes: tuple[int, int, int, int], quick: bool) -> Case:
    N, I, O, H = sizes

    def inputs() -> list[Tensor]:
        return [torch.randn(N, I, H, H), torch.randn(O, I, 4, 4) / (4 * I**0.5), torch.rand(O) + 0.5, torch.randn(O)]

    forms = {
        "fastgen": Form(ours),
        "stages": Form(stages),
        "eager": Form(eager),
        "fastgen, channels_last": Form(ours, channels_last=True),
        "stages, channels_last": Form(stages, channels_last=True),
        "eager, channels_last": Form(eager, channels_last=True),
    }
    if not quick:
        forms["torch.compile"] = compiled(eager)
    x, y, w = N * I * H * H, N * O * H * H // 4, 16 * I * O
    flops = 2 * y * 16 * I
    name = f"batch_norm_activation after a 4x4 convolution, {I} to {O}, leaky_relu, training"
    return Case(
        name, (N, I, H, H), inputs, forms, (x + y + w, 3 * x + 5 * y + 3 * w), (flops, 3 * flops), kind="conv",
    )  # fmt: skip


def cases(device: str, quick: bool = False) -> list[Case]:
    layers = [layer(sizes, quick) for sizes in ((QUICK,) if quick else LAYERS[device])]
    return [*layers, *(image(sizes, quick) for sizes in ((QUICK_IMAGE,) if quick else IMAGES))]


if __name__ == "__main__":
    alone(__doc__, "batch_norm_activation", cases)
