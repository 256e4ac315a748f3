"""masked_conv2d with bias, activation and residual, against F.conv2d with a masked weight.

    python benchmarks/bench_masked_conv2d.py [--device cuda] [--threads 2] [--quick] [--tuned] [--output FILE.json]

"cropped" is the strongest form a user could write in torch: only the kernel's live rows, on a padded image. Operations
are those of live taps. Least traffic: forward reads image and residual and writes the result; backward reads the
upstream gradient and the image and writes the image's gradient; an activation's input is written and read again, since
the alternative is to compute the convolution twice. The image itself, in a first layer, gets no gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case, Form, compiled
from fastgen.ops import masked_conv2d, masked_conv2d_mask
from harness import alone


class Layer(NamedTuple):
    N: int
    I: int
    O: int
    H: int
    k: int
    mask: str
    activation: str


LAYERS = {
    "cpu": (
        Layer(16, 1, 64, 28, 7, "A", "none"),
        Layer(16, 64, 64, 28, 3, "B", "relu"),
        Layer(16, 128, 256, 28, 3, "B", "gated"),
        Layer(16, 128, 128, 32, 5, "B", "elu"),
    ),
    "cuda": (
        Layer(128, 128, 128, 32, 3, "B", "relu"),
        Layer(128, 128, 256, 32, 3, "B", "gated"),
        Layer(256, 64, 64, 28, 3, "B", "relu"),
        Layer(256, 1, 64, 28, 7, "A", "none"),
        Layer(128, 128, 128, 32, 5, "B", "elu"),
        Layer(64, 256, 256, 64, 3, "B", "relu"),
        Layer(16, 64, 64, 28, 3, "B", "relu"),
    ),
}
QUICK = (Layer(2, 4, 8, 6, 3, "B", "gated"),)


def activate(p: Tensor, activation: str) -> Tensor:
    if activation == "gated":
        a, b = p.chunk(2, dim=1)
        return torch.tanh(a) * torch.sigmoid(b)
    return {"none": lambda t: t, "relu": F.relu, "elu": F.elu}[activation](p)


Function = Callable[..., Tensor]


def against_masked(ours: Function, masked: Function, cropped: Function, device: str, quick: bool) -> dict[str, Form]:
    """Fastgen's form among those that a user would write with a mask, and with the dead rows cut off."""
    fast = device == "cuda"  # the memory format that convolutions are fastest in there
    forms = {
        "fastgen": Form(ours, channels_last=fast),
        "fastgen, contiguous" if fast else "fastgen, channels_last": Form(ours, channels_last=not fast),
        "eager": Form(masked),
        "eager, cropped": Form(cropped),
        "eager, channels_last": Form(masked, channels_last=True),
        "eager, cropped, channels_last": Form(cropped, channels_last=True),
    }
    if not quick:
        forms["torch.compile"] = compiled(masked, channels_last=fast)
        forms["torch.compile, cropped"] = compiled(cropped, channels_last=fast)
    if fast:
        forms["torch.compile, cropped, max-autotune"] = compiled(
            cropped, channels_last=True, tuned=True, mode="max-autotune-no-cudagraphs"
        )
    return forms


def case(layer: Layer, device: str, quick: bool) -> Case:
    N, I, O, H, k, mask, kind = layer
    C, p = (O // 2 if kind == "gated" else O), k // 2
    taps = masked_conv2d_mask(torch.empty(O, I, k, k), mask)

    def inputs() -> list[Tensor]:
        weight = torch.randn(O, I, k, k) / (I * k * k) ** 0.5
        return [torch.randn(N, I, H, H), weight, torch.randn(O), torch.randn(N, C, H, H), taps.float()]

    def ours(x: Tensor, w: Tensor, b: Tensor, r: Tensor, live: Tensor) -> Tensor:
        return masked_conv2d(x, w, b, mask, kind, r)

    def masked(x: Tensor, w: Tensor, b: Tensor, r: Tensor, live: Tensor) -> Tensor:
        return activate(F.conv2d(x, w * live, b, padding=p), kind) + r

    def cropped(x: Tensor, w: Tensor, b: Tensor, r: Tensor, live: Tensor) -> Tensor:
        return activate(F.conv2d(F.pad(x, (p, p, p, 0)), (w * live)[:, :, : p + 1], b), kind) + r

    forms = against_masked(ours, masked, cropped, device, quick)
    first, pixels, weights = I <= 3, N * H * H, O * I * k * k
    forward = pixels * (I + 2 * C) + weights
    backward = pixels * (C + I * (1 if first else 2) + 2 * O * (kind != "none")) + 2 * weights
    products = 2 * pixels * I * int(taps[:, 0].sum())
    return Case(
        f"masked_conv2d {k}x{k} {mask}, {I} to {O}, {kind}", (N, I, H, H), inputs, forms, kind="conv",
        moved=(forward, forward + backward), flops=(products, products * (2 if first else 3)),
        leaves=(1, 2, 3) if first else (0, 1, 2, 3),
    )  # fmt: skip


def cases(device: str, quick: bool = False) -> list[Case]:
    return [case(layer, device, quick) for layer in (QUICK if quick else LAYERS[device])]


if __name__ == "__main__":
    alone(__doc__, "masked_conv2d", cases)
