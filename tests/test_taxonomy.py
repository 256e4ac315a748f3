"""``fastgen taxonomy``: one picture of all kinds of models, with likelihoods that can be compared."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgen.cli import main
from fastgen.models.point_gan import PointGAN
from parity import assert_parity

for package in ("tyro", "sklearn", "matplotlib"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")
from fastgen.commands import taxonomy  # noqa: E402 - after the skips


def test_taxonomy(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taxonomy, "POINTS", 400)
    monkeypatch.setattr(taxonomy, "IMPORTANCE_SAMPLES", 10)
    assert main(["taxonomy", "--effort", "0.02", "--out", str(tmp_path / "t.png")]) == 0
    out = capsys.readouterr().out
    rows = re.findall(r"^(\S.*?)  .*(explicit, tractable|explicit, approximate|implicit)(: .+)?$", out, flags=re.M)
    kinds = {name: kind for name, kind, _ in rows}
    assert all(bool(law) == kind.startswith("explicit") for _, kind, law in rows)  # of which law a number is
    tractable = dict.fromkeys(("kernel density", "Gaussian mixture", "PixelCNN"), "explicit, tractable")
    assert kinds == tractable | {"VAE": "explicit, approximate", "GAN": "implicit"}
    with Image.open(tmp_path / "t.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    assert (pixels[[0, -1]] == 255).all(), "nothing is cut off"
    assert (pixels[:, [0, -1]] == 255).all()
    ink = (pixels < 100).all(axis=2)
    assert ink[:45, 300:1200].any(), "a title"
    assert all(ink[pixels.shape[0] - 40 :, part].any() for part in np.array_split(np.arange(pixels.shape[1]), 6)), (
        "axes"
    )


def test_probabilities_of_all_points_add_up_to_one() -> None:
    """As exactly as log p has digits: rounded by half an ε of itself, it moves p by half an ε times that."""
    train = taxonomy.moons(500, 0)
    options = taxonomy.Taxonomy(effort=0.02)
    for fit in (taxonomy.fit_pixelcnn, taxonomy.fit_mixture):
        fitted = fit(train, train, options)
        log_p, one = fitted.log_p.double(), torch.ones(())
        total = log_p.exp().sum().float()
        if fit is taxonomy.fit_pixelcnn:
            assert fitted.log_p.dtype == torch.float32
            moved = float((log_p.exp() * log_p.abs()).sum()) * torch.finfo(torch.float32).eps / 2
            assert_parity(total, one, one.double(), lambda moved=moved: moved)
        assert 0.99 < total < 1.01


def test_a_gan_finds_where_points_are() -> None:
    """Untrained, it makes points around zero; its random numbers are torch's."""
    centre = torch.tensor([1.5, -1.0])
    points = centre + 0.3 * torch.randn(400, 2)
    off = [(PointGAN(hidden=(32, 32)).fit(points, steps).sample(500).mean(0) - centre).norm() for steps in (0, 600)]
    assert off[1] < 0.2 * off[0]
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 2\), got"):
        PointGAN().fit(torch.zeros(3, 3), 1)


def test_points_are_values() -> None:
    points = taxonomy.moons(300, 1)
    assert points.dtype == torch.int64
    assert points.min() >= 0
    assert points.max() < taxonomy.LEVELS
    assert taxonomy.grid().tolist()[: taxonomy.LEVELS + 1 : taxonomy.LEVELS] == [[0, 0], [0, 1]]


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["taxonomy", "--effort", "0"]) == 2
    assert "effort: expected a positive number, got 0.0" in capsys.readouterr().err
