"""Models that read the integers themselves: embeddings of them, and one-hot vectors, as priors over codes do."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures import randomise
from autoregressive import assert_normalised
from fastgen import sampling
from fastgen.distributions import Categorical
from fastgen.models import GatedPixelCNN
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


def test_an_embedding_with_fewer_rows_than_levels_is_refused() -> None:
    model = Prior(7, WAYS["squeezed"], rows=5).eval()
    message = (
        r"distribution: expected integers in \[0, 5\), the rows of the embedding embedding, got some from 0 to 6, what"
    )
    with pytest.raises(ValueError, match=message):
        sampling.compile(model, (1, 4, 3), Categorical(7), "integers")
    with pytest.raises(ValueError, match=r"from -1 to 1, what the model reads for 7 levels"):
        sampling.compile(model, (1, 4, 3), Categorical(7), "[-1, 1]")
    assert sampling.compile(model, (1, 4, 3), Categorical(7), "[0, 1]").sample(seed=0).shape == (1, 1, 4, 3)


def test_an_embedding_that_writes_over_its_weight_is_refused() -> None:
    model = Prior(7, WAYS["squeezed"])
    model.embedding.max_norm = 1.0
    with pytest.raises(UnsupportedModelError, match="embedding"):
        sampling.compile(model.eval(), (1, 4, 3), Categorical(7), "integers")


def test_a_gated_pixelcnn_of_codes() -> None:
    """It is normalised, its samples are those of naive sampling, and codes are names: renamed, they are as likely."""
    model = randomise(GatedPixelCNN(levels=5, channels=4, layers=1, classes=2, image_size=(2, 3), embedding=3)).eval()
    assert_normalised(model, 2, 2)
    assert sampling.verify(sampling.compile(model, (1, 4, 3)), n=3).same
    twin, order = GatedPixelCNN(**json.loads(json.dumps(model.config))).double().eval(), torch.tensor([3, 0, 4, 1, 2])
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        twin.vectors.weight[order] = model.vectors.weight
        twin.output.weight[order], twin.output.bias[order] = model.output.weight, model.output.bias
    values, labels = torch.randint(5, (6, 1, 2, 3)), torch.arange(6) % 2
    torch.testing.assert_close(twin.log_prob(order[values], labels), model.log_prob(values, labels))
    with pytest.raises(ValueError, match="embedding: expected 0 for images of 3 colours, got 4"):
        GatedPixelCNN(3, 5, channels=6, embedding=4)
