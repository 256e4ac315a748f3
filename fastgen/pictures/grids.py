"""Images as pixels of a picture: colours, grids, and their order."""

import math

import numpy as np
from torch import Tensor

PAPER = (255, 255, 255)
"""Colour of the paper."""
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
