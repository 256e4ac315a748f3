"""conv_transpose2d_bn: DCGAN's layers and its whole generator, in training and in eval mode.

    python benchmarks/bench_conv_transpose2d_bn.py [--device cuda] [--threads 2] [--quick] [--output FILE.json]

"folded" is what ``torch.nn.utils.fusion.fuse_conv_bn_eval(transpose=True)`` gives a user, folded beforehand.
Least traffic of a layer in training: forward reads x and writes y; backward reads both and the gradient and writes one.
Weights are counted once each way.
"""

import copy
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cases import FORWARD, Case, Contest, Form, compiled
from fastgen.nn import ConvTranspose2dChain
from fastgen.ops import conv_transpose2d_bn
from harness import Bench, Contests, alone
from plain import generator

# N, I, O, size of the input
LAYERS = {
    "cpu": ((64, 256, 128, 8), (64, 128, 64, 16)),
    "cuda": ((128, 512, 256, 4), (128, 256, 128, 8), (128, 128, 64, 16)),
}
#: Images at a time, latents, channels, size.
GENERATORS = {"cpu": ((16, 100, 64, 64), (64, 100, 64, 64)), "cuda": ((64, 100, 64, 64), (256, 100, 64, 64))}
QUICK_LAYER, QUICK_GENERATOR = (2, 8, 8, 4), (2, 4, 2, 16)


def ours(x: Tensor, weight: Tensor, bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    return conv_transpose2d_bn(
        x, weight, None, bn_weight, bn_bias, None, None, training=True, stride=2, padding=1, activation="relu"
    )


def eager(x: Tensor, weight: Tensor, bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    y = F.conv_transpose2d(x, weight, None, 2, 1)
    return F.relu(F.batch_norm(y, None, None, bn_weight, bn_bias, training=True))


def layer(sizes: tuple[int, int, int, int], device: str, quick: bool) -> Case:
    N, I, O, H = sizes

    def inputs() -> list[Tensor]:
        return [torch.randn(N, I, H, H), torch.randn(I, O, 4, 4) / (4 * I**0.5), torch.rand(O) + 0.5, torch.randn(O)]

    forms = {
        "fastgen": Form(ours),
        "eager": Form(eager),
        "fastgen, channels_last": Form(ours, channels_last=True),
        "eager, channels_last": Form(eager, channels_last=True),
    }
    if not quick:
        forms["torch.compile"] = compiled(eager)
        forms["torch.compile, channels_last"] = compiled(eager, channels_last=True)
    x, y, w = N * I * H * H, 4 * N * O * H * H, 16 * I * O
    flops = 2 * 4 * y * I
    name = f"conv_transpose2d_bn 4x4 stride 2, {I} to {O}, relu, training"
    return Case(
        name, (N, I, H, H), inputs, forms, (x + y + w, 3 * x + 5 * y + 3 * w), (flops, 3 * flops), kind="conv",
    )  # fmt: skip


def whole(sizes: tuple[int, int, int, int], device: str, quick: bool) -> Case:
    """A generator in eval mode, whose weights are inputs of every form."""
    N, latents, channels, size = sizes
    torch.manual_seed(0)
    model = generator(latents, channels, size)
    for bn in (m for m in model if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(bn.running_mean, -0.1, 0.1)
        nn.init.uniform_(bn.running_var, 0.5, 1.5)
    chain = ConvTranspose2dChain(*model)
    folded = nn.Sequential(*_folded(copy.deepcopy(model).eval()))
    table = {
        "fastgen": Form(_Model(chain)),
        "fastgen, channels_last": Form(_Model(chain, torch.channels_last)),
        "eager": Form(_Model(model)),
        "eager, channels_last": Form(_Model(model, torch.channels_last)),
        "eager, folded": Form(_Model(folded)),
        "eager, folded, channels_last": Form(_Model(folded, torch.channels_last)),
    }
    if not quick:
        table["torch.compile"] = compiled(_Model(model))
        table["torch.compile, channels_last"] = compiled(_Model(model, torch.channels_last))
        table["torch.compile, freezing"] = compiled(_Model(model), options={"freezing": True})
    weights = sum(p.numel() for p in model.parameters())
    convolutions = [m for m in model if isinstance(m, nn.ConvTranspose2d)]
    positions = [1] + [16 * 4**i for i in range(len(convolutions) - 1)]
    flops = sum(2 * N * n * conv.weight.numel() for n, conv in zip(positions, convolutions, strict=True))
    name = f"conv_transpose2d_bn, chain: DCGAN generator {size}x{size}, {channels} channels, eval"
    moved = weights + N * (latents + 3 * size * size)
    return Case(
        name, (N, latents, 1, 1), lambda: [torch.randn(N, latents, 1, 1)], table, (moved,), (flops,), kind="conv",
        ways=(FORWARD,),
    )  # fmt: skip


class _Model:
    """A module as a function, in eval mode, on the device and in the dtype of what it is called on."""

    def __init__(self, module: nn.Module, layout: torch.memory_format = torch.preserve_format) -> None:
        self.module, self.layout = module.eval(), layout
        self.made: dict[tuple[torch.device, torch.dtype], nn.Module] = {}

    def __call__(self, x: Tensor) -> Tensor:
        key = (x.device, x.dtype)
        if key not in self.made:
            self.made[key] = copy.deepcopy(self.module).to(*key, memory_format=self.layout)
        return self.made[key](x)


def _folded(model: nn.Sequential) -> list[nn.Module]:
    layers = list(model)
    result: list[nn.Module] = []
    for i, module in enumerate(layers):
        if isinstance(module, nn.BatchNorm2d):
            result[-1] = fuse_conv_bn_eval(layers[i - 1], module, transpose=True)
        else:
            result.append(module)
    return result


def cases(device: str, quick: bool = False) -> list[Case | Contests]:
    layers = (QUICK_LAYER,) if quick else LAYERS[device]
    generators = (QUICK_GENERATOR,) if quick else GENERATORS[device]
    made = [layer(sizes, device, quick) for sizes in layers]
    drawn = [whole(sizes, device, quick) for sizes in generators]
    if device == "cuda":
        return [*made, *drawn]
    halves = [  # which of all that runs on a CPU are measured for generators alone
        Contests(f"{each.name}, {each.shape[0]} at a time, bfloat16", partial(_in_bfloat16, each)) for each in drawn
    ]
    return [*made, *drawn, *halves]


def _in_bfloat16(case: Case, bench: Bench) -> Iterator[Contest]:
    return case.contests(bench.device, torch.bfloat16, bench.tuned)


if __name__ == "__main__":
    alone(__doc__, "conv_transpose2d_bn", cases)
