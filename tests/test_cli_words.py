"""What the command line says of words that it cannot read, and that it ends without one where nobody reads it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from commands import VAE, refused, said
from fastgen import __version__, cli
from fastgen.commands import info

for package in ("tyro", "tqdm", "safetensors", "sklearn", "PIL"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("words") / "vae"
    assert cli.main([*VAE, "--epochs", "1", "--run", str(run)]) == 0
    return run


def test_commands_without_arguments_take_none(capsys: pytest.CaptureFixture) -> None:
    assert refused(capsys, "info", "anything") == "fastgen: info: expected no arguments, got anything\n"
    assert refused(capsys, "--version", "1", "2") == "fastgen: version: expected no arguments, got 1 2\n"
    assert said(capsys, "--version") == f"fastgen {__version__}\n"
    assert said(capsys, "info") == f"{info.report()}\n"
    assert said(capsys, "info", "--help") == f"{info.__doc__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["info"], ["sample", "--help"], ["sample", "no-run"]])
def test_what_nobody_reads_ends_in_silence(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "fastgen", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    if arguments[-1] == "no-run":  # which has nothing to say there
        assert err.startswith("fastgen: ")
        assert process.wait() == 2
    else:
        assert (err, process.wait()) == ("", cli.UNREAD)


def test_a_pipe_that_is_written_to_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe", "out.png")

    monkeypatch.setattr(cli, "_run", broken)
    assert refused(capsys, "demo") == "fastgen: [Errno 32] Broken pipe: 'out.png'\n"


def test_files_that_are_read_by_their_suffix_have_one(vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "codes.npz").touch()
    message = refused(capsys, "encode", vae, "--out", tmp_path / "codes")
    assert message == f"fastgen: out: expected a name that ends in .npz, got {tmp_path / 'codes'}\n"
    message = refused(capsys, "sample", vae, "--npz", tmp_path / "s", "--out", tmp_path / "s.png")
    assert message == f"fastgen: npz: expected a name that ends in .npz, got {tmp_path / 's'}\n"
    own = ["encode", vae, "--data", tmp_path / "codes.npz", "--out", tmp_path / "codes.npz"]
    assert "out: expected another file than the run's data, got" in refused(capsys, *own)


def test_no_drawn_images_have_no_quality(vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for asked in (["--quality"], ["--inception", tmp_path / "weights"]):
        message = refused(capsys, "evaluate", vae, *asked, "--samples", 0)
        expected = f"samples: expected 2 or more with {asked[0]}, which measures drawn images, got 0"
        assert message == f"fastgen: {expected}\n"
    assert "nats" in said(capsys, "evaluate", vae, "--samples", 0)


def test_splits_where_one_set_of_images_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("constriction", reason="it comes with fastgen[codec]")
    run, path = tmp_path / "run", tmp_path / "splits.npz"
    small = ["--channels", "4", "--layers", "1", "--limit", "60", "--epochs", "1", "--samples", "0"]
    said(capsys, "train", "pixelcnn", *small, "--run", run)
    images = np.zeros((2, 8, 8), np.uint8)
    np.savez(path, train=images, test=images)
    message = refused(capsys, "compress", run, path, "--out", tmp_path / "x")
    assert message == f"fastgen: {path}: expected one set of images, got splits: train, test\n"
