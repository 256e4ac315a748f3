"""``fastgen sample`` on real digits: it draws what the model draws, keeps what is given, and says what it cannot do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import refused
from fastgen import pictures
from fastgen.cli import main
from fastgen.commands import image_folder, sample
from fastgen.data import load, load_for_training
from fastgen.pictures import sheet as sheets
from fastgen.sampling import NaiveSampler, Sampler
from fastgen.training import load_model
from pictured import find
from test_cli import TRAIN

Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, which no test changes."""
    run = tmp_path_factory.mktemp("cli") / "run"
    assert main([*TRAIN, "--epochs", "1", "--samples", "0", "--run", str(run)]) == 0
    return run


def test_completed_images_are_the_run_s(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    test, train = load("digits", split="test"), load("digits")
    moved = tmp_path / "moved.npz"
    command = [
        "sample",
        trained,
        "--n",
        "4",
        "--out",
        tmp_path / "s.png",
        "--complete",
        "top-half",
        "--npz",
        tmp_path / "s.npz",
    ]
    drawn = []
    for change in (0, 1):
        values = torch.where(train.values == 3, 3 + change, train.values)
        arrays = {"train": values.numpy(), "test": test.values.numpy(), "levels": np.array(17)}
        np.savez(moved, train_labels=train.labels.numpy(), test_labels=test.labels.numpy(), **arrays)
        if change:
            assert "expected the images that the run in" in refused(capsys, *command, "--data", moved)
            continue
        for data in ([], ["--data", str(moved)]):
            assert main([str(part) for part in [*command, *data]]) == 0
            with np.load(tmp_path / "s.npz") as found:
                drawn.append(found["x"])
    assert (drawn[0] == drawn[1]).all()
    assert "data: expected it with --complete" in refused(capsys, "sample", trained, "--data", moved)


def test_sample_is_what_the_model_draws(trained: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    out, npz = tmp_path / "s.png", tmp_path / "s.npz"
    options = ["--n", "5", "--seed", "3", "--labels", "7", "1", "--temperature", "0.5", "--columns", "5"]
    assert main(["sample", str(trained), *options, "--out", str(out), "--npz", str(npz)]) == 0
    assert "images/s" in capsys.readouterr().out
    drawn, labels = load(npz), torch.tensor([7, 1, 7, 1, 7])
    assert drawn.levels == 17
    naive = NaiveSampler(load_model(trained), (1, 8, 8)).sample(seed=3, labels=labels, temperature=0.5)
    with np.load(npz) as arrays:
        assert (arrays["x"] == naive.numpy()).all()
        assert (arrays["y"] == labels.numpy()).all()
    with Image.open(out) as picture:
        pixels = np.asarray(picture)
    find(pixels, pictures.to_rgb(naive, 17), 5, below=sheets.LINE + 4)


def test_completions_keep_what_is_given(trained: Path, tmp_path: Path) -> None:
    npz, held_out = tmp_path / "c.npz", load("digits", split="test").subset(6)
    halves = {
        "top-half": np.s_[:, :, :4], "bottom-half": np.s_[:, :, 4:],
        "left-half": np.s_[..., :4], "right-half": np.s_[..., 4:],
    }  # fmt: skip
    for half, part in halves.items():
        arguments = ["--complete", half, "--n", "6", "--out", str(tmp_path / "c.png"), "--npz", str(npz)]
        assert main(["sample", str(trained), *arguments]) == 0
        with np.load(npz) as arrays:
            drawn = torch.from_numpy(arrays["x"])
        assert (drawn.numpy()[part] == held_out.values.numpy()[part]).all()
        assert (drawn != held_out.values).any()
        rows = [pictures.to_rgb(values, 17) for values in (held_out.values, held_out.values, drawn)]
        hidden = np.ones((6, 1, 8, 8), bool)
        hidden[part] = False
        rows[1][hidden[:, 0]] = pictures.HIDDEN
        with Image.open(tmp_path / "c.png") as picture:
            find(np.asarray(picture), np.concatenate(rows), 6)
    mask = np.eye(8, dtype=bool)
    np.savez(tmp_path / "given.npz", known=np.full((8, 8), 16), known_mask=mask)
    arguments = ["--complete", str(tmp_path / "given.npz"), "--n", "3", "--out", str(tmp_path / "c.png")]
    assert main(["sample", str(trained), *arguments, "--npz", str(npz)]) == 0
    with np.load(npz) as arrays:
        assert arrays["x"].shape == (3, 1, 8, 8)
        assert (arrays["x"][..., mask] == 16).all()


def test_what_sample_refuses(trained: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", known=np.zeros((9, 9), int), known_mask=np.ones((9, 9), bool))
    message = refused(capsys, "sample", trained, "--complete", tmp_path / "wide.npz")
    assert "expected known and known_mask that fit images (64, 1, 8, 8), got (9, 9) and (9, 9)" in message
    assert "expected top-half" in refused(capsys, "sample", trained, "--complete", "middle")
    assert "n: expected 1 or more, got 0" in refused(capsys, "sample", trained, "--n", "0")
    message = refused(capsys, "sample", trained, "--complete", "top-half", "--n", "400")
    assert "n: expected at most 297, the images of digits, got 400" in message
    assert "temperature: expected" in refused(capsys, "sample", trained, "--temperature", "0")
    assert "labels: expected" in refused(capsys, "sample", trained, "--labels", "10")


@pytest.mark.parametrize("command", [["sample", "no-run"], ["demo"]])
def test_what_is_refused_before_any_work(command: list[str], capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    message = refused(capsys, *command, "--out", tmp_path / "no/where.png")
    assert f"out: expected a file in a folder that exists, got {tmp_path / 'no/where.png'}" in message
    if command[0] == "demo":
        message = refused(capsys, *command, "--out", tmp_path)
        assert f"out: expected a file to write, got the folder {tmp_path}" in message
    for seed in (-1, 2**63):
        assert f"seed: expected 0 or more, below 2**63, got {seed}" in refused(capsys, *command, "--seed", seed)
    if command[0] == "sample":
        assert "columns: expected 1 or more, got 0" in refused(capsys, *command, "--columns", "0")
        message = refused(capsys, *command, "--columns", "2", "--out", f"{tmp_path}/")
        assert f"columns: expected none, since {tmp_path} is a folder of single images, got 2" in message
        assert "npz: expected a file to write" in refused(capsys, *command, "--npz", tmp_path)


def test_any_seed_will_do(trained: Path, tmp_path: Path) -> None:
    drawn = set()
    for seed in (0, 2**32, 2**63 - 1):
        arguments = ["--n", "5", "--seed", str(seed), "--out", f"{tmp_path}/s.png", "--npz", f"{tmp_path}/s.npz"]
        assert main(["sample", str(trained), "--complete", "top-half", *arguments]) == 0
        with np.load(tmp_path / "s.npz") as arrays:
            drawn.add(arrays["x"].tobytes())
    assert len(drawn) == 3


@pytest.mark.parametrize("known", [np.zeros((8, 8)), np.full((8, 8), "x"), np.zeros((0, 1, 8, 8), int)])
def test_known_that_cannot_be(trained: Path, capsys: pytest.CaptureFixture, tmp_path: Path, known: np.ndarray) -> None:
    np.savez(tmp_path / "k.npz", known=known, known_mask=np.ones((8, 8), bool))
    message = refused(capsys, "sample", trained, "--complete", tmp_path / "k.npz", "--n", "1")
    assert f"k.npz: expected known to be integers, of one image or more, got {known.dtype} {known.shape}" in message


@pytest.mark.parametrize("kind", [np.uint16, np.uint64, bool])
def test_known_of_any_integer_kind(trained: Path, tmp_path: Path, kind: type) -> None:
    np.savez(tmp_path / "k.npz", known=np.ones((8, 8), kind), known_mask=np.ones((8, 8), bool))
    arguments = ["--complete", str(tmp_path / "k.npz"), "--n", "1", "--out", str(tmp_path / "k.png")]
    assert main(["sample", str(trained), *arguments, "--npz", str(tmp_path / "drawn.npz")]) == 0
    with np.load(tmp_path / "drawn.npz") as arrays:
        assert (arrays["x"] == 1).all()


def test_a_vae_whose_codes_are_not_finite_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, out = tmp_path / "run", tmp_path / "s.png"
    sizes = ["--data", "digits", "--latent", "2", "--hidden", "8", "--limit", "200", "--epochs", "1", "--samples", "0"]
    assert main(["train", "vae", *sizes, "--run", str(run)]) == 0
    capsys.readouterr()
    assert "temperature: expected one that" in refused(capsys, "sample", run, "--temperature", "1e99", "--out", out)
    assert not out.exists()


def test_a_folder_of_single_images_is_read_back_as_data(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "BATCH", 8)  # three batches
    out, npz = tmp_path / "drawn", tmp_path / "drawn.npz"
    command = ["sample", str(trained), "--n", "20", "--out", f"{out}/", "--npz", str(npz)]
    assert main(command) == 0
    assert "20 images in " in capsys.readouterr().out
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))[:3] == [
        "0/000000.png",
        "0/000010.png",
        "1/000001.png",
    ]
    with Image.open(out / "3/000003.png") as picture:
        assert (picture.mode, picture.size) == ("L", (8, 8))
    train, held_out = load_for_training(str(out), watch="test", levels=17)
    with np.load(npz) as arrays:
        known = {image.tobytes(): label for image, label in zip(arrays["x"], arrays["y"].tolist(), strict=True)}
    read = [
        (image.numpy().tobytes(), int(y))
        for data in (train, held_out)
        for image, y in zip(data.values, data.labels, strict=True)
    ]
    assert sorted(read) == sorted(known.items())
    assert train.class_names == tuple("0123456789")

    message = refused(capsys, *command)
    assert f"out: expected a new or empty folder, got {out} with 0/000000.png; --overwrite replaces" in message
    before = (out / "3/000003.png").read_bytes()
    assert main([*command, "--overwrite", "--seed", "1"]) == 0
    assert (out / "3/000003.png").read_bytes() != before
    fewer = ["sample", trained, "--n", "19", "--out", out, "--overwrite"]
    assert f"got {out}/9/000019.png, which would stay" in refused(capsys, *fewer)
    whole, part = sample._draw, tmp_path / "part"

    def breaks(sampler: Sampler, options: sample.Sample, first: int, *rest: Any) -> torch.Tensor:
        if first:
            raise ValueError("it breaks")
        return whole(sampler, options, first, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(sample, "_draw", breaks)
        assert "it breaks" in refused(capsys, "sample", trained, "--n", "20", "--out", f"{part}/")
    assert len(list(part.rglob("*.png"))) == 8, "what is drawn is written, and not held until the end"
    (out / "notes.txt").write_text("mine")
    assert "notes.txt, which would stay" in refused(capsys, *command, "--overwrite")
    message = refused(capsys, "sample", trained, "--out", f"{tmp_path}/no/where/")
    assert f"out: expected a folder in one that exists, got {tmp_path}/no/where" in message
    assert f"out: expected a folder, got the file {npz}" in refused(capsys, "sample", trained, "--out", f"{npz}/")


def test_folders_are_called_as_their_classes_where_these_can_be_read() -> None:
    names = ["cat", "a/b", ".x", "Train", "CAT", "", "tram", "ö" * 128]
    found = image_folder._class_folders(names, 8)
    assert found == ["cat", "class 1", "class 2", "class 3", "class 4", "class 5", "tram", "class 7"]
    assert image_folder._class_folders(None, 11)[:2] == ["00", "01"], "in the order of their numbers"
    images = image_folder.ImageFolder(Path("x"), 2_000_000, 256, None, None, None)
    assert str(images.path(7)) == "x/0000007.png"
