"""Gated PixelCNN that is told a map: exact given it, sampled as the naive sampler does, and the map is used."""

import itertools
import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from autoregressive import before, influence
from fastgen import models, sampling
from fastgen.conditions import Classes, FeatureMap
from fastgen.data import Dataset, Downsampled, Given, Grey, Subsampled
from fastgen.models import GatedPixelCNN
from fastgen.sampling import NaiveSampler
from fastgen.training import Recipe, Trainer, evaluate
from parity import assert_parity


def built(given: Given, size: tuple[int, int] = (4, 4), colors: int = 1, levels: int = 2, **more: Any) -> GatedPixelCNN:
    """A model of what is left of images, with weights large enough that every feature shows."""
    torch.manual_seed(0)
    told: dict[str, Any] = {"condition_shape": given.given_shape((colors, *size))}
    told |= {"subsampled": given.factor} if isinstance(given, Subsampled) else {}
    drawn = 2 if isinstance(given, Grey) else colors
    sizes: dict[str, Any] = {"channels": 4 * drawn, "layers": 1, "map_layers": 1} | more
    model = GatedPixelCNN(drawn, given.drawn_levels(levels), image_size=size, **told, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model.eval()


def every(colors: int, height: int, width: int, levels: int) -> Tensor:
    images = torch.tensor(list(itertools.product(range(levels), repeat=colors * height * width)))
    return images.view(-1, colors, height, width)


@pytest.mark.parametrize(
    ("given", "colors", "size", "levels"),
    [(Downsampled(2), 1, (2, 4), 2), (Subsampled(2), 1, (2, 4), 2), (Subsampled(2), 1, (2, 2), 4)],
)
def test_probabilities_add_up_to_one(given: Given, colors: int, size: tuple[int, int], levels: int) -> None:
    """Over all images that have the same given part; where pixels are kept, given them."""
    model, images = built(given, size, colors, levels).double(), every(colors, *size, levels)
    told = given.split(images[5:6], levels)[1]
    if isinstance(given, Subsampled):
        images = images[(given.split(images, levels)[1] == told).flatten(1).all(1)]
    total = model.log_prob(images, condition=told.expand(len(images), -1, -1, -1)).exp().sum().float()
    assert_parity(total, eager=torch.ones(()), exact=torch.ones(()).double())


def test_chroma_given_luma_adds_up_to_one() -> None:
    """All pairs of a pixel: of 3 levels each, of images of 2."""
    model = built(Grey(), (1, 2), 3).double()
    images = every(2, 1, 2, 3)
    total = model.log_prob(images, condition=torch.tensor([[[0.2, -1]]])).exp().sum().float()
    assert_parity(total, eager=torch.ones(()), exact=torch.ones(()).double())


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("given", [Downsampled(2), Subsampled(2), Grey()])
def test_samples_are_the_naive_samplers(given: Given, classes: int | None) -> None:
    grey = isinstance(given, Grey)
    colors = 3 if grey else 1
    model = built(given, (4, 6), colors, 3, classes=classes)
    images = torch.randint(3, (3, colors, 4, 6))
    told: Any = given.split(images, 3)[1]
    told = told if classes is None else {"labels": torch.arange(3), "map": told}
    uniforms = torch.rand(3, 2 if grey else 1, 4, 6)
    drawn = model.sample(uniforms=uniforms, condition=told)
    known = model.known_by(told)
    kept = {} if known is None else {"known": known[0], "known_mask": known[1]}
    naive = NaiveSampler(model, (model.in_channels, 4, 6)).sample(uniforms=uniforms, condition=told, **kept)
    assert torch.equal(drawn, naive)
    if isinstance(given, Subsampled):
        assert torch.equal(drawn[:, :, ::2, ::2], images[:, :, ::2, ::2]), "what is given is copied"
        assert not torch.equal(drawn, images)
    assert sampling.verify(sampling.compile(model, (model.in_channels, 4, 6)), 3, condition=told).same
    assert given.join(drawn, told["map"] if classes else told, 3).shape == images.shape


def test_all_of_the_map_is_seen_and_no_later_pixel() -> None:
    model = built(Downsampled(2), (4, 4), channels=24).double()
    told = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    alone = GatedPixelCNN.forward

    class Told(GatedPixelCNN):
        def forward(self, x: Tensor, labels: Any = None) -> Tensor:
            return alone(self, x, told.expand(len(x), -1, -1, -1))

    model.__class__ = Told
    assert torch.equal(influence(model, 4, 4), before(16))
    reach = torch.autograd.functional.jacobian(lambda map: alone(model, torch.zeros(1, 1, 4, 4).double(), map), told)
    assert (reach.abs().sum(dim=(0, 1, 4, 5)) > 0).all(), "every pixel sees every place of so small a map"


def test_a_new_models_map_adds_nothing() -> None:
    torch.manual_seed(1)
    told = GatedPixelCNN(channels=4, layers=1, image_size=4, condition_shape=(1, 2, 2))
    without = GatedPixelCNN(channels=4, layers=1)
    without.load_state_dict({name: each for name, each in told.state_dict().items() if "map" not in name})
    values = torch.randint(2, (3, 1, 4, 4))
    assert torch.equal(told.log_prob(values, condition=torch.randn(3, 1, 2, 2)), without.log_prob(values))


def test_config_and_kind() -> None:
    model = GatedPixelCNN(channels=4, layers=1, image_size=4, condition_shape=(1, 2, 2), subsampled=2, classes=3)
    twin = models.build("gated-pixelcnn", **json.loads(json.dumps(model.config)))
    twin.load_state_dict(model.state_dict())
    assert twin.config == model.config
    assert twin.condition_kind == {"labels": Classes(3), "map": FeatureMap(1, 2, 2)}
    measure = twin.measures["nats"]
    assert (measure.words, measure.of_values) == ("−log p(the other pixels | c), condition given, exact", False)


def test_what_is_given_is_used() -> None:
    """Blobs in one of nine places, which their means tell: given, a blob costs little; another one's means, much."""
    torch.manual_seed(0)
    place = torch.arange(180) % 9
    images = torch.zeros(180, 1, 6, 6, dtype=torch.uint8)
    for index, where in enumerate(place.tolist()):
        row, column = 2 * (where // 3), 2 * (where % 3)
        images[index, 0, row : row + 2, column : column + 2] = 1
    whole = Dataset(images, None, 2, None, "blobs")
    nats = {}
    for name, data in {"none": whole, "given": Downsampled(2).prepare(whole)}.items():
        shape = None if data.condition is None else (1, 3, 3)
        model = GatedPixelCNN(channels=8, layers=1, image_size=6, condition_shape=shape, map_layers=1)
        Trainer(model, Recipe(epochs=12, batch_size=12, lr=0.01)).fit(data, data)
        nats[name] = evaluate(model, data).nats
    others = Dataset(images, None, 2, None, "blobs", condition=data.condition.roll(1, 0))  # type: ignore[union-attr]
    nats["shuffled"] = evaluate(model, others).nats
    assert nats["given"] < nats["none"] - 1 < nats["shuffled"] - 1


MAP = GatedPixelCNN(channels=4, layers=1, image_size=4, condition_shape=(1, 2, 2), subsampled=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: GatedPixelCNN(condition_shape=(1, 3, 3)),
            "condition_shape: expected height and width that divide",
        ),
        (lambda: GatedPixelCNN(condition_shape=(1, 7)), "condition_shape: expected (C', H', W') or None, got (1, 7)"),
        (
            lambda: GatedPixelCNN(image_size=None, condition_shape=(1, 7, 7)),
            "image_size: expected (H, W) of a model",
        ),
        (lambda: GatedPixelCNN(subsampled=4), "condition_shape: expected (1, 7, 7), one of 4x4 pixels of the images"),
        (lambda: GatedPixelCNN(map_layers=0), "map_layers: expected a positive integer, got 0"),
        (lambda: MAP.sample(2), "condition: expected floating point (N, 1, 2, 2), which the model is told, got None"),
        (lambda: MAP.log_prob(torch.zeros(1, 1, 4, 4).long()), "condition: expected floating point (N, 1, 2, 2)"),
        (
            lambda: MAP.log_prob(torch.zeros(1, 1, 8, 8).long(), condition=torch.zeros(1, 2, 2)),
            "x: expected images of (4, 4), which the map is of, got (1, 1, 8, 8)",
        ),
        (
            lambda: MAP.sample(known=torch.zeros(1, 4, 4).long(), condition=torch.zeros(1, 2, 2)),
            "known: expected None, since the condition tells the pixels that are known, got some",
        ),
    ],
)
def test_errors_name_argument_expected_and_got(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
