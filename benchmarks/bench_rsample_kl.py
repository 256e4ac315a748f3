"""rsample_kl, forward and backward, against the code that VAEs are written with.

    python benchmarks/bench_rsample_kl.py [--threads 2] [--output FILE.json]

Each contender draws its own noise, as in training. Floor: 4 copies of a tensor (2 reads and 1 write forward, 3 reads
and 2 writes backward, 8 transfers in all), with nothing computed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.ops import rsample_kl
from fastgen.ops.rsample_kl import rsample_kl_reference
from harness import assert_parity, compare, gradients, start, write

SHAPES = ((128, 20), (4096, 128), (64, 256, 8, 8))
Sample = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def eager(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """As in pytorch/examples, per example."""
    z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
    return z, -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).flatten(1).sum(1)


def ours(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    return rsample_kl(mu, logvar, torch.randint(2**63 - 1, (1,)))


def step(sample: Sample, mu: Tensor, logvar: Tensor, grad_z: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """One training step's worth: a gradient arrives for z, and the KL is summed over the batch."""

    def run() -> tuple[Tensor, ...]:
        z, kl = sample(mu, logvar)
        total = kl.sum()
        return gradients((z, total), [mu, logvar], [grad_z, torch.ones_like(total)])

    return run


def check_parity(mu: Tensor, logvar: Tensor, grad_z: Tensor) -> None:
    seed = torch.tensor([7])
    exact = rsample_kl_reference(mu.double(), logvar.double(), seed)
    plain = rsample_kl_reference(mu, logvar, seed)
    for result, one_plain, one_exact in zip(rsample_kl(mu, logvar, seed), plain, exact, strict=True):
        assert_parity(result, one_plain, one_exact)
    seeded = step(lambda m, v: rsample_kl(m, v, seed), mu, logvar, grad_z)()
    plain = step(lambda m, v: rsample_kl_reference(m, v, seed), mu, logvar, grad_z)()
    leaves = [t.detach().double().requires_grad_() for t in (mu, logvar)]
    exact = step(lambda m, v: rsample_kl_reference(m, v, seed), *leaves, grad_z.double())()
    for result, one_plain, one_exact in zip(seeded, plain, exact, strict=True):
        assert_parity(result, one_plain, one_exact)


def main() -> None:
    output = start(__doc__)
    cases = []
    for shape in SHAPES:
        mu, logvar = torch.randn(shape, requires_grad=True), (0.3 * torch.randn(shape)).requires_grad_()
        grad_z = torch.randn(shape)
        check_parity(mu, logvar, grad_z)
        torch.compiler.reset()
        samplers = {
            "fastgen": ours,
            "eager": eager,
            "torch.compile": torch.compile(eager),
            "torch.compile, fallback_random": torch.compile(eager, options={"fallback_random": True}),
        }
        contenders = {name: step(sample, mu, logvar, grad_z) for name, sample in samplers.items()}
        case = "rsample_kl, forward + backward"
        cases.append(compare(case, shape, mu.dtype, contenders, floor_copies=4, elements=mu.numel()))
    write("rsample_kl", cases, output)


if __name__ == "__main__":
    main()
