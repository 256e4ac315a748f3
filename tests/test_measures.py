"""Every number says what it is: of which law, exact or a bound, with labels given or without, of which images."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastgen.cli import main
from fastgen.data import Dataset, load
from fastgen.measures import UNDECLARED, of
from fastgen.models import VAE, Autoencoder, Classifier, GatedPixelCNN, Model, PixelCNN
from fastgen.pictures import chart as charts
from fastgen.training import Run, evaluate

for package in ("tyro", "tqdm", "safetensors", "sklearn", "matplotlib"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

SMALL = ["--batch-size", "50", "--epochs", "1", "--samples", "0"]


def images(levels: int, n: int = 4, classes: int | None = None) -> Dataset:
    values = (torch.arange(n * 16) % levels).to(torch.uint8).view(n, 1, 4, 4)
    return Dataset(values, None if classes is None else torch.arange(n) % classes, levels, classes, "some")


def vae(levels: int, likelihood: str, **options: object) -> VAE:
    return VAE(1, levels, 2, (4,), likelihood=likelihood, image_size=4, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "words", "bits"),
    [
        (lambda: PixelCNN(1, 2, channels=4, layers=1, image_size=4), "−log p(x), exact", True),
        (lambda: GatedPixelCNN(1, 3, channels=4, layers=1, classes=2), "−log p(x | y), labels given, exact", True),
        (lambda: vae(2, "bernoulli"), "upper bound on −log p(x), by ELBO", True),
        (lambda: vae(3, "categorical", importance_samples=5), "on −log p(x), by 5 importance samples", True),
        (lambda: vae(3, "logistic", classes=2), "upper bound on −log p(x | y), labels given, by ELBO", True),
        (lambda: vae(3, "bernoulli"), "black and white at random by their greys, not of the greys themselves", False),
        (lambda: vae(3, "gaussian", dequantize=True), "by ELBO; of values with uniform noise, whose density", True),
        (lambda: vae(3, "gaussian"), "of a density, times the width of a value: no law on the values", False),
    ],
)
def test_bits_are_told_of_laws_on_values_only(model: object, words: str, bits: bool) -> None:
    torch.manual_seed(0)
    made: Model = model()  # type: ignore[operator]
    found = evaluate(made, images(made.levels, classes=made.classes))
    assert words in found.about["nats"].words
    assert f"({found.about['nats'].words})" in str(found)
    assert ("bits/dim" in str(found)) is bits
    assert ("bits_per_dim" in found.numbers()) is ("bits_per_dim_error" in found.numbers(all_errors=True)) is bits
    if bits:
        assert found.bits_per_dim == pytest.approx(found.nats / 16 / math.log(2))
    else:
        with pytest.raises(
            ValueError, match="bits_per_dim: expected nats of a law on discrete values, got upper bound"
        ):
            _ = found.bits_per_dim


@pytest.mark.parametrize("name", ["categorical", "logistic", "bernoulli", "gaussian"])
def test_a_law_on_values_adds_up_to_one(name: str) -> None:
    """What ``of_values`` says of a likelihood is what its probabilities do, on the narrowest scales too."""
    for levels in (2, 7):
        p_x = vae(levels, name).p_x
        torch.manual_seed(0)
        params = 4 * torch.randn(64, p_x.param_channels(1), 1, 1, dtype=torch.float64)
        each = [p_x.log_prob(params, torch.full((64, 1, 1, 1), v)) for v in range(levels)]
        total = torch.stack(each).exp().sum(0)
        assert bool((total - 1).abs().max() < 1e-9) is p_x.of_values


def test_a_model_that_says_nothing_has_nats_as_it_defines_them() -> None:
    assert of(nn.Identity()) == {"nats": UNDECLARED}
    classifier, coder = Classifier(1, 3, 2, 4), Autoencoder(1, 3, 2, (4,), image_size=4)
    assert "accuracy 0.5 ± 0.29 (share of images whose likeliest class" in str(
        evaluate(classifier, images(3, classes=2))
    ) or "(share of images whose likeliest class is the label)" in str(evaluate(classifier, images(3, classes=2)))
    assert "(‖x − x̂‖² of an image, its values in [0, 1])" in str(evaluate(coder, images(3)))


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional Bernoulli VAE of grey digits."""
    run = tmp_path_factory.mktemp("measures") / "run"
    options = ["--latent", "2", "--hidden", "8", "--conditional", "--limit", "100", "--run", str(run)]
    assert main(["train", "vae", *SMALL, *options]) == 0
    return run


def test_a_run_says_what_its_numbers_are(grey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    law = "upper bound on −log p(x | y), labels given, by ELBO; of images made black and white at random by their greys"
    (line,) = Run(grey).metrics()
    assert line["measure"].startswith(law)
    assert "held_out_bits_per_dim" not in line
    about = Run(grey).config()["about"]
    assert about["nats"].startswith(law)
    assert about["held_out"] == "150 images drawn from " + load("digits").description
    assert main(["report", str(grey)]) == 0
    page = (grey / "report.html").read_text()
    assert law in page
    assert about["held_out"] in page
    assert "bits per dimension" not in page
    assert "upper bound on −log p(x | y), labels given, by ELBO" in page.split("<svg")[1], "the curve says so as well"
    capsys.readouterr()
    assert main(["evaluate", str(grey)]) == 0
    said = capsys.readouterr().out
    assert law in said
    assert load("digits", split="test").description in said
    assert "bits" not in said
    assert main(["evaluate", str(grey), "--importance-samples", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "bits_per_dim" not in found
    assert "labels given, by 3 importance samples" in found["measures"]["nats"]
    assert found["measures"]["nats"].endswith(", nats")
    assert found["images_are"] == load("digits", split="test").description


def test_the_console_says_it_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--channels", "4", "--layers", "1", "--conditional", "--limit", "60", "--run", str(tmp_path / "run")]
    assert main(["train", "gated-pixelcnn", *SMALL, *options]) == 0
    said = capsys.readouterr().out
    assert "nats: −log p(x | y), labels given, exact, nats" in said
    assert "bits/dim, −log p(x | y), labels given, exact" in said, "beside each epoch's number"
    assert said.rstrip().splitlines()[-1].count("(−log p(x | y), labels given, exact, nats)") == 1


def autoencoder_metrics(epoch: int) -> dict:
    return {"epoch": epoch, "train_squared_error": 9.0 / epoch, "held_out_squared_error": 10.0 / epoch,
            "held_out_squared_error_error": 0.1, "held_out_seconds": 1.0}  # fmt: skip


def test_a_loss_called_error_has_its_curve() -> None:
    (chart,) = charts.charts([autoencoder_metrics(1), autoencoder_metrics(2)], {"squared_error": "‖x − x̂‖²"})
    assert (chart.title, chart.note) == ("squared error", "‖x − x̂‖²")
    assert chart.lines == {"train": [(1, 9.0), (2, 4.5)], "held out": [(1, 10.0), (2, 5.0)]}
    assert "‖x − x̂‖²" in charts.svg(chart)


def save(path: Path, train: list[int], test: list[int]) -> Path:
    """Images of these classes."""
    rng = np.random.default_rng(0)
    sets = {name: rng.integers(0, 255, (len(y), 1, 8, 8), np.uint8) for name, y in (("train", train), ("test", test))}
    np.savez(path, **sets, train_labels=np.array(train), test_labels=np.array(test))
    return path


def explored(tmp_path: Path, model: str, test: list[int], *options: str) -> set[str]:
    data = save(tmp_path / "data.npz", [0, 1, 2, 3] * 5, test)
    run, latent = tmp_path / "run", ["--latent", "2", "--hidden", "4"] if model == "vae" else ["--latent", "2"]
    assert main(["train", model, *SMALL, *latent, "--data", str(data), "--held-out", "test", "--run", str(run)]) == 0
    assert main(["explore", str(run), "--n", "2", "--side", "2", *options]) == 0
    return {path.stem for path in (run / "explore").glob("*.png")}


def test_explore_of_a_class_without_held_out_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("three", "two"):
        (tmp_path / folder).mkdir()
    assert "arithmetic" in explored(tmp_path / "three", "vae", [0, 2, 3, 3])
    assert "arithmetic" not in explored(tmp_path / "two", "vae", [0, 2, 2, 2])
    capsys.readouterr()
    assert main(["explore", str(tmp_path / "two/run"), "arithmetic"]) == 2
    assert "groups: expected three, since there are held-out images of 2 classes" in capsys.readouterr().err


def test_explore_of_one_held_out_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explored(tmp_path, "vae", [1]) == {"samples", "manifold", "nearest", "reconstructions"}
    capsys.readouterr()
    assert main(["explore", str(tmp_path / "run"), "interpolations"]) == 2
    assert "what: expected 2 held-out images at least for interpolations, got 1" in capsys.readouterr().err


def test_an_autoencoder_run_has_curves_and_few_images_their_neighbours(tmp_path: Path) -> None:
    assert explored(tmp_path, "autoencoder", [1]) == {"reconstructions"}
    assert (tmp_path / "run/curves.png").exists()
