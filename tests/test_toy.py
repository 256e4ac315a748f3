"""``fastgen toy``: games of points, by which it is seen what a loss and a penalty do."""

import math
from pathlib import Path

import pytest
import torch

from commands import said
from fastgen.cli import main
from fastgen.models.point_gan import PointGAN, centres, covered, line, ring

for package in ("tyro", "tqdm", "matplotlib"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")


def test_the_ring_has_eight_modes() -> None:
    torch.manual_seed(0)
    assert torch.pdist(centres()).min() > 1.5, "the circle's end is not its beginning"
    points = ring(20_000)
    modes, share = covered(points)
    assert modes == 8
    assert abs(share - (1 - math.exp(-4.5))) < 0.003, "of two dimensions, 1 − exp(−9/2) lie within three σ"
    nearest = torch.cdist(points, centres()).argmin(1)
    assert nearest.bincount().min() > 20_000 / 8 * 0.9
    lost = points[nearest != 3]
    assert covered(lost)[0] == 7
    few = torch.cat([lost[:2481], centres()[3].expand(19, 2)])
    assert covered(few)[0] == 7, "19 of 2,500 are stray"
    assert covered(torch.cat([lost[:2480], centres()[3].expand(20, 2)]))[0] == 8
    assert covered(torch.zeros(5, 2)) == (0, 0.0)
    with pytest.raises(ValueError, match="points: expected one or more"):
        covered(torch.zeros(0, 2))
    x = line(50_000)
    assert abs(x.mean() - 4) < 0.02
    assert abs(x.std() - 0.5) < 0.01


def test_a_critic_with_a_penalty_finds_modes_that_lie_apart() -> None:
    """A short game: all eight are found long before points lie close to their centres."""
    torch.manual_seed(0)
    game = {"loss": "wasserstein", "gradient_penalty": 0.1, "discriminator_steps": 3}
    model = PointGAN(2, (64, 64), game)
    rounds: list[int] = []
    before = covered(model.sample(2500))
    model.fit(ring, 500, batch_size=64, lr=3e-3, on_round=rounds.append)
    after = covered(model.sample(2500))
    assert before[0] <= 1
    assert after[0] >= 7
    assert after[1] > 0.15
    assert rounds == list(range(1, 501))


def test_d_is_what_theory_says_on_a_line() -> None:
    """D(x) = p / (p + q) for a generator that stands still: Goodfellow 2014, proposition 1."""
    torch.manual_seed(0)
    model = PointGAN(1, (32, 32), {"generator_lr": 1e-12})
    with torch.no_grad():  # q = N(3.5, 0.5²), whatever z is fed: one unit of each layer hands z + 8 on
        for layer in model.generator:
            if hasattr(layer, "weight"):
                layer.weight.zero_()
                layer.bias.zero_()
                layer.weight[0, 0] = 1.0
        model.generator[0].bias[0] = 8.0
        model.generator[-1].weight[0, 0], model.generator[-1].bias[0] = 0.5, 3.5 - 4.0
    model.fit(line, 600, lr=3e-3)
    x = torch.linspace(2.8, 4.7, 39)[:, None]
    with torch.no_grad():
        told = torch.sigmoid(model.score(x))
        drawn = model.generator(torch.randn(100_000, 1))
    assert abs(drawn.mean() - 3.5) < 0.01
    assert abs(drawn.std() - 0.5) < 0.01
    best = torch.sigmoid(((x[:, 0] - 3.5) ** 2 - (x[:, 0] - 4) ** 2) / (2 * 0.25))  # p / (p + q)
    assert (told - best).abs().max() < 0.05


@pytest.mark.parametrize("what", ["ring", "line"])
def test_pictures_of_a_game(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "toy.png"
    told = said(capsys, "toy", what, "--rounds", "3", "--seeds", "1", "2", "--out", out)
    assert "seed 1: " in told
    assert "seed 2: " in told
    if what == "ring":
        assert told.startswith("ring, wasserstein, gradient penalty 0.1, 5 moves of D a round, 3 rounds")
        assert "of 8 modes covered" in told
    else:
        assert told.startswith("line, non-saturating, 10 moves of D a round, 3 rounds")
        assert "standard deviation" in told
    with Image.open(out) as picture, Image.open(out.with_suffix(".gif")) as animation:
        assert min(picture.size) > 400
        assert animation.n_frames == 4, "before the first round, and after each"
    told = said(capsys, "toy", what, "--rounds", "1", "--loss", "wasserstein", "--weight-clip", "0.1", "--out", out)
    assert "wasserstein, weights within 0.1, 5 moves of D a round, 1 round" in told


def test_what_cannot_be_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--loss", "wasserstein", "--gradient-penalty", "0"], "loss: expected a bound on the critic's slope"),
        (["--rounds", "0"], "rounds: expected a positive integer, got 0"),
        (["--seeds"], "seeds: expected one or more"),
        (["--out", str(tmp_path / "toy.jpg")], "out: expected a name that ends in .png"),
    ):
        assert main(["toy", "ring", *arguments]) == 2
        assert words in capsys.readouterr().err
