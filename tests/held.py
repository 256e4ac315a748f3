"""A causal model that holds something in every way there is, and both samplers of it."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import sampling
from fastgen.distributions import Bernoulli
from fastgen.nn import MaskedConv2d
from fastgen.sampling import NaiveSampler

SHAPE = (1, 5, 6)
BESIDE = torch.linspace(-1, 2, 6)[:, None, None]


class Held(nn.Module):
    """Weights, buffers and constants wherever people keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = MaskedConv2d(1, 6, 3, "A")
        self.second, self.third = MaskedConv2d(6, 6, 3), MaskedConv2d(6, 6, 3)
        self.output = nn.Conv2d(6, 1, 1)
        self.activation: nn.Module = nn.Tanh()
        self.register_buffer("shift", torch.randn(6, 1, 1))
        self.scale = torch.linspace(1, 2, 6)[:, None, None]
        self.among = {"scales": [torch.linspace(2, 1, 6)[:, None, None]]}
        self.array = np.linspace(-1, 1, 6, dtype=np.float32)
        self.slope = 0.5

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self.first(x)) * self.scale + torch.from_numpy(self.array)[:, None, None]
        h = self.activation(self.second(h) + self.shift) * self.among["scales"][0]
        return self.output(F.leaky_relu(self.third(h), self.slope) + BESIDE)


def drawn(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return NaiveSampler(model, shape, Bernoulli(), "[-1, 1]").sample(8, seed=0)


def compiled(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> sampling.CompiledSampler:
    return sampling.compile(model, shape, Bernoulli(), "[-1, 1]")
