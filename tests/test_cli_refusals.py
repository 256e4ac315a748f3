"""What commands refuse, by the name of what does not fit, and before anything is written."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from commands import VAE, refused, said
from fastgen.training import Run

for package in ("tyro", "tqdm", "safetensors", "sklearn", "matplotlib", "PIL"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

SMALL = ["--limit", "60", "--batch-size", "30", "--epochs", "1", "--samples", "0"]
CODER = ["train", "vqvae", *SMALL, "--codes", "9", "--code-channels", "3", "--channels", "4", "--layers", "1"]


def test_explore_of_an_adversarial_autoencoder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """It draws codes, and it encodes images, which its pictures begin with."""
    run = tmp_path / "run"
    said(capsys, "train", "adversarial-autoencoder", *SMALL, "--hidden", "8", "--latent", "3", "--run", run)
    said(capsys, "explore", run, "--n", "3", "--side", "3")
    drawn = {path.stem for path in (run / "explore").iterdir()}
    assert drawn >= {"samples", "manifold", "traversals", "interpolations", "nearest", "scatter"}
    assert "grid" not in drawn
    assert "which this model can show, got grid" in refused(capsys, "explore", run, "grid")


def test_a_vqvae_draws_with_a_prior_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "my run"
    out = said(capsys, *CODER, "--run", run)
    ways = f"fastgen encode '{run}' --out codes.npz writes its codes, fastgen train gated-pixelcnn --data codes.npz"
    ways += f" --run PRIOR trains a prior of them, and fastgen sample PRIOR --decoder '{run}' draws"
    assert out.endswith(f"; {ways}, fastgen report '{run}' sums it up\n")
    assert f"fastgen sample '{run}'" not in out
    message = refused(capsys, "sample", run, "--out", tmp_path / "s.png")
    assert message == f"fastgen: run: expected a model that draws images by itself, got VQVAE: {ways}\n"
    assert "squared_error" in said(capsys, "evaluate", run)
    assert "samples: expected none, since VQVAE draws no images" in refused(capsys, "evaluate", run, "--samples", 9)
    assert "runs: expected models that draw images, got VQVAE" in refused(capsys, "compare", run, run)
    for kinds in ([], ["reconstructions"], ["samples"]):
        message = refused(capsys, "explore", run, *kinds)
        assert "run: expected a model whose codes are vectors, got VQVAE, whose codes are maps of integers" in message
    again = said(capsys, "train", "vqvae", "--run", run, "--resume", "--epochs", "2", "--max-minutes", "1e-9")
    assert f"continue with: fastgen train vqvae --run '{run}' --resume; " in again
    assert Run(run).has_checkpoint


def test_images_to_complete_are_as_many_as_there_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, known, npz = tmp_path / "run", tmp_path / "k.npz", tmp_path / "drawn.npz"
    said(capsys, "train", "pixelcnn", *SMALL, "--channels", "4", "--layers", "1", "--run", run)
    values = np.arange(3).reshape(3, 1, 1, 1) * np.ones((1, 1, 8, 8), int)
    mask = np.eye(8, dtype=bool)
    np.savez(known, known=values, known_mask=mask)
    command = ["sample", run, "--complete", known, "--out", tmp_path / "s.png", "--npz", npz]
    for options, n in (([], 3), (["--n", 2], 2), (["--n", 3], 3)):
        said(capsys, *command, *options)
        with np.load(npz) as arrays:
            assert (arrays["x"][..., mask] == np.arange(n).reshape(n, 1, 1)).all()
    assert refused(capsys, *command, "--n", 5) == f"fastgen: n: expected at most 3, the images of {known}, got 5\n"
    message = refused(capsys, "sample", run, "--complete", known, "--npz", known, "--out", tmp_path / "s.png")
    assert message == f"fastgen: npz: expected another file than those that are read, got {known}\n"
    np.savez(known, known=np.ones((8, 8), int), known_mask=np.stack([mask[None], ~mask[None]]))
    said(capsys, *command)
    with np.load(npz) as arrays:
        assert len(arrays["x"]) == 2
    np.savez(known, known=values, known_mask=mask.astype(np.uint8))
    assert refused(capsys, *command) == f"fastgen: {known}: expected known_mask to be bool, got uint8\n"
    np.savez(known, known=values)
    assert refused(capsys, *command) == f"fastgen: {known}: expected known, and known_mask of bool, got known\n"


def test_a_run_that_lost_its_checkpoints_is_not_begun_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, resume = tmp_path / "run", ["train", "vae", "--run", tmp_path / "run", "--resume"]
    said(capsys, *VAE, "--epochs", 2, "--run", run, "--samples", 4)
    shutil.rmtree(run / "checkpoints")
    before = _files(run)
    for more in ([], ["--epochs", 5], ["--dry-run"]):
        assert refused(capsys, *resume, *more) == (
            f"fastgen: resume: expected a checkpoint in {run / 'checkpoints'}, beside metrics of 2 epochs, got none;"
            " --overwrite begins again\n"
        )
    assert _files(run) == before
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    assert "since nothing was saved in it yet" in said(capsys, *resume), "killed before it saved its first epoch"


def test_a_run_keeps_the_epochs_that_it_was_trained_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, resume = tmp_path / "run", ["train", "vae", "--run", tmp_path / "run", "--resume"]
    said(capsys, *VAE, "--epochs", 2, "--run", run)
    before = _files(run)
    message = refused(capsys, *resume, "--epochs", 1)
    assert message == f"fastgen: epochs: expected 2 or more, since the run in {run} holds epoch 2, got 1\n"
    assert _files(run) == before
    said(capsys, *resume, "--epochs", 2)


@pytest.mark.parametrize(
    ("source", "kind"), [("pixelcnn", "PixelCNN"), ("vqvae", "VQVAE"), ("told", "VAE, which reads their classes too")]
)
def test_a_classifier_begins_with_an_encoder(
    source: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "source"
    pixels = ["train", "pixelcnn", *SMALL, "--channels", "4", "--layers", "1"]
    said(
        capsys,
        *{"pixelcnn": pixels, "vqvae": CODER}.get(source, [*VAE, "--conditional", "--epochs", "1"]),
        "--run",
        run,
    )
    message = refused(capsys, "train", "classifier", "--from", run, "--run", tmp_path / "run")
    expected = "a run with an encoder of images alone, as those of autoencoder and vae"
    assert message == f"fastgen: from: expected {expected}, got {run}, of {kind}\n"
    assert not (tmp_path / "run").exists()


def test_batches_that_there_are_none_of_leave_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = [*VAE, "--epochs", 1, "--run", tmp_path / "run", "--drop-last"]
    for more in ([], ["--dry-run"]):
        message = refused(capsys, *command, "--batch-size", 5000, *more)
        assert message == "fastgen: batch_size: expected at most 60, the images, with drop_last, got 5000\n"
    assert not (tmp_path / "run").exists()
    said(capsys, *command, "--batch-size", 60)


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
