"""``fastgen explore``, and what is particular to autoencoders, VAEs and classifiers on the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from fastgen.cli import main
from fastgen.data import load
from fastgen.training import load_model

for package in ("tyro", "tqdm", "safetensors", "sklearn", "matplotlib"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

SMALL = ["--limit", "200", "--batch-size", "50", "--epochs", "2", "--samples", "9"]


def train(folder: Path, model: str, *options: str) -> Path:
    assert main(["train", model, *SMALL, "--run", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("explore") / "vae", "vae", "--latent", "4", "--hidden", "16", "8")


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("explore") / "ae", "autoencoder", "--age", "convolutional", "--latent", "4")


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastgen: ")
    assert err.count("\n") == 1
    return err


def test_every_picture_that_a_model_can_show(vae: Path, autoencoder: Path, tmp_path: Path) -> None:
    every = [
        "arithmetic",
        "interpolations",
        "manifold",
        "nearest",
        "reconstructions",
        "samples",
        "scatter",
        "traversals",
    ]
    for run, names in (
        (vae, every),
        (autoencoder, [name for name in every if name not in ("manifold", "nearest", "samples")]),
    ):
        assert main(["explore", str(run), "--n", "3", "--side", "4"]) == 0
        assert sorted(path.stem for path in (run / "explore").glob("*.png")) == names
    with Image.open(vae / "explore/manifold.png") as picture:
        assert picture.size == (4 * 64, 4 * 64)
    only = ["manifold", "--label", "2", "--out", str(tmp_path / "only"), "--side", "3", "--dims", "0", "2"]
    assert main(["explore", str(vae), *only]) == 0
    assert [path.name for path in (tmp_path / "only").iterdir()] == ["manifold.png"]


def test_a_conditional_model_is_explored(tmp_path: Path) -> None:
    run = train(
        tmp_path / "run", "vae", "--latent", "2", "--hidden", "8", "--conditional", "--likelihood", "categorical"
    )
    assert main(["explore", str(run), "--n", "4", "--side", "3", "--label", "7"]) == 0
    assert not (run / "explore/arithmetic.png").exists()
    assert (run / "explore/interpolations.png").exists()


def test_likelihood_by_importance_sampling(vae: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for options in ([], ["--importance-samples", "200"]):
        capsys.readouterr()
        assert main(["evaluate", str(vae), "--json", *options]) == 0
        found.append(json.loads(capsys.readouterr().out))
    bound, likelihood = found
    assert bound["nats"] > likelihood["nats"]
    assert {"reconstruction", "kl"} <= bound.keys()
    images = load("digits", split="test")
    torch.manual_seed(1)
    again = -load_model(vae).importance_log_prob(images.values, None, 200).mean().item()
    assert abs(again - likelihood["nats"]) < likelihood["nats_error"]


def test_samples_of_a_vae(vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "sample",
                str(vae),
                "--n",
                "5",
                "--seed",
                "3",
                "--out",
                str(tmp_path / "s.png"),
                "--npz",
                str(tmp_path / "s.npz"),
            ]
        )
        == 0
    )
    np = pytest.importorskip("numpy")
    drawn = torch.from_numpy(np.load(tmp_path / "s.npz")["x"].astype("int64"))
    assert torch.equal(drawn, load_model(vae).sample(5, seed=3))
    assert "complete: expected none, since VAE draws whole images" in refused(
        capsys, "sample", vae, "--complete", "top-half"
    )


def test_a_classifier_begins_with_the_encoder_of_a_run(
    vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path / "tuned", "classifier", "--from", str(vae), "--labels", "20", "--frozen")
    config = json.loads((run / "config.json").read_text())
    assert config["data"]["train"] == 20
    assert config["options"]["data"] == "digits"
    tuned, source = load_model(run), load_model(vae)
    values = load("digits", split="test").values[:5].long()
    assert torch.equal(tuned.encoder_network.features(tuned.to_input(values)), source.encode(values))
    scratch = load_model(train(tmp_path / "scratch", "classifier", "--from", str(vae), "--labels", "20", "--scratch"))
    assert scratch.encoder == tuned.encoder
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["train", "classifier", "--run", str(run), "--resume", "--epochs", "3"]) == 0
    assert "no latent variables" in refused(capsys, "evaluate", run, "--importance-samples", "5")
    assert "expected a model that draws images, got Classifier" in refused(capsys, "sample", run)
    assert "expected a model that can be drawn from" in refused(capsys, "explore", run)


def test_a_vae_is_resumed_with_its_sizes(vae: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(vae, tmp_path / "run"))
    assert main(["train", "vae", "--run", str(run), "--resume", "--epochs", "3"]) == 0
    assert load_model(run, "last").hidden == (16, 8)


def test_labels_are_of_all_classes_alike(tmp_path: Path) -> None:
    options = pytest.importorskip("fastgen.commands.model_options")
    data = load("digits")
    some = options.balanced(data, 25, seed=0)
    counts = torch.bincount(some.labels)
    assert sorted(set(counts.tolist())) == [2, 3]
    assert torch.equal(some.values, options.balanced(data, 25, seed=0).values)
    assert not torch.equal(some.values, options.balanced(data, 25, seed=1).values)


def test_mistakes(vae: Path, autoencoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "what: expected reconstructions, traversals, " in refused(capsys, "explore", autoencoder, "samples")
    assert "n: expected 1 or more, got 0" in refused(capsys, "explore", vae, "--n", 0)
    for group in ("x", "class=99", "9999"):
        assert "groups: expected " in refused(capsys, "explore", vae, "arithmetic", "--groups", group, "1", "2")
    to = ["--run", tmp_path / "no", *SMALL]
    assert "labels: expected 10 to 200" in refused(capsys, "train", "classifier", "--labels", 5, *to)
    assert "frozen: expected it with --from RUN" in refused(capsys, "train", "classifier", "--frozen", *to)
    assert "importance_samples: expected 1 or more, got 0" in refused(
        capsys, "evaluate", vae, "--importance-samples", 0
    )
