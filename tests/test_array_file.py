"""Drawn images as one array: none is replaced unasked, no labels stay beside it, and what was cut short is no start."""

from pathlib import Path

import numpy as np
import pytest
import torch

from commands import VAE, refused, said
from fastgen.cli import main
from fastgen.commands import drawing, sample
from fastgen.commands.array_file import ArrayFile
from fastgen.data.load import load_whole

for package in ("tyro", "tqdm", "safetensors", "sklearn"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

SHAPE = (1, 2, 2)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("array") / "vae"
    assert main([*VAE, "--epochs", "1", "--run", str(run)]) == 0
    return run


def values(first: int, n: int, batch: int = 4) -> torch.Tensor:
    return torch.arange(first, min(first + batch, n)).view(-1, 1, 1, 1).expand(-1, *SHAPE)


def draw(out: ArrayFile, n: int = 10, overwrite: bool = False, **request: int) -> drawing.Drawn:
    return drawing.draw_all(values, n, 4, out, False, {"n": n, **request}, overwrite)


def test_an_array_is_replaced_if_that_is_asked_for(vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "drawn.npy"
    command = ["sample", vae, "--n", 5, "--out", out]
    said(capsys, *command)
    before = out.read_bytes()
    for seed in (0, 1):
        message = refused(capsys, *command, "--seed", seed)
        assert message == f"fastgen: out: expected a new file, got {out}; --overwrite replaces it\n"
    assert out.read_bytes() == before
    said(capsys, *command, "--seed", 1, "--overwrite")
    assert out.read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn.npy"]


def test_labels_of_others_do_not_stay_beside_images(tmp_path: Path) -> None:
    """Whoever reads the array would take them for its own."""
    labels, out = tmp_path / "drawn-labels.npy", ArrayFile(tmp_path / "drawn.npy", 10, SHAPE, 256, None)
    np.save(labels, np.arange(10))
    with pytest.raises(ValueError, match=r"out: expected no labels beside .*-labels\.npy; --overwrite removes it"):
        draw(out)
    assert not out.path.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(out.images, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            draw(out, overwrite=True)
    assert labels.exists(), "until the images are whole"
    draw(out, overwrite=True)
    assert not labels.exists()
    assert np.load(out.path)[:, 0, 0, 0].tolist() == list(range(10))
    np.save(labels, np.arange(3))
    told = ArrayFile(out.path, 10, SHAPE, 256, torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"out: expected a new file, got .*drawn\.npy; --overwrite replaces it"):
        draw(told)
    draw(told, overwrite=True)
    assert np.load(labels).tolist() == [1, 0] * 5


@pytest.mark.parametrize("left", [0, 40, None])
def test_a_part_that_was_cut_short_is_drawn_anew(left: int | None, tmp_path: Path) -> None:
    """Marks say that batches are done; holes between them are not images."""
    out, seen = ArrayFile(tmp_path / "drawn.npy", 10, SHAPE, 256, torch.tensor([1, 0])), []

    def breaks(first: int, n: int) -> torch.Tensor:
        seen.append(first)
        if first == 8 and len(seen) == 3:
            raise KeyboardInterrupt
        return values(first, n)

    def start() -> drawing.Drawn:
        return drawing.draw_all(breaks, 10, 4, out, False, {"n": 10}, False)

    with pytest.raises(KeyboardInterrupt):
        start()
    if left is None:
        out.images.hidden.unlink()
    else:
        with open(out.images.hidden, "r+b") as file:
            file.truncate(left)
    assert start().new == 10
    assert seen == [0, 4, 8, 0, 4, 8]
    assert np.load(out.path)[:, 0, 0, 0].tolist() == list(range(10))
    assert np.load(out.beside.path).tolist() == [1, 0] * 5


def test_a_start_that_was_killed_as_it_named_its_files_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its labels have their name then, and its images have not."""
    out = ArrayFile(tmp_path / "drawn.npy", 10, SHAPE, 256, torch.tensor([1, 0]))
    replace, left = sample.os.replace, [1]

    def killed(source: Path, target: Path) -> None:
        if str(target) == str(out.images.target) and left:
            left.pop()
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("fastgen.commands.array_file.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        draw(out)
    assert out.beside.path.exists()
    assert draw(out).new == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn-labels.npy", "drawn.npy"]


def test_going_on_with_other_labels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, out = tmp_path / "run", tmp_path / "drawn.NPY"
    said(capsys, *VAE, "--conditional", "--epochs", "1", "--run", run)
    command = ["sample", run, "--n", 5, "--out", out]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArrayFile, "write", lambda *_: (_ for _ in ()).throw(OSError("full")))
        assert "full" in refused(capsys, *command)
    message = refused(capsys, *command, "--labels", 3)
    assert "says was begun with labels or condition " in message
    said(capsys, *command)
    assert load_whole(out, levels=17).values.shape == (5, 1, 8, 8), "an array, in capitals too"
