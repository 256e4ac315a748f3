"""The command line from end to end on real digits; every mistake is one line on stderr and exit code 2."""

import errno
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import refused
from fastgen import __version__, pictures
from fastgen.cli import main
from fastgen.data import load, load_for_training
from fastgen.training import Trainer, load_model
from pictured import find

for package in ("tyro", "tqdm", "safetensors", "sklearn"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

SMALL = ["--limit", "64", "--batch-size", "16", "--channels", "4", "--layers", "1", "--samples", "20"]
TRAIN = ["train", "gated-pixelcnn", "--conditional", *SMALL]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs; tests that change it take a copy."""
    run = tmp_path_factory.mktemp("cli") / "run"
    assert main([*TRAIN, "--epochs", "2", "--run", str(run)]) == 0
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def epochs(run: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_train_leaves_a_whole_run(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    model: dict = {"channels": 4, "layers": 1, "kernel_size": 3, "classes": 10}
    model |= {"distribution": "categorical", "components": 10, "dropout": 0.0, "label_smoothing": 0.0}
    model |= {"condition_shape": None, "subsampled": None, "map_layers": 2, "embedding": 0}
    assert config["model"]["config"] == {"in_channels": 1, "levels": 17, "image_size": [8, 8], **model}
    assert config["data"] == {"shape": [1, 8, 8], "levels": 17, "train": 64, "held_out": 150}
    assert epochs(trained) == [1, 2]
    assert config["parameters"] == sum(p.numel() for p in load_model(trained).parameters())
    drawn = load_model(trained, "last").sample(20, seed=0, labels=torch.arange(20) % 10)
    for epoch, images in ((1, None), (2, drawn)):
        with Image.open(trained / f"samples/epoch-000{epoch}.png") as picture:
            assert picture.width >= 800
            if images is not None:
                find(np.asarray(picture), pictures.to_rgb(images, 17), 10)
    held_out = load_for_training("digits")[1]
    first = [[(held_out.labels == label).nonzero()[row, 0] for label in range(10)] for row in range(2)]
    with Image.open(trained / "held_out.png") as picture:
        find(np.asarray(picture), pictures.to_rgb(held_out.values[torch.tensor(first).flatten()], 17), 10)
    kinds = sorted(path.suffix for path in (trained / "checkpoints").iterdir())
    assert kinds.count(".safetensors") == 2
    assert set(kinds) == {".pt", ".safetensors"}


def test_resumed_is_unbroken(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "samples")
    assert main([*TRAIN, "--epochs", "3", "--run", str(tmp_path / "unbroken")]) == 0
    assert main(["train", "gated-pixelcnn", "--run", str(run), "--resume", "--epochs", "3"]) == 0
    assert epochs(run) == [1, 2, 3]
    one, other = (load_model(folder, "last").state_dict() for folder in (run, tmp_path / "unbroken"))
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    assert json.loads((run / "config.json").read_text())["options"]["epochs"] == 3
    drawn = sorted(path.name for path in (run / "samples").iterdir())
    assert drawn == ["epoch-0002.png", "epoch-0003.png"], "that of the last checkpoint is made good"


def test_what_train_refuses(run: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    resume = ["train", "gated-pixelcnn", "--run", run, "--resume"]
    assert "expected a new or empty folder; --resume continues the run in it, --overwrite" in refused(
        capsys, *TRAIN, "--run", run
    )
    assert "lr: expected 0.001, as when the run in" in refused(capsys, *resume, "--lr", "0.1")
    assert "model: expected gated-pixelcnn" in refused(capsys, "train", "pixelcnn", "--run", run, "--resume")
    assert "expected the folder of a run" in refused(capsys, *resume[:3], tmp_path / "none", "--resume")
    assert "which is not there" in refused(capsys, *TRAIN, "--data", tmp_path / "x.npy", "--run", tmp_path / "new")
    assert "expected data with labels" in refused(capsys, *TRAIN, "--data", array(tmp_path), "--run", tmp_path / "new")
    assert "device: expected auto, cpu or" in refused(capsys, *TRAIN, "--device", "cuda:99", "--run", tmp_path / "new")
    assert "device: expected auto, cpu or" in refused(capsys, *TRAIN, "--device", "meta", "--run", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def array(folder: Path, size: int = 8) -> Path:
    """An .npy of images of 8 bits."""
    path = folder / f"images{size}.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (20, size, size), dtype=np.uint8))
    return path


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_evaluate_is_exact(trained: Path, capsys: pytest.CaptureFixture, checkpoint: str) -> None:
    assert main(["evaluate", str(trained), "--json", "--checkpoint", checkpoint]) == 0
    found = json.loads(capsys.readouterr().out)
    test = load("digits", split="test")
    with torch.no_grad():
        nats = -load_model(trained, checkpoint).log_prob(test.values.long(), test.labels).double()
    assert (found["images"], found["dims"], found["split"]) == (297, 64, "test")
    assert found["nats"] == pytest.approx(nats.mean().item(), rel=1e-6)
    assert found["nats_error"] == pytest.approx((nats.var() / 297).sqrt().item(), rel=1e-6)
    assert found["bits_per_dim"] == pytest.approx(found["nats"] / 64 / math.log(2))
    assert main(["evaluate", str(trained), "--split", "valid", "--limit", "7"]) == 0
    assert "7 images: " in capsys.readouterr().out
    assert main(["evaluate", str(trained), "--split", "train"]) == 0
    assert "64 images: " in capsys.readouterr().out, "it was trained on no more"


def test_one_image_has_no_standard_error(trained: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(trained), "--limit", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["nats_error"] is found["bits_per_dim_error"] is None


def test_paths_hold_wherever_the_run_is_used_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array(tmp_path).rename(tmp_path / "images.npy")
    (tmp_path / "mine").mkdir()
    for i, image in enumerate(np.load(tmp_path / "images.npy")):
        Image.fromarray(image).save(tmp_path / f"mine/{i}.png")
    monkeypatch.chdir(tmp_path / "mine")
    assert main(["train", "pixelcnn", *SMALL, "--epochs", "0", "--data", ".", "--data-root", ".."]) == 0
    options = json.loads((tmp_path / "mine/runs/pixelcnn-mine/config.json").read_text())["options"]
    assert (options["data"], options["data_root"]) == (str(tmp_path / "mine"), str(tmp_path))


def test_what_evaluate_refuses(trained: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    message = refused(capsys, "evaluate", trained, "--data", array(tmp_path, size=9))
    assert "data: expected 1x8x8 images of 17 levels" in message
    assert "images9.npy has 1x9x9 images of 256 levels" in message
    (tmp_path / "empty").mkdir()
    assert "got none" in refused(capsys, "evaluate", trained, "--data", tmp_path / "empty")
    assert "expected the folder of a run" in refused(capsys, "evaluate", tmp_path)
    assert "limit: expected a positive integer, got -1" in refused(capsys, "evaluate", trained, "--limit", "-1")
    assert "batch_size: expected a positive integer, got 0" in refused(capsys, "evaluate", trained, "--batch-size", "0")
    assert "labels: expected" in refused(capsys, "evaluate", trained, "--data", array(tmp_path))


def test_damaged_checkpoint_is_named_and_so_is_the_good_one(run: Path, capsys: pytest.CaptureFixture) -> None:
    last = run / "checkpoints/last.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    for command in (["evaluate"], ["sample"]):
        message = refused(capsys, *command, run, "--checkpoint", "last")
        assert f"{last}: corrupted or truncated" in message
        assert "good in this folder: best.safetensors" in message
    resume = ["train", "gated-pixelcnn", "--run", str(run), "--resume", "--epochs", "3"]
    assert "good in this folder: best.safetensors" in refused(capsys, *resume)
    assert main([*resume, "--checkpoint", "best"]) == 0
    assert epochs(run) == [1, 2, 3]


@pytest.mark.parametrize("part", ["options", "model"])
def test_config_that_does_not_fit(run: Path, capsys: pytest.CaptureFixture, part: str) -> None:
    config = json.loads((run / "config.json").read_text())
    (config["options"] if part == "options" else config["model"]["config"])["colour"] = 1
    (run / "config.json").write_text(json.dumps(config))
    train = ["train", "gated-pixelcnn", "--run", run, "--resume"]
    assert "colour" in refused(capsys, *(train if part == "options" else ["evaluate", run]))


def test_ctrl_c_while_saving(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, resume = os.replace, ["train", "gated-pixelcnn", "--run", str(run), "--resume", "--epochs", "4"]

    def interrupted(source: Path, target: Path) -> None:
        if Path(target).name == "last.safetensors":
            signal.raise_signal(signal.SIGINT)
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        assert main(resume) == 130
    message = capsys.readouterr().err
    assert f"{run} holds epoch 3; continue with: fastgen train gated-pixelcnn --run {run} --resume" in message
    assert not list(run.rglob("*.tmp"))
    assert main(resume) == 0
    assert epochs(run) == [1, 2, 3, 4]


def test_stopped_before_the_first_checkpoint(
    trained: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    resume = ["train", "gated-pixelcnn", "--run", str(run), "--resume"]

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stopped)
        assert main([*TRAIN, "--epochs", "0", "--run", str(run)]) == 0
        assert "no checkpoint" in capsys.readouterr().out
        assert main([*resume, "--epochs", "2"]) == 130
    again = " ".join(["fastgen", *resume])
    assert f"nothing was saved in {run} yet; begin again with: {again}" in capsys.readouterr().err
    (run / "metrics.jsonl").write_text('{"epoch": 1}\n')  # killed between the line and the checkpoint
    assert main([*resume, "--epochs", "2"]) == 0
    assert f"fastgen sample {run}" in capsys.readouterr().out
    assert epochs(run) == [1, 2]
    one, other = (load_model(folder, "last").state_dict() for folder in (run, trained))
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


@pytest.mark.parametrize(
    ("samples", "k", "path"),
    [
        (0, 1, "metrics.jsonl"),
        (0, 3, "config.json"),
        (0, 5, "metrics.jsonl"),
        (0, 6, "checkpoints/state-"),
        (20, 1, "metrics.jsonl"),
        (20, 12, "samples/epoch-0003.png"),
    ],
)
def test_full_disk(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, samples: int, k: int, path: str
) -> None:
    """The disk is full from the k-th time on that something must reach it."""
    original, calls = os.fsync, itertools.count(1)

    def full(handle: int) -> None:
        if next(calls) >= k:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    resume = ["train", "gated-pixelcnn", "--run", str(run), "--resume", "--epochs", "3", "--samples", str(samples)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = refused(capsys, *resume)
    assert "No space left on device" in message
    assert f"{run / path}" in message
    assert "good in this folder: best.safetensors, last.safetensors" in message
    assert main(resume) == 0
    assert epochs(run) == [1, 2, 3]


def test_help_info_and_mistakes(capsys: pytest.CaptureFixture) -> None:
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        assert "fastgen evaluate RUN" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastgen {__version__}\n"
    commands = (
        "demo, train, sample, evaluate, compare, report, explore, export, encode, compress, decompress, download,"
        " taxonomy, toy, bench, info"
    )
    assert f"command: expected {commands}, got 'draw'" in refused(capsys, "draw")
    for mistake in (["--nonsense"], ["--epochs", "-1"], ["--schedule", "square"], ["--seed", "-1"]):
        with pytest.raises(SystemExit) as stopped:
            main(["train", "pixelcnn", *mistake])
        assert stopped.value.code == 2
        err = capsys.readouterr().err
        assert mistake[0] in err or f"{mistake[0][2:]}: expected 0 or more" in err


WITHOUT_EXTRAS = """
import sys
sys.modules |= dict.fromkeys(["tyro", "tqdm", "safetensors", "PIL", "sklearn", "torchvision"])
from fastgen import __version__, pictures
from fastgen.cli import main
assert main(["info"]) == 0
sys.exit(main(["demo"]))
"""


def test_without_extras() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert 'tyro is not installed; it comes with the extra "train": pip install "fastgen[train]"' in done.stderr
    assert "Traceback" not in done.stderr
