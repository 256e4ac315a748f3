"""Images from images: what of an image is given, and what of it is drawn.

    nats(image) = nats(given) + nats(drawn | given)

``Grey`` gives the luma and leaves two colours of chroma to draw, ``Downsampled`` gives the means of squares,
``Subsampled`` some of the pixels themselves. Each of them loses nothing: given and drawn together are the image.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_integer, check_values, describe
from .dataset import Dataset
from .storage import LARGEST, dtype_of


@dataclass(frozen=True)
class Given:
    """What of an image is given to a model that draws the rest of it."""

    name: ClassVar[str]
    """On the command line, before ":K" where there is one."""

    def __str__(self) -> str:
        return self.name

    def drawn_levels(self, levels: int) -> int:
        """How many levels that have which are drawn, of an image of ``levels``."""
        return levels

    def image_levels(self, levels: int) -> int:
        """``drawn_levels``, the other way."""
        return levels

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of an image of which ``shape`` is drawn."""
        return shape

    def given_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C', H', W') that is given of an image (C, H, W).

        Raises:
            ValueError: there is nothing to give of such an image.
        """
        raise NotImplementedError

    def split(self, values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        """An image in two parts.

        Args:
            values: integers (N, C, H, W) in [0, levels).
            levels: 2 or more.

        Returns:
            (what is drawn, integers in [0, drawn_levels) as data sets have them; what is given, float32 (N, C', H', W')
            in [−1, 1]).

        Raises:
            ValueError: the values are out of range, or images of another kind.
        """
        check_values(values, levels)
        self._check(tuple(values.shape[1:]), levels)
        return self._split(values.to(_signed(levels)), levels)

    def join(self, drawn: Tensor, given: Tensor, levels: int) -> Tensor:
        """Images (N, C, H, W) in [0, levels), as data sets have them, of two parts: ``split``, the other way."""
        return drawn.to(dtype_of(levels))

    def tell(self, values: Tensor, levels: int) -> Tensor:
        """Values (N, C', H', W') in [0, levels), of which a map is made that is given, float32 in [−1, 1]."""
        return values.to(torch.float32).mul_(2 / (levels - 1)).sub_(1)

    def shown(self, given: Tensor, size: tuple[int, int]) -> Tensor:
        """A given map as a picture: uint8 (N, C', H, W) in [0, 256), ``size`` (H, W)."""
        values = ((given.double() + 1) * 127.5).round().clamp_(0, 255).to(torch.uint8)
        return values.repeat_interleave(size[0] // given.shape[2], 2).repeat_interleave(size[1] // given.shape[3], 3)

    def prepare(self, images: Dataset) -> Dataset:
        """The images as a model has them: what is drawn are the values, what is given the condition.

        Raises:
            ValueError: there is nothing to give of such images; they have a condition of their own.
        """
        if images.condition is not None:
            raise ValueError(f"given: expected images without a condition of their own, got {images.name}")
        drawn, given = self.split(images.values, images.levels)
        note = f"{images.name}: {self.words}"
        return replace(
            images,
            values=drawn,
            levels=self.drawn_levels(images.levels),
            condition=given,
            description=f"{images.description}; {self.words}",
            notes=(*images.notes, note),
        )

    def restore(self, images: Dataset) -> Dataset:
        """Whole images, without a condition: ``prepare``, the other way."""
        told, levels = images.condition, self.image_levels(images.levels)
        if not isinstance(given := told["map"] if isinstance(told, dict) else told, Tensor):
            raise ValueError(f"given: expected images whose condition is a map, got {images.name}")
        return replace(images, values=self.join(images.values, given, levels), levels=levels, condition=None)

    @property
    def words(self) -> str:
        """What is given, and what is drawn."""
        raise NotImplementedError

    def _check(self, shape: tuple[int, ...], levels: int) -> None:
        self.given_shape(shape)  # type: ignore[arg-type]

    def _split(self, values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


@dataclass(frozen=True)
class Grey(Given):
    """The luma is given, the chroma drawn: YCoCg-R, which loses nothing.

        Co = R − B,  t = B + ⌊Co / 2⌋,  Cg = G − t,  Y = t + ⌊Cg / 2⌋
                                   Malvar and Sullivan 2003, "YCoCg-R: A Color Space with RGB Reversibility", JVT-I014

    Y has the levels L of a colour, and is given; Co and Cg have 2L − 1, and are drawn as two colours, L − 1 added so
    that they are not negative.
    """

    name = "grey"

    def drawn_levels(self, levels: int) -> int:
        return 2 * levels - 1

    def image_levels(self, levels: int) -> int:
        return (levels + 1) // 2

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return 3, *shape[1:]

    def given_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if shape[0] != 3:
            raise ValueError(f"given: expected images of three colours for grey, got images of {shape[0]}")
        return 1, *shape[1:]

    @property
    def words(self) -> str:
        return "luma given, chroma drawn"

    def join(self, drawn: Tensor, given: Tensor, levels: int) -> Tensor:
        """Images of two parts; a colour that is none of RGB's, which no image has, is cut to [0, levels)."""
        co, cg = (drawn.to(_signed(levels)) - (levels - 1)).unbind(1)
        y = ((given[:, 0].double() + 1) * ((levels - 1) / 2)).round().to(co.dtype)
        t = y - (cg >> 1)
        blue = t - (co >> 1)
        rgb = torch.stack([blue + co, cg + t, blue], dim=1)
        return rgb.clamp_(0, levels - 1).to(dtype_of(levels))

    def _check(self, shape: tuple[int, ...], levels: int) -> None:
        super()._check(shape, levels)
        if self.drawn_levels(levels) > LARGEST:
            raise ValueError(f"given: expected at most {LARGEST // 2} levels for grey, got {levels}")

    def _split(self, values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        red, green, blue = values.unbind(1)
        co = red - blue
        t = blue + (co >> 1)
        cg = green - t
        chroma = torch.stack([co, cg], dim=1) + (levels - 1)
        return chroma.to(dtype_of(self.drawn_levels(levels))), self.tell((t + (cg >> 1))[:, None], levels)


@dataclass(frozen=True)
class _Smaller(Given):
    """A smaller image is given.

    Attributes:
        factor: K, how many times smaller, on each side.
    """

    factor: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", check_integer("given: factor", self.factor, 2))

    def __str__(self) -> str:
        return f"{self.name}:{self.factor}"

    def given_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        colors, height, width = shape
        if height % self.factor or width % self.factor:
            raise ValueError(f"given: expected a divisor of the images' {height}x{width} pixels, got {self}")
        return colors, height // self.factor, width // self.factor


@dataclass(frozen=True)
class Downsampled(_Smaller):
    """The mean of each K×K square is given, a real number; all of the image is drawn."""

    name = "downsampled"

    @property
    def words(self) -> str:
        return f"means of {self.factor}x{self.factor} pixels given"

    def _split(self, values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        small = F.avg_pool2d(values.to(torch.float32), self.factor)
        return values.to(dtype_of(levels)), self.tell(small, levels)


@dataclass(frozen=True)
class Subsampled(_Smaller):
    """Every K-th pixel of every K-th row is given, from the first; the others are drawn.

    van den Oord et al. 2016, arXiv:1601.06759, section 3.6
    """

    name = "subsampled"

    @property
    def words(self) -> str:
        return f"one of {self.factor}x{self.factor} pixels given, the others drawn"

    def _split(self, values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        return values.to(dtype_of(levels)), self.tell(values[:, :, :: self.factor, :: self.factor], levels)


KINDS: dict[str, Any] = {kind.name: kind for kind in (Grey, Downsampled, Subsampled)}
"""By the words of the command line."""

EXPECTED = "grey, downsampled:K or subsampled:K"


def given_by(words: str) -> Given:
    """What is given, by its words: grey, downsampled:K or subsampled:K.

    Raises:
        ValueError: they are none of these.
    """
    name, colon, number = words.partition(":") if isinstance(words, str) else ("", "", "")
    kind = KINDS.get(name)
    if kind is Grey and not colon:
        return Grey()
    if kind in (None, Grey) or not number.isdecimal():
        raise ValueError(f"given: expected {EXPECTED}, got {describe(words)}")
    return kind(int(number))


def _signed(levels: int) -> torch.dtype:
    """What chroma of so many levels is computed in."""
    return torch.int16 if levels <= 2**13 else torch.int32
