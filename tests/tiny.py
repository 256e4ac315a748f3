"""A data set and a model small enough for tests of the loop; the model is no one's but the tests'."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.data import Dataset


class Tiny(nn.Module):
    """Independent pixels from a learned vector; dropout makes every step depend on the random numbers before it."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.ones(1, hidden))
        self.logits = nn.Linear(hidden, 4 * 4 * 3)

    def forward(self) -> Tensor:
        return self.logits(F.dropout(self.code, 0.5, self.training)).view(1, 3, 1, 4, 4)


def nats(model: nn.Module, values: Tensor, labels: Tensor | None) -> Tensor:
    """(N, 1, 4, 4) values of three levels → (N,) nats."""
    logits = model().expand(len(values), -1, -1, -1, -1)
    return F.cross_entropy(logits, values, reduction="none").sum(dim=(1, 2, 3))


def images(n: int = 40) -> Dataset:
    """Columns alternate between two levels, with noise."""
    generator = torch.Generator().manual_seed(1)
    stripes = torch.arange(4).remainder(2).expand(n, 1, 4, 4)
    noise = torch.rand(n, 1, 4, 4, generator=generator) < 0.2
    return Dataset(torch.where(noise, 2, stripes).to(torch.uint8), None, 3, None, "stripes")
