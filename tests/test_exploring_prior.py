"""Exploring a model that draws codes and encodes none: images by number, paths, arithmetic, traversals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import refused, said
from fastgen import exploring
from fastgen.commands.explore_groups import draws_codes
from fastgen.models import DCGAN, GAN, VAE
from fastgen.pictures import to_rgb

for package in ("tyro", "tqdm", "safetensors"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")


@pytest.fixture
def model() -> DCGAN:
    torch.manual_seed(0)
    made = DCGAN(1, 17, latent=6, channels=3, image_size=16).eval()
    with torch.no_grad():
        made.generator.main[0].weight.mul_(50)  # images that differ
        made.generator.main[-2].weight.mul_(10)
    return made


@pytest.fixture
def laid(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was laid out, and in which words."""
    seen: list[dict[str, Any]] = []

    def sheet(images: np.ndarray, title: str, **words: Any) -> np.ndarray:
        seen.append({"images": images, "title": title, **words})
        return images

    monkeypatch.setattr("fastgen.exploring.prior.sheet", sheet)
    return seen


def of(model: Any, codes: torch.Tensor, labels: torch.Tensor | None = None) -> np.ndarray:
    with torch.no_grad():
        return to_rgb(model.decode(codes, labels).round(), model.levels)


def test_numbers_of_the_grid_are_those_of_samples(model: DCGAN, laid: list[dict[str, Any]]) -> None:
    exploring.draw_grid(model, 12, 5, seed=3)
    (grid,) = laid
    assert (grid["images"] == to_rgb(model.sample(12, seed=3), 17)).all()
    assert len(np.unique(grid["images"], axis=0)) == 12
    assert (grid["below"], grid["columns"]) == ([str(index) for index in range(12)], 5)
    told = GAN(1, 5, 4, (8,), (6,), classes=3, image_size=4).eval()
    exploring.draw_grid(told, 6, 3, seed=3)
    assert (laid[1]["images"] == to_rgb(told.sample(6, seed=3, labels=torch.arange(6) % 3), 5)).all()


def test_an_interpolation_goes_along_the_arc_and_the_line(model: DCGAN, laid: list[dict[str, Any]]) -> None:
    exploring.draw_code_interpolations(model, 2, 5, seed=4)
    (drawn,) = laid
    z = model.draw_codes(4, 4)
    rows = np.split(drawn["images"], 4)
    for pair in (0, 1):
        a, b = z[2 * pair], z[2 * pair + 1]
        for row, way in ((rows[2 * pair], exploring.slerp), (rows[2 * pair + 1], exploring.lerp)):
            assert (row == of(model, way(a, b, 5))).all()
    arc, line = (float(row.split("\n")[1]) for row in drawn["rows"])
    assert line < arc, "the line cuts the distance from the origin short"
    assert drawn["above"] == ["start", "0.25", "0.50", "0.75", "end"]


def test_arithmetic_is_of_mean_codes_and_has_neighbours(model: DCGAN, laid: list[dict[str, Any]]) -> None:
    exploring.draw_code_arithmetic(model, [3, 5, 0], [1], [2, 4], seed=1, near=0.25)
    (drawn,) = laid
    z = model.draw_codes(6, 1)
    means = [z[list(group)].mean(0) for group in ((3, 5, 0), (1,), (2, 4))]
    columns = drawn["columns"]
    left = drawn["images"][::columns]
    expected = of(model, torch.stack([*means, means[0] - means[1] + means[2]]))
    assert np.abs(left.astype(int) - expected.astype(int)).max() <= 16, "up to a level, by rounding"
    assert (drawn["images"][1:4] == of(model, z[[3, 5, 0]])).all()
    assert drawn["below"][:4] == ["a", "3", "5", "0"]
    around = drawn["images"][3 * columns + 1 :]
    assert len(np.unique(around, axis=0)) == columns - 1
    exploring.draw_code_arithmetic(model, [3], [1], [2], seed=1, near=0.0)
    assert len(np.unique(laid[1]["images"][3 * laid[1]["columns"] :], axis=0)) == 1
    for groups, message in (
        (([], [1], [2]), "a: expected one number of an image or more, got none"),
        (([0], [-1], [2]), "b: expected an integer of at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            exploring.draw_code_arithmetic(model, *groups)
    with pytest.raises(ValueError, match="model: expected one without classes"):
        exploring.draw_code_arithmetic(GAN(classes=2, hidden=(4,), discriminator_hidden=(4,)), [0], [1], [2])


def test_a_traversal_begins_with_the_dimension_that_changes_most(model: DCGAN, laid: list[dict[str, Any]]) -> None:
    with torch.no_grad():
        model.generator.main[0].weight[2] *= 4
        model.generator.main[0].weight[4] = 0
    exploring.draw_prior_traversals(model, 6, 3, seed=2, reach=2.0)
    (drawn,) = laid
    assert drawn["rows"][0].startswith("z2\n")
    assert drawn["rows"][-1] == "z4\n0.000"
    z = model.draw_codes(1, 2).repeat(3, 1)
    z[:, 2] = torch.tensor([-2.0, 0.0, 2.0])
    assert (drawn["images"][:3] == of(model, z)).all()
    exploring.draw_prior_traversals(model, 6, 3)
    exploring.draw_prior_traversals(GAN(1, 5, 4, (8,), (6,), image_size=4).eval(), 2, 3)
    assert [each["above"][-1] for each in laid[1:]] == ["3", "1.73"], "a uniform z goes no further"


def test_the_command_explores_what_encodes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not draws_codes(VAE(1, 2, 2, (4,), image_size=4))
    run = tmp_path / "run"
    small = ["--hidden", 8, "--discriminator-hidden", 4, "--latent", 3, "--limit", 40, "--batch-size", 20]
    said(capsys, "train", "gan", *small, "--run", run, "--epochs", 1, "--samples", 0, "--held-out-limit", 20)
    said(capsys, "explore", run, "--n", 4, "--side", 3)
    names = {path.stem for path in (run / "explore").glob("*.png")}
    assert names == {"samples", "grid", "manifold", "traversals", "interpolations", "nearest"}
    out = said(capsys, "explore", run, "arithmetic", "--groups", "3,1,0", "2", "4,5", "--n", 4)
    assert "arithmetic.png" in out
    assert "groups: expected three, each numbers of drawn images" in refused(capsys, "explore", run, "arithmetic")
    assert "got 'class=1'" in refused(capsys, "explore", run, "arithmetic", "--groups", "class=1", "2", "3")
