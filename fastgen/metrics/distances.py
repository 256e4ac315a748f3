"""Distances between two sets of features: by their first two moments, and by a kernel."""

import torch
from torch import Tensor

from .._checks import check_device, check_finite, check_integer, check_number, check_numbers


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of the Gaussians with the moments of two sets of features.

    d² = ‖μ_a − μ_b‖² + Tr(Σ_a + Σ_b − 2·(Σ_a·Σ_b)^½)

    Of the features of an Inception network it is called FID. It is biased: upwards, by about 1/N, so that only numbers
    of sets of the same sizes can be compared.

    Args:
        a: (N, D), N > D.
        b: (M, D), M > D.

    Returns:
        d², computed in float64, at least 0.

    Raises:
        ValueError: shapes do not fit, a number is not finite, or a set is so small that its covariance has no full
            rank.
        TypeError: no tensors of real numbers.

    Source: Dowson and Landau 1982; Heusel et al. 2017, arXiv:1706.08500, eq. 6.
    """
    _check_sets(a, b)
    for name, features in (("a", a), ("b", b)):
        if len(features) <= features.shape[1]:
            D = features.shape[1]
            raise ValueError(f"{name}: expected more than D = {D} examples, for a covariance, got {len(features)}")
    (mean_a, cov_a), (mean_b, cov_b) = _moments(a), _moments(b)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()  # Tr (Σ_a·Σ_b)^½
    return max(0.0, float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross))


def kernel_distance(a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Squared maximum mean discrepancy of two sets of features, with the kernel (x·y / D + 1)³, unbiased.

    Of the features of an Inception network it is called KID. Being unbiased, it may come out below zero.

    Args:
        a: (N, D).
        b: (M, D).
        subsets: how many pairs of subsets to draw; the mean over them is the estimate.
        size: examples of a subset; at most as many as the smaller set has.
        seed: of the subsets.

    Returns:
        (mean, standard deviation over subsets), computed in float64.

    Raises:
        ValueError: shapes do not fit, a number is not finite, or a set has one example only.
        TypeError: no tensors of real numbers.

    Source: Bińkowski et al. 2018, arXiv:1801.01401, section 3.
    """
    _check_sets(a, b)
    subsets = check_integer("subsets", subsets, 1)
    size = min(check_integer("size", size, 2), len(a), len(b))
    if size < 2:
        raise ValueError(f"a, b: expected two examples or more of each, got {len(a)} and {len(b)}")
    generator = torch.Generator().manual_seed(check_integer("seed", seed, 0, 2**63 - 1))
    found = torch.stack([_mmd(_some(a, size, generator), _some(b, size, generator)) for _ in range(subsets)])
    return float(found.mean()), float(found.std(correction=0))


def kolmogorov_smirnov(a: Tensor, b: Tensor) -> Tensor:
    """Per dimension, the largest difference of the shares of both sets below a number: sup_t |F_a(t) − F_b(t)|.

    Args:
        a: features (N, D).
        b: features (M, D). Of the same law as ``a``, they differ by more than 1.36·√(1/N + 1/M) in one case of twenty.

    Returns:
        float64 (D,), in [0, 1].

    Raises:
        ValueError: shapes do not fit, a number is not finite, or a set is empty.
        TypeError: no tensors of real numbers.
    """
    _check_sets(a, b)
    if not len(a) or not len(b):
        raise ValueError(f"{'b' if len(a) else 'a'}: expected one example or more, got none")
    x, y = (part.double().T.contiguous().sort(dim=1).values for part in (a, b))
    both = torch.cat([x, y], dim=1)
    below = [torch.searchsorted(part, both, right=True) / part.shape[1] for part in (x, y)]
    return (below[0].double() - below[1].double()).abs().amax(dim=1)


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate of MMD², (n, D) each: pairs of an example with itself do not count."""

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        return (first @ second.T / x.shape[1] + 1) ** 3

    n, xx, yy = len(x), kernel(x, x), kernel(y, y)
    within = xx.sum() - xx.trace() + yy.sum() - yy.trace()
    return within / (n * (n - 1)) - 2 * kernel(x, y).mean()


def _some(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(len(features), generator=generator)[:size]
    return features[chosen.to(features.device)].double()


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], -1)


def _check_sets(a: Tensor, b: Tensor) -> None:
    check_finite("a", check_numbers("a", a, ("N", "D")))
    check_finite("b", check_numbers("b", b, ("M", a.shape[1])))
    check_device("b", b, "a", a)
    check_number("D", a.shape[1], 1)
