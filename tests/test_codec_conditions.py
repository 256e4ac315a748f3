"""The lossless codec of models that are told something: what a file keeps of it, and what the decoder has to have."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgen.codec import Codec, Container
from fastgen.conditions import Classes, FeatureMap
from fastgen.distributions import Categorical
from fastgen.nn import MaskedConv2d
from test_codec import setting

pytest.importorskip("constriction", reason="it comes with fastgen[codec]")


def test_labels_are_kept_for_models_that_are_told_none() -> None:
    _, codec, values, _ = setting("pixelcnn, two levels", 3)
    for labels, size in (([0, 255, 3], 1), ([0, 256, 3], 2), ([0, 2**32 - 1, 3], 4)):
        data = codec.encode(values, torch.tensor(labels))
        assert Container.from_bytes(data).about.label_bytes == size
        assert codec.decode(data).labels.tolist() == labels  # type: ignore[union-attr]


class Told(nn.Module):
    """A model that is told a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.told = MaskedConv2d(1, 4, 3, "A"), nn.Linear(2, 4)
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return self.out(torch.relu(self.first(x) + self.told(told)[:, :, None, None]))


def test_any_model_with_a_condition() -> None:
    codec = Codec(Told(), (1, 5, 6), Categorical(3), "[-1, 1]", condition=torch.zeros(2))
    values, told, seen = torch.randint(3, (4, 1, 5, 6)), torch.randn(4, 2), []
    data = codec.encode(values, condition=told, progress=lambda *done: seen.append(done))
    assert torch.equal(codec.decode(data, condition=told).values.long(), values)
    assert seen == [(4, 4)]
    with pytest.raises(ValueError, match=r"condition: expected '\w+', which is what decodes here, got '\w+'"):
        codec.decode(data, condition=told + 1)
    with pytest.raises(ValueError, match="condition: expected"):
        codec.decode(data)


class ToldAMap(nn.Module):
    """A model that is told a map, and a class beside it where its ``condition_kind`` says so."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.condition_kind = kind
        self.first, self.told, self.label = MaskedConv2d(1, 4, 3, "A"), nn.Conv2d(2, 4, 1), nn.Embedding(3, 4)
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor, told: Any) -> Tensor:
        h = self.first(x)
        if isinstance(told, dict):
            h, told = h + self.label(told["labels"])[:, :, None, None], told["map"]
        return self.out(torch.relu(h + self.told(told)))


def test_labels_are_kept_beside_what_else_a_model_is_told() -> None:
    """As samplers have it, they are told only where a condition is a class; then they say the same as it."""
    of_map = FeatureMap(2, 5, 6)
    values, maps, labels = torch.randint(3, (4, 1, 5, 6)), torch.randn(4, 2, 5, 6), torch.tensor([0, 1, 2, 300])
    both = {"labels": labels % 3, "map": maps}
    for kind, condition in ((of_map, maps), ({"labels": Classes(3), "map": of_map}, both)):
        codec = Codec(ToldAMap(kind).eval(), (1, 5, 6), Categorical(3), "[-1, 1]")
        data = codec.encode(values, labels, condition=condition)
        found = codec.decode(data, condition=condition)
        assert torch.equal(found.values.long(), values)
        assert torch.equal(found.labels, labels)  # type: ignore[arg-type]
        alone = codec.encode(values, condition=condition)
        assert Container.from_bytes(alone).streams == Container.from_bytes(data).streams
        with pytest.raises(ValueError, match=r"^condition: expected .*, got None"):
            codec.decode(data)
        with pytest.raises(ValueError, match=r"^condition: expected .*, got None"):
            codec.encode(values, labels)
        other = {**both, "map": maps + 1} if isinstance(condition, dict) else maps + 1
        with pytest.raises(ValueError, match=r"^condition: expected '\w+', which is what decodes here"):
            codec.decode(data, condition=other)
    _, codec, values, labels = setting("gated pixelcnn, classes", 3)
    for both_say in (
        lambda: codec.encode(values, labels, condition=labels),
        lambda: codec.sampler.sample(labels=labels, condition=labels),
    ):
        with pytest.raises(ValueError, match="labels: expected None together with condition, which says the same"):
            both_say()
