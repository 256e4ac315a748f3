"""PixelCNN: what it sees, what it is likely to have seen, and what it refuses."""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F

from autoregressive import CONFIGS, assert_gradients, assert_normalised, before, build, influence, random_values
from fastgen import models
from fastgen.models import PixelCNN
from parity import assert_parity

KINDS = [kind for kind in CONFIGS if kind.startswith("pixelcnn")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("H", "W"), [(1, 1), (4, 5)])
def test_no_parameter_sees_its_own_value_or_a_later_one(kind, H, W):
    seen = influence(build(kind, channels=24), H, W)
    assert not (seen & ~before(len(seen))).any()


@pytest.mark.parametrize("layers", [1, 2])
def test_receptive_field_is_that_of_its_taps(layers):
    """The 7×7 mask A, widened by a 3×3 mask B per block: above right of the pixel it leaves the known blind spot."""
    H, W = 5, 12
    first = {(r, c) for r in range(-3, 1) for c in range(-3, 4) if (r, c) < (0, 0)}
    block = {(r, c) for r in range(-1, 1) for c in range(-1, 2) if (r, c) <= (0, 0)}
    field = first
    for _ in range(layers):
        field = {(a + r, b + c) for a, b in field for r, c in block}
    seen = influence(build("pixelcnn", channels=24, layers=layers), H, W).view(H, W, H, W)
    for r, c, s, d in itertools.product(range(H), range(W), range(H), range(W)):
        assert seen[r, c, s, d] == ((s - r, d - c) in field), f"pixel {(r, c)} and pixel {(s, d)}"


def test_every_earlier_colour_is_seen():
    H, W = 2, 3
    seen = influence(build("pixelcnn-rgb", channels=24), H, W)
    assert torch.equal(seen, before(H * W * 3))


@pytest.mark.parametrize(
    ("kind", "changes", "H", "W"),
    [("pixelcnn", {}, 3, 3), ("pixelcnn-levels", {}, 1, 4), ("pixelcnn-rgb", {"levels": 3}, 1, 2)],
)
def test_probabilities_of_all_images_add_up_to_one(kind, changes, H, W):
    assert_normalised(build(kind, **changes), H, W)


@pytest.mark.parametrize("kind", ["pixelcnn", "pixelcnn-rgb"])
def test_log_prob_gradient(kind):
    model = build(kind, channels=3 if "rgb" in kind else 1, layers=1, levels=2)
    assert_gradients(model, 2, 3)


def test_log_prob_is_the_sum_of_the_parameters_likelihoods():
    model = build("pixelcnn-rgb")
    values = random_values(model, 4, 5, 6)

    def from_definition(model: PixelCNN) -> torch.Tensor:
        x = (values * 2 / 3 - 1).to(next(model.parameters()).dtype)
        log_p = F.log_softmax(model(x).view(4, 3, 4, 5, 6), dim=2)
        return log_p.gather(2, values.unsqueeze(2)).sum(dim=(1, 2, 3, 4))

    eager, actual, bits = from_definition(model), model.log_prob(values), model.bits_per_dim(values)
    exact = from_definition(model.double())
    assert_parity(actual, eager, exact)
    scale = -1 / (3 * 5 * 6 * torch.tensor(2, dtype=torch.float64).log())
    assert_parity(bits, (eager * scale).float(), exact * scale)


def test_values_of_any_integer_type_are_taken():
    model = build("pixelcnn-levels")
    values = random_values(model, 2, 4, 4)
    assert torch.equal(model.log_prob(values.to(torch.uint8)), model.log_prob(values))


@pytest.mark.parametrize("kind", KINDS)
def test_config_builds_the_same_model(kind):
    model = build(kind, image_size=(5, 6))
    config = json.loads(json.dumps(model.config))
    twin = models.build("pixelcnn", **config)
    twin.load_state_dict(model.state_dict())
    values = random_values(model, 2, 5, 6)
    assert twin.config == model.config
    assert twin.image_size == (5, 6)
    assert torch.equal(twin.log_prob(values), model.log_prob(values))


def test_the_papers_sizes():
    model = PixelCNN()
    shapes = [tuple(parameter.shape) for parameter in model.blocks[0].parameters() if parameter.dim() > 1]
    assert model.input.weight.shape == (128, 1, 7, 7)
    assert shapes == [(64, 128, 1, 1), (64, 64, 3, 3), (128, 64, 1, 1)]
    assert len(model.blocks) == 7
    data = {"in_channels": 1, "levels": 2, "image_size": [28, 28]}
    sizes = {"channels": 64, "layers": 7, "distribution": "categorical", "components": 10}
    sizes |= {"dropout": 0.0, "label_smoothing": 0.0}
    assert model.config == data | sizes


GREY = torch.zeros(2, 1, 4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PixelCNN(in_channels=0), ValueError, "in_channels: expected a positive integer, got 0"),
        (lambda: PixelCNN(levels=1), ValueError, "levels: expected an integer of at least 2, got 1"),
        (lambda: PixelCNN(layers=-1), ValueError, "layers: expected a positive integer, got -1"),
        (lambda: PixelCNN(3, channels=64), ValueError, "channels: expected a multiple of in_channels = 3, .* got 64"),
        (lambda: PixelCNN(image_size=(28, 28, 1)), ValueError, r"image_size: expected one size or \(H, W\), got"),
        (lambda: PixelCNN(image_size=0), ValueError, "image_size: expected a positive integer, got 0"),
        (lambda: build("pixelcnn").log_prob(GREY.float()), TypeError, "values: expected an integer tensor, got"),
        (lambda: build("pixelcnn").log_prob(GREY + 2), ValueError, r"values: expected integers in \[0, 2\), got"),
        (lambda: build("pixelcnn").log_prob(GREY[0]), ValueError, r"values: expected shape \(N, 1, H, W\), got"),
        (lambda: build("pixelcnn-rgb").log_prob(GREY), ValueError, r"values: expected shape \(N, 3, H, W\), got"),
        (lambda: build("pixelcnn")(GREY), TypeError, "x: expected a floating-point tensor, .* got torch.int64"),
        (lambda: build("pixelcnn-rgb")(GREY.float()), ValueError, r"x: expected shape \(N, 3, H, W\), got"),
        (lambda: build("pixelcnn").log_prob(GREY, GREY[:, 0, 0, 0]), ValueError, "labels: expected None, since"),
        (lambda: build("pixelcnn", image_size=None).sample(), ValueError, r"size: expected \(H, W\), since the model"),
        (lambda: models.build("pixelrnn"), ValueError, "name: expected one of 'pixelcnn', .* got 'pixelrnn'"),
    ],
)
def test_errors_name_argument_expected_and_got(call, error, message):
    with pytest.raises(error, match=message):
        call()
