"""Options of ``fastgen train`` around a run: defaults that fit, recipes, files of options, another run's weights."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import VAE, said
from fastgen.baselines import PCA
from fastgen.cli import main
from fastgen.commands import dry_run, option_files, parse, train
from fastgen.commands.model_options import MODELS
from fastgen.commands.run_words import called
from fastgen.data import load_for_training
from fastgen.training import Run, describe, load_model

for package in ("tyro", "tqdm", "safetensors", "sklearn", "PIL"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("recipe", [None, "paper", "small"])
def test_defaults_fit_every_data_set(
    name: str, recipe: str | None, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three colours, 256 levels, an odd shape: the most that differs from the digits that papers begin with."""
    assert train.estimate is dry_run.estimate
    monkeypatch.setattr(dry_run, "estimate", lambda *_: "")  # the paper's sizes take their time
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 7, 5), dtype=np.uint8)
    np.savez(tmp_path / "colours.npz", x=images, y=np.arange(12) % 3)
    kind, data = MODELS[name], load_for_training(str(tmp_path / "colours.npz"))[0]
    least = 2 if name == "infogan" else 1  # its batch norms behind linear layers have one number of each image
    command = ["train", name, "--data", tmp_path / "colours.npz", "--dry-run", "--batch-size", least]
    command += [] if recipe is None else ["--recipe", recipe]
    command += ["--layers", 1] if (name, recipe) == ("gated-pixelcnn", "paper") else []  # 134 million weights
    command += ["--blocks", 1] if name in ("pixelcnn++", "pixelsnail") and recipe != "small" else []  # 54, 46 million
    command += ["--layers", 1] if name == "image-gpt" and recipe != "small" else []  # 76 million
    out = said(capsys, *command)
    assert "nothing was written" in out
    if name in ("pixelcnn", "gated-pixelcnn"):
        given = kind.model.recipes.get(recipe, {}) | {"recipe": recipe}
        config = kind(**given).model_config(data)
        expected = {
            "pixelcnn": {None: 66, "paper": 129, "small": 18},
            "gated-pixelcnn": {None: 129, "paper": 384, "small": 18},
        }
        assert config["channels"] == expected[name][recipe]
        config = kind(recipe=recipe).model_config(data)
        kept = {
            "pixelcnn": {None: 66, "paper": 66, "small": 18},
            "gated-pixelcnn": {None: 129, "paper": 129, "small": 18},
        }
        assert config["channels"] == kept[name][recipe], "of a run from when recipes gave no channels"


def test_the_small_recipe_and_what_is_given_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["train", "gated-pixelcnn", "--recipe", "small", "--layers", "2", "--dry-run"]
    out = said(capsys, *command, "--batch-size", "8")
    assert "6 epochs of 169 batches of 8" in out
    assert "adamw, lr 0.006, cosine" in out
    said(capsys, *command[:-1], "--epochs", "0", "--run", tmp_path / "run", "--limit", "9")
    config = Run(tmp_path / "run").config()
    assert (config["model"]["config"]["channels"], config["model"]["config"]["layers"]) == (16, 2)
    assert "layers: expected 2, as when" in said(
        capsys, *command[:-1], "--run", tmp_path / "run", "--resume", "--layers", "3", code=2
    )


def test_how_long_is_said_and_what_is_faster(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is measured beside the run, which is the same run whether or not the small recipe is tried, too."""
    command = ["train", "pixelcnn", "--layers", "1", "--limit", "40", "--samples", "0", "--epochs", "2"]
    out = said(capsys, *command, "--run", tmp_path / "a")
    (line,) = [line for line in out.splitlines() if line.startswith("time: about ")]
    assert " an epoch (training " in line
    assert " for 2 epochs; measured on a few images" in line
    assert "--recipe" not in line
    monkeypatch.setattr(dry_run, "LONG", 0)
    assert "; --recipe small is another model, for " in said(capsys, *command, "--run", tmp_path / "b")
    assert "; --recipe small is another model, for " in said(capsys, *command, "--run", tmp_path / "c", "--dry-run")
    classifier = ["train", "classifier", "--limit", "40", "--run", tmp_path / "c"]
    assert "; --recipe small takes " in said(capsys, *classifier, "--dry-run"), "the same model"
    small = said(capsys, *command, "--recipe", "small", "--channels", "4", "--run", tmp_path / "d")
    assert "is another model" not in small
    one, other = (load_model(tmp_path / name, "last").state_dict() for name in "ab")
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


@pytest.mark.parametrize("named", [True, False])
def test_a_run_from_the_options_of_another(named: bool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first, config = tmp_path / "first", tmp_path / "first/config.json"
    said(capsys, *VAE, "--epochs", "2", "--run", first, "--kl-warmup", "0.5", "--held-out-limit", "30")
    start = ["train", *(["vae"] if named else []), "--config", config]
    said(capsys, *start, "--run", tmp_path / "same")
    said(capsys, *start, "--run", tmp_path / "other", "--epochs=1", "--latent=3", "--no-resume")
    same, other = Run(tmp_path / "same").config(), Run(tmp_path / "other").config()
    assert same["model"] == Run(first).config()["model"]
    assert same["data"]["held_out"] == 30
    assert (other["model"]["config"]["latent"], other["options"]["kl_warmup"]) == (3, 0.5)
    assert other["options"]["config"] == str(config)
    one, another = (load_model(folder, "last").state_dict() for folder in (first, tmp_path / "same"))
    assert all(torch.equal(tensor, another[key]) for key, tensor in one.items())


def test_options_that_a_person_wrote(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('model = "vae"\nhidden = [9, 8]\nheld-out-limit = 20\nbeta = 0.5\nlimit = 60\nconditional = true\n')
    out = said(capsys, "train", f"--config={path}", "--dry-run")
    assert "60 images to train on, 20 held out" in out
    mistakes = {
        "hiden = [9]": "expected options of fastgen train vae, got hiden; see its --help",
        'model = "pixelcnn"': "model: expected pixelcnn, which",
        "lr = ": "cannot be read",
        "options = 3": "expected the model's name and options by name",
    }
    for text, message in mistakes.items():
        path.write_text(text)
        assert message in said(capsys, "train", "vae", "--config", path, "--run", tmp_path / "x", code=2)
    path.write_text('config = "other.toml"')
    assert "expected options, and no other file" in said(capsys, "train", "vae", "--config", path, code=2)
    path.write_text("lr = 1")
    twice = ["--config", path, f"--config={path}"]
    assert f"config: expected one file of options, got {path}" in said(capsys, "train", "vae", *twice, code=2)
    assert "before --config, since" in said(capsys, "train", "--config", path, code=2)
    assert "config: expected a .json or .toml" in said(capsys, "train", "vae", "--config", tmp_path / "x.yml", code=2)
    assert "which is not there" in said(capsys, "train", "vae", "--config", tmp_path / "x.json", code=2)
    path.write_text('lr = "fast"')
    with pytest.raises(SystemExit):
        main(["train", "vae", "--config", str(path)])
    assert "could not convert string to float: 'fast'" in capsys.readouterr().err


def test_words_of_options_are_read_back() -> None:
    given = {"hidden": (9, 8), "channels": (), "conditional": True, "levels": None, "lr": 1e-4, "data": "-x"}
    words = option_files.option_words(given)
    assert words[words.index("--channels") + 1].startswith("--"), "none at all"
    options = parse(MODELS["vae"], "train vae", words)
    assert {name: getattr(options, name) for name in given} == given


def test_overwrite_replaces_a_run_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    said(capsys, *VAE, "--epochs", "3", "--samples", "4", "--run", run)
    (run / "notes.txt").write_text("mine")
    assert "--overwrite replaces it" in said(capsys, *VAE, "--run", run, code=2)
    assert len(Run(run).metrics()) == 3
    message = "device: expected auto, cpu"
    assert message in said(capsys, *VAE, "--run", run, "--overwrite", "--device", "cuda:99", code=2)
    assert len(Run(run).metrics()) == 3, "a mistake costs nothing"
    said(capsys, *VAE, "--epochs", "1", "--latent", "3", "--run", run, "--overwrite")
    assert [record["epoch"] for record in Run(run).metrics()] == [1]
    assert load_model(run).latent == 3
    assert sorted(path.name for path in run.iterdir() if not path.name.startswith(".")) == sorted(
        ["checkpoints", "config.json", "curves.png", "metrics.jsonl", "notes.txt", "samples"]
    )
    assert list((run / "samples").iterdir()) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("mine")
    message = said(capsys, *VAE, "--run", tmp_path / "other", "--overwrite", code=2)
    assert message.endswith("expected a new or empty folder\n")
    with pytest.raises(SystemExit):
        main([*VAE, "--run", str(run), "--overwrite", "--resume"])
    assert "overwrite: expected it without --resume" in capsys.readouterr().err


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said(capsys, *VAE, "--epochs", "3", "--run", tmp_path / "first")
    still = ["--epochs", "1", "--lr", "1e-30", "--init-from", tmp_path / "first"]
    said(capsys, *VAE, *still, "--run", tmp_path / "second")
    one, other = (load_model(tmp_path / name).state_dict() for name in ("first", "second"))
    assert all(torch.allclose(tensor, other[key], atol=1e-12) for key, tensor in one.items())
    said(capsys, *VAE[:2], "--run", tmp_path / "second", "--resume", "--epochs", "2")
    message = said(capsys, *VAE, *still, "--latent", "3", "--run", tmp_path / "third", code=2)
    assert "holds another model: expected ema." in message
    assert not (tmp_path / "third").exists()
    message = said(capsys, *VAE, *still, "--run", tmp_path / "first", "--overwrite", code=2)
    assert "init_from: expected another run than the one to write" in message
    assert "expected the folder of a run" in said(capsys, *VAE, "--init-from", tmp_path / "none", code=2)


def test_where_a_run_goes_on_and_why_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    out = said(capsys, *VAE, "--epochs", "4", "--batch-size", "16", "--run", run, "--max-minutes", "1e-9")
    assert f"{run}: time is up after 1 batch of the first epoch; continue with: " in out
    assert f"fastgen train vae --run {run} --resume; best held-out nats" in out
    resume = ["train", "vae", "--run", run, "--resume", "--max-minutes", "0"]
    out = said(capsys, *resume, "--samples", "4", "--epochs", "2")
    assert f"continues {run} after 1 batch of the first epoch\n" in out
    assert out.count(f"   {run}/samples/epoch-000") == 2, "each picture is named as it is written"
    assert f"continues {run} after epoch 2\n" in said(capsys, *resume, "--epochs", "3")


def test_what_pictures_call_weights_of_a_run_that_ended_early(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = Run(tmp_path / "run")
    said(capsys, *VAE, "--batch-size", "16", "--run", run.folder, "--max-minutes", "1e-9")
    assert called(run) == called(run, "last") == "vae on digits, 1 batch of the first epoch"
    said(capsys, "train", "vae", "--run", run.folder, "--resume", "--max-minutes", "0", "--epochs", "2", "--lr", "1e-3")
    assert called(run, "last") == "vae on digits, epoch 2"
    for state in run.checkpoints.glob("state-*.pt"):
        state.unlink()
    assert called(run, "last") == "vae on digits", "it is not guessed"


def test_stopped_early_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = said(capsys, *VAE, "--epochs", "9", "--lr", "1e-30", "--patience", "2", "--run", tmp_path / "run")
    assert "run: stopped early after epoch 3, since 2 in a row were no better; best held-out nats" in out


def test_a_classifier_says_how_often_it_is_right(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = said(capsys, "train", "classifier", "--epochs", "2", "--lr", "0.01", "--run", tmp_path / "run")
    right = [f", accuracy {record['held_out_accuracy']:.1%}" for record in Run(tmp_path / "run").metrics()]
    for line, share in zip([line for line in out.splitlines() if line.startswith("epoch")], right, strict=True):
        assert share in line
    best = min(Run(tmp_path / "run").metrics(), key=lambda record: record["held_out_cross_entropy"])
    assert f"best held-out cross_entropy {best['held_out_cross_entropy']:.4g}{right[best['epoch'] - 1]}" in out


def test_pca_stands_beside_an_autoencoder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    out = said(capsys, "train", "autoencoder", "--latent", "3", "--hidden", "8", "--epochs", "1", "--run", run)
    train, held_out = load_for_training("digits")
    pca = PCA(3).fit(train.values.double() / 16)
    error = pca.squared_error(held_out.values.double() / 16).mean()
    assert f"; PCA of 3 dimensions, fitted to 1,350 training images: squared_error {error:.4g};" in out
    found = json.loads(said(capsys, "evaluate", run, "--split", "valid", "--json"))
    assert found["pca"] == {"components": 3, "squared_error": pytest.approx(error.item()), "fitted_on": 1350}
    np.save(tmp_path / "others.npy", np.full((4, 8, 8), 200, np.uint8))
    assert "PCA of 3 dimensions" in said(capsys, "evaluate", run, "--data", tmp_path / "others.npy")


def test_the_time_of_an_epoch_has_its_evaluation_in_it() -> None:
    record = {"epoch": 1, "held_out_loss": 2.0, "held_out_loss_error": 0.1, "seconds": 3.21, "held_out_seconds": 1.5}
    assert describe(record, 2).endswith("   4.7 s")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--limit", 0), ("--held-out-limit", -3), ("--levels", 1), ("--samples", -1), ("--patience", -1),
     ("--max-minutes", -2), ("--epochs", -1), ("--batch-size", 0), ("--lr", 0), ("--ema", 1), ("--clip", -1),
     ("--kl-warmup", 3)],
)  # fmt: skip
def test_impossible_values_are_refused_by_their_name(option: str, value: int, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "vae", option, str(value)])
    assert stopped.value.code == 2
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert f"{option[2:].replace('-', '_')}: expected" in err
    assert f"got {value}" in err
    assert "see fastgen train vae --help" in err


def test_errors_name_commands_that_there_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    models = ", ".join(MODELS)
    assert f"model: expected one of {models}, right after train, got nothing" in said(capsys, "train", code=2)
    assert "got 'vea'; did you mean vae?" in said(capsys, "train", "vea", code=2)
    assert "got '--epochs'" in said(capsys, "train", "--epochs", "3", "vae", code=2)
    said(capsys, "train", "classifier", "--epochs", "1", "--run", tmp_path / "run", "--limit", "20")
    assert "got Classifier; fastgen evaluate says" in said(capsys, "sample", tmp_path / "run", code=2)
    for words in itertools.chain([["train", "vae"]], [[name, "x"] for name in ("sample", "evaluate", "report")]):
        with pytest.raises(SystemExit):
            main([*words, "--nonsense"])
        command = " ".join(words[: 1 + (words[0] == "train")])
        assert f"fastgen {command} --help" in capsys.readouterr().err
