"""Grids: every image is where it should be, pixel by pixel."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgen import pictures
from fastgen.pictures import sheet as sheets
from fastgen.pictures.sheet import Axis, class_words, of_classes, sheet
from pictured import find

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
    empty = np.zeros(page.shape[:2], bool)
    empty[12:20, 30:42] = True
    assert (page[empty] == pictures.EMPTY).all(), "the place that no image is left for"
    assert (page[~seen & ~empty] == pictures.PAPER).all()
    lined = pictures.grid(images, columns=3, scale=4, gap=2, below=7)
    assert (lined[2:10] == page[2:10]).all()
    assert (lined[10:19] == pictures.PAPER).all()
    assert (lined[19:27] == page[12:20]).all()


def test_no_row_is_ragged_where_that_can_be() -> None:
    for n in range(1, 201):
        for rows in (1, 2, 3):
            columns = pictures.columns_for(n, rows)
            low = min(n, math.ceil((n * rows) ** 0.5))
            assert columns == n if n <= 8 else low <= columns <= min(n, 2 * low), n
            assert -n % columns == min(-n % other for other in ([n] if n <= 8 else range(low, min(n, 2 * low) + 1)))
    assert [n for n in range(1, 31) if n % pictures.columns_for(n)] == [11, 13, 17, 19, 22, 23, 26, 29]
    assert max(-n % pictures.columns_for(n) for n in range(1, 201)) == 4, "places that stay empty, at most"


def test_a_column_is_of_one_kind() -> None:
    for n in range(1, 201):
        for turn in range(1, 17):
            columns = pictures.columns_in_turn(n, turn)
            assert columns % turn == 0
            assert columns**2 >= n
            assert columns == turn or (columns - turn) ** 2 < n


def test_in_turn_keeps_what_belongs_together_in_one_column() -> None:
    first, second = (
        np.full((5, 1, 1, 3), base, np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None] for base in (0, 10)
    )
    laid = pictures.in_turn([first, second], columns=3)[:, 0, 0, 0].tolist()
    assert laid == [0, 1, 2, 10, 11, 12, 3, 4, pictures.EMPTY[0], 13, 14, pictures.EMPTY[0]]


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
    pictures.save(picture[..., 0], tmp_path / "grey.png", sync=False)
    with Image.open(tmp_path / "grey.png") as read:
        assert read.mode == "L"
        assert (np.asarray(read) == picture[..., 0]).all()
    with pytest.raises(FileNotFoundError):
        pictures.save(picture, tmp_path / "no" / "x.png")


def noise(n: int, height: int = 4, width: int = 4) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, height, width, 3), np.uint8)


@pytest.mark.parametrize("n", [1, 2, 7, 12, 30])
def test_a_sheet_shows_every_pixel_at_a_whole_scale(n: int) -> None:
    images = noise(n, 5, 3)
    picture = sheet(images, "what is seen")
    top, left, scale = find(picture, images, pictures.columns_for(n))
    assert picture.shape[1] >= 800
    assert 3 * scale <= sheets.LARGEST
    assert (picture[: top - 4, left:] < 128).any(), "a title above"
    assert (picture[top + 5 * scale * -(-n // pictures.columns_for(n)) + 40 :] == 255).all()


def test_rows_columns_and_axes_have_words() -> None:
    images = noise(6)
    plain, named = sheet(images, "t", columns=3), sheet(images, "t", columns=3, rows=["one\n2.5 nats", "two"])
    top, left, scale = find(named, images, 3)
    assert left > find(plain, images, 3)[1] + 40, "room for the words"
    for row in range(2):
        there = named[top + row * (4 * scale + 2) :][: 4 * scale, : left - 4]
        assert (there < 128).any(), "a name beside each row"
    assert not (named[:, 0] < 255).any()
    above = sheet(images, "t", columns=3, above=["-1", "0", "1"])
    top, left, scale = find(above, images, 3)
    heads = [above[top - 24 : top - 4, left + i * (4 * scale + 2) :][:, : 4 * scale] for i in range(3)]
    assert all((head < 128).any() for head in heads)
    axes = sheet(images, "t", columns=3, gap=0, x=Axis("z3", ["-1", "0", "1"]), y=Axis("z1", ["1", "-1"]))
    top, left, scale = find(axes, images, 3, gap=0)
    bottom = axes[top + 8 * scale :]
    assert all((bottom[2:24, left + i * 4 * scale :][:, : 4 * scale] < 128).any() for i in range(3)), "ticks"
    assert (bottom[24:] < 160).any(), "the axis' name"
    assert (axes[:, -2:] == 255).all()
    assert (axes[-2:] == 255).all()


LONG = [f"a class with a name that is long, number {i}" for i in range(40)]


def test_names_are_whole_or_numbered_and_never_alike() -> None:
    fit = lambda words, room, turned=True: sheets._fit(of_classes(range(len(words)), words), room, turned)  # noqa: E731
    assert fit(["cat", "dog"], 60).words == [["cat"], ["dog"]]
    assert fit(["a black cat", "dog"], 60).words == [["a black", "cat"], ["dog"]]
    turned = fit(["unbreakable", "dog"], 40)
    assert turned.turned
    assert turned.words == [["unbreakable"], ["dog"]]
    numbered = fit(LONG, 40)
    assert numbered.words == [[str(i)] for i in range(40)]
    assert numbered.legend == {str(i): name for i, name in enumerate(LONG)}
    assert fit(["unbreakable", "dog"], 40, turned=False).legend == {"0": "unbreakable", "1": "dog"}
    images = noise(40)
    picture = sheet(images, "t", columns=8, below=of_classes(range(40), LONG))
    top, _, scale = find(picture, images, 8, below=sheets.LINE + 4)
    legend = picture[top + 5 * (4 * scale + 2 + sheets.LINE + 4) :]
    assert (legend < 128).any(axis=(1, 2)).sum() > 40 / 2 * 8, "a line for every two classes or so"


def test_classes_are_called_in_letters_that_there_are() -> None:
    names = ["cat", "cat", " a\tb\n", "猫", "", "\udce9"]
    assert class_words(names, 6) == ["cat", "cat (1)", "a b", "class 3", "class 4", "class 5"]
    assert class_words(["a", "a (2)", " a"], 3) == ["a", "a (2)", "a (2) (2)"]
    assert class_words(None, 3) == ["0", "1", "2"]
    assert pictures.can_write("−½ ‖x̂‖² σ")
    assert sheet(noise(1), "\udce9.npz\n" * 60).shape[1] >= 800, "a title of what no font has, in several lines"


def test_lines_are_broken_to_fit() -> None:
    assert pictures.wrap("one two three", 13, 1000) == ["one two three"]
    for text in ("one two three four five", "w" * 50, "a " + "w" * 50):
        lines = pictures.wrap(text, 13, 80)
        assert max(pictures.text_width(line, 13) for line in lines) <= 80
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
