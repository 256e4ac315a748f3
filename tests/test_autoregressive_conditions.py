"""A model with exact likelihood that says what it is told has likelihood, training and sampling of it."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures import randomise
from autoregressive import build
from fastgen import sampling
from fastgen.conditions import Classes, FeatureMap, Kinds, Vector, apply
from fastgen.data import Dataset
from fastgen.models import AutoregressiveModel
from fastgen.nn import MaskedConv2d
from fastgen.sampling import NaiveSampler
from fastgen.training import Recipe, Trainer

KINDS: dict[str, Any] = {
    "vector": Vector(4),
    "map": FeatureMap(2, 2, 3),
    "dict": {"class": Classes(3), "text": Vector(4), "small": FeatureMap(2, 2, 3)},
}


class Told(AutoregressiveModel):
    """Three levels of grey; a vector adds to every channel, a small image where it is enlarged to, a class likewise."""

    def __init__(self, kind: str = "vector") -> None:
        super().__init__(1, 3, classes=None, image_size=(4, 6))
        self.kind = kind
        self.input, self.hidden = MaskedConv2d(1, 8, 3, "A"), MaskedConv2d(8, 8, 3, "B", activation="relu")
        self.text, self.small, self.of_class = nn.Linear(4, 8), nn.ConvTranspose2d(2, 8, 2, 2), nn.Embedding(3, 8)
        self.output = MaskedConv2d(8, 3, 1, "B")

    @property
    def condition_kind(self) -> Kinds:
        return KINDS[self.kind]

    def forward(self, x: Tensor, condition: Any = None) -> Tensor:
        told = condition if isinstance(condition, dict) else {{"vector": "text", "map": "small"}[self.kind]: condition}
        h = self.input(x)
        if "text" in told:
            h = h * torch.tanh(self.text(told["text"])).unsqueeze(-1).unsqueeze(-1)
        if "small" in told:
            h = h + self.small(told["small"])
        if "class" in told:
            h = h + self.of_class(told["class"])[:, :, None, None]
        return self.output(self.hidden(h))


def made(kind: str) -> Told:
    torch.manual_seed(0)
    return randomise(Told(kind)).eval()  # type: ignore[return-value]


def tell(kind: str, n: int) -> Any:
    def of(part: Any) -> Tensor:
        return torch.arange(n) % 3 if isinstance(part, Classes) else torch.randn(n, *part.shape)

    told = KINDS[kind]
    return {name: of(part) for name, part in told.items()} if isinstance(told, dict) else of(told)


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_of_what_was_told(kind: str) -> None:
    model, values, told = made(kind), torch.randint(3, (5, 1, 4, 6)), tell(kind, 5)
    nats = model.log_prob(values, condition=told)
    params = model(model.to_input(values), told)
    assert torch.equal(nats, model.distribution.log_prob(params, values).sum(dim=(1, 2, 3)))
    assert torch.equal(model.losses(values, told, 0.5)["nats"], -nats), "as a trainer calls it"
    assert torch.equal(model.losses(values, condition=told)["nats"], -nats)
    assert torch.equal(model.bits_per_dim(values, condition=told), -nats / (24 * torch.tensor(2.0).log()))
    one, alone = apply(lambda part: part[2], told), apply(lambda part: part[2:3], told)
    assert torch.equal(*(model.log_prob(values[2:3], condition=each) for each in (one, alone)))
    assert model.measures["nats"].words == "−log p(x | c), condition given, exact"


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_what_was_told(kind: str) -> None:
    model = made(kind)
    for n in (1, 5):
        told, uniforms = tell(kind, n), torch.rand(n, 1, 4, 6)
        drawn = model.sample(uniforms=uniforms, condition=told)
        assert torch.equal(drawn, NaiveSampler(model, (1, 4, 6)).sample(uniforms=uniforms, condition=told))
    assert model.sample(condition=tell(kind, 2), size=(4, 6), seed=1).shape == (2, 1, 4, 6)
    assert sampling.verify(sampling.compile(model, (1, 4, 6)), 3, condition=tell(kind, 3)).same


def test_training_on_what_was_told() -> None:
    """Images all of one level, which the vector says: the model draws what it is told."""
    torch.manual_seed(0)
    level = torch.arange(120) % 3
    values = level.view(-1, 1, 1, 1).expand(-1, 1, 4, 6).to(torch.uint8)
    data = Dataset(values, None, 3, None, "levels", condition=torch.eye(4)[level])
    model = Told("vector")
    Trainer(model, Recipe(epochs=3, batch_size=10, lr=0.05)).fit(data, data)
    (drawn,) = model.eval().preview(9, 0, values, data.condition)
    assert torch.equal(drawn, values[:9].long())


@pytest.mark.parametrize("way", ["log_prob", "losses", "bits_per_dim", "sample"])
@pytest.mark.parametrize(
    ("kind", "given", "error", "message"),
    [
        ("vector", {}, ValueError, "condition: expected floating point (N, 4)"),
        ("vector", {"condition": torch.zeros(3, 5)}, ValueError, "condition: expected floating point (N, 4), got a"),
        ("vector", {"condition": torch.zeros(3, 4).long()}, TypeError, "condition: expected floating point (N, 4)"),
        ("vector", {"condition": torch.zeros(3, 4) / 0}, ValueError, "condition: expected finite numbers, got inf or"),
        ("map", {"condition": torch.zeros(3, 4)}, ValueError, "condition: expected floating point (N, 2, 2, 3), got"),
        ("dict", {"condition": torch.zeros(3, 4)}, TypeError, "condition: expected a dict of 'class', 'small', 'text'"),
        ("vector", {"labels": 1, "condition": torch.zeros(4)}, ValueError, "labels: expected None together with cond"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    kind: str, given: dict[str, Any], error: type[Exception], message: str, way: str
) -> None:
    call, images = getattr(MODELS[kind], way), {} if way == "sample" else {"values": torch.zeros(3, 1, 4, 6).long()}
    with pytest.raises(error, match=re.escape(message)):
        call(**images, **given)


MODELS = {kind: made(kind) for kind in KINDS}


def test_labels_are_for_models_with_classes() -> None:
    model, values, labels = build("gated-pixelcnn-classes"), torch.randint(2, (3, 1, 5, 4)), torch.tensor([2, 0, 1])
    for call in (model.log_prob, model.losses, model.bits_per_dim):
        answers = [call(values, labels), call(values, labels=labels), call(values, condition=labels)]
        first, *others = [each["nats"] if isinstance(each, dict) else each for each in answers]
        assert all(torch.equal(first, other) for other in others)
    assert torch.equal(*(model.sample(size=(5, 4), seed=0, **{name: labels}) for name in ("labels", "condition")))
    for name in ("log_prob", "bits_per_dim", "sample"):
        given = {"labels": labels} if name == "sample" else {"values": values[:, :, :4], "labels": labels}
        with pytest.raises(ValueError, match=r"labels: expected None, since a condition is floating point \(N, 4\)"):
            getattr(MODELS["vector"], name)(**given)
    untold = build("pixelcnn")
    assert torch.equal(untold.losses(values, torch.rand(3, 2))["nats"], -untold.log_prob(values)), "reads nothing"
    with pytest.raises(ValueError, match="labels: expected None, since the model has no classes"):
        untold.log_prob(values, condition=torch.rand(3, 2))
