"""What surrounds training on the command line: dry runs, TensorBoard, curves, several processes, bad images."""

import dataclasses
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from fastgen.cli import main
from fastgen.commands import dry_run
from fastgen.commands.model_options import MODELS
from fastgen.training import Run, Trainer, distributed, load_model, player_optimizer
from parity import PROCESSES_AGREE

for package in ("tyro", "tqdm", "safetensors", "sklearn"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

SMALL = ["--limit", "64", "--batch-size", "16", "--channels", "4", "--layers", "1", "--samples", "20"]
TRAIN = ["train", "gated-pixelcnn", "--conditional", *SMALL]


def test_a_dry_run_says_everything_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = [*TRAIN, "--epochs", "3", "--accumulate", "2", "--run", str(tmp_path / "run"), "--tensorboard"]
    if "tensorboard" in sys.modules or _has("tensorboard"):
        assert main([*command, "--dry-run"]) == 0
    else:
        assert main([*command, "--dry-run", "--no-tensorboard"]) == 0
    said = capsys.readouterr().out
    for line in (
        "gated-pixelcnn, 1,209 parameters",
        "digits: 64 images to train on, 150 held out; 1x8x8, 17 levels, 10 classes",
        "3 epochs of 4 batches of 16, each in 2 parts: 12 steps",
        "adamw, lr 0.001, constant, warm-up 0 steps, clip 1, average 0.999",
        "first batch   nats 17",
        f"would write   {tmp_path / 'run'}/: config.json, metrics.jsonl, curves.png, checkpoints/",
        "nothing was written",
    ):
        assert line in said, said
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_resumed_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    assert main([*TRAIN, "--epochs", "1", "--run", str(run)]) == 0
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert main(["train", "gated-pixelcnn", "--run", str(run), "--resume", "--epochs", "2", "--dry-run"]) == 0
    assert "continues     after epoch 1\n" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    with Image.open(run / "curves.png") as picture:
        assert picture.size == (2 * 960, 640 + 64)


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def test_tensorboard_where_it_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main([*TRAIN, "--run", str(tmp_path / "run"), "--tensorboard"]) == 2
    message = 'tensorboard is not installed; it comes with the extra "log": pip install "fastgen[log]"'
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists(), "a run was begun that could not be watched"


def test_tensorboard_gets_what_metrics_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            written.append((folder, purge_step))

        def add_scalar(self, key: str, value: float, step: int) -> None:
            scalars[key, step] = value

        def add_image(self, name: str, picture: np.ndarray, step: int, dataformats: str) -> None:
            shapes.append((name, picture.shape[2], step, dataformats))

        def flush(self) -> None:
            pass

    written, scalars, shapes = [], {}, []
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    run = tmp_path / "run"
    assert main([*TRAIN, "--epochs", "2", "--run", str(run), "--tensorboard"]) == 0
    assert written == [(str(run / "tensorboard"), 4)]
    lines = Run(run).metrics()
    assert [scalars["held_out/nats", line["step"]] for line in lines] == [line["held_out_nats"] for line in lines]
    assert [scalars["train/nats", line["step"]] for line in lines] == [line["train_nats"] for line in lines]
    assert shapes == [("samples", 3, 4, "HWC"), ("samples", 3, 8, "HWC")]


def test_torchrun_trains_one_run(tmp_path: Path) -> None:
    """Two processes make the run that one makes, and one of them speaks."""
    options = [*TRAIN, "--epochs", "1", "--optimizer", "sgd"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [*torchrun, "-m", "--", "fastgen", *options, "--run", str(tmp_path / "two"), "--device", "cpu"]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best held-out nats") == 1
    assert (done.stdout + done.stderr).count("64 images to train on") == 1
    assert main([*options, "--run", str(tmp_path / "one")]) == 0
    (two,), (one,) = Run(tmp_path / "two").metrics(), Run(tmp_path / "one").metrics()
    assert two["held_out_nats"] == pytest.approx(one["held_out_nats"], rel=PROCESSES_AGREE)
    assert two["step"] == one["step"] == 4
    assert json.loads((tmp_path / "two/config.json").read_text())["device"].endswith("2 processes")
    models = [load_model(tmp_path / name).state_dict() for name in ("two", "one")]
    assert all(torch.allclose(tensor, models[1][key], atol=PROCESSES_AGREE) for key, tensor in models[0].items())


def test_one_of_several_processes_estimates_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are at something else meanwhile: whatever waits for them never ends."""

    def join(*_: object) -> None:
        raise AssertionError("the others were waited for")

    data = tiny.images()
    options = MODELS["pixelcnn"](channels=4, layers=1, epochs=3)
    trainer = Trainer(options.build("pixelcnn", data), options)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(player_optimizer, "DistributedDataParallel", join)
    monkeypatch.setattr(dry_run, "LONG", 0)
    assert "--recipe small is another model, for" in dry_run.estimate("pixelcnn", options, trainer, data, data)
    whole = dataclasses.replace(options, accumulate=32)
    assert "--recipe" not in dry_run.estimate("pixelcnn", whole, trainer, data, data), "its batches are of 16"


def test_unreadable_images_among_good_ones(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(6):
        Image.fromarray(np.full((8, 8), 40 * index, np.uint8)).save(folder / f"{index}.png")
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "5.png").write_bytes(b"not a picture")
    command = ["train", "pixelcnn", *SMALL, "--data", str(folder), "--run", str(tmp_path / "run")]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert f"{folder / '3.png'}: cannot be read as an image" in message
    assert f"2 of 6 images do not fit, the others are {folder / '5.png'}" in message
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    command = [*TRAIN, "--epochs", "3", "--run", str(run), "--optimizer", "sgd", "--lr", "3e38", "--clip", "0"]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("fastgen: step ")
    assert "try a smaller lr, a longer warmup or a smaller clip" in err
