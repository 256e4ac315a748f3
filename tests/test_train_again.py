"""What a start of ``fastgen train`` leaves to the next one in its folder, and what it does not."""

import shutil
from pathlib import Path

import pytest
import torch

from fastgen.commands.explore import NEEDS
from fastgen.training import Run, load_model
from fastgen.training.run import EXPLORED
from test_train_options import VAE, said

for package in ("tyro", "tqdm", "safetensors", "sklearn", "PIL"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")


def test_a_start_that_overwrote_or_went_back_is_resumed_from_its_last(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, resume = tmp_path / "run", ["train", "vae", "--run", tmp_path / "run", "--resume"]
    for _ in range(2):
        said(capsys, *VAE, "--epochs", "2", "--run", run, "--overwrite", "--kl-warmup", "1", "--lr", "0.01")
    assert f"continues {run} after epoch 2\n" in said(capsys, *resume, "--epochs", "3")
    best = min(Run(run).metrics(), key=lambda record: record["held_out_nats"])["epoch"]
    assert f"continues {run} after epoch {best}\n" in said(capsys, *resume, "--checkpoint", "best", "--epochs", "5")
    assert Run(run).config()["options"]["checkpoint"] == "best"
    assert f"continues {run} after epoch 5\n" in said(capsys, *resume, "--epochs", "6")
    assert Run(run).config()["options"]["checkpoint"] == "last"


def test_a_run_that_was_stopped_before_it_saved_begins_with_the_weights_it_was_to(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    said(capsys, *VAE, "--epochs", "2", "--run", tmp_path / "first", "--lr", "0.01")
    said(capsys, *VAE, "--epochs", "0", "--run", tmp_path / "run", "--init-from", tmp_path / "first", "--lr", "1e-30")
    said(capsys, "train", "vae", "--run", tmp_path / "run", "--resume", "--epochs", "1")
    one, other = (load_model(tmp_path / name).state_dict() for name in ("first", "run"))
    assert all(torch.allclose(tensor, other[key], atol=1e-12) for key, tensor in one.items())


def test_a_run_goes_on_without_those_that_it_began_with(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said(capsys, *VAE, "--epochs", "1", "--run", tmp_path / "first")
    train = ["train", "classifier", "--run", tmp_path / "run"]
    said(capsys, *train, "--from", tmp_path / "first", "--frozen", "--epochs", "1", "--limit", "60")
    shutil.rmtree(tmp_path / "first")
    before = load_model(tmp_path / "run").state_dict()
    assert "continues" in said(capsys, *train, "--resume", "--epochs", "2")
    after = load_model(tmp_path / "run", "last").state_dict()
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert moved == {name for name in before if not name.startswith("encoder_network.")}


def test_a_run_is_not_written_over_by_what_begins_with_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said(capsys, *VAE, "--epochs", "1", "--run", tmp_path / "run")
    command = ["train", "classifier", "--from", tmp_path / "run", "--run", tmp_path / "run", "--overwrite"]
    assert "from: expected another run than the one to write, got" in said(capsys, *command, code=2)
    assert Run(tmp_path / "run").config()["model"]["name"] == "vae"


def test_files_of_others_outlive_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Another program's config.json makes no run of a folder; nor does a kept copy go with the run's own files."""
    assert set(EXPLORED) == set(NEEDS)
    for name in ("other", "run"):
        for mine in ("checkpoints/mine.safetensors", "explore/mine.png", "report.html", "curves.png"):
            (tmp_path / name / mine).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / mine).write_text("mine")
    (tmp_path / "other/config.json").write_text('{"model": {"name": "bert"}}')
    before = {path: path.read_bytes() for path in (tmp_path / "other").rglob("*") if path.is_file()}
    for more in ([], ["--overwrite"]):
        message = said(capsys, *VAE, "--epochs", "1", "--run", tmp_path / "other", *more, code=2)
        assert message.endswith("other: expected a new or empty folder; its config.json is no run's\n")
    assert {path: path.read_bytes() for path in before} == before
    said(capsys, *VAE, "--epochs", "0", "--run", tmp_path / "new")
    shutil.copy(tmp_path / "new/config.json", tmp_path / "run/config.json")
    out = said(capsys, *VAE, "--epochs", "0", "--run", tmp_path / "run", "--overwrite")
    assert out.endswith("run: no checkpoint, since nothing was trained\n")
    left = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("mine.*")}
    assert left == {"checkpoints/mine.safetensors", "explore/mine.png"}
    assert not (tmp_path / "run/report.html").exists()


def test_a_run_whose_overwriting_was_broken_off_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, unlink, left = Run(tmp_path / "run"), Path.unlink, [1]
    said(capsys, *VAE, "--epochs", "1", "--run", run.folder)

    def killed(path: Path, **options: bool) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        unlink(path, **options)

    config = run.config()
    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        run.create(config, overwrite=True)
    monkeypatch.setattr(Path, "unlink", unlink)
    out = said(capsys, "train", "vae", "--run", run.folder, "--resume", "--epochs", "2")
    assert "continues" in out
    assert run.metrics()[-1]["epoch"] == 2


def test_an_accuracy_is_of_the_weights_that_it_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Time was up within an epoch, where the best weights are of no line of the metrics."""
    run = tmp_path / "run"
    said(capsys, "train", "classifier", "--epochs", "1", "--samples", "0", "--run", run, "--batch-size", "700")
    out = said(capsys, "train", "classifier", "--run", run, "--resume", "--epochs", "9", "--max-minutes", "1e-9")
    (line,) = [line for line in out.splitlines() if "time is up after epoch 1 and 1 batch of the next" in line]
    assert "best held-out cross_entropy" in line
    assert ", accuracy" not in line
