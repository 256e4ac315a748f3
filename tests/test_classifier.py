"""Classifiers that begin with the encoder of a model that saw no labels."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import models
from fastgen.models import VAE, Autoencoder, Classifier, PixelCNN
from parity import assert_parity

SIZES = {"levels": 16, "latent": 5, "hidden": (8,), "image_size": (6, 6)}


def sources() -> dict[str, nn.Module]:
    return {
        "autoencoder": Autoencoder(**SIZES, squash=True),
        "convolutional": Autoencoder(**SIZES, channels=(4,)),
        "vae": VAE(**SIZES),
    }


def some(n: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randint(16, (n, 1, 6, 6)), torch.arange(n) % 3


@pytest.mark.parametrize("kind", sources())
def test_begins_with_the_features_of_the_encoder(kind: str) -> None:
    source = sources()[kind]
    classifier = Classifier.from_encoder(source, classes=3)
    values, _ = some()
    features = source.encode(values)
    assert_parity(
        classifier.logits(values).detach(),
        classifier.head(features).detach(),
        classifier.head(features).detach().double(),
    )
    for parameter, copied in zip(source.encoder.parameters(), classifier.encoder_network.parameters(), strict=True):
        assert torch.equal(parameter, copied)
        assert parameter.data_ptr() != copied.data_ptr()


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_or_fine_tuned(frozen: bool) -> None:
    classifier = Classifier.from_encoder(sources()["vae"], classes=3, frozen=frozen)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    values, labels = some()
    moved = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(moved, lr=0.05)
    first = classifier.losses(values, labels)["cross_entropy"].mean()
    for _ in range(60):
        optimizer.zero_grad()
        classifier.losses(values, labels)["cross_entropy"].mean().backward()
        optimizer.step()
    assert classifier.losses(values, labels)["cross_entropy"].mean() < first * (0.9 if frozen else 0.1)
    same = {name for name, tensor in classifier.state_dict().items() if torch.equal(tensor, before[name])}
    assert same == ({name for name in before if name.startswith("encoder_network.")} if frozen else set())


def test_losses() -> None:
    classifier = Classifier(**{key: SIZES[key] for key in ("levels", "image_size")}, classes=3)
    values, labels = some()
    terms, logits = classifier.losses(values, labels), classifier.logits(values)
    assert list(terms) == ["cross_entropy", "accuracy"]
    nats = -F.log_softmax(logits, dim=1)[torch.arange(8), labels].detach()
    assert_parity(
        terms["cross_entropy"].detach(), nats, -F.log_softmax(logits.double(), dim=1)[torch.arange(8), labels].detach()
    )
    assert torch.equal(terms["accuracy"], (classifier.predict(values) == labels).float())
    assert not classifier.per_dimension


@pytest.mark.parametrize("kind", sources())
def test_config_builds_the_same_model(kind: str) -> None:
    classifier = Classifier.from_encoder(sources()[kind], classes=3, frozen=True)
    twin = models.build("classifier", **json.loads(json.dumps(classifier.config)))
    twin.load_state_dict(classifier.state_dict())
    values, _ = some()
    assert twin.config == classifier.config
    assert torch.equal(twin.logits(values), classifier.logits(values))
    assert all(not parameter.requires_grad for parameter in twin.encoder_network.parameters())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Classifier(classes=0), ValueError, "classes: expected a positive integer, got 0"),
        (lambda: Classifier.from_encoder(PixelCNN(), 3), TypeError, "model: expected one with an encoder, .* PixelCNN"),
        (
            lambda: Classifier.from_encoder(VAE(classes=3), 3),
            ValueError,
            "model: expected an encoder that reads images",
        ),
        (lambda: Classifier().losses(torch.zeros(2, 1, 28, 28).long()), ValueError, "labels: expected 2 integers in"),
    ],
)
def test_errors_name_argument_expected_and_got(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
