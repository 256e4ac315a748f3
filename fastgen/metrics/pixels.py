"""Distances of two sets of images by their pixels: no network, so that they are cheap and always at hand.

They see where intensity lies, how much contrast there is, and how much images differ; they do not see what images show.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_integer, check_numbers
from .distances import kernel_distance

SIDE = 8
"""Images are averaged to so many pixels along each side, at most."""


def pixel_features(values: Tensor, levels: int) -> Tensor:
    """Means of pixels v / (levels − 1) over the cells of a grid of at most 8 × 8, and of their contrast |x − its mean|.

    Args:
        values: images (N, C, H, W), integers in [0, levels).
        levels: values of a pixel.

    Returns:
        float64 (N, 2·C·h·w), h and w the smaller of 8 and the side.
    """
    check_numbers("values", values, ("N", "C", "H", "W"))
    x = values.double() / (check_integer("levels", levels, 2) - 1)
    size = (min(SIDE, x.shape[2]), min(SIDE, x.shape[3]))
    contrast = (x - F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)).abs()
    return torch.cat([F.adaptive_avg_pool2d(part, size).flatten(1) for part in (x, contrast)], dim=1)


def pixel_distance(real: Tensor, drawn: Tensor, levels: int, subsets: int = 10, seed: int = 0) -> float:
    """``kernel_distance`` of ``pixel_features``, around the real ones' mean and in their spread; about 0 for one law.

    Args:
        real: images (N, C, H, W), integers in [0, levels).
        drawn: images (M, C, H, W), likewise.
        levels: values of a pixel.
        subsets: pairs of subsets that it is a mean of.
        seed: of the subsets.
    """
    a, b = pixel_features(real, levels), pixel_features(drawn, levels)
    mean = a.mean(0)
    spread = (a - mean).square().mean().sqrt().clamp(min=1e-3)
    return kernel_distance((a - mean) / spread, (b - mean) / spread, subsets, seed=seed)[0]


def diversity(real: Tensor, drawn: Tensor, most: int = 500) -> float:
    """How far drawn images lie from each other, where 1 is how far real ones do: near 0 where all are alike.

    The mean Euclidean distance of two drawn images over that of two real ones; of the first ``most`` of each.

    Args:
        real: images (N, …), N > 1, or their features.
        drawn: images (M, …), M > 1, likewise.
        most: images of each set to compare with one another.

    Raises:
        ValueError: a set has one image only, or all real ones are alike.
    """
    spreads = []
    for name, images in (("real", real), ("drawn", drawn)):
        check_numbers(name, images)
        if len(images) < 2:
            raise ValueError(f"{name}: expected two images or more, got {len(images)}")
        spreads.append(torch.pdist(images[: check_integer("most", most, 2)].flatten(1).double()).mean())
    if spreads[0] == 0:
        raise ValueError("real: expected images that differ, got copies of one")
    return float(spreads[1] / spreads[0])
