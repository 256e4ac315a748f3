"""``fastgen compress`` and ``fastgen decompress``: what comes back is what went in, and nothing else is taken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import VAE, refused, said
from fastgen.cli import main
from fastgen.codec import Codec, Container, coder
from fastgen.commands.compress import png_bytes
from fastgen.data import load
from fastgen.training import distributed, load_model
from test_cli import TRAIN

pytest.importorskip("constriction", reason="it comes with fastgen[codec]")
Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional run of one epoch, on digits."""
    run = tmp_path_factory.mktemp("codec") / "run"
    assert main([*TRAIN, "--epochs", "1", "--samples", "0", "--run", str(run)]) == 0
    return run


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Six of them, with labels."""
    images = load("digits", split="test").subset(6)
    assert images.labels is not None
    np.savez(tmp_path / "digits.npz", x=images.values.numpy(), y=images.labels.numpy(), levels=17, classes=10)
    return tmp_path / "digits.npz"


def test_images_come_back(trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file, again = tmp_path / "digits.fastgen", tmp_path / "again.fastgen"
    told = said(capsys, "compress", trained, digits, "--out", file)
    with np.load(digits) as arrays:
        values, labels = arrays["x"], arrays["y"]
    png = png_bytes(torch.from_numpy(values), 17)
    assert f"6 images in {file.stat().st_size:,} bytes, {8 * file.stat().st_size / values.size:.4f} bits/dim" in told
    assert f"as PNG {png:,} bytes" in told
    assert "6 images" in said(capsys, "decompress", trained, file, "--out", tmp_path / "back.npy")
    assert (np.load(tmp_path / "back.npy") == values).all()
    assert (np.load(tmp_path / "back-labels.npy") == labels).all()
    said(capsys, "decompress", trained, file, "--out", tmp_path / "folder")
    for index, (value, label) in enumerate(zip(values, labels, strict=True)):
        with Image.open(tmp_path / "folder" / str(label) / f"{index:06}.png") as picture:
            assert (np.asarray(picture) == np.round(value[0] * (255 / 16))).all()
    assert "expected a new or empty folder" in refused(
        capsys, "decompress", trained, file, "--out", tmp_path / "folder"
    )
    said(capsys, "decompress", trained, file, "--out", tmp_path / "folder", "--overwrite")
    said(capsys, "compress", trained, tmp_path / "folder", "--out", again)
    order = np.argsort(labels, kind="stable")
    said(capsys, "decompress", trained, again, "--out", tmp_path / "again.npy")
    assert (np.load(tmp_path / "again.npy") == values[order]).all(), "8-bit pictures of 17 levels are read as these"


def test_what_loses_something_is_asked_for(
    trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (3, 8, 8), np.uint8)
    np.save(tmp_path / "noise.npy", noise)
    command = ("compress", trained, tmp_path / "noise.npy", "--out", tmp_path / "file")
    assert "images: expected 17 levels, as the run's, got 256" in refused(capsys, *command)
    assert "labels: expected the class of each image" in refused(capsys, *command, "--quantise")
    assert not (tmp_path / "file").exists()
    said(capsys, *command, "--quantise", "--labels", "3", "1")
    assert Container.from_bytes((tmp_path / "file").read_bytes()).labels.tolist() == [3, 1, 3]
    said(capsys, "decompress", trained, tmp_path / "file", "--out", tmp_path / "noise-back.npy")
    assert (np.load(tmp_path / "noise-back.npy")[:, 0] == noise.astype(int) * 17 // 256).all()


def test_arrays_that_commands_write_are_read_as_they_are(
    trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """An .npy and its labels, of fewer levels than an .npy says, and not of every class."""
    with np.load(digits) as arrays:
        values = arrays["x"]
    few = np.array([7, 5, 7, 7, 5, 7])
    np.savez(tmp_path / "few.npz", x=values, y=few)
    np.save(tmp_path / "drawn.npy", values)
    np.save(tmp_path / "drawn-labels.npy", few)
    files = []
    for name in ("few.npz", "drawn.npy"):
        assert main(["compress", str(trained), str(tmp_path / name), "--out", str(tmp_path / f"{name}.fastgen")]) == 0
        assert f"{name}: says no levels, and its values are below 17: read as 17 levels" in capsys.readouterr().err
        files.append((tmp_path / f"{name}.fastgen").read_bytes())
    assert files[0] == files[1]
    out = ("decompress", trained, tmp_path / "drawn.npy.fastgen", "--out", tmp_path / "again.npy")
    said(capsys, *out)
    assert (np.load(tmp_path / "again.npy") == values).all()
    assert (np.load(tmp_path / "again-labels.npy") == few).all()
    for name in ("again.npy", "again-labels.npy"):
        assert f"out: expected a new file, got {tmp_path / name}; --overwrite replaces it" in refused(capsys, *out)
        (tmp_path / name).unlink()
    said(capsys, *out)
    np.save(tmp_path / "again.npy", values[:1])
    said(capsys, *out, "--overwrite")
    assert (np.load(tmp_path / "again.npy") == values).all()
    np.save(tmp_path / "drawn-labels.npy", few[:2])
    command = ("compress", trained, tmp_path / "drawn.npy", "--out", tmp_path / "f")
    assert "drawn-labels.npy: expected one label per image (6), got 2" in refused(capsys, *command)
    (tmp_path / "few.npz").rename(tmp_path / "drawn-labels.npy")
    assert "drawn-labels.npy: expected an .npy of labels, got an .npz" in refused(capsys, *command)


def test_what_does_not_fit_is_refused(
    trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, file = ("--out", tmp_path / "x"), tmp_path / "digits.fastgen"
    np.save(tmp_path / "large.npy", np.full((1, 9, 8), 200, np.uint8))
    assert "images: expected 1x8x8, as the run's, got 1x9x8" in refused(
        capsys, "compress", trained, tmp_path / "large.npy", *out
    )
    assert "images: expected a picture" in refused(capsys, "compress", trained, tmp_path / "none.npy", *out)
    assert "out: expected a file to write, got the folder" in refused(
        capsys, "compress", trained, digits, "--out", tmp_path
    )
    said(capsys, "compress", trained, digits, "--out", file)
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    assert refused(capsys, "decompress", trained, file, *out).startswith(f"fastgen: {file}: expected ")
    assert "out: expected a folder or a name that ends in .npy" in refused(
        capsys, "decompress", trained, file, "--out", tmp_path / "x.png"
    )
    assert not (tmp_path / "x").exists()
    said(capsys, *VAE, "--data", "digits", "--epochs", "1", "--run", tmp_path / "vae")
    assert "run: expected one of a model of pixels, one after the other, got VAE" in refused(
        capsys, "compress", tmp_path / "vae", digits, *out
    )


def test_classes_of_a_run_without_any(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Folders' names are in no file, and numbers become no folders by the million."""
    run = tmp_path / "plain"
    said(
        capsys,
        "train",
        "pixelcnn",
        "--channels",
        "4",
        "--layers",
        "1",
        "--limit",
        "60",
        "--samples",
        "0",
        "--data",
        "digits",
        "--epochs",
        "1",
        "--run",
        run,
    )
    images = np.random.default_rng(0).integers(0, 17, (2, 8, 8)).astype(np.uint8) * 15
    for name, image in zip(("three", "five"), images, strict=True):
        (tmp_path / "folder" / name).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "folder" / name / "a.png")
    capsys.readouterr()
    assert main(["compress", str(run), str(tmp_path / "folder"), "--quantise", "--out", str(tmp_path / "f")]) == 0
    assert "names are not kept, since the run knows no classes" in capsys.readouterr().err
    said(capsys, "decompress", run, tmp_path / "f", "--out", tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["000000.png", "000001.png"]
    codec = Codec(load_model(run, "best", torch.device("cpu")), (1, 8, 8))
    (tmp_path / "large").write_bytes(codec.encode(torch.zeros(2, 1, 8, 8).long(), torch.tensor([0, 3 * 10**7])))
    assert "out: expected a name that ends in .npy, for labels up to 30,000,000" in refused(
        capsys, "decompress", run, tmp_path / "large", "--out", tmp_path / "never"
    )


def test_two_processes_compress_as_one_does(
    trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, as torchrun starts them: of several streams, which they share, and of one."""
    monkeypatch.setattr(coder, "BATCH", 4)
    with np.load(digits) as arrays:
        values = arrays["x"]
    np.savez(tmp_path / "many.npz", x=np.resize(values, (19, 1, 8, 8)), y=np.arange(19) % 10, levels=17)
    np.savez(tmp_path / "few.npz", x=values[:3], y=np.arange(3), levels=17)
    commands = [["compress", str(trained), str(tmp_path / f"{name}.npz"), "--out"] for name in ("many", "few")]
    alone = [said(capsys, *command, tmp_path / f"one{index}") for index, command in enumerate(commands)]
    commands = [[*command, str(tmp_path / f"two{index}")] for index, command in enumerate(commands)]
    commands.append(["decompress", str(trained), str(tmp_path / "two0"), "--out", str(tmp_path / "again.npy")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(HERE / "processes.py"), "draw", json.dumps(commands)]
    done = subprocess.run([*torchrun, *script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for index, text in enumerate(alone):
        words = text.replace(f"one{index}", f"two{index}").replace("\n", ", by 2 processes\n")
        assert done.stdout.count(words) == 1, "one of them speaks"
        assert (tmp_path / f"one{index}").read_bytes() == (tmp_path / f"two{index}").read_bytes()
    assert len(Container.from_bytes((tmp_path / "two0").read_bytes()).streams) == 5
    assert done.stdout.count("again.npy") == 1, "one of them decompresses"
    assert np.array_equal(np.load(tmp_path / "again.npy"), np.resize(values, (19, 1, 8, 8)))


def test_processes_of_other_arithmetic_write_no_file(
    trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather = distributed.gather
    monkeypatch.setattr(distributed, "gather", lambda value: gather(value) + [0] * isinstance(value, int))
    message = refused(capsys, "compress", trained, digits, "--out", tmp_path / "f")
    assert "run: expected the same bits in all processes" in message
    assert not (tmp_path / "f").exists()


def test_pngs_of_two_levels_have_one_bit() -> None:
    values = torch.randint(2, (1, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    assert 64 * 8 <= png_bytes(values, 2) < 64 * 8 + 200
    assert png_bytes(values, 257) is None
