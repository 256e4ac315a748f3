"""Options of ``fastgen explore`` that no picture reads, and groups that are not there, are refused before it draws."""

from pathlib import Path

import pytest

from commands import VAE, refused, said
from fastgen.cli import main

for package in ("tyro", "tqdm", "safetensors", "sklearn", "matplotlib", "PIL"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

GAN = ["train", "gan", "--hidden", "8", "--latent", "3", "--limit", "60", "--batch-size", "30", "--samples", "0"]
AAE = ["train", "adversarial-autoencoder", "--prior", "mixture", "--hidden", "8", "--limit", "60", "--batch-size", "30"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE's, one that is told classes, a GAN's, and one whose prior has parts."""
    folder = tmp_path_factory.mktemp("runs")
    commands = {"vae": VAE, "told": [*VAE, "--conditional"], "gan": GAN, "parts": [*AAE, "--samples", "0"]}
    for name, command in commands.items():
        assert main([*command, "--epochs", "1", "--run", str(folder / name)]) == 0
    return folder


@pytest.mark.parametrize(
    ("run", "words", "message"),
    [
        ("vae", ["--label", 2], "label: expected none, since the model has no classes, got 2"),
        (
            "told",
            ["samples", "scatter", "--label", 2],
            "label: expected it with manifold only, got 2 with samples, scat",
        ),
        ("vae", ["samples", "--dims", 0, 1], "dims: expected it with manifold or scatter only, got 0 1 with samples"),
        (
            "parts",
            ["manifold", "--dims", 0, 1],
            "dims: expected it with manifold or scatter only, got 0 1 with mani",
        ),
        ("vae", ["samples", "--groups", 1, 2, 3], "groups: expected it with arithmetic only, got 1 2 3 with samples"),
        ("told", ["--groups", 1, 2, 3], "groups: expected it with arithmetic only, got 1 2 3 with "),
        ("gan", ["--n", 4, "--groups", "1,16", 2, 3], "picture grid shows, as 3,14,15, from 0 to 15, got '1,16'"),
        ("gan", ["grid", "arithmetic", "--groups", "-1", 2, 3], "from 0 to 99, got '-1'"),
        ("vae", ["--groups", "999", 2, 3], "groups: expected images of digits, 0 to 296, got '999'"),
    ],
)
def test_what_no_picture_reads_or_shows(
    run: str, words: list[object], message: str, runs: Path, capsys: pytest.CaptureFixture
) -> None:
    assert message in refused(capsys, "explore", runs / run, *words)
    assert not (runs / run / "explore").exists()


def test_what_some_picture_reads(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = ["--n", 4, "--side", 3, "--out", tmp_path]
    said(capsys, "explore", runs / "told", "samples", "manifold", "--label", 2, "--dims", 1, 0, *out)
    said(capsys, "explore", runs / "vae", "scatter", "samples", "--dims", 1, 0, *out)
    said(capsys, "explore", runs / "gan", "--groups", "0,15", 3, 4, *out)
    assert (tmp_path / "arithmetic.png").exists()
