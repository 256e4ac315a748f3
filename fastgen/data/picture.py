"""One picture as it is meant: upright, with all of its bits, all of its frames, and nothing transparent; or refused."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._extras import require

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Of Pillow's. No others are opened, whatever a file holds: some formats start programs."""

ORIENTATION = 0x0112
"""EXIF's tag of how a picture is to be turned: 2 to 8; 1 is upright."""


class Picture(NamedTuple):
    """uint8 (H, W) or (H, W, 3), or bool (H, W) where it has one bit per pixel; and whether it was turned upright."""

    values: np.ndarray
    turned: bool


def read_picture(file: Path) -> Picture:
    """Read a picture, turned as its EXIF orientation says.

    Raises:
        ValueError: it cannot be read; is not black and white, grey or RGB of 8 bits; has several frames or pages, or
            transparent parts.
    """
    pillow, operations = require("PIL.Image"), require("PIL.ImageOps")
    try:
        with pillow.open(file, formats=FORMATS) as image:
            wrong = _wrong(image)
            turned = image.getexif().get(ORIENTATION, 1) in range(2, 9)
            if not wrong:
                image = operations.exif_transpose(image)
            mode, array = image.mode, np.asarray(image if image.mode != "P" else image.convert("RGB"))
    except Exception as error:  # pillow's decoders raise whatever they meet in a broken file
        raise ValueError(f"{file}: cannot be read as an image: {str(error)[:300]}") from error
    if wrong:
        raise ValueError(f"{file}: expected {wrong}")
    if mode == "P" and (array == array[..., :1]).all():
        array = array[..., 0]
    return Picture(array, turned)


def _wrong(image: Any) -> str:
    """What was expected and what came, where a picture is none that a model could be trained on; else nothing."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's: the picture, then previews of it
        return f"one picture in a file, got {frames} frames or pages; save the one that is meant"
    if image.mode not in ("1", "L", "RGB") and (image.format, image.mode) != ("GIF", "P"):
        return f"a grey or RGB image of 8 bits (mode L or RGB), got mode {image.mode}; convert it"
    if "transparency" in image.info:
        return "an opaque image, got one with a transparent colour; put it on a background"
    bits = _bits(image)
    if bits > 8:
        return f"8 bits in a channel, got {bits}; convert it, so that the values are scaled"
    return ""


def _bits(image: Any) -> int:
    """Bits in a channel of the file: Pillow's RGB is 8 bits even where the file has more."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,)))
    if image.format not in ("PNG", "PPM") or not image.tile:
        return 8
    arguments = image.tile[0][3]
    raw, maximum = arguments if isinstance(arguments, tuple) and len(arguments) == 2 else (arguments, 255)
    return 16 if ";16" in str(raw) or (isinstance(maximum, int) and maximum > 255) else 8
