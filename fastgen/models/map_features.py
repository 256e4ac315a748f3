"""m(h): features at every pixel of a map that a model is told, van den Oord et al. 2016, arXiv:1606.05328, section 2.3.

    map (N, C', H/K, W/K) ── 3×3 ── ReLU, K×K transposed ── [ + ReLU, 3×3, ReLU, 3×3 ] × layers ── features (N, p, H, W)

The features of a place have a root mean square below 1, s / √(1 + mean s²): such as grow without bound shut the gates
for good in the first steps. Nothing is masked: the whole map is known before the first pixel, so that a sampler
computes its features once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_integer
from .model import Model, check_positive


class MapFeatures(nn.Module):
    """A small residual network from a map to features of the size of the image.

    Args:
        shape: (C', H', W') of the map.
        size: (H, W) of the image, multiples of H' and W'.
        channels: of the features.
        layers: residual blocks.

    Raises:
        ValueError: H and W are no multiples.
    """

    def __init__(self, shape: tuple[int, int, int], size: tuple[int, int], channels: int, layers: int) -> None:
        super().__init__()
        inputs, height, width = shape
        if size[0] % height or size[1] % width:
            raise ValueError(f"condition_shape: expected height and width that divide {size}, got {shape}")
        step = size[0] // height, size[1] // width
        self.read = nn.Conv2d(inputs, channels, 3, padding=1)
        self.enlarge = nn.ConvTranspose2d(channels, channels, step, step)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), _convolution(channels), nn.ReLU(), _convolution(channels)) for _ in range(layers)
        )

    def forward(self, given: Tensor) -> Tensor:
        """Map (N, C', H', W') → features (N, p, H, W)."""
        s = self.enlarge(F.relu(self.read(given)))
        for block in self.blocks:
            s = s + block(s)
        return s * torch.rsqrt(1 + s.square().mean(dim=1, keepdim=True))


def _convolution(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1)


def check_map(shape: object, size: tuple[int, int] | None) -> tuple[int, int, int]:
    """(C', H', W') of a map that a model of images of ``size`` is told.

    Raises:
        ValueError: it is no such shape, or images may have any size.
    """
    if not isinstance(shape, (tuple, list)) or len(shape) != 3:
        raise ValueError(f"condition_shape: expected (C', H', W') or None, got {shape}")
    for each in shape:
        check_positive(condition_shape=each)
    if size is None:
        raise ValueError("image_size: expected (H, W) of a model that is told a map, got None")
    channels, height, width = (int(each) for each in shape)
    return channels, height, width


def check_subsampled(factor: object, model: Model) -> int:
    """K of a model whose map is every K-th pixel of every K-th row of its images.

    Raises:
        ValueError: the map is not of that shape.
    """
    factor, (height, width) = check_integer("subsampled", factor, 2), model.sides
    expected = model.in_channels, -(-height // factor), -(-width // factor)
    told = getattr(model, "condition_shape", None)
    if told != expected:
        raise ValueError(
            f"condition_shape: expected {expected}, one of {factor}x{factor} pixels of the images, got {told}"
        )
    return factor
