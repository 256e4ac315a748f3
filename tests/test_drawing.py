"""Drawing any number of images: in bounded memory, never half there, gone on with, by several processes as by one."""

import json
import os
import re
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from commands import VAE, refused, said
from fastgen.commands import drawing, sample
from fastgen.commands.array_file import ArrayFile
from fastgen.commands.drawing import draw_all
from fastgen.commands.image_folder import ImageFolder

Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")
for package in ("tyro", "tqdm", "safetensors"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

HERE = Path(__file__).parent
BATCH = 4


def image(index: int) -> Tensor:
    return torch.tensor([index % 251, index // 251 % 251, 7, 9]).view(1, 2, 2)


def fake(first: int, n: int, batch: int = BATCH) -> Tensor:
    """A batch of images that say which they are."""
    return torch.stack([image(index) for index in range(first, min(first + batch, n))])


def array(path: Path, n: int = 11) -> ArrayFile:
    return ArrayFile(path, n, (1, 2, 2), 256, torch.tensor([2, 0, 1]))


def folder(path: Path, n: int = 11) -> ImageFolder:
    return ImageFolder(path, n, 256, torch.tensor([2, 0, 1]), None, 3, shard=5)


def draw(out: Any, n: int = 11, draw: Callable[[int, int], Tensor] = fake, seed: int = 0, **options: Any) -> Any:
    known = {"keep": False, "overwrite": False, **options}
    return draw_all(draw, n, BATCH, out, known["keep"], {"n": n, "seed": seed}, known["overwrite"])


def check(out: Any, n: int = 11) -> None:
    """All images are there, where they should be, and nothing else is."""
    if isinstance(out, ArrayFile):
        values, labels = np.load(out.path), np.load(out.path.with_name("drawn-labels.npy"))
        assert (values.dtype, labels.dtype) == (np.uint8, np.int64)
        assert (values == torch.stack([image(index) for index in range(n)]).numpy()).all()
        assert labels.tolist() == [(2, 0, 1)[index % 3] for index in range(n)]
        assert sorted(path.name for path in out.path.parent.iterdir()) == ["drawn-labels.npy", "drawn.npy"]
    else:
        there = sorted(str(path.relative_to(out.folder)) for path in out.folder.rglob("*") if path.is_file())
        assert there == sorted(f"{i // 5:06}/{(2, 0, 1)[i % 3]}/{i:06}.png" for i in range(n))
        for index, name in ((int(name[-10:-4]), name) for name in there):
            with Image.open(out.folder / name) as picture:
                assert (np.asarray(picture) == image(index)[0].numpy()).all()


OUT = pytest.mark.parametrize(("make", "name"), [(array, "drawn.npy"), (folder, "drawn")])


@OUT
def test_a_killed_start_is_gone_on_with(make: Any, name: str, tmp_path: Path) -> None:
    out, seen = make(tmp_path / name), []

    def breaks(first: int, n: int) -> Tensor:
        if first == 2 * BATCH:
            raise KeyboardInterrupt
        return fake(first, n)

    def rest(first: int, n: int) -> Tensor:
        seen.append(first)
        return fake(first, n)

    with pytest.raises(KeyboardInterrupt, match=r"^2 of 3 batches drawn; the same command goes on$"):
        draw(out, draw=breaks)
    assert not list(tmp_path.glob("*.npy")), "nothing half written looks whole"
    with pytest.raises(ValueError, match=r"^out: expected to go on with .* begun with seed 0, got 1; --overwrite "):
        draw(out, seed=1)
    done = draw(out, draw=rest)
    assert (done.new, seen) == (3, [2 * BATCH])
    check(out)


@OUT
def test_what_was_left_is_begun_anew(make: Any, name: str, tmp_path: Path) -> None:
    out = make(tmp_path / name)

    def breaks(first: int, n: int) -> Tensor:
        if first:
            raise OSError("no space")
        return torch.zeros_like(fake(first, n))

    for _ in range(2):
        with pytest.raises(OSError, match="no space"):
            draw(out, draw=breaks, seed=1)
    if isinstance(out, ImageFolder):
        (out.path(1).parent / f".{out.path(1).name}.1234.tmp").write_bytes(b"half of a picture")
    assert draw(out, overwrite=True).new == 11
    check(out)


@OUT
def test_two_draw_in_one_place(make: Any, name: str, tmp_path: Path) -> None:
    out = make(tmp_path / name)

    def twice(first: int, n: int) -> Tensor:
        with pytest.raises(
            BlockingIOError, match=f"expected a place that no other process writes; process {os.getpid()} on"
        ):
            draw(make(tmp_path / name))
        return fake(first, n)

    draw(out, draw=twice)
    check(out)


def test_images_that_a_stop_of_the_machine_emptied_are_drawn_again(tmp_path: Path) -> None:
    out = folder(tmp_path / "drawn")

    def breaks(first: int, n: int) -> Tensor:
        if first == 2 * BATCH:
            raise RuntimeError
        return fake(first, n)

    with pytest.raises(RuntimeError):
        draw(out, draw=breaks)
    out.path(5).write_bytes(b"")
    assert draw(out).new == 4 + 3
    check(out)
    with pytest.raises(ValueError, match=r"out: expected a new or empty folder, got .* with 000000/0/000001\.png"):
        draw(out)


def test_an_unreadable_note_of_what_is_unfinished(tmp_path: Path) -> None:
    (tmp_path / ".drawn.npy.unfinished").write_bytes(b"{\n")
    with pytest.raises(
        ValueError, match=r"go on with what .*/\.drawn\.npy\.unfinished says was begun by another; --over"
    ):
        draw(array(tmp_path / "drawn.npy"))
    draw(array(tmp_path / "drawn.npy"), overwrite=True)
    check(array(tmp_path / "drawn.npy"))
    (tmp_path / "drawn-labels.npy").unlink()
    (tmp_path / "drawn-labels.npy").mkdir()
    with pytest.raises(ValueError, match=r"out: expected a file to write, got .*/drawn-labels\.npy, which is none"):
        draw(array(tmp_path / "drawn.npy"))


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    n, batch, alive, most = 1_000_000, 50_000, weakref.WeakSet[Tensor](), 0

    def counted(first: int, n: int) -> Tensor:
        nonlocal most
        values = torch.full((batch, 1, 1, 2), first // batch)
        alive.add(values)
        most = max(most, len(alive))
        return values

    out = ArrayFile(tmp_path / "drawn.npy", n, (1, 1, 2), 256, torch.tensor([2, 0, 1]))
    tracemalloc.start()
    try:
        draw_all(counted, n, batch, out, False, {"n": n}, False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most == 2, "the batch that is drawn, and the one before it"
    assert peak < n, "a byte for each image would be too much"
    values = np.load(out.path, mmap_mode="r")
    assert values.shape == (n, 1, 1, 2)
    assert values[::batch, 0, 0, 1].tolist() == list(range(20))


COMMANDS: dict[str, list[str]] = {
    "vae": [*VAE, "--conditional"],
    "pixelcnn": ["train", "pixelcnn", "--channels", "4", "--layers", "1", "--limit", "60", "--samples", "0"],
    "dcgan": ["train", "dcgan", "--channels", "4", "--latent", "4", "--limit", "128", "--samples", "0"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each family, of one epoch, which no test changes."""
    from fastgen.cli import main

    place = tmp_path_factory.mktemp("runs")
    for name, words in COMMANDS.items():
        assert main([*words, "--data", "digits", "--epochs", "1", "--run", str(place / name)]) == 0
    return place


def test_two_processes_draw_what_one_does(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Folder, array and picture, bit for bit, as torchrun starts them."""
    ways = [("vae", "a.npy"), ("vae", "b/"), ("vae", "c.png"), ("pixelcnn", "d.npy"), ("dcgan", "e.npy")]
    options = ["--n", "21", "--seed", "5", "--out"]
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
    monkeypatch.setattr(sample, "BATCH", 8)  # three of them
    for run, end in ways:
        assert "21 images in " in said(capsys, "sample", runs / run, *options, f"{tmp_path}/one/{end}")
    commands = [["sample", str(runs / run), *options, f"{tmp_path}/two/{end}"] for run, end in ways]
    asked = [
        ("vae", "--limit", "50", "--samples", "0"),
        ("pixelcnn", "--limit", "3"),
        ("vae", "--json", "--limit", "70"),
    ]
    evaluated = [said(capsys, "evaluate", runs / run, *words, "--batch-size", "16") for run, *words in asked]
    commands += [["evaluate", str(runs / run), *words, "--batch-size", "16"] for run, *words in asked]
    path = os.pathsep.join([str(HERE), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(HERE / "processes.py"), "draw", json.dumps(commands)]
    done = subprocess.run([*torchrun, *script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(", by 2 processes: ") == len(ways), "one of them speaks"
    for text in evaluated:  # but for the order of sums
        numbers = re.findall(r"-?\d+\.\d+", text)
        assert len(numbers) > 1
        assert done.stdout.count(text.split(numbers[0])[0]) == 1
        for number in numbers:
            assert number[:8] in done.stdout
    one, two = (
        {str(path.relative_to(tmp_path / place)): path.read_bytes() for path in (tmp_path / place).rglob("*.*")}
        for place in ("one", "two")
    )
    assert len(one) == 21 + 1 + 4, "images, a picture, and arrays, one of them labels"
    assert one == two


def test_an_array_is_what_the_model_draws(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, npz = tmp_path / "drawn.npy", tmp_path / "drawn.npz"
    text = said(capsys, "sample", runs / "vae", "--n", "5", "--labels", "7", "1", "--out", out, "--npz", npz)
    assert text.startswith("5 images in ")
    assert text.endswith(f": {out} and {tmp_path}/drawn-labels.npy\n")
    with np.load(npz) as arrays:
        assert (arrays["x"] == np.load(out)).all()
        assert arrays["y"].tolist() == np.load(tmp_path / "drawn-labels.npy").tolist() == [7, 1, 7, 1, 7]
    said(capsys, "sample", runs / "dcgan", "--n", "5", "--out", out, "--overwrite")
    assert np.load(out).shape == (5, 1, 8, 8)


def test_what_is_refused_for_its_size_or_place(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    vae, png = runs / "vae", tmp_path / "s.png"
    message = refused(capsys, "sample", vae, "--n", "600000", "--out", png)
    assert "n: expected at most 524,288 images in one picture, got 600,000; --out FOLDER/ and --out FILE.npy" in message
    message = refused(
        capsys, "sample", vae, "--n", "99000000", "--out", tmp_path / "s.npy", "--npz", tmp_path / "s.npz"
    )
    assert "n: expected at most 33,554,432 images in one .npz, got 99,000,000" in message
    assert "shard: expected 1 or more, with a folder" in refused(capsys, "sample", vae, "--shard", "9", "--out", png)
    assert "shard: expected 1 or more, with a f" in refused(
        capsys, "sample", vae, "--shard", "0", "--out", f"{tmp_path}/"
    )
    message = refused(capsys, "sample", vae, "--columns", "3", "--out", tmp_path / "s.npy")
    assert f"columns: expected none, since {tmp_path}/s.npy is an array, got 3" in message
    assert list(tmp_path.iterdir()) == []
    assert drawing.PATIENCE.days >= 1
