"""Models that read the integers themselves: embeddings of them, and one-hot vectors, as priors over codes do."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures import randomise
from fastgen import sampling
from fastgen.distributions import Categorical
from fastgen.nn import MaskedConv2d
from fastgen.sampling import UnsupportedModelError
from samplers import assert_same_as_naive

WAYS = {
    "squeezed": lambda m, x: m.embedding(x.long().squeeze(1)).permute(0, 3, 1, 2),
    "one of the channels": lambda m, x: m.embedding(x[:, 0].int()).movedim(-1, 1),
    "flattened": lambda m, x: m.embedding(x.long().view(-1)).view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2),
    "towards zero": lambda m, x: m.embedding((x[:, 0] + 0.9).long()).movedim(-1, 1),
    "one-hot": lambda m, x: F.one_hot(x[:, 0].long(), m.levels).permute(0, 3, 1, 2),
    "one-hot times a weight": lambda m, x: (
        F.one_hot(x[:, 0].long(), num_classes=m.levels).to(x.dtype) @ m.embedding.weight
    ).movedim(-1, 1),
}


class Prior(nn.Module):
    """Codes (N, C, H, W) → logits (N, C·levels, H, W)."""

    def __init__(self, levels: int, read: object, inputs: int = 5, colors: int = 1, rows: int | None = None) -> None:
        super().__init__()
        self.levels, self.read, self.colors = levels, read, colors
        self.embedding = nn.Embedding(rows or levels, 5)
        self.first = MaskedConv2d(inputs, 6 * colors, 3, "A", color_groups=colors)
        self.second = MaskedConv2d(6 * colors, 6 * colors, 3, "B", activation="relu", color_groups=colors)
        self.out = MaskedConv2d(6 * colors, colors * levels, 1, "B", color_groups=colors)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.read(self, x).to(x.dtype)
        return self.out(self.second(F.relu(self.first(h))))


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_read_integers(way: str) -> None:
    levels = 11
    model = randomise(Prior(levels, WAYS[way], levels if way == "one-hot" else 5))
    assert_same_as_naive(model, (1, 5, 4), Categorical(levels), to_input=Tensor.float)


def test_colors_that_share_an_embedding() -> None:
    def read(m: Prior, x: Tensor) -> Tensor:
        offsets = m.levels * torch.arange(2).view(1, 2, 1, 1)
        return m.embedding(x.long() + offsets).permute(0, 1, 4, 2, 3).flatten(1, 2)

    model = randomise(Prior(7, read, inputs=10, colors=2, rows=14))
    assert_same_as_naive(model, (2, 4, 5), Categorical(7), to_input=Tensor.float)


def test_512_codes_are_drawn_by_compiled_code() -> None:
    model = randomise(Prior(512, WAYS["squeezed"])).eval()
    sampler = sampling.compile(model, (1, 4, 3), Categorical(512), "integers")
    program = sampler._program(False)
    assert program.native is not None
    assert program.draws
    assert sampling.verify(sampler, n=2).same
    assert len(sampler.sample(64, seed=0).unique()) > 100


def test_an_embedding_that_writes_over_its_weight_is_refused() -> None:
    model = Prior(7, WAYS["squeezed"])
    model.embedding.max_norm = 1.0
    with pytest.raises(UnsupportedModelError, match="embedding"):
        sampling.compile(model.eval(), (1, 4, 3), Categorical(7), "integers")
