"""Commands on a model that is told something other than a class: trained, resumed, evaluated, drawn from a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from commands import refused, said
from fastgen import models
from fastgen.commands import completion
from fastgen.commands.epoch_pictures import draw_epoch
from fastgen.commands.sample import Sample
from fastgen.conditions import Classes, FeatureMap, Kinds, Vector, tensors_of
from fastgen.data import Dataset, load
from fastgen.distributions import Bernoulli
from fastgen.models import AutoregressiveModel, Model
from fastgen.nn import MaskedConv2d
from fastgen.sampling import NaiveSampler
from fastgen.training import checkpoint, load_model

for package in ("tyro", "tqdm", "safetensors", "PIL"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")


class Told(Model):
    """Independent pixels, from a linear layer of what it is told; it draws the likeliest.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        parts: 1 for a vector, 2 for a vector and a map, by name.
        image_size: one size or (H, W).
    """

    def __init__(
        self, in_channels: int = 1, levels: int = 2, parts: int = 1, image_size: int | tuple[int, int] = 4
    ) -> None:
        super().__init__(in_channels, levels, None, image_size)
        self.parts = parts
        self.logits = nn.Linear(3 if parts == 1 else 3 + 4, levels * in_channels * self.sides[0] * self.sides[1])

    @property
    def condition_kind(self) -> Kinds:
        return Vector(3) if self.parts == 1 else {"text": Vector(3), "map": FeatureMap(1, 2, 2)}

    def losses(self, values: Tensor, condition: Any = None, progress: float = 1.0) -> dict[str, Tensor]:
        logits = self._logits(len(values), condition)
        return {"nats": F.cross_entropy(logits, values, reduction="none").flatten(1).sum(1)}

    def sample(self, n: int, *, seed: int, condition: Any, temperature: float = 1.0, first: int = 0) -> Tensor:
        return self._logits(n, condition).argmax(1)

    def _logits(self, n: int, condition: Any) -> Tensor:
        read = self.check_condition(n, condition)
        parts = [read[name] for name in ("text", "map")] if isinstance(read, dict) else tensors_of(read)
        code = torch.cat([part.flatten(1) for part in parts], dim=1)
        return self.logits(code).view(n, self.levels, self.in_channels, *self.sides)


class Mean(Bernoulli):
    """Draws from the mean of two uniforms."""

    uniforms_per_value = 2

    def _draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        return super()._draw(logits, uniforms.unflatten(1, (-1, 2)).mean(2))


class Pixels(AutoregressiveModel):
    """Pixels from those before them and from a vector.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        image_size: one size, (H, W) or None.
    """

    condition_kind = Vector(3)
    law = Bernoulli

    def __init__(self, in_channels: int = 1, levels: int = 2, image_size: int | tuple[int, int] | None = 4) -> None:
        super().__init__(in_channels, levels, None, image_size)
        self.distribution = self.law()
        self.before = MaskedConv2d(in_channels, 2, 3, "A", activation="relu")
        self.text = nn.Linear(3, 16)
        self.output = MaskedConv2d(18, self.distribution.param_channels(in_channels), 1, "B")

    def forward(self, x: Tensor, condition: Any = None) -> Tensor:
        text = self.text(self.told(x.shape[0], condition))
        return self.output(torch.cat([self.before(x), text.view(-1, 1, 4, 4).expand(-1, 16, -1, -1)], dim=1))

    def told(self, n: int, condition: Any) -> Any:
        return self.check_condition(n, condition)

    def losses(self, values: Tensor, condition: Any = None, progress: float = 1.0) -> dict[str, Tensor]:
        params = self(self.to_input(values), condition)
        return {"nats": -self.distribution.log_prob(params, values).sum(dim=(1, 2, 3))}


class Numbered(Pixels):
    """Told a class, and says so itself."""

    condition_kind: Any = Classes(2)

    def told(self, n: int, condition: Any) -> Any:
        return self.check_labels(n, condition)[:, None].to(torch.float32).expand(-1, 3)  # type: ignore[index]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models are two of those that the command line has."""
    monkeypatch.setitem(models.NAMES, "told", Told)
    monkeypatch.setitem(models.NAMES, "told-pixels", Pixels)
    monkeypatch.setitem(models.NAMES, "numbered", Numbered)


N, RNG = 40, np.random.default_rng(0)
TEXT, MAP = RNG.normal(size=(N, 3)), RNG.random((N, 1, 2, 2), np.float32)
TEXT[:, 0] += np.sign(TEXT[:, 0])  # none that could be taken for the other
X = np.where(TEXT[:, :1, None] > 0, np.eye(4), 1 - np.eye(4)) > 0
"""One of two pictures, by the first number of the text."""
SHORT = ["--samples", "0", "--batch-size", "6", "--lr", "0.1", "--accumulate", "2", "--save-every", "1"]


def saved(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "data.npz", x=X, **arrays)
    return folder / "data.npz"


def drawn(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_run_from_training_to_drawing(tmp_path: Path, capsys: pytest.CaptureFixture, parts: int) -> None:
    told = {"condition": TEXT} if parts == 1 else {"condition_text": TEXT, "condition_map": MAP}
    data, run, again = saved(tmp_path, **told, y=np.arange(N) % 2), tmp_path / "run", tmp_path / "again"
    command = ["train", "told", "--parts", parts, "--data", data, *SHORT]
    planned = said(capsys, *command, "--run", run, "--dry-run")
    assert "2 classes, told " + ("floating point (N, 3)\n" if parts == 1 else "a dict of 'map': floating") in planned
    said(capsys, *command, "--run", run, "--epochs", 2, "--samples", 3)
    said(capsys, *command, "--run", again, "--epochs", 1, "--samples", 3)
    assert (run / "samples" / "epoch-0002.png").is_file(), "previews are told what the held-out images were"
    said(capsys, "train", "told", "--run", again, "--resume", "--epochs", 2)
    one, other = (checkpoint.load(folder / "checkpoints").weights["model"] for folder in (run, again))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items()), "resumed as if it had never ended"
    found = json.loads(said(capsys, "evaluate", run, "--json"))
    assert found["nats"] < 4, "of 16 pixels, 11 nats without the condition"

    np.savez(tmp_path / "told.npz", **{name: array[:5] for name, array in told.items()})
    out, npz = tmp_path / "s.png", tmp_path / "s.npz"
    line = said(capsys, "sample", run, "--condition", tmp_path / "told.npz", "--out", out, "--npz", npz)
    assert line.startswith("5 images in "), "as many as the file has"
    assert (drawn(npz)["x"][:, 0] == X[:5]).all()
    single, more = tmp_path / "single", tmp_path / "more.npz"
    said(capsys, "sample", run, "--condition", npz, "--n", 7, "--out", f"{single}/", "--npz", more)
    seven = drawn(more)
    assert (seven["x"][:, 0] == X[[0, 1, 2, 3, 4, 0, 1]]).all(), "in turn"
    assert all((seven[name] == array[[0, 1, 2, 3, 4, 0, 1]]).all() for name, array in told.items())
    assert len(list(single.glob("*.png"))) == 7


def test_a_compiled_sampler_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run, npz = saved(tmp_path, condition=TEXT), tmp_path / "run", tmp_path / "s.npz"
    said(capsys, "train", "told-pixels", "--data", data, *SHORT, "--epochs", 3, "--run", run)
    assert json.loads(said(capsys, "evaluate", run, "--json"))["nats"] < 8
    np.save(tmp_path / "told.npy", TEXT[:3])
    draw = ["sample", run, "--out", tmp_path / "s.png", "--npz", npz, "--seed", 5]
    wanted = torch.from_numpy(TEXT[[0, 1, 2, 0]])
    for law in (Mean, Bernoulli):
        monkeypatch.setattr(Pixels, "law", law)
        said(capsys, *draw, "--condition", tmp_path / "told.npy", "--n", 4)
        naive = NaiveSampler(load_model(run), (1, 4, 4)).sample(seed=5, condition=wanted)
        assert (drawn(npz)["x"] == naive.numpy()).all(), f"{law.uniforms_per_value} uniforms for each value"
        assert (drawn(npz)["condition"] == wanted.numpy()).all()
    said(capsys, *draw, "--complete", "top-half", "--n", 2)
    held_out = load(data, split="test").subset(2, 5)
    assert (drawn(npz)["x"][:, :, :2] == held_out.values[:, :, :2].numpy()).all()
    assert (drawn(npz)["condition"] == held_out.condition.numpy()).all(), "told what they were"


def test_a_class_that_the_model_says_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, npz = tmp_path / "run", tmp_path / "s.npz"
    said(
        capsys, "train", "numbered", "--data", saved(tmp_path, y=np.arange(N) % 2), *SHORT, "--epochs", 1, "--run", run
    )
    draw = ["sample", run, "--out", tmp_path / "s.png", "--npz", npz, "--n", 3]
    said(capsys, *draw)
    assert (drawn(npz)["y"].tolist(), int(drawn(npz)["classes"])) == ([0, 1, 0], 2)
    said(capsys, *draw, "--labels", 1)
    assert drawn(npz)["y"].tolist() == [1, 1, 1]
    monkeypatch.setattr(Numbered, "condition_kind", Classes())
    assert "condition_kind: expected the number of classes of Numbered, got integers (N,)" in refused(capsys, *draw)


def test_what_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, command = tmp_path / "run", ["train", "told", *SHORT, "--epochs", 1, "--data"]
    message = refused(capsys, *command, saved(tmp_path, y=np.arange(N) % 2), "--run", run)
    assert "train: condition: expected floating point (N, 3), got a tensor (32,) of torch.int64" in message
    assert not run.exists()
    bare = saved(tmp_path).rename(tmp_path / "bare.npz")
    message = refused(capsys, *command, bare, "--run", tmp_path / "none", "--dry-run")
    assert "train: expected a condition, floating point (N, 3), which the model reads, got none" in message
    data, run = saved(tmp_path, condition=TEXT), tmp_path / "good"
    said(capsys, *command, data, "--run", run)
    labelled = saved(tmp_path, y=np.arange(N) % 2).rename(tmp_path / "labelled.npz")
    message = refused(capsys, "evaluate", run, "--data", labelled)
    assert "data: condition: expected floating point (N, 3), got a tensor" in message
    saved(tmp_path, condition=TEXT + 1)
    message = refused(capsys, "train", "told", "--run", run, "--resume", "--epochs", 2)
    assert "data: expected the condition of each image that the run in " in message

    assert "a model that is told nothing, or a class, got Told, which is told more" in refused(capsys, "explore", run)
    draw = ["sample", run, "--out", tmp_path / "s.png"]
    assert "expected an .npy or .npz of floating point (N, 3), which the model is told, got none" in refused(
        capsys, *draw
    )
    assert "labels: expected none, since the model is told a condition, got 3" in refused(
        capsys, *draw, "--labels", "3"
    )
    for array, message in (
        (TEXT[:, :2], "told.npy: condition: expected floating point (N, 3), got a tensor (40, 2) of torch.float64"),
        (np.arange(N), "told.npy: condition: expected floating point (N, 3), got a tensor (40,) of torch.int64"),
        (np.array(["a"]), "told.npy: expected integers or floating-point numbers, got an array (1,) of <U1"),
    ):
        np.save(tmp_path / "told.npy", array)
        assert message in refused(capsys, *draw, "--condition", tmp_path / "told.npy")


def test_other_models_take_no_condition(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = saved(tmp_path, condition=TEXT, y=np.arange(N) % 2)
    tiny = ["--latent", 2, "--hidden", 4, "--epochs", 1, "--data", data, *SHORT]
    np.save(tmp_path / "told.npy", TEXT)
    for option, why in ((["--conditional"], "is told a class, which --labels say"), ([], "is told nothing but the im")):
        run = tmp_path / f"run{len(option)}"
        said(capsys, "train", "vae", *option, *tiny, "--run", run)
        said(capsys, "evaluate", run)
        said(capsys, "sample", run, "--n", 3, "--out", tmp_path / "s.png")
        message = refused(capsys, "sample", run, "--condition", tmp_path / "told.npy", "--out", tmp_path / "s.png")
        assert f"condition: expected none, since the model {why}" in message


class Previewed(models.VAE):
    """Keeps what its preview is told."""

    def preview(self, n: int, seed: int, values: Tensor, condition: Any) -> list[Tensor]:
        self.seen = condition
        return super().preview(n, seed, values, condition)


def test_a_class_is_told_by_the_labels_of_data_that_have_a_condition_too(monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = torch.randint(2, (6, 1, 4, 4), dtype=torch.uint8), torch.arange(6) % 3
    data = Dataset(values, labels, 2, 3, "both", condition=torch.rand(6, 3))
    model = Previewed(latent=2, hidden=(4,), image_size=4, classes=3)
    draw_epoch(model, data, 6, 0, "previewed")
    assert torch.equal(model.seen, labels)
    monkeypatch.setattr(completion, "load_images", lambda *_, **__: data)
    options = Sample(run=Path("none"), complete="top-half", n=6)
    assert torch.equal(completion.images_to_complete(options, model, (1, 4, 4)).told, labels)
