"""A sheet of paper for pictures, lines and text, and the files that pictures go to."""

import io
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .._extras import require
from .._files import check_suffix, write_atomic
from .grids import PAPER

INK = (28, 30, 34)
"""Colour of text."""
FAINT = (120, 125, 133)
"""Colour of small print and thin lines."""


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


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a matplotlib figure as PNG; ``path`` is the old file or the new one, never a part.

    Raises:
        ValueError: ``path`` is named as another kind of file.
    """
    path = Path(path)
    check_suffix("path", path, (".png",))
    require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
