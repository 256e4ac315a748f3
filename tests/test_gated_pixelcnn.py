"""Gated PixelCNN: it sees every earlier value and no other, and its classes matter."""

import json

import pytest
import torch

from autoregressive import (
    CONFIGS,
    assert_gradients,
    assert_normalised,
    before,
    build,
    influence,
    labels_for,
    random_values,
)
from fastgen import models
from fastgen.models import GatedPixelCNN

KINDS = [kind for kind in CONFIGS if kind.startswith("gated-pixelcnn")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("H", "W"), [(1, 1), (1, 4), (4, 1), (4, 4)])
def test_every_earlier_value_is_seen_and_no_other(kind, H, W):
    seen = influence(build(kind, channels=24), H, W)
    assert torch.equal(seen, before(len(seen)))


@pytest.mark.parametrize(
    ("kind", "changes", "H", "W"),
    [
        ("gated-pixelcnn", {}, 3, 3),
        ("gated-pixelcnn-classes", {"levels": 5}, 2, 2),
        ("gated-pixelcnn-rgb", {"levels": 3}, 1, 2),
        ("gated-pixelcnn-rgb-binary", {}, 2, 1),
    ],
)
def test_probabilities_of_all_images_add_up_to_one(kind, changes, H, W):
    assert_normalised(build(kind, **changes), H, W)


@pytest.mark.parametrize("kind", ["gated-pixelcnn", "gated-pixelcnn-classes", "gated-pixelcnn-rgb-binary"])
def test_log_prob_gradient(kind):
    model = build(kind, channels=3 if "rgb" in kind else 1, layers=1, kernel_size=3)
    assert_gradients(model, 2, 3)


def test_a_class_adds_to_the_gates_of_both_stacks():
    model = build("gated-pixelcnn-classes")
    values = random_values(model, 1, 4, 4).expand(3, -1, -1, -1)
    by_class = model.log_prob(values, torch.arange(3))
    assert len(set(by_class.tolist())) == 3
    for name in ("class_vertical", "class_horizontal"):
        with torch.no_grad():
            before_change = model.log_prob(values, torch.arange(3))
            getattr(model.stack[1], name).weight[1] += 1
            changed = model.log_prob(values, torch.arange(3)) != before_change
        assert changed.tolist() == [False, True, False]


def test_a_new_models_classes_add_nothing():
    torch.manual_seed(1)
    with_classes = GatedPixelCNN(channels=4, layers=1, classes=3)
    without = GatedPixelCNN(channels=4, layers=1)
    without.load_state_dict({name: tensor for name, tensor in with_classes.state_dict().items() if "class" not in name})
    values = random_values(without, 3, 4, 4)
    assert torch.equal(with_classes.log_prob(values, labels_for(with_classes, 3)), without.log_prob(values))


@pytest.mark.parametrize("kind", KINDS)
def test_config_builds_the_same_model(kind):
    model = build(kind, image_size=4)
    config = json.loads(json.dumps(model.config))
    twin = models.build("gated-pixelcnn", **config)
    twin.load_state_dict(model.state_dict())
    values, labels = random_values(model, 2, 4, 4), labels_for(model, 2)
    assert twin.config == model.config
    assert torch.equal(twin.log_prob(values, labels), model.log_prob(values, labels))


def test_the_papers_sizes():
    model = GatedPixelCNN()
    layer = model.stack[1]
    assert model.stack[0].vertical.weight.shape == (256, 1, 4, 7)
    assert model.stack[0].horizontal.weight.shape == (256, 1, 1, 7)
    assert layer.vertical.weight.shape == (256, 128, 2, 3)
    assert layer.horizontal.weight.shape == (256, 128, 1, 3)
    assert layer.link.weight.shape == (256, 256, 1, 1)
    assert layer.out.weight.shape == (128, 128, 1, 1)
    assert len(model.stack) == 1 + 15


GREY = torch.zeros(2, 1, 4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GatedPixelCNN(kernel_size=4), ValueError, "kernel_size: expected an odd number, got 4"),
        (lambda: GatedPixelCNN(channels=0), ValueError, "channels: expected a positive integer, got 0"),
        (lambda: GatedPixelCNN(3), ValueError, "channels: expected a multiple of in_channels = 3, .* got 128"),
        (lambda: GatedPixelCNN(classes=0), ValueError, "classes: expected a positive integer, got 0"),
        (lambda: build("gated-pixelcnn").log_prob(GREY, torch.zeros(2)), ValueError, "labels: expected None, since"),
        (
            lambda: build("gated-pixelcnn-classes").log_prob(GREY),
            ValueError,
            r"labels: expected 2 integers in \[0, 3\)",
        ),
        (
            lambda: build("gated-pixelcnn-classes").log_prob(GREY, torch.tensor([0, 3])),
            ValueError,
            r"labels: expected integers in \[0, 3\), got values from 0 to 3",
        ),
        (
            lambda: build("gated-pixelcnn-classes").log_prob(GREY, torch.tensor([0])),
            ValueError,
            r"labels: expected shape \(2,\), one for each image, got \(1,\)",
        ),
        (
            lambda: build("gated-pixelcnn-classes").log_prob(GREY, torch.zeros(2)),
            TypeError,
            "labels: expected an integer tensor, got torch.float32",
        ),
    ],
)
def test_errors_name_argument_expected_and_got(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_conditional_model_compiles_whole_and_runs_on_meta() -> None:
    model = GatedPixelCNN(1, 2, channels=4, layers=1, classes=3).eval()
    x, labels = torch.rand(2, 1, 5, 5), torch.tensor([0, 2])
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x, labels)
        torch.testing.assert_close(compiled, model(x, labels))
        assert model.to("meta")(x.to("meta"), labels.to("meta")).shape == compiled.shape
