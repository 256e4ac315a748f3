"""What nearest neighbours say of two sets: copies, how much of a set is real, and how much of the real it covers."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .._checks import check_device, check_finite, check_integer, check_number, check_numbers

BLOCK = 8192
"""Examples to which distances are in memory at once, at most."""
DISTANCES = 2**23
"""Distances that are in memory at once, at most, and numbers of the examples to which they are."""


def nearest(images: Tensor, among: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """For each image the ``k`` nearest ``among`` others, by Euclidean distance of their values.

    Args:
        images: (N, C, H, W).
        among: (M, C, H, W); of several that are equally near the first.
        k: how many.

    Returns:
        (indices int64 (N, k), distances (N, k)), nearest first.
    """
    check_numbers("images", images, ("N", "C", "H", "W"))
    check_numbers("among", among, ("M", *images.shape[1:]))
    check_device("among", among, "images", images)
    k = check_integer("k", k)
    if not 1 <= k <= len(among):
        raise ValueError(f"k: expected 1 to {len(among)}, the number of images to choose from, got {k}")
    best = images.new_full((len(images), k), math.inf, dtype=torch.float64)
    indices = torch.zeros_like(best, dtype=torch.int64)
    for first, squares in _squares(images.flatten(1), among.flatten(1)):
        both = torch.cat([best, squares], dim=1)
        best, order = (found[:, :k] for found in both.sort(dim=1, stable=True))
        there = torch.arange(first, first + squares.shape[1], device=best.device).expand(len(images), -1)
        indices = torch.cat([indices, there], dim=1).gather(1, order)
    return indices, best.clamp(min=0).sqrt()


def precision_recall(real: Tensor, drawn: Tensor, k: int = 3) -> tuple[float, float]:
    """Precision, how much of what is drawn is real; and recall, how much of what is real is drawn.

    A set's manifold is the union of the balls around its examples that reach to their k-th nearest neighbour in it.
    Precision is the share of ``drawn`` in the manifold of ``real``; recall is that of ``real`` in that of ``drawn``.

    Args:
        real: features (N, D).
        drawn: features (M, D). Both numbers depend on N and M: take as many of each.
        k: neighbours, beside the example itself.

    Returns:
        (precision, recall), in [0, 1].

    Raises:
        ValueError: shapes do not fit, a number is not finite, or there are no k neighbours.
        TypeError: no tensors of real numbers.

    Source: Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1-3.
    """
    _check_sets(real, drawn, k)
    return Neighbourhoods(real, k, k).of(drawn)[:2]


def density_coverage(real: Tensor, drawn: Tensor, k: int = 5) -> tuple[float, float]:
    """Density, in how many balls of real examples a drawn one lies; and coverage, how many of these balls hold any.

    The balls reach from each real example to its k-th nearest real neighbour. Outliers among what is drawn count for
    neither, which is what recall suffers from.

    Args:
        real: features (N, D).
        drawn: features (M, D).
        k: neighbours, beside the example itself.

    Returns:
        (density, coverage): density is divided by k, about 1 for two sets of the same law, and may be above;
        coverage is in [0, 1].

    Raises:
        ValueError: shapes do not fit, a number is not finite, or there are no k neighbours.
        TypeError: no tensors of real numbers.

    Source: Naeem et al. 2020, arXiv:2002.09797, eq. 3-4.
    """
    _check_sets(real, drawn, k)
    return Neighbourhoods(real, k, k).of(drawn)[2:]


class Neighbourhoods:
    """The balls around real examples, which any number of drawn sets are held against.

    Equivalent to:
        ``precision_recall(real, drawn, k)`` and ``density_coverage(real, drawn, coverage_k)``, but no distance is
        computed twice.

    Args:
        real: features (N, D).
        k: neighbours of precision and recall.
        coverage_k: neighbours of density and coverage.

    Raises:
        ValueError: a number is not finite, or there are not so many neighbours.
        TypeError: no tensor of real numbers.
    """

    def __init__(self, real: Tensor, k: int = 3, coverage_k: int = 5) -> None:
        self.k, self.coverage_k = check_integer("k", k, 1), check_integer("coverage_k", coverage_k, 1)
        _check_sets(real, real, max(self.k, self.coverage_k))
        self.real = real
        self._radii, self._coverage_radii = _radii_of(real, self.k, self.coverage_k)

    def of(self, drawn: Tensor) -> tuple[float, float, float, float]:
        """(precision, recall, density, coverage) of what is drawn.

        Args:
            drawn: features (M, D).

        Raises:
            ValueError: the shape does not fit, a number is not finite, or there are no k neighbours.
            TypeError: no tensor of real numbers.
        """
        _check_sets(self.real, drawn, self.k)
        (drawn_radii,) = _radii_of(drawn, self.k)
        precise = drawn.new_zeros(len(drawn), dtype=torch.bool)
        recalled, covered = (drawn.new_zeros(len(self.real), dtype=torch.bool) for _ in range(2))
        inside = 0
        for first, squares in _squares(drawn, self.real):  # [M, block of real]
            part = slice(first, first + squares.shape[1])
            precise |= (squares <= self._radii[part]).any(dim=1)
            recalled[part] = (squares <= drawn_radii[:, None]).any(dim=0)
            there = squares <= self._coverage_radii[part]
            inside += int(there.sum())
            covered[part] = there.any(dim=0)
        shares = [float(each.double().mean()) for each in (precise, recalled, covered)]
        return shares[0], shares[1], inside / (self.coverage_k * len(drawn)), shares[2]


def copy_rate(drawn: Tensor, test: Tensor, train: Tensor, quantile: float = 0.01) -> float:
    """How much of what is drawn is nearer to the training set than real examples are that were not trained on.

    Nearer than the nearest ``quantile`` of them, by the distance to the nearest training example: of a model that
    copies nothing about ``quantile`` is, and of one that knows its training set by heart everything.

    Args:
        drawn: features (N, D).
        test: features (M, D) of real examples that were not trained on.
        train: features (K, D) of those that were.
        quantile: of the distances of ``test``, in [0, 1]; with M of them it is known to about √(quantile / M).

    Returns:
        The share, in [0, 1].

    Raises:
        ValueError: shapes do not fit, a number is not finite, or a set is empty.
        TypeError: no tensors of real numbers.

    Source: Meehan et al. 2020, arXiv:2004.05675, which compares the same two laws of distances.
    """
    check_finite("train", check_numbers("train", train, ("K", "D")))
    for name, features in (("drawn", drawn), ("test", test)):
        check_finite(name, check_numbers(name, features, ("N", train.shape[1])))
        check_device(name, features, "train", train)
    if not (len(drawn) and len(test) and len(train)):
        got = ", ".join(map(str, (len(drawn), len(test), len(train))))
        raise ValueError(f"drawn, test, train: expected one example or more of each, got {got}")
    near = _to_nearest(test, train).quantile(check_number("quantile", quantile, 0, 1))
    return float((_to_nearest(drawn, train) < near).double().mean())


def _to_nearest(points: Tensor, among: Tensor) -> Tensor:
    """Distance of each of ``points`` to the nearest ``among`` others, float64 (N,)."""
    best = points.new_full((len(points),), math.inf, dtype=torch.float64)
    for _, squares in _squares(points, among):
        best = torch.minimum(best, squares.amin(dim=1))
    return best.clamp(min=0).sqrt()


def _squares(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Squared distances float64 (N, ·) of all of ``a`` to blocks of ``b``, with the first index of each."""
    origin = b[:1].double()  # near it nothing cancels
    a = a.double() - origin
    step = max(1, min(BLOCK, DISTANCES // max(1, *a.shape)))
    for first in range(0, len(b), step):
        part = b[first : first + step].double() - origin
        yield first, (a**2).sum(1, keepdim=True) - 2 * a @ part.T + (part**2).sum(1)


def _radii_of(features: Tensor, *ks: int) -> Iterator[Tensor]:
    """Squared distance of each example to its k-th nearest neighbour, itself not counted, for each k."""
    best = features.new_full((len(features), max(ks)), math.inf, dtype=torch.float64)
    for first, squares in _squares(features, features):
        own = torch.arange(squares.shape[1], device=squares.device)
        squares[first + own, own] = math.inf
        best = torch.cat([best, squares], dim=1).topk(max(ks), largest=False).values  # nearest first
    return (best[:, k - 1] for k in ks)


def _check_sets(real: Tensor, drawn: Tensor, k: int) -> None:
    check_finite("real", check_numbers("real", real, ("N", "D")))
    check_finite("drawn", check_numbers("drawn", drawn, ("M", real.shape[1])))
    check_device("drawn", drawn, "real", real)
    k = check_integer("k", k, 1)
    for name, features in (("real", real), ("drawn", drawn)):
        if len(features) <= k:
            raise ValueError(f"{name}: expected more than k = {k} examples, got {len(features)}")
