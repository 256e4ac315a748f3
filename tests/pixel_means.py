"""A model in one file, as someone would add it: what tests of its options train, sample and evaluate."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen._philox import uniforms
from fastgen.models import Model


class PixelMeans(Model):
    """Pixel means, nobody 1900: independent pixels, of each class if it is told them.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        rank: of the table of ``logits``, a multiple
            of the colours.
        first: weights to begin with.
        cooling: what logits are divided by.
        classes: number of classes, or None.
        image_size: one size or (H, W).
    """

    recipes: ClassVar = {"paper": {"rank": 10, "epochs": 1}, "small": {"rank": 5, "first": "ones", "lr": 0.5}}
    by_color = ("rank",)

    @classmethod
    def arguments(cls, heat: float = 1.0, image_size: Any = 8) -> dict[str, Any]:
        """An option that is the inverse of an argument.

        Args:
            heat: one over the cooling;
                it is 1 in the paper.
            image_size: of the data.
        """
        if not heat > 0:
            raise ValueError(f"heat: expected a positive number, got {heat}")
        return {"cooling": 1 / heat}

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 2,
        rank: int = 4,
        first: Literal["zeros", "ones"] = "zeros",
        cooling: float = 1.0,
        classes: int | None = None,
        image_size: int | tuple[int, int] = 8,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size)
        self.rank, self.first, self.cooling = rank, first, cooling
        dims = in_channels * self.sides[0] * self.sides[1]
        self.rows = nn.Parameter(getattr(torch, first)(classes or 1, rank))
        self.columns = nn.Parameter(torch.randn(rank, dims * levels))

    def logits(self, n: int, labels: Tensor | None) -> Tensor:
        """(N, C, H, W, levels)"""
        rows = self.rows[torch.zeros(n, dtype=torch.int64) if labels is None else labels]
        shape = (self.in_channels, *self.sides, self.levels)
        return (rows @ self.columns).unflatten(1, shape) / self.cooling

    def losses(self, values: Tensor, condition: Any = None, progress: float = 1.0) -> dict[str, Tensor]:
        """{"nats": −log p(x)}, (N,)."""
        logits = self.logits(len(values), None if self.classes is None else condition).movedim(-1, 1)
        return {"nats": F.cross_entropy(logits, values, reduction="none").flatten(1).sum(1)}

    def sample(self, n: int, seed: int = 0, labels: Tensor | None = None, first: int = 0, **_: Any) -> Tensor:
        """int64 (n, C, H, W)"""
        shape = (self.in_channels, *self.sides)
        below = self.logits(n, labels).softmax(-1).cumsum(-1)[..., :-1]
        return (uniforms(seed, n, shape, first=first)[..., None] > below).sum(-1)
