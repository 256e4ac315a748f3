"""Pictures after one another, as an animated GIF, which every browser and viewer shows."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._extras import require
from .._files import check_suffix, write_atomic

SECONDS = 8.0
"""Of an animation with many frames; few are shown for half a second each."""
MOST = 3_000_000
"""Bytes of a file: of more, pictures are made smaller."""


def save_animation(frames: Sequence[np.ndarray], path: str | Path, most: int = MOST) -> None:
    """Write pictures as an animated GIF that begins again after a pause; ``path`` is the old file or the new one.

    Args:
        frames: 8-bit colours (height, width, 3) of one size.
        path: ends in .gif.
        most: bytes; of a larger file the pictures are halved until it is none.

    Raises:
        ValueError: there is no picture, or they differ in size.
    """
    check_suffix("path", Path(path), (".gif",))
    if not frames or any(frame.shape != frames[0].shape for frame in frames):
        raise ValueError(f"frames: expected pictures of one size, got {sorted({frame.shape for frame in frames})}")
    images = [require("PIL.Image").fromarray(frame) for frame in frames]
    pace = min(500, round(1000 * SECONDS / len(images)))
    content = _gif(images, pace)
    while len(content) > most and min(images[0].size) > 64:
        images = [image.reduce(2) for image in images]
        content = _gif(images, pace)
    write_atomic(Path(path), content)


def _gif(images: list[Any], pace: int) -> bytes:
    image = require("PIL.Image")
    drawn = [one.quantize(128, dither=image.Dither.NONE) for one in images]
    held = io.BytesIO()
    times = [pace] * (len(drawn) - 1) + [pace + 1500]
    drawn[0].save(held, "GIF", save_all=True, append_images=drawn[1:], duration=times, loop=0, optimize=False)
    return held.getvalue()
