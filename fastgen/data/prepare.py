"""What is made of every image before a model sees it: cropped, resized, made grey, in this order; nothing is random.

Each image by itself, so that what came first, or how many there are, changes none of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._checks import check_flag, check_integer, check_pair, describe
from .._extras import require
from ._memory import check_fits

LUMA = (19595, 38470, 7471)
"""ITU-R 601 weights of red, green and blue, in 65536ths: those of Pillow's mode L."""


@dataclass(frozen=True)
class Preparation:
    """How images are prepared; by default they stay as they are.

    Attributes:
        image_size: (H, W) to resize to, or one number for both: antialiased, by Pillow's Lanczos filter.
        crop: "none"; "centre", the largest centred part that has the shape of ``image_size``, or that is a square where
            there is none; or N, the centred square of N pixels.
        grey: ITU-R 601 luma in place of three colours.

    Raises:
        ValueError: a value is none of these; a crop of N pixels and an ``image_size`` that is no square.
    """

    image_size: int | Sequence[int] | None = None
    crop: str | int = "none"
    grey: bool = False

    def __post_init__(self) -> None:
        if self.image_size is not None:
            size: Any = self.image_size
            if isinstance(size, (tuple, list)) and len(size) == 1:
                (size,) = size
            object.__setattr__(self, "image_size", check_pair("image_size", size))
        crop = {"center": "centre"}.get(self.crop, self.crop) if isinstance(self.crop, str) else self.crop
        if crop not in ("none", "centre"):
            try:
                crop = check_integer("crop", int(crop) if isinstance(crop, str) else crop, 1)
            except ValueError as error:
                got = describe(self.crop)
                raise ValueError(f"crop: expected none, centre or a number of pixels, got {got}") from error
            if self.size is not None and self.size[0] != self.size[1]:
                size = f"image_size {self.size[0]} {self.size[1]}"
                raise ValueError(f"crop: expected none or centre, since {size} is no square, got {crop}")
        object.__setattr__(self, "crop", crop)
        object.__setattr__(self, "grey", check_flag("grey", self.grey))

    @property
    def size(self) -> tuple[int, int] | None:
        """``image_size`` as (H, W)."""
        return self.image_size  # type: ignore[return-value]

    def __bool__(self) -> bool:
        """Whether anything is done."""
        return self.size is not None or self.crop != "none" or self.grey

    def __str__(self) -> str:
        """What is done, in words; nothing where nothing is."""
        part = {"none": "", "centre": "cropped to the centre"}.get(
            str(self.crop), f"cropped to {self.crop}x{self.crop}"
        )
        resized = "" if self.size is None else f"resized to height {self.size[0]} and width {self.size[1]}"
        if self.size is not None and self.size[0] == self.size[1]:
            resized = f"resized to {self.size[0]}x{self.size[1]}"
        return ", ".join(filter(None, [part, resized, "grey" if self.grey else ""]))

    def image(self, values: np.ndarray, levels: int, place: str) -> np.ndarray:
        """One image, prepared.

        Args:
            values: (H, W) or (H, W, 3) uint8, in [0, levels).
            levels: of the image; its prepared values have as many.
            place: what image it is, for messages.

        Raises:
            ValueError: it is smaller than the crop.
        """
        rows, columns = self._box(values.shape[0], values.shape[1], place)
        values = values[rows, columns]
        if self.size is not None and self.size != values.shape[:2]:
            values = _resized(values, levels, self.size)
        return luma(values) if self.grey and values.ndim == 3 else values

    def images(self, values: np.ndarray, levels: int, place: str) -> np.ndarray:
        """Images (N, C, H, W) uint8 in [0, levels), each of them prepared."""
        if not self or not len(values):
            return values
        if levels > 256:
            raise ValueError(f"{place}: expected no preparation of more than 256 levels, which are codes, got {self}")
        self.check_fits(place, len(values))
        first = _channels_first(self.image(_channels_last(values[0]), levels, place))
        check_fits(f"{place}, {self}", len(values) * first.nbytes)
        found = np.empty((len(values), *first.shape), np.uint8)
        for image, prepared in zip(values, found, strict=True):
            prepared[:] = _channels_first(self.image(_channels_last(image), levels, place))
        return found

    def stretches(self, height: int, width: int) -> bool:
        """Whether an image is resized to another shape than it has, by more than a pixel."""
        if self.size is None or self.crop != "none":
            return False
        down, across = self.size
        return abs(height * across - width * down) > max(down, across)

    def check_fits(self, place: str, n: int) -> None:
        """Raise ValueError if ``n`` images of ``image_size`` do not fit into memory: found out before the first."""
        if self.size is not None:
            check_fits(place, n * self.size[0] * self.size[1])

    def _box(self, height: int, width: int, place: str) -> tuple[slice, slice]:
        """Rows and columns of the part that is kept."""
        tall, wide = height, width
        if isinstance(self.crop, int):
            if self.crop > min(height, width):
                raise ValueError(
                    f"{place}: expected {self.crop} pixels or more on each side, for the crop, got {width}x{height}"
                )
            tall = wide = self.crop
        elif self.crop == "centre":
            down, across = self.size or (1, 1)
            tall = min(height, max(1, round(width * down / across)))
            wide = min(width, max(1, round(height * across / down)))
        top, left = (height - tall) // 2, (width - wide) // 2
        return slice(top, top + tall), slice(left, left + wide)


AS_IT_IS = Preparation()
"""Nothing is done."""


def luma(values: np.ndarray) -> np.ndarray:
    """Grey (H, W) of colours (H, W, 3), as Pillow's mode L has it."""
    red, green, blue = (weight * values[..., index].astype(np.uint32) for index, weight in enumerate(LUMA))
    return ((red + green + blue + 0x8000) >> 16).astype(np.uint8)


def _resized(values: np.ndarray, levels: int, size: tuple[int, int]) -> np.ndarray:
    """Values in as many levels; few are spread over 8 bits meanwhile, since Pillow rounds between its two passes."""
    top, pillow = levels - 1, require("PIL.Image")
    wide = ((np.arange(levels) * 510 + top) // (2 * top)).astype(np.uint8)
    back = ((np.arange(256) * 2 * top + 255) // 510).astype(np.uint8)
    picture = pillow.fromarray(values if top == 255 else wide[values])
    resized = np.asarray(picture.resize(size[::-1], pillow.Resampling.LANCZOS))
    return resized if top == 255 else back[resized]


def _channels_last(image: np.ndarray) -> np.ndarray:
    """(C, H, W) as (H, W), or (H, W, 3)."""
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def _channels_first(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) as (C, H, W)."""
    return np.atleast_3d(image).transpose(2, 0, 1)
