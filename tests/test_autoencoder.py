"""Autoencoders: the linear one is PCA's equal, and each age learns; classifiers begin where their encoder stopped."""

import json

import pytest
import torch
from torch import Tensor

from fastgen import models
from fastgen.models import Autoencoder
from fastgen.models.autoencoder import AGES
from parity import assert_parity

SMALL = {
    "linear": AGES["linear"],
    "deep": {"hidden": (12, 8)},
    "convolutional": {"hidden": (), "channels": (4, 6)},
    "convolutional-odd": {"hidden": (9,), "channels": (4, 6), "image_size": (7, 9), "in_channels": 3},
}


def build(age: str, **changes: object) -> Autoencoder:
    return Autoencoder(**({"levels": 16, "latent": 3, "image_size": (8, 8)} | SMALL[age] | changes))


def some(model: Autoencoder, n: int = 12) -> Tensor:
    return torch.randint(model.levels, (n, model.in_channels, *model.sides))


def minimise(model: Autoencoder, values: Tensor, steps: int) -> Tensor:
    """Full-batch L-BFGS; the mean squared error it ends with."""
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=steps, tolerance_grad=0, tolerance_change=0,
                                  history_size=50, line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.losses(values)["squared_error"].mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return model.losses(values)["squared_error"].mean().detach()


def test_the_linear_one_reaches_pca() -> None:
    """Trained, its error is that of PCA with as many components, and its images are PCA's."""
    baselines = pytest.importorskip("fastgen.baselines")
    pytest.importorskip("sklearn", reason="scikit-learn comes with fastgen[train]")
    model = build("linear", latent=2, squash=False, sigmoid=False, image_size=(2, 4)).double()
    values = some(model, 40)
    pca = baselines.PCA(2).fit(values / 15)
    exact = pca.squared_error(values / 15).mean()
    assert_parity(minimise(model, values, 600).float(), exact.float(), exact)
    images, wanted = model(values.double() / 15).detach(), pca.decode(pca.encode(values / 15))
    nearest_16_bit = (images * 2**16).round()
    assert torch.equal(nearest_16_bit, (wanted * 2**16).round())


@pytest.mark.parametrize("age", SMALL)
def test_every_age_learns(age: str) -> None:
    """Two images, and a code that is wide enough to tell them apart."""
    model = build(age)
    values = some(model, 2).repeat(6, 1, 1, 1)
    before = model.losses(values)["squared_error"].mean()
    assert minimise(model, values, 40) < before * 2 / 3


@pytest.mark.parametrize("age", SMALL)
def test_error_is_that_of_the_reconstruction(age: str) -> None:
    model = build(age).eval()
    values = some(model)
    images = model.reconstruct(values)
    assert images.shape == values.shape
    assert images.min() >= 0
    assert images.max() <= 15
    error = (((values.double() - images.detach().double()) / 15) ** 2).sum(dim=(1, 2, 3))
    x = model.to_input(values)
    eager = ((x - model(x).detach()) ** 2).sum(dim=(1, 2, 3))
    assert_parity(model.losses(values)["squared_error"].detach(), eager, eager.double())
    assert_parity(error.float(), eager, eager.double())
    assert torch.equal(model.encode(values), model.encoder.features(x))


@pytest.mark.parametrize("age", SMALL)
def test_config_builds_the_same_model(age: str) -> None:
    model = build(age).eval()
    twin = models.build("autoencoder", **json.loads(json.dumps(model.config))).eval()
    twin.load_state_dict(model.state_dict())
    values = some(model)
    assert twin.config == model.config
    assert torch.equal(twin.reconstruct(values), model.reconstruct(values))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Autoencoder(latent=0), ValueError, "latent: expected a positive integer, got 0"),
        (lambda: Autoencoder(hidden=5), ValueError, "hidden: expected a sequence of widths, got 5"),
        (lambda: build("deep").losses(torch.zeros(2, 1, 8, 8)), TypeError, "values: expected an integer tensor, got"),
        (lambda: build("deep").decode(torch.zeros(2, 8)), ValueError, r"z: expected shape \(N, 3\), got \(2, 8\)"),
        (lambda: build("deep").decode(torch.zeros(2, 3).long()), TypeError, "z: expected a floating-point tensor, got"),
    ],
)
def test_errors_name_argument_expected_and_got(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
