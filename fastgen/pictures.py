"""Images of images: grids on a page, written as PNG."""

import io
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


def grid(images: np.ndarray, columns: int, scale: int | None = None, gap: int = 2, paper: tuple = PAPER) -> np.ndarray:
    """Lay images (N, H, W, 3) out in rows of ``columns``.

    Args:
        images: 8-bit colours.
        columns: images in a row.
        scale: side of a pixel in the result; by default images are about 64 pixels wide.
        gap: pixels of ``paper`` between images, and around them.
        paper: colour between them.

    Returns:
        (height, width, 3) 8-bit colours.
    """
    n, height, width, _ = images.shape
    scale = scale or max(1, round(64 / max(height, width)))
    rows, tall, wide = -(-n // columns), height * scale + gap, width * scale + gap
    page = np.full((rows * tall + gap, columns * wide + gap, 3), paper, np.uint8)
    for index, image in enumerate(images.repeat(scale, axis=1).repeat(scale, axis=2)):
        top, left = index // columns * tall + gap, index % columns * wide + gap
        page[top : top + tall - gap, left : left + wide - gap] = image
    return page


def head(picture: np.ndarray, titles: list[str]) -> np.ndarray:
    """``picture`` (height, width, 3) with a title above each of ``len(titles)`` columns, cut to what fits."""
    tall, size = 18, 12
    page = Page(picture.shape[1], tall + picture.shape[0])
    wide = picture.shape[1] / len(titles)
    for index, title in enumerate(titles):
        while len(title) > 1 and page.width(title, size) > wide - 4:
            title = title.rstrip("…")[:-1] + "…" if len(title) > 2 else title[:1]
        page.text(round((index + 0.5) * wide), tall // 2, title, size, anchor="mm")
    page.picture(0, tall, picture)
    return page.pixels()


def in_turn(rows: list[np.ndarray], columns: int) -> np.ndarray:
    """Images in the order in which ``grid`` lays row under row: ``columns`` of each of ``rows``, then the next ones.

    Args:
        rows: images (N, H, W, 3) each, which belong together by their index.
        columns: of the grid.
    """
    if len(rows) == 1:
        return rows[0]
    blank = np.full((-len(rows[0]) % columns, *rows[0].shape[1:]), PAPER, np.uint8)
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
        self._draw.text((x, y), text, color, self._font(size), anchor=anchor)

    def width(self, text: str, size: int) -> float:
        """How wide a line of text is."""
        return self._draw.textlength(text, self._font(size))

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

    @staticmethod
    def _font(size: int) -> Any:
        return require("PIL.ImageFont").load_default(size)


def save(picture: np.ndarray, path: str | Path) -> None:
    """Write colours (height, width, 3) as PNG; ``path`` is the old file or the new one, never a part.

    Raises:
        ValueError: ``path`` is named as another kind of file.
    """
    path = Path(path)
    check_suffix("path", path, (".png",))
    buffer = io.BytesIO()
    require("PIL.Image").fromarray(picture).save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())
