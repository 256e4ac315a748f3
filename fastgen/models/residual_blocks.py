"""Residual blocks of generators and discriminators, which resample as they convolve.

    up      x ── [ norm, ReLU, ×2, 3×3 ] ── [ norm, ReLU, 3×3 ] ── +      beside it 1×1, ×2
    down    x ── [ norm, ReLU, 3×3 ] ── [ norm, ReLU, 3×3, ÷2 ] ── +      beside it ÷2, 1×1

×2 repeats pixels, ÷2 averages them. Repeating and then convolving is one transposed convolution of 4×4, stride 2;
convolving and then averaging is one convolution of 4×4, stride 2: the same numbers to rounding, from the same 3×3
weights, by 16 products for four pixels where there were 36.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model import check_positive

Norm = Callable[[int], nn.Module]
"""Channels → a layer that normalises them."""


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose scale and shift are each class's own: γ_y·x̂ + β_y, which begin as 1 and 0.

    Equivalent to:
        γ(y)[:, :, None, None] * nn.BatchNorm2d(channels, affine=False)(x) + β(y)[:, :, None, None]

    Args:
        channels: C.
        classes: number of classes.

    Source: Dumoulin et al. 2017, arXiv:1610.07629, eq. 5; in generators, Miyato and Koyama 2018, arXiv:1802.05637.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        check_positive(channels=channels, classes=classes)
        self.normalize = nn.BatchNorm2d(channels, affine=False)
        self.weight = nn.Embedding(classes, channels)
        self.bias = nn.Embedding(classes, channels)
        nn.init.ones_(self.weight.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(N, C, H, W), labels int64 (N,) → (N, C, H, W)"""
        weight, bias = (each(labels)[:, :, None, None] for each in (self.weight, self.bias))
        return torch.addcmul(bias, weight, self.normalize(x))


class UpsampledConv2d(nn.Conv2d):
    """Repeat each pixel twice in both directions, then convolve 3×3: (N, C, H, W) → (N, D, 2H, 2W).

    Equivalent to:
        nn.Conv2d(inputs, outputs, 3, padding=1)(F.pad(F.interpolate(x, scale_factor=2), (0, odd[1], 0, odd[0])))

    Args:
        inputs: C.
        outputs: D.
        odd: rows and columns, 0 or 1 of each, that the result has beyond 2H and 2W.
    """

    def __init__(self, inputs: int, outputs: int, odd: tuple[int, int] = (0, 0)) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.odd = odd

    def forward(self, input: Tensor) -> Tensor:
        weight = _spread(self.weight.flip(2, 3)).transpose(0, 1)
        return F.conv_transpose2d(input, weight, self.bias, stride=2, padding=1, output_padding=self.odd)


class PooledConv2d(nn.Conv2d):
    """Convolve 3×3, then average 2×2 pixels: (N, C, H, W) → (N, D, ⌊H/2⌋, ⌊W/2⌋).

    Equivalent to:
        F.avg_pool2d(nn.Conv2d(inputs, outputs, 3, padding=1)(x), 2)
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, _spread(self.weight) / 4, self.bias, stride=2, padding=1)


class UpBlock(nn.Module):
    """A generator's block: (N, C, H, W), and labels where its norms read them → (N, D, 2H, 2W).

    Args:
        inputs: C.
        outputs: D.
        norm: of both normalisations.
        odd: rows and columns beyond 2H and 2W.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, odd: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.odd = odd
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.conv1 = begun(UpsampledConv2d(inputs, outputs, odd))
        self.conv2 = begun(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = begun(nn.Conv2d(inputs, outputs, 1), relu=False)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        told = () if labels is None else (labels,)
        h = self.conv1(F.relu(self.norm1(x, *told)))
        h = self.conv2(F.relu(self.norm2(h, *told)))
        beside = F.interpolate(self.shortcut(x), scale_factor=2)  # a 1×1 convolution is cheaper before than after
        return h + F.pad(beside, (0, self.odd[1], 0, self.odd[0])) if any(self.odd) else h + beside


class DownBlock(nn.Module):
    """A discriminator's block: (N, C, H, W) → (N, D, ⌊H/2⌋, ⌊W/2⌋), or (N, D, H, W) where it does not pool.

    Args:
        inputs: C.
        outputs: D.
        norm: of both normalisations.
        pools: whether it halves the sides.
        first: of a network: what it reads is an image, which is neither normalised nor cut by a ReLU.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, pools: bool = True, first: bool = False) -> None:
        super().__init__()
        self.pools, self.first = pools, first
        inner = outputs if first else inputs
        self.norm1, self.norm2 = (nn.Identity(), nn.Identity()) if first else (norm(inputs), norm(inner))
        self.conv1 = begun(nn.Conv2d(inputs, inner, 3, padding=1))
        self.conv2 = begun(PooledConv2d(inner, outputs) if pools else nn.Conv2d(inner, outputs, 3, padding=1))
        same = inputs == outputs and not pools
        self.shortcut = nn.Identity() if same else begun(nn.Conv2d(inputs, outputs, 1), relu=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(self.norm1(x)))
        h = self.conv2(F.relu(self.norm2(h)))
        return h + self.shortcut(F.avg_pool2d(x, 2) if self.pools else x)


def begun(layer: nn.Module, relu: bool = True) -> nn.Module:
    """``layer``, with weights uniform and of standard deviation √(4 / (fan in + fan out)), without a ReLU before it
    √(2 / (fan in + fan out)), and without a bias to begin with.
    """
    nn.init.xavier_uniform_(layer.weight, math.sqrt(2) if relu else 1.0)  # type: ignore[arg-type]
    if isinstance(getattr(layer, "bias", None), Tensor):
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _spread(weight: Tensor) -> Tensor:
    """(D, C, 3, 3) → (D, C, 4, 4): the sum of itself at four places, each a pixel from the next."""
    across = F.pad(weight, (0, 1)) + F.pad(weight, (1, 0))
    return F.pad(across, (0, 0, 0, 1)) + F.pad(across, (0, 0, 1, 0))
