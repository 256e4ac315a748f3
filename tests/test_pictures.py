"""Grids: every image is where it should be, pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastgen import pictures

Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")


def test_values_become_colours() -> None:
    grey = torch.arange(17).view(1, 1, 1, 17)
    assert pictures.to_rgb(grey, 17)[0, 0].tolist() == [[round(v * 255 / 16)] * 3 for v in range(17)]
    color = torch.tensor([0, 100, 255]).view(1, 3, 1, 1)
    assert pictures.to_rgb(color, 256)[0, 0, 0].tolist() == [0, 100, 255]
    with pytest.raises(ValueError, match=r"values: expected \(N, C, H, W\) with C 1 or 3, got \(1, 2, 1, 1\)"):
        pictures.to_rgb(color[:, :2], 256)


def test_grid_places_and_scales() -> None:
    images = np.arange(5 * 2 * 3 * 3, dtype=np.uint8).reshape(5, 2, 3, 3)
    page = pictures.grid(images, columns=3, scale=4, gap=2)
    assert page.shape == (2 * (2 * 4 + 2) + 2, 3 * (3 * 4 + 2) + 2, 3)
    seen = np.zeros(page.shape[:2], bool)
    for index, image in enumerate(images):
        top, left = 2 + index // 3 * 10, 2 + index % 3 * 14
        assert (page[top : top + 8, left : left + 12] == image.repeat(4, axis=0).repeat(4, axis=1)).all()
        seen[top : top + 8, left : left + 12] = True
    assert (page[~seen] == pictures.PAPER).all()


def test_in_turn_keeps_what_belongs_together_in_one_column() -> None:
    first, second = (
        np.full((5, 1, 1, 3), base, np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None] for base in (0, 10)
    )
    laid = pictures.in_turn([first, second], columns=3)[:, 0, 0, 0].tolist()
    assert laid == [0, 1, 2, 10, 11, 12, 3, 4, 255, 13, 14, 255]


def test_hide_shows_only_what_is_known() -> None:
    images = np.zeros((2, 2, 1, 3), np.uint8)
    hidden = pictures.hide(images, torch.tensor([[True], [False]]))
    assert (hidden[:, 0] == 0).all()
    assert (hidden[:, 1] == pictures.HIDDEN).all()


def test_save(tmp_path: Path) -> None:
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    pictures.save(picture, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as read:
        assert (np.asarray(read) == picture).all()
    with pytest.raises(FileNotFoundError):
        pictures.save(picture, tmp_path / "no" / "x.png")
