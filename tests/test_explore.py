"""``fastgen explore``, and what is particular to autoencoders, VAEs and classifiers on the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import refused
from fastgen import exploring, pictures
from fastgen.baselines import PCA
from fastgen.cli import main
from fastgen.data import load, load_for_training
from fastgen.training import evaluate, load_model
from pictured import find

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
    model = load_model(vae)
    images = load("digits", split="test")
    order = exploring.importance(model, images.values.long()).argsort(descending=True).tolist()
    codes = exploring.manifold_codes(4, 4, (order[0], order[1]))
    with Image.open(vae / "explore/manifold.png") as picture, torch.no_grad():
        find(np.asarray(picture), pictures.to_rgb(model.decode(codes), 17), 4, gap=0)
    only = ["manifold", "--out", str(tmp_path / "only"), "--side", "3", "--dims", "0", "2"]
    assert main(["explore", str(vae), *only]) == 0
    assert [path.name for path in (tmp_path / "only").iterdir()] == ["manifold.png"]


def test_pca_stands_beside_the_autoencoder(autoencoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["explore", str(autoencoder), "reconstructions", "scatter", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    train, held_out = load_for_training("digits")[0].subset(200), load("digits", split="test")
    pca = PCA(4).fit(train.values.double() / 16)
    theirs = pca.squared_error(held_out.values.double() / 16).mean()
    own = evaluate(load_model(autoencoder), held_out).numbers()["squared_error"]
    assert lines == [
        f"{tmp_path}/reconstructions.png: squared error {own:.4g}, PCA's of 4 dimensions {theirs:.4g},"
        " mean of 297 held-out images",
        f"{tmp_path}/scatter.png",
        f"2 pictures in {tmp_path}",
    ]
    some = held_out.subset(2000).values[:20]
    rebuilt = pca.decode(pca.encode(some.double() / 16)).clamp(0, 1) * 16
    with Image.open(tmp_path / "reconstructions.png") as picture, torch.no_grad():
        model = load_model(autoencoder)
        rows = [some, model.decode(model.encode(some.long())), rebuilt]
        laid = pictures.in_turn([pictures.to_rgb(values, 17) for values in rows], 10)
        find(np.asarray(picture), laid, 10)


def test_each_picture_is_told_as_it_is_written(vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exploring, "draw_samples", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(["explore", str(vae), "traversals", "samples", "--out", str(tmp_path), "--n", "3"])
    assert capsys.readouterr().out == f"{tmp_path}/traversals.png\n"


def test_a_conditional_model_is_explored(tmp_path: Path) -> None:
    run = train(
        tmp_path / "run", "vae", "--latent", "2", "--hidden", "8", "--conditional", "--likelihood", "categorical"
    )
    assert main(["explore", str(run), "--n", "4", "--side", "3", "--label", "7"]) == 0
    assert not (run / "explore/arithmetic.png").exists()
    assert (run / "explore/interpolations.png").exists()


def test_codes_that_have_names_are_taken_through_their_values(tmp_path: Path) -> None:
    small = ["--latent", "9", "--categories", "3", "--channels", "4", "--hidden", "8"]
    run = train(tmp_path / "infogan", "infogan", *small)
    assert main(["explore", str(run), "traversals", "--n", "6", "--seed", "2"]) == 0
    model, picture = load_model(run), np.array(Image.open(run / "explore/traversals.png"))
    every = model.code_traversals(3, 3, 2)  # three categories, and so many values of the others
    with torch.no_grad():
        images = model.decode(torch.cat([each.z.flatten(0, 1) for each in every]))
    assert len(images) == 3 * 3 * 3
    find(picture, pictures.to_rgb(images, model.levels), columns=3)


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
