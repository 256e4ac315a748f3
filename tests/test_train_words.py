"""What ``fastgen train`` says of a run: of options and schedules, of time, of a training that came to nothing."""

import re
import time
from dataclasses import fields
from pathlib import Path

import pytest

from commands import VAE, said
from fastgen.commands import option_files, train
from fastgen.commands.model_options import MODELS
from fastgen.commands.remarks import remarks

for package in ("tyro", "tqdm", "safetensors", "sklearn", "PIL"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_options_that_other_tools_have_are_told_their_name_here(capsys: pytest.CaptureFixture) -> None:
    for word, here in {"--learning-rate": "--lr", "--output_dir=x": "--run", "--center_crop": "--crop centre"}.items():
        assert f"{word.partition('=')[0]}: expected {here}, as it is" in said(capsys, "train", "vae", word, code=2)
    for kind in MODELS.values():
        assert {name.replace("-", "_") for name in option_files.ELSEWHERE} & {f.name for f in fields(kind)} == set()


def test_a_dry_run_says_what_is_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    out = said(capsys, *VAE, "--run", tmp_path, "--dry-run")
    assert f"in the way    {tmp_path}: expected a new or empty folder\n" in out
    assert "time          about" in out


def test_one_image_is_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    start = ["train", "vae", "--hidden", "4", "--limit", "1", "--held-out-limit", "1", "--epochs", "1"]
    assert "1 epoch of 1 batch of 64: 1 step\n" in said(capsys, *start, "--dry-run")
    out = said(capsys, *start, "--run", tmp_path / "run", "--samples", "1")
    assert "digits: 1 image to train on, 1 held out, 17 levels" in out
    assert "train: 1 image drawn from " in out
    assert "own), 1 image: " in said(capsys, "evaluate", tmp_path / "run", "--limit", "1")
    assert said(capsys, "sample", tmp_path / "run", "--n", "1", "--out", tmp_path / "x.png").startswith("1 image in ")


def test_a_schedule_that_is_drawn_anew_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said(capsys, *VAE, "--epochs", "2", "--schedule", "cosine", "--run", tmp_path / "run")
    resume = ["train", "vae", "--run", tmp_path / "run", "--resume", "--epochs"]
    line = "the cosine schedule is now that of 3 epochs, and was that of 2\n"
    assert line in said(capsys, *resume, "3")
    assert "schedule is now" not in said(capsys, *resume, "3")


def test_a_training_that_learnt_nothing_is_not_called_a_success(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    still = ["--epochs", "2", "--lr", "1e-30", "--run"]
    out = said(capsys, "train", "autoencoder", "--latent", "2", "--hidden", "4", *still, tmp_path / "a")
    assert "no better than the mean training image, whose squared_error is " in out
    out = said(capsys, *VAE, "--epochs", "4", "--lr", "30", "--clip", "0", "--ema", "0", "--run", tmp_path / "b")
    assert "the held-out nats grew from " in out or " nats are more than a guess without any model needs, 44.36" in out
    assert " needs" not in said(capsys, *VAE, "--epochs", "9", "--lr", "0.01", "--run", tmp_path / "c")
    assert remarks([], None, None, None, "nats") == []


def test_saving_and_drawing_is_told_where_it_takes_time(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = train.draw_epoch
    monkeypatch.setattr(train, "draw_epoch", lambda *a: (time.sleep(0.7), draw(*a))[1])
    out = said(capsys, *VAE, "--samples", "4", "--epochs", "1", "--run", tmp_path / "run")
    (line,) = [line for line in out.splitlines() if line.startswith("epoch 1/1")]
    told = re.search(r"s, and (\d+\.\d) s to save and draw   /", line)
    assert told is not None
    assert float(told[1]) >= 0.7
