"""What commands refuse, by the name of what does not fit, and before anything is written."""

from pathlib import Path

import pytest

from commands import refused, said
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
