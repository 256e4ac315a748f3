"""A grid of images that says what it shows: a title, names of rows and columns, classes, axes; pixels of whole size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .grids import columns_for, grid
from .page import FAINT, INK, Page, can_write, text_width, wrap

WIDE = 800
"""Pixels that a picture is wide, at least."""
LARGEST = 400
"""Pixels that an image is wide and high, at most, unless it has more of its own."""
NARROWEST = 48
"""Pixels that an image with words above or below it is wide, at least."""
MARGIN, TITLE, SMALL = 16, 19, 13
LINE = SMALL + 4
TURNED = 260
"""Pixels of a name that is written upwards, at most; longer ones are numbered."""


class Axis(NamedTuple):
    """What varies along the columns or the rows, and its value at each."""

    name: str
    ticks: Sequence[str]


@dataclass(frozen=True)
class Names:
    """Words above columns or below images. Where they are too long, they are numbered, and explained in a legend.

    Attributes:
        words: one for each column, or each image.
        numbers: of words, for the legend: those of classes, say; what is not in it is never replaced.
    """

    words: Sequence[str]
    numbers: dict[str, str]


def class_words(names: Sequence[str] | None, classes: int) -> list[str]:
    """What to call each class in a picture: on one line, in letters that there are, and no two alike.

    Raises:
        ValueError: there are fewer names than classes.
    """
    if names is not None and len(names) < classes:
        raise ValueError(f"names: expected one for each of {classes} classes, got {len(names)}")
    words: list[str] = []
    for number in range(classes):
        word = str(number) if names is None else " ".join(names[number].split())
        word = word if word and can_write(word) else f"class {number}"
        while word in words:
            word = f"{word} ({number})"
        words.append(word)
    return words


def of_classes(labels: Sequence[int], words: Sequence[str]) -> Names:
    """The names of the classes ``labels``, to stand above columns or below images."""
    return Names([words[label] for label in labels], {word: str(number) for number, word in enumerate(words)})


def sheet(
    images: np.ndarray,
    title: str,
    *,
    columns: int | None = None,
    note: str = "",
    rows: Sequence[str] = (),
    above: Names | Sequence[str] = (),
    below: Names | Sequence[str] = (),
    x: Axis | None = None,
    y: Axis | None = None,
    gap: int = 2,
) -> np.ndarray:
    """Lay images out with words around them; an image's pixel is a square of whole size, and words have theirs.

    Args:
        images: 8-bit colours (N, H, W, 3), row by row.
        title: what is seen.
        columns: images in a row; by default such that no row is ragged, where that can be.
        note: what else there is to know, in small print.
        rows: a name for each row, or for as many rows as belong together; lines are parted by a newline.
        above: a name for each column.
        below: a name for each image.
        x: of the columns, which are named below, then.
        y: of the rows, which are named on the left, then.
        gap: pixels between images.

    Returns:
        8-bit colours (height, width, 3), at least WIDE wide.
    """
    n, height, width, _ = images.shape
    columns = columns_for(n) if columns is None else columns
    count = -(-n // columns)
    sides = list(y.ticks if y else [rows[row % len(rows)] for row in range(count)] if rows else [])
    side = max(
        (text_width(line, SMALL) for text in [*sides, y.name if y else ""] for line in text.split("\n")), default=0
    )
    left = MARGIN + (math.ceil(side) + 10 if side else 0)
    above, below = (one if isinstance(one, Names) else Names(one, {}) for one in (above, below))
    scale = _scale(width, height, columns, gap, WIDE - left - MARGIN, bool(above.words or below.words))
    step = width * scale + gap
    heads, captions = _fit(above, step - 4, turned=True), _fit(below, step - 4, turned=False)
    under = LINE * captions.lines + 4 if captions.lines else 0
    laid = grid(images, columns, scale, gap, below=under)

    wide = max(WIDE, left + laid.shape[1] + MARGIN)
    titles, notes = wrap(_clean(title), TITLE, wide - 2 * MARGIN), wrap(_clean(note), SMALL, wide - 2 * MARGIN)
    legend = _Legend({**heads.legend, **captions.legend}, wide - 2 * MARGIN)
    top = MARGIN + len(titles) * (TITLE + 7) + len(notes) * LINE + 8
    start = top + (heads.tall + 6 if heads.tall else 0) + (LINE + 4 if y else 0)
    end = start + laid.shape[0] + (2 * LINE + 8 if x else 0)
    page = Page(wide, end + legend.tall + MARGIN)
    for line, text in enumerate(titles):
        page.text(MARGIN, MARGIN + line * (TITLE + 7), text, TITLE)
    for line, text in enumerate(notes):
        page.text(MARGIN, MARGIN + len(titles) * (TITLE + 7) + line * LINE, text, SMALL, FAINT)
    page.picture(left, start, laid)

    def middle(column: int) -> int:
        return left + gap + column * step + width * scale // 2

    for column, lines in enumerate(heads.words):
        _write_head(page, middle(column), start + gap - 8, lines, heads.turned)
    for index, lines in enumerate(captions.words):
        bottom = start + gap + index // columns * (height * scale + under + gap) + height * scale
        for line, text in enumerate(lines):
            page.text(middle(index % columns), bottom + 2 + line * LINE, text, SMALL, anchor="ma")
    tall = height * scale + under + gap
    every = math.ceil(LINE / tall) if y else 1
    for row, text in enumerate(sides):
        if row % every == 0:
            _write_side(page, left - 8, start + gap + row * tall + height * scale // 2, text)
    if y:
        page.text(left - 8, start - 4, _clean(y.name), SMALL, FAINT, "rs")
    if x:
        often = math.ceil((max(text_width(tick, SMALL) for tick in x.ticks) + 8) / step)
        for column, tick in enumerate(x.ticks):
            if column % often == 0:
                page.text(middle(column), start + laid.shape[0] + 4, tick, SMALL, anchor="ma")
        page.text(left + laid.shape[1], start + laid.shape[0] + 6 + LINE, _clean(x.name), SMALL, FAINT, "ra")
    legend.write(page, MARGIN, end)
    return page.pixels()


def _scale(width: int, height: int, columns: int, gap: int, room: int, named: bool) -> int:
    """The smallest whole side of a pixel with which ``columns`` images fill ``room``."""
    fills = math.ceil(((room - gap) / columns - gap) / width)
    most = max(1, LARGEST // max(width, height))
    least = math.ceil(NARROWEST / width) if named else 1
    return max(1, least, min(fills, most))


class _Fitted(NamedTuple):
    words: list[list[str]]
    """Lines of each."""
    lines: int
    tall: int
    turned: bool
    legend: dict[str, str]


def _fit(names: Names, room: float, turned: bool) -> _Fitted:
    """Names as they fit in ``room``: in up to three lines (two below images), upwards, or as numbers with a legend."""
    most = 3 if turned else 2
    words = [wrap(_clean(word), SMALL, room) for word in names.words]
    whole = all(text_width(part, SMALL) <= room for word in names.words for part in word.split())
    lines = max(map(len, words), default=0)
    longest = max((text_width(word, SMALL) for word in names.words), default=0)
    if not names.numbers or (whole and lines <= most):
        return _Fitted(words, lines, lines * LINE, False, {})
    if turned and longest <= TURNED:
        return _Fitted([[_clean(word)] for word in names.words], 1, math.ceil(longest), True, {})
    numbered = [[names.numbers.get(word, word)] for word in names.words]
    return _Fitted(
        numbered, 1, LINE, False, {names.numbers[word]: word for word in names.words if word in names.numbers}
    )


class _Legend:
    """What the numbers mean, in columns."""

    def __init__(self, meanings: dict[str, str], room: int) -> None:
        order = sorted(meanings, key=lambda number: (len(number), number))
        entries = [wrap(f"{number}: {meanings[number]}", SMALL, room) for number in order]
        wide = max((text_width(line, SMALL) for entry in entries for line in entry), default=1) + 24
        self.columns = max(1, int(room // wide))
        self.step, self.entries = room // self.columns, entries
        self.rows = -(-len(entries) // self.columns)
        self.lines = max(map(len, entries), default=0)
        self.tall = self.rows * self.lines * LINE + 12 if entries else 0

    def write(self, page: Page, x: int, y: int) -> None:
        for index, entry in enumerate(self.entries):
            column, row = divmod(index, self.rows)
            for line, text in enumerate(entry):
                page.text(x + column * self.step, y + 12 + (row * self.lines + line) * LINE, text, SMALL)


def _write_head(page: Page, x: int, y: int, lines: list[str], turned: bool) -> None:
    if turned:
        page.upward(x, y, lines[0], SMALL)
        return
    for line, text in enumerate(reversed(lines)):
        page.text(x, y - line * LINE, text, SMALL, anchor="ms")


def _write_side(page: Page, x: int, y: int, text: str) -> None:
    lines = [_clean(line) for line in text.split("\n")]
    for line, said in enumerate(lines):
        page.text(x, round(y + (line - (len(lines) - 1) / 2) * LINE), said, SMALL, FAINT if line else INK, "rm")


def _clean(text: str) -> str:
    """On one line, and without what is no character (names of files may hold it)."""
    return " ".join(text.encode("utf-8", "replace").decode().split())
