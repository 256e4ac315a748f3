"""The demo: its numbers are what they claim to be, and one command leaves one picture."""

import math
import re
from pathlib import Path

import pytest
import torch

from fastgen.cli import main
from fastgen.commands import demo
from fastgen.data import Dataset, load, load_for_training
from fastgen.models import GatedPixelCNN
from fastgen.training import Recipe

for package in ("tyro", "tqdm", "sklearn"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

TINY = {"channels": 8, "layers": 2}


@pytest.fixture
def model() -> GatedPixelCNN:
    """Its class decides much, so that labels matter before any training."""
    made = GatedPixelCNN(1, 17, classes=10, image_size=8, **TINY)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "class" in name:
                parameter.mul_(3)
    return made


def test_one_command_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(demo, "MODEL", TINY)
    monkeypatch.setattr(demo, "RECIPE", Recipe(epochs=5, batch_size=32, lr=2e-2))
    assert main(["demo", "--out", str(tmp_path / "demo.png")]) == 0
    said = capsys.readouterr().out
    uniform, independent, learnt = (
        float(re.search(rf"{name} (\d\.\d+)", said)[1]) for name in ("uniform", "independent pixels", "Gated PixelCNN")
    )
    assert uniform == pytest.approx(math.log2(17), abs=5e-4)
    assert learnt < independent < uniform
    assert "100 of 100 images are the same" in said
    with Image.open(tmp_path / "demo.png") as picture:
        assert min(picture.size) > 600
        assert len(picture.getcolors(maxcolors=1 << 24)) > 17
    assert [path.name for path in tmp_path.iterdir()] == ["demo.png"]


def test_slow_machines_train_for_fewer_epochs(model: GatedPixelCNN) -> None:
    train, recipe = load("digits"), Recipe(batch_size=64)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert demo.affordable_epochs(1e-9, model, train, recipe) == 1
    assert demo.affordable_epochs(1e9, model, train, recipe) > 1000
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_likelihood_without_labels_is_the_mixture_over_them(model: GatedPixelCNN) -> None:
    images = load("digits", split="test").subset(30)
    bits, error, accuracy = demo.bits_without_labels(model, images)
    every, right = [], 0
    for value, label in zip(images.values.long(), images.labels, strict=True):
        with torch.no_grad():
            given = [model.log_prob(value[None], torch.tensor([y])).item() for y in range(10)]
        every.append(-math.log2(sum(math.exp(nats) for nats in given) / 10) / 64)
        right += given.index(max(given)) == label
    every = torch.tensor(every, dtype=torch.float64)
    assert bits == pytest.approx(every.mean().item(), rel=1e-5)
    assert error == pytest.approx((every.var() / 30).sqrt().item(), rel=1e-4)
    assert accuracy == pytest.approx(right / 30)


def test_independent_pixels_is_a_distribution_that_never_saw_the_held_out_images() -> None:
    one = torch.tensor([0, 0, 0, 2], dtype=torch.uint8).view(4, 1, 1, 1)
    train, watched = (Dataset(values, None, 3, None, "three levels") for values in (one, one.flip(0)))
    total = 0.0
    for level in range(3):
        held_out = Dataset(torch.full((1, 1, 1, 1), level, dtype=torch.uint8), None, 3, None, "one pixel")
        total += 2 ** -demo.bits_of_independent_pixels(train, watched, held_out)
    assert total == pytest.approx(1)
    train, watched = load_for_training("digits")
    assert demo.bits_of_independent_pixels(train, watched, load("digits", split="test")) < math.log2(17)


def test_completions_keep_the_top_half_and_draw_the_class_from_what_is_seen(model: GatedPixelCNN) -> None:
    images = demo.some_of_each(load("digits", split="test"), 1)
    assert images.labels.tolist() == list(range(10))
    completed = demo.complete_top_half(model, images, seed=0)
    assert torch.equal(completed[:, :, :4], images.values[:, :, :4].long())
    other = images.values.clone()
    other[:, :, 4:] = 0
    blind = Dataset(other, images.labels.flip(0), 17, 10, "bottom half and labels hidden")
    assert torch.equal(completed, demo.complete_top_half(model, blind, seed=0)), "it saw what was not given"
