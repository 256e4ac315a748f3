"""mlp against two linear layers and a ReLU: the perceptrons of a VAE.

    python benchmarks/bench_mlp.py [--threads 2] [--quick] [--output FILE.json]

Least traffic: forward reads x and the weights and writes the hidden layer and y; backward reads all of these and y's
gradient, and writes as many gradients. On a GPU they are torch's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case, Form, compiled
from fastgen.ops._records import Activation
from fastgen.ops.mlp import mlp, pays
from harness import alone

# M, K, hidden, N
SHAPES = ((16, 784, 400, 40), (16, 20, 400, 784), (128, 784, 400, 40), (128, 20, 400, 784), (64, 1024, 1024, 1024))
QUICK = ((2, 40, 130, 30),)


def ours(x: Tensor, *parameters: Tensor) -> Tensor:
    """As ``fastgen.nn.LinearChain`` runs it: torch's where the op does not pay."""
    if not pays(x, parameters):
        return eager(x, *parameters)
    return mlp(x, *parameters, Activation("relu"))


def eager(x: Tensor, weight: Tensor, bias: Tensor, weight_out: Tensor, bias_out: Tensor) -> Tensor:
    return F.linear(F.relu(F.linear(x, weight, bias)), weight_out, bias_out)


def case(shape: tuple[int, ...], quick: bool) -> Case:
    M, K, hidden, N = shape

    def inputs() -> list[Tensor]:
        weights = torch.randn(hidden, K) / K**0.5, torch.randn(N, hidden) / hidden**0.5
        return [torch.randn(M, K), weights[0], torch.randn(hidden), weights[1], torch.randn(N)]

    forms = {"fastgen": Form(ours), "eager": Form(eager)}
    if not quick:
        forms["torch.compile"] = compiled(eager)
    weights, numbers = hidden * (K + N), M * (K + hidden + N)
    flops = 2 * M * weights
    return Case(
        f"mlp {K}-{hidden}-{N}", (M, K), inputs, forms, (weights + numbers, 3 * weights + 3 * numbers),
        (flops, 3 * flops), kind="matmul",
    )  # fmt: skip


def cases(device: str, quick: bool = False) -> list[Case]:
    return [case(shape, quick) for shape in (QUICK if quick else SHAPES)]


if __name__ == "__main__":
    alone(__doc__, "mlp", cases)
