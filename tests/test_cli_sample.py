"""``fastgen sample`` on real digits: it draws what the model draws, keeps what is given, and says what it cannot do."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastgen.cli import main
from fastgen.data import load
from fastgen.sampling import NaiveSampler
from fastgen.training import load_model
from test_cli import TRAIN, refused

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
    assert pixels.shape == (68, 5 * 66 + 2, 3)
    assert pixels[2 + 4, 2 + 4, 0] == round(naive[0, 0, 0, 0].item() * 255 / 16)


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
            assert (arrays["x"][part] == held_out.values.numpy()[part]).all()
            assert (arrays["x"] != held_out.values.numpy()).any()
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
    assert f"out: expected a file to write, got the folder {tmp_path}" in refused(capsys, *command, "--out", tmp_path)
    for seed in (-1, 2**63):
        assert f"seed: expected 0 or more, below 2**63, got {seed}" in refused(capsys, *command, "--seed", seed)
    if command[0] == "sample":
        assert "columns: expected 1 or more, got 0" in refused(capsys, *command, "--columns", "0")
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
