"""Images of images: grids on a page, written as PNG."""

import io
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ._extras import require
from ._files import check_suffix, write_atomic

PAPER = (255, 255, 255)
INK = (28, 30, 34)
FAINT = (120, 125, 133)
HIDDEN = (250, 214, 196)
"""Colour of pixels that were not given."""
EMPTY = (242, 243, 245)
"""Colour of a place in the last row that no image is left for."""


def to_rgb(values: Tensor, levels: int) -> np.ndarray:
    """Values (N, C, H, W) in [0, levels), C 1 or 3, as 8-bit colours (N, H, W, 3).

    Raises:
        ValueError: images of another number of channels.
    """
    if values.dim() != 4 or values.shape[1] not in (1, 3):
        raise ValueError(f"values: expected (N, C, H, W) with C 1 or 3, got {tuple(values.shape)}")
    colors = (values.double() * (255 / (levels - 1))).round().byte().cpu().numpy()
    return np.broadcast_to(colors.transpose(0, 2, 3, 1), (*colors.shape[:1], *colors.shape[2:], 3)).copy()


def hide(images: np.ndarray, known: np.ndarray | Tensor) -> np.ndarray:
    """``images`` (N, H, W, 3) with the pixels that are not ``known``, (H, W) or (N, H, W), in the colour HIDDEN."""
    return np.where(np.asarray(known)[..., None], images, np.array(HIDDEN, np.uint8))


def columns_for(n: int, rows: int = 1) -> int:
    """Columns of a grid of ``n`` images, of which each has ``rows`` rows: up to 8 beside each other; else the grid is
    at least as wide as high, and up to twice √(n · rows).

    Of these numbers the one that leaves the fewest places of the last row empty: none, where a number divides ``n``.
    """
    if n <= 8:
        return n
    low = min(n, math.isqrt(n * rows - 1) + 1)
    return min(range(low, min(2 * low, n) + 1), key=lambda columns: -n % columns)


def columns_in_turn(n: int, turn: int) -> int:
    """Columns of a grid of ``n`` images of which each in ``turn`` is of the same kind, so that all in a column are: the
    fewest with which the grid is at least as wide as high.
    """
    return turn * -(-(math.isqrt(max(n, 1) - 1) + 1) // turn)


def grid(
    images: np.ndarray, columns: int, scale: int | None = None, gap: int = 2, paper: tuple = PAPER, below: int = 0
) -> np.ndarray:
    """Lay images (N, H, W, 3) out in rows of ``columns``; a place that no image is left for is EMPTY.

    Args:
        images: 8-bit colours.
        columns: images in a row.
        scale: side of a pixel in the result; by default images are about 64 pixels wide.
        gap: pixels of ``paper`` between images, and around them.
        paper: colour between them.
        below: pixels of ``paper`` below each image, for a line of text.

    Returns:
        (height, width, 3) 8-bit colours.
    """
    n, height, width, _ = images.shape
    scale = scale or max(1, round(64 / max(height, width)))
    rows, tall, wide = -(-n // columns), height * scale + below + gap, width * scale + gap
    page = np.full((rows * tall + gap, columns * wide + gap, 3), paper, np.uint8)
    for index in range(rows * columns):
        top, left = index // columns * tall + gap, index % columns * wide + gap
        image = images[index].repeat(scale, axis=0).repeat(scale, axis=1) if index < n else EMPTY
        page[top : top + height * scale, left : left + width * scale] = image
    return page


def in_turn(rows: list[np.ndarray], columns: int) -> np.ndarray:
    """Images in the order in which ``grid`` lays row under row: ``columns`` of each of ``rows``, then the next ones.

    Args:
        rows: images (N, H, W, 3) each, which belong together by their index.
        columns: of the grid.
    """
    if len(rows) == 1:
        return rows[0]
    blank = np.full((-len(rows[0]) % columns, *rows[0].shape[1:]), EMPTY, np.uint8)
    stacked = np.stack([np.concatenate([row, blank]) for row in rows])  # [rows, N, H, W, 3]
    return stacked.reshape(len(rows), -1, columns, *blank.shape[1:]).swapaxes(0, 1).reshape(-1, *blank.shape[1:])


class Page:
    """A sheet of paper of ``width`` by ``height`` pixels, for grids and text; positions are of the top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self._image = require("PIL.Image").new("RGB", (width, height), PAPER)
        self._draw = require("PIL.ImageDraw").Draw(self._image)

    def picture(self, x: int, y: int, picture: np.ndarray) -> None:
        """Put colours (height, width, 3) at a position."""
        self._image.paste(require("PIL.Image").fromarray(picture), (x, y))

    def text(self, x: int, y: int, text: str, size: int, color: tuple = INK, anchor: str = "la") -> None:
        """Write a line of text; ``anchor`` as pillow's: l m r, then a (ascender), m or s (baseline)."""
        self._draw.text((x, y), text, color, _font(size), anchor=anchor)

    def upward(self, x: int, y: int, text: str, size: int, color: tuple = INK) -> None:
        """Write a line of text from (x, y) upwards, x being its middle."""
        tall = sum(_font(size).getmetrics())
        line = require("PIL.Image").new("L", (math.ceil(text_width(text, size)), tall), 0)
        require("PIL.ImageDraw").Draw(line).text((0, 0), text, 255, _font(size))
        turned = line.rotate(90, expand=True)
        self._image.paste(color, (x - tall // 2, y - turned.height), turned)

    def line(self, x: int, y: int, width: int, color: tuple = FAINT) -> None:
        """Draw a thin horizontal line."""
        self._draw.line((x, y, x + width, y), color)

    def path(self, points: list[tuple[float, float]], color: tuple = INK, width: int = 2) -> None:
        """Draw a line through points."""
        self._draw.line(points, color, width, joint="curve")

    def box(self, x: int, y: int, width: int, height: int, color: tuple) -> None:
        """Fill a rectangle."""
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), color)

    def pixels(self) -> np.ndarray:
        """8-bit colours (height, width, 3)."""
        return np.asarray(self._image)

    def save(self, path: str | Path) -> None:
        """Write the page as PNG; ``path`` is the old file or the new one, never a part."""
        save(self.pixels(), path)


def text_width(text: str, size: int) -> float:
    """How wide a line of text is."""
    return _font(size).getlength(text)


def can_write(text: str) -> bool:
    """Whether there is a letter for each character of a line: there is none for ideographs, for example."""
    font = _font(16)
    missing = bytes(font.getmask("\uffff"))
    return text.isprintable() and all(bytes(font.getmask(one)) != missing for one in text)


def wrap(text: str, size: int, width: float) -> list[str]:
    """``text`` in lines of at most ``width``, broken between words, and within those that are wider."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and text_width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return lines


@lru_cache
def _font(size: int) -> Any:
    """DejaVu Sans, which matplotlib brings: Pillow's own has neither a minus sign nor Greek letters."""
    path = Path(require("matplotlib").get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return require("PIL.ImageFont").truetype(str(path), size)


def save(picture: np.ndarray, path: str | Path, *, sync: bool = True) -> None:
    """Write colours (height, width, 3) or greys (height, width) as PNG.

    ``path`` is the old file or the new one, never a part; with ``sync`` even if the machine stops.

    Raises:
        ValueError: ``path`` is named as another kind of file.
    """
    path = Path(path)
    check_suffix("path", path, (".png",))
    buffer = io.BytesIO()
    require("PIL.Image").fromarray(picture).save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue(), sync=sync)
