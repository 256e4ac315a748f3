"""GAN of 2014: the paper's networks, and what its theory says of them."""

import math

import pytest
import torch
from torch import nn

from fastgen.models import GAN
from fastgen.models.gan import Maxout
from parity import assert_parity

SMALL = {"levels": 5, "latent": 6, "hidden": (8,), "discriminator_hidden": (7, 6), "image_size": (3, 4)}


def test_the_networks_of_the_published_code() -> None:
    model = GAN()
    wide = [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert wide == [(100, 1200), (1200, 1200), (1200, 784), (784, 240 * 5), (240, 240 * 5), (240, 1)]
    kept = [layer.p for layer in model.discriminator.modules() if isinstance(layer, nn.Dropout)]
    assert kept == pytest.approx([0.2, 0.5, 0.5])
    for network, most in ((model.generator, 0.05), (model.discriminator, 0.005)):
        for layer in network.modules():
            if isinstance(layer, nn.Linear) and layer.weight.numel() > 1000:
                assert 0.99 * most < layer.weight.abs().max() <= most
                assert abs(layer.weight.std() - most / math.sqrt(3)) < 0.02 * most
    z = model.noise(4000)
    assert z.abs().max() < math.sqrt(3)
    assert abs(z.var() - 1) < 0.01, "uniform, of unit variance"
    codes = model.draw_codes(4000, 0)
    assert 1.7 < codes.max() < math.sqrt(3)
    assert abs(codes.var() - 1) < 0.01
    normal = GAN(prior="normal").draw_codes(4000, 0)
    assert normal.max() > 3
    assert abs(normal.var() - 1) < 0.02


def test_maxout_is_the_largest_piece() -> None:
    layer = Maxout(3, 2, pieces=4).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    weight, bias = layer.linear.weight.view(2, 4, 3), layer.linear.bias.view(2, 4)
    expected = torch.stack([(x @ weight[unit].T + bias[unit]).max(1).values for unit in range(2)], dim=1)
    assert_parity(layer(x).detach(), expected.detach(), expected.detach())


@pytest.mark.parametrize("conditioning", ["concat", "auxiliary", "projection"])
@pytest.mark.parametrize("activation", ["maxout", "relu"])
def test_classes_and_shapes(conditioning: str, activation: str) -> None:
    torch.manual_seed(0)
    model = GAN(2, **SMALL, activation=activation, classes=3, conditioning=conditioning)
    labels = torch.tensor([0, 1, 2, 0, 1])
    values = model.sample(5, seed=0, labels=labels)
    assert values.shape == (5, 2, 3, 4)
    assert torch.equal(model.sample(2, seed=0, labels=labels[3:], first=3), values[3:])
    found = model.losses(values, labels)
    assert all(loss.shape == (5,) for loss in found.values())
    assert ("classes" in found) == (conditioning == "auxiliary")
    real, judge = model.to_images(torch.randint(5, (5, 2, 3, 4))), model.discriminator.eval()
    scores, others = judge(real, labels), judge(real, (labels + 1) % 3)
    assert torch.equal(scores, others) == (conditioning == "auxiliary")


def test_what_does_not_fit_is_named() -> None:
    for argument, words in (
        ({"dropout": 1.0}, "dropout: expected a finite number"),
        ({"activation": "tanh"}, "activation: expected one of 'maxout', 'relu'"),
        ({"discriminator_hidden": ()}, "discriminator_hidden: expected one width or more"),
        ({"prior": "laplace"}, "prior: expected one of 'normal', 'uniform'"),
        ({"game": {"loss": "wasserstein"}}, "loss: expected a bound on the critic's slope"),
        ({"game": {"los": "hinge"}}, "game: expected loss, discriminator_steps"),
        ({"game": 3}, "game: expected a Game"),
    ):
        with pytest.raises(ValueError, match=words):
            GAN(**{**SMALL, **argument})
