"""rsample_kl against the code that VAEs are written with.

    python benchmarks/bench_rsample_kl.py [--device cuda] [--threads 2] [--quick] [--output FILE.json]

Each contender draws its own noise, as in training; parity is checked between fastgen and its reference, which draw the
same. Least traffic: forward 2 reads and 1 write for each element, backward 3 reads and 2 writes.
"""

import math

import torch
from torch import Tensor

from cases import Case, Form, compiled
from fastgen.ops import rsample_kl
from fastgen.ops.rsample_kl import rsample_kl_reference
from harness import alone

SHAPES = {
    "cpu": ((128, 20), (4096, 128), (64, 256, 8, 8)),
    "cuda": ((128, 20), (4096, 128), (64, 256, 8, 8), (256, 256, 32, 32)),
}
QUICK = ((8, 5),)


def ours(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    return rsample_kl(mu, logvar, torch.randint(2**63 - 1, (1,), device=mu.device))


def eager(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """As in pytorch/examples, per example."""
    z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
    return z, -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).flatten(1).sum(1)


def seeded(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    return rsample_kl(mu, logvar, 7)


def seeded_reference(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    return rsample_kl_reference(mu, logvar, torch.tensor([7], device=mu.device))


def case(shape: tuple[int, ...], device: str, quick: bool) -> Case:
    def inputs() -> list[Tensor]:
        return [torch.randn(shape), 0.3 * torch.randn(shape)]

    forms = {"fastgen": Form(ours), "eager": Form(eager)}
    if not quick:
        forms["torch.compile"] = compiled(eager)
        forms["torch.compile, fallback_random"] = compiled(eager, options={"fallback_random": True})
    if not quick and device == "cuda":
        forms["torch.compile, reduce-overhead"] = compiled(eager, mode="reduce-overhead")
    n = math.prod(shape)
    moved, flops = (3 * n, 8 * n), (20 * n, 45 * n)  # of the operations, about 15 make the noise, each time
    return Case("rsample_kl", shape, inputs, forms, moved, flops, parity=(seeded, seeded_reference))


def cases(device: str, quick: bool = False) -> list[Case]:
    return [case(shape, device, quick) for shape in (QUICK if quick else SHAPES[device])]


if __name__ == "__main__":
    alone(__doc__, "rsample_kl", cases)
