"""``fastgen evaluate`` of models that draw, and ``fastgen compare``: numbers of drawn images from the command line."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from commands import VAE, refused, said
from fastgen import metrics, pictures, quality
from fastgen.cli import main
from fastgen.data import Dataset, load, load_for_training
from fastgen.training import evaluate, load_model
from pictured import find

for package in ("tyro", "tqdm", "safetensors", "sklearn"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

pytestmark = pytest.mark.usefixtures("few_steps")

SMALL = ["--limit", "60", "--batch-size", "30", "--samples", "0", "--epochs", "1"]
RUNS = {
    "vae": [*VAE, "--epochs", "1"],
    "gan": ["train", "gan", "--hidden", "8", "--discriminator-hidden", "8", *SMALL],
    "pixels": ["train", "gated-pixelcnn", "--channels", "4", "--layers", "1", "--conditional", *SMALL],
    "codes": ["train", "autoencoder", "--hidden", "8", "--latent", "2", *SMALL],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each family."""
    folder = tmp_path_factory.mktemp("drawn")
    for name, words in RUNS.items():
        assert main([*words, "--run", str(folder / name)]) == 0
    return folder


def test_a_model_without_a_likelihood_is_known_by_what_it_draws(runs: Path, capsys: pytest.CaptureFixture) -> None:
    found = json.loads(said(capsys, "evaluate", runs / "gan", "--json", "--seed", "2", "--samples", "150"))
    train, test = load("digits"), load("digits", split="test")
    trained_on = load_for_training("digits")[0].subset(60)
    expected = quality.score(load_model(runs / "gan"), test, train, n=150, seed=2, trained_on=trained_on)
    assert {name: found[name] for name in expected.as_dict()} == expected.as_dict()
    assert found["copies"]["among"] == 60
    assert found["seconds_per_image"] > 0
    assert "nats" not in found
    assert found["loss"] > 0
    text = said(capsys, "evaluate", runs / "gan")
    assert "no nats and no bits/dim: GAN draws images and knows no likelihood" in text
    assert "\n297 drawn images, seed 0, against as many of " in text
    assert "\nfeature_fid " in text
    assert "an image to draw\n" in text
    assert "feature_" not in said(capsys, "evaluate", runs / "gan", "--samples", "0")
    assert "feature_" not in said(capsys, "evaluate", runs / "gan", "--split", "valid"), "which nobody asked for"


def test_a_model_with_a_likelihood_draws_where_it_is_asked(runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert "feature_" not in said(capsys, "evaluate", runs / "pixels", "--limit", "20")
    found = json.loads(said(capsys, "evaluate", runs / "pixels", "--limit", "20", "--samples", "140", "--json"))
    assert found["images"] == 20
    assert found["samples"] == 140, "the limit is of the likelihood's images"
    assert found["told"] == "the label"
    model = load_model(runs / "pixels")
    train, test = load("digits"), load("digits", split="test")
    drawn = model.sample(140, seed=0, labels=test.subset(140).labels)
    assert found["feature_fid"] == quality.score(drawn, test, train).feature_fid
    text = said(capsys, "evaluate", runs / "vae", "--quality")
    assert "\n297 drawn images, seed 0" in text
    assert " nats (upper bound" in text
    assert "no nats" not in text


def test_what_cannot_be_drawn_is_refused(runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert "samples: expected none, since Autoencoder draws no images" in refused(
        capsys, "evaluate", runs / "codes", "--quality"
    )
    for words, message in (
        (["--samples", "298"], "samples: expected at most 297, the images there are of either split, got 298"),
        (["--samples", "1"], "samples: expected an integer of at least 2, got 1"),
        (["--samples", "-1"], "samples: expected an integer of at least 0, got -1"),
        (["--quality", "--split", "train"], "split: expected test, which drawn images are held against, got train"),
        (["--inception", "none.pth"], "inception: expected the weights of torch-fidelity's extractor"),
    ):
        assert message in refused(capsys, "evaluate", runs / "vae", *words)


class Extractor(torch.nn.Module):
    """Stands in for torch-fidelity's: the mean colours of each quarter, 2,048 times over, and logits of these."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str) -> None:
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048", "logits_unbiased"])
        self.mix = torch.nn.Parameter(torch.load(feature_extractor_weights_path, weights_only=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        few = torch.nn.functional.adaptive_avg_pool2d(x.float() / 255, 2).flatten(1)
        return few @ self.mix, few @ self.mix[:, :1008]


def test_inception_numbers_say_their_protocol(
    runs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(torch.randn(12, 2048), weights)
    assert 'comes with the extra "fidelity"' in refused(capsys, "evaluate", runs / "gan", "--inception", weights)
    package, module = ModuleType("torch_fidelity"), ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    package.__version__, module.FeatureExtractorInceptionV3 = "0.4.0", Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    found = json.loads(said(capsys, "evaluate", runs / "gan", "--inception", weights, "--json", "--samples", "40"))
    numbers = found["inception"]
    assert numbers["fid"] is None
    assert numbers["left_out"] == {"FID": "since a covariance of 2,048 features needs more images than 40"}
    extractor = Extractor("inception-v3-compat", ["2048", "logits_unbiased"], str(weights))
    drawn = load_model(runs / "gan").sample(40, seed=0)
    with torch.no_grad():
        features = [
            extractor((values.double() * (255 / 16)).round().byte().expand(-1, 3, -1, -1))
            for values in (load("digits", split="test").subset(40).values, drawn)
        ]
    assert numbers["kid"] == metrics.kernel_distance(features[0][0], features[1][0], 100, 20)[0]
    assert numbers["inception_score"] == metrics.inception_score(features[1][1])[0]
    protocol = numbers["protocol"]
    assert protocol["extractor"] == "inception-v3-compat of torch-fidelity 0.4.0"
    assert len(protocol["weights"]) == 64
    assert (protocol["drawn"], protocol["real"], protocol["resize"][:7]) == (40, 40, "299x299")
    assert "40 images drawn from " in protocol["split"]
    assert (protocol["subsets"][:21], protocol["parts"][:2], protocol["seed"]) == ("100 pairs of 20 image", "10", 0)
    text = said(capsys, "evaluate", runs / "gan", "--inception", weights, "--samples", "40")
    assert "KID " in text
    assert "FID: none, since a covariance" in text
    weights.write_bytes(b"nothing")
    assert "inception: expected the weights of torch-fidelity's extractor in" in refused(
        capsys, "evaluate", runs / "gan", "--inception", weights
    )

    def broken(name: str) -> object:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delattr(module, "FeatureExtractorInceptionV3")
    monkeypatch.setattr(module, "__getattr__", broken, raising=False)
    message = refused(capsys, "evaluate", runs / "gan", "--inception", weights)
    assert "torch-fidelity cannot be imported: RuntimeError: operator torchvision::nms does not exist" in message


class Few(torch.nn.Module):
    """The 48 numbers of a small image; half of them are logits."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        few = x.flatten(1).float() / 255
        return few, few[:, :24]


def test_fid_of_enough_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgen.quality.inception.FEATURES", 48)
    values = torch.from_numpy(np.random.RandomState(0).randint(0, 4, (120, 3, 4, 4), np.uint8))
    extractor = object.__new__(quality.Inception)
    extractor.extractor, extractor.device, extractor.sha256, extractor.version = Few(), "cpu", "0", "1"
    found = extractor.score(Dataset(values[:60], None, 4, None, "noise"), values[60:])
    a, b = (values.flatten(1) / 3).split(60)
    assert found.fid == pytest.approx(metrics.frechet_distance(a, b), rel=1e-5)
    assert found.left_out == {}
    assert str(found).startswith("FID ")


def test_runs_of_three_families_in_one_table(
    runs: Path, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers are what ``evaluate`` says of each; its picture has the images of each."""
    names = ("vae", "gan", "pixels")
    words = ["compare", *(runs / name for name in names), "--samples", "140", "--columns", "5"]
    found = json.loads(said(capsys, *words, "--out", tmp_path / "all.png", "--json"))
    assert [run["run"] for run in found["runs"]] == [str(runs / name) for name in names]
    for name, one in zip(names, found["runs"], strict=True):
        alone = json.loads(said(capsys, "evaluate", runs / name, "--samples", "140", "--json"))
        for key in ("feature_fid", "feature_kid", "precision", "recall", "coverage", "classes", "copies", "told"):
            assert one[key] == alone[key], (name, key)
        assert found["floors"] == alone["floors"]
        assert one["seconds_per_image"] > 0
        assert one["training_seconds"] > 0
    assert [run["nats"] is None for run in found["runs"]] == [False, True, False]
    assert [run["bits_per_dim"] is None for run in found["runs"]] == [True, True, False]
    some, model = load("digits", split="test").subset(140), load_model(runs / "pixels")
    exact = evaluate(model, some)
    assert found["runs"][2]["nats"] == pytest.approx(exact.nats)
    assert found["runs"][2]["nats_are"] == "−log p(x | y), labels given, exact"
    with Image.open(tmp_path / "all.png") as picture:
        page = np.asarray(picture.convert("RGB"))
    drawn = [load_model(runs / name).sample(10, seed=0) for name in names[:2]]
    drawn.append(model.sample(10, seed=0, labels=some.labels[:10]))
    rows = torch.cat([some.values[:10].long(), *drawn])
    assert find(page, pictures.to_rgb(rows, 17), 5)
    monkeypatch.chdir(tmp_path)
    lines = said(capsys, *words).splitlines()
    assert lines[2].split() == [*(str(runs / name) for name in names), "training", "images"]
    cells = {line.split("  ")[0]: line.split() for line in lines[3:]}
    assert cells["model"][1:] == ["vae", "gan", "gated-pixelcnn"]
    assert "none" in cells["nats"]
    assert cells["bits/dim"][1:3] == ["none", "none"]
    assert "an image takes" in cells
    assert f"{runs / 'gan'}: no likelihood, so no nats" in lines
    told = "each image told the label of a test image"
    assert f"{runs / 'pixels'}: nats: −log p(x | y), labels given, exact; {told}" in lines
    assert (tmp_path / "compare.png").is_file()


def test_only_runs_that_can_be_compared_are(runs: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "c.png"]
    assert "runs: expected the folders of two or more, got 1 folder" in refused(capsys, "compare", runs / "vae", *out)
    message = refused(capsys, "compare", runs / "vae", runs / "codes", *out)
    assert f"runs: expected models that draw images, got Autoencoder in {runs / 'codes'}" in message
    few = ["--levels", "4", "--run", tmp_path / "few"]
    assert main([*RUNS["gan"], *map(str, few)]) == 0
    message = refused(capsys, "compare", runs / "vae", tmp_path / "few", *out)
    expected = f"runs: expected the data of {runs / 'vae'}, digits, 1x8x8 images of 17 levels; {tmp_path / 'few'} has"
    assert f"{expected} digits, 1x8x8 images of 4 levels" in message
    other = np.random.RandomState(0).randint(0, 17, (60, 8, 8), np.uint8)
    np.savez(tmp_path / "noise.npz", x=other, levels=17)
    assert main([*RUNS["gan"], "--data", str(tmp_path / "noise.npz"), "--run", str(tmp_path / "noise")]) == 0
    message = refused(capsys, "compare", runs / "vae", tmp_path / "noise", *out)
    assert f"{tmp_path / 'noise'} has {tmp_path / 'noise.npz'}, 1x8x8 images of 17 levels" in message
    assert "out: expected a name that ends in .png" in refused(
        capsys, "compare", runs / "vae", runs / "gan", "--out", tmp_path / "c.jpg"
    )
    assert "columns: expected 1 or more" in refused(capsys, "compare", runs / "vae", runs / "gan", "--columns", 0, *out)
    assert not (tmp_path / "c.png").exists()
