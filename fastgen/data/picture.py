"""Pictures as they are meant: upright, with all their bits and all their frames, nothing transparent; or refused."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._checks import listed
from .._extras import require
from ._memory import check_fits
from .prepare import Preparation

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Of Pillow's. No others are opened, whatever a file holds: some formats start programs."""

ORIENTATION = 0x0112
"""EXIF's tag of how a picture is to be turned: 2 to 8; 1 is upright."""


class Picture(NamedTuple):
    """A picture, and what was done to it.

    Attributes:
        values: uint8 (H, W) or (H, W, 3), or bool (H, W) where it has one bit per pixel.
        turned: whether it was turned upright.
        stretched: whether it was resized to another shape.
    """

    values: np.ndarray
    turned: bool
    stretched: bool = False


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
    if array.dtype == bool:
        array = np.where(array, True, False)  # the byte of a true one is 255 as Pillow has it
    return Picture(array, turned)


def read_pictures(files: list[Path], first: Path | None, prepare: Preparation) -> tuple[np.ndarray, int, int]:
    """All of ``files``, prepared, one array (N, C, H, W); how many were turned upright, and how many stretched.

    Those of the kind of ``first``, the first of them by default, fit; an error names the others.
    """
    prepare.check_fits(f"{files[0].parent}, {len(files):,} images", len(files))
    images: np.ndarray | None = None
    broken: dict[Path, ValueError] = {}
    turned, stretched, other_sizes, other_kinds = 0, 0, False, False
    like = None if first is None else _prepared(first, prepare)
    for index, file in enumerate(_progress(files)):
        try:
            picture = _prepared(file, prepare)
        except ValueError as error:
            broken[file] = error
            continue
        first, like = first or file, like or picture
        if picture.values.shape != like.values.shape or picture.values.dtype != like.values.dtype:
            got = f"expected {_describe(like)} as {first.name} is, got {_describe(picture)}"
            broken[file] = ValueError(f"{file}: {got}")
            other_sizes |= picture.values.shape[:2] != like.values.shape[:2]
            other_kinds |= picture.values.ndim != like.values.ndim
            continue
        values = np.atleast_3d(picture.values).transpose(2, 0, 1)
        if images is None:
            check_fits(f"{file.parent}, {len(files):,} images as {file.name}", len(files) * values.nbytes)
            images = np.empty((len(files), *values.shape), values.dtype)
        images[index] = values
        turned, stretched = turned + picture.turned, stretched + picture.stretched
    if broken:
        (_, cause), *others = broken.items()
        names = listed(str(file) for file, _ in others)
        more = f"; {len(broken)} of {len(files)} images do not fit, the others are {names}" if others else ""
        more += "; training with --image-size SIDE, or image_size=SIDE, makes all of one size" if other_sizes else ""
        more += "; with --grey, or grey=True, grey" if other_kinds else ""
        raise ValueError(f"{cause}{more}") from cause
    assert images is not None
    return images, turned, stretched


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


def _prepared(file: Path, prepare: Preparation) -> Picture:
    picture = read_picture(file)
    if not prepare:
        return picture
    bits = picture.values.dtype == bool
    values = prepare.image(picture.values.view(np.uint8), 2 if bits else 256, str(file))
    stretched = prepare.stretches(*picture.values.shape[:2])
    return Picture(values.astype(bool) if bits else values, picture.turned, stretched)


def _progress(files: list[Path]) -> Iterable[Path]:
    """The files, with a bar for a person to watch if they take longer than a moment."""
    return require("tqdm").tqdm(files, desc="reading", unit="picture", delay=2, leave=False, disable=None)


def _describe(picture: Picture) -> str:
    image = picture.values
    kind = "1-bit" if image.dtype == bool else "grey" if image.ndim == 2 else "RGB"
    return f"a {image.shape[1]}x{image.shape[0]} {kind} image"
