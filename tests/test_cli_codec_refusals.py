"""``fastgen compress`` writes over nothing that is not its own, and ``decompress`` says which file it cannot read."""

from pathlib import Path

import numpy as np
import pytest

from commands import refused, said
from fastgen.cli import main
from fastgen.data import load

pytest.importorskip("constriction", reason="it comes with fastgen[codec]")
Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

PIXELS = ["train", "pixelcnn", "--channels", "4", "--layers", "1", "--limit", "60", "--samples", "0", "--epochs", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without classes, of one epoch, on digits."""
    run = tmp_path_factory.mktemp("codec") / "run"
    assert main([*PIXELS, "--run", str(run)]) == 0
    return run


def test_compress_writes_over_nothing_of_others(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = tmp_path / "images"
    images.mkdir()
    values = load("digits", split="test").values[:2, 0].numpy()
    for index, value in enumerate(values):
        Image.fromarray((value * 15).astype(np.uint8)).save(images / f"{index}.png")
    (tmp_path / "link.png").symlink_to(images / "0.png")
    np.save(tmp_path / "drawn", values)
    (tmp_path / "notes").write_text("mine")
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for source, out, why in (
        (images / "0.png", images / "0.png", "that is not among the images to compress"),
        (images / "0.png", tmp_path / "link.png", "that is not among the images to compress"),
        (images, images / "all.fastgen", "that is not among the images to compress"),
        (images, tmp_path / "drawn.npy", "that is no picture's or array's"),
        (images, tmp_path / "new.JPG", "that is no picture's or array's"),
        (images, tmp_path / "new.npz", "that is no picture's or array's"),
        (images, tmp_path / "notes", "expected a new file, or one of fastgen compress to replace"),
        (images, trained / "config.json", "expected a new file, or one of fastgen compress to replace"),
    ):
        message = refused(capsys, "compress", trained, source, "--out", out, "--quantise")
        assert message.startswith("fastgen: out: expected a ")
        assert why in message
        assert message.endswith(f", got {out}\n")
    assert {path: path.read_bytes() for path in kept} == kept
    file = tmp_path / "images.fastgen"
    file.touch()
    for _ in range(2):
        assert "2 images in" in said(capsys, "compress", trained, images, "--out", file, "--quantise")


def test_decompress_names_the_file(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    np.save(tmp_path / "few.npy", load("digits", split="test").values[:2].numpy())
    file, out = tmp_path / "few.fastgen", ("--out", tmp_path / "back.npy")
    said(capsys, "compress", trained, tmp_path / "few.npy", "--out", file)
    data = file.read_bytes()
    other = tmp_path / "other"
    said(capsys, *PIXELS, "--seed", "1", "--run", other)
    assert refused(capsys, "decompress", other, file, *out).startswith(f"fastgen: {file}: weights: expected ")
    for bad in (b"", b"text", data[:-1]):
        file.write_bytes(bad)
        assert refused(capsys, "decompress", trained, file, *out).startswith(f"fastgen: {file}: expected ")
