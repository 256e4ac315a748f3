"""Multi-scale: the nats of all scales add up, pixels that are there are copied, and drawing is exact."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoregressive import assert_normalised
from commands import said
from fastgen import models
from fastgen.models import MultiScale
from fastgen.sampling import NaiveSampler
from fastgen.training import checkpoint


def built(**sizes: Any) -> MultiScale:
    """With weights large enough that every feature shows."""
    torch.manual_seed(0)
    model = MultiScale(**{"channels": 4, "layers": 1, "map_layers": 1} | sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=parameter[0].numel() ** -0.5 if parameter.dim() else 1)
    return model.eval()


@pytest.mark.parametrize(
    ("sizes", "H", "W"),
    [
        ({"image_size": 2}, 2, 2),
        ({"image_size": (2, 4), "base": "pixelcnn"}, 2, 4),
        ({"image_size": 2, "levels": 4, "classes": 2}, 2, 2),
    ],
)
def test_probabilities_of_all_images_add_up_to_one(sizes: dict[str, Any], H: int, W: int) -> None:
    assert_normalised(built(**sizes), H, W)  # type: ignore[arg-type]


def test_nats_add_up_and_say_of_what_they_are() -> None:
    model = built(image_size=8, scales=(2, 4), levels=5)
    values = torch.randint(5, (3, 1, 8, 8))
    losses = model.losses(values)
    assert list(losses) == list(model.measures) == ["nats", "nats_2x2", "nats_4x4", "nats_8x8"]
    total = losses["nats_2x2"] + losses["nats_4x4"] + losses["nats_8x8"]
    torch.testing.assert_close(losses["nats"], total)
    assert torch.equal(losses["nats"], -model.log_prob(values))
    torch.testing.assert_close(losses["nats_2x2"], -model.stages[0].log_prob(values[:, :, ::4, ::4]))  # type: ignore[operator]
    other = values.clone()
    other[:, :, 0, 4] = (other[:, :, 0, 4] + 1) % 5  # one of the smallest image
    assert (model.losses(other)["nats_8x8"] != losses["nats_8x8"]).all(), "what is given is read"
    assert model.measures["nats_4x4"].words == "of 4x4 pixels, given the 2x2 ones"
    assert [name for name, each in model.measures.items() if each.of_values] == ["nats"]


@pytest.mark.parametrize("base", ["gated-pixelcnn", "pixelcnn", "row-lstm"])
def test_samples_are_the_naive_samplers_of_each_scale(base: str) -> None:
    classes = None if base == "pixelcnn" else 3
    model = built(image_size=(4, 8), scales=(1, 2), levels=3, base=base, classes=classes, in_channels=1)
    labels = None if classes is None else torch.arange(3)
    uniforms = model._uniforms(3, 7, 0)
    drawn = model.sample(3, seed=7, labels=labels)
    assert torch.equal(drawn, model.sample(uniforms=uniforms, labels=labels))
    image: Tensor | None = None
    for stage, of_stage, size in zip(model.stages, uniforms, model.sizes, strict=True):
        told: Any = labels
        kept: dict[str, Any] = {}
        if image is not None:
            told = image - 1.0 if labels is None else {"labels": labels, "map": image - 1.0}
            known, mask = stage.known_by(told)  # type: ignore[operator]
            kept = {"known": known, "known_mask": mask}
        image = NaiveSampler(stage, (1, *size)).sample(uniforms=of_stage, condition=told, **kept)
    assert torch.equal(drawn, image)
    assert torch.equal(model.sample(2, seed=7, labels=labels if labels is None else labels[1:], first=1), drawn[1:])


def test_sampling_to_64() -> None:
    model = built(image_size=64, scales=(8, 32), channels=2)
    drawn, uniforms = model.sample(seed=1), model._uniforms(1, 1, 0)
    assert drawn.shape == (1, 1, 64, 64)
    small = model.stages[0].sample(uniforms=uniforms[0])  # type: ignore[operator]
    assert torch.equal(drawn[:, :, ::8, ::8], small), "copied through both scales"


def test_what_scales_there_are_by_default() -> None:
    sizes = {size: MultiScale(channels=2, layers=1, image_size=size).sizes for size in ((28, 28), (9, 6), (7, 5))}
    assert sizes == {(28, 28): [(14, 14), (28, 28)], (9, 6): [(3, 2), (9, 6)], (7, 5): [(7, 5)]}


def test_config_builds_the_same_model() -> None:
    model = built(image_size=8)
    twin = models.build("multi-scale", **json.loads(json.dumps(model.config)))
    twin.load_state_dict(model.state_dict())
    values = torch.randint(2, (2, 1, 8, 8))
    assert twin.config == model.config == model.config | {"scales": [4], "base": "gated-pixelcnn"}
    assert torch.equal(twin.log_prob(values), model.log_prob(values))


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for package in ("tyro", "tqdm", "safetensors", "sklearn", "PIL"):
        pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
    run, again = tmp_path / "run", tmp_path / "again"
    train = ["train", "multi-scale", "--scales", "4", "--base", "diagonal-bilstm", "--channels", "2", "--layers", "1"]
    train += ["--levels", "2", "--limit", "30", "--samples", "2", "--save-every", "1", "--batch-size", "10"]
    said(capsys, *train, "--run", run, "--epochs", 2)
    said(capsys, *train, "--run", again, "--epochs", 1)
    said(capsys, "train", "multi-scale", "--run", again, "--resume", "--epochs", 2)
    one, other = (checkpoint.load(folder / "checkpoints").weights["model"] for folder in (run, again))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items()), "resumed as if it had never ended"
    found = json.loads(said(capsys, "evaluate", run, "--limit", 20, "--json"))
    assert found["nats"] == pytest.approx(found["nats_4x4"] + found["nats_8x8"])
    line = said(capsys, "sample", run, "--n", 2, "--out", tmp_path / "s.png")
    assert "with the compiled sampler of each scale" in line


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"scales": (3,)}, "scales: expected heights below the image's 28x28, each a divisor of the next, the"),
        ({"scales": (7, 7)}, "each a divisor of the next, the last of 28, got (7, 7)"),
        ({"image_size": 7, "scales": (3,)}, "each a divisor of the next, the last of 7, got (3,)"),
        ({"base": "pixelcnn", "classes": 3}, "base: expected one that is told a class, with classes, got"),
        (
            {"base": "vae"},
            "base: expected one of 'gated-pixelcnn', 'pixelcnn', 'row-lstm', 'diagonal-b",
        ),
    ],
)
def test_errors_name_argument_expected_and_got(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MultiScale(**{"channels": 4, "layers": 1} | sizes)


def test_uniforms_of_every_scale() -> None:
    model = built(image_size=2)
    with pytest.raises(ValueError, match="uniforms: expected one tensor for each of 2 scales, got 1"):
        model.sample(uniforms=[torch.rand(1, 1, 1, 1)])
    with pytest.raises(ValueError, match="seed: expected None together with uniforms"):
        model.sample(uniforms=model._uniforms(1, 1, 0), seed=1)
