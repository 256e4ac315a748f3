"""What a classifier says of drawn images: of which classes they are, and how sure it is."""

import torch
from torch import Tensor

from .._checks import check_finite, check_floating, check_integer, check_numbers, check_values


def class_histogram(labels: Tensor, classes: int) -> Tensor:
    """The share of each class among labels.

    Args:
        labels: integers (N,) in [0, classes).
        classes: K.

    Returns:
        float64 (K,), which sum to 1.

    Raises:
        ValueError: there are no labels, or one is out of range.
        TypeError: they are no integers.
    """
    classes = check_integer("classes", classes, 1)
    check_numbers("labels", labels, ("N",))
    check_values(labels, classes, "labels")
    if not len(labels):
        raise ValueError("labels: expected one or more, got none")
    return labels.bincount(minlength=classes).double() / len(labels)


def histogram_divergence(drawn: Tensor, real: Tensor) -> float:
    """Kullback-Leibler divergence of what is drawn from what is real, of two class histograms.

    KL = Σ_k p_k·log(p_k / q_k), p what is drawn, q what is real

    It is 0 where the shares are equal, log K where all is drawn of one of K equal classes, and infinite where a class
    is drawn that is not real.

    Args:
        drawn: (K,), counts or shares, not negative, not all zero.
        real: (K,), likewise.

    Returns:
        Nats, computed in float64.

    Raises:
        ValueError: shapes do not fit, a number is negative or not finite, or all are zero.
        TypeError: no tensors of real numbers.

    Source: Che et al. 2017, arXiv:1612.02136; Srivastava et al. 2017, arXiv:1705.07761, section 5.1.
    """
    p, q = _shares("drawn", drawn, "K"), _shares("real", real, len(check_numbers("drawn", drawn, ("K",))))
    there = p > 0
    return max(0.0, float((p[there] * (p[there] / q[there].to(p.device)).log()).sum()))


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """How sure a classifier is of each image, and how many classes there are of all: the exponential of both.

    IS = exp(E_x KL(p(y|x) ‖ p(y))), p(y) the mean of p(y|x) over the images of a part

    From 1, all images alike or unsure, to K, sure and all classes as often. It sees no real image.

    Args:
        logits: floating point (N, K), of p(y|x): an Inception network's, or it is another number.
        splits: parts of as many images, to within one, whose scores are averaged.
        seed: of the order in which images are dealt into parts.

    Returns:
        (mean, standard deviation over the parts), computed in float64.

    Raises:
        ValueError: fewer images than parts, or a logit that is not finite.
        TypeError: no floating-point tensor.

    Source: Salimans et al. 2016, arXiv:1606.03498, section 4.
    """
    check_finite("logits", check_floating("logits", check_numbers("logits", logits, ("N", "K"))))
    splits = check_integer("splits", splits, 1)
    if len(logits) < splits:
        raise ValueError(f"logits: expected {splits} images or more, one for each part, got {len(logits)}")
    generator = torch.Generator().manual_seed(check_integer("seed", seed, 0, 2**63 - 1))
    order = torch.randperm(len(logits), generator=generator).to(logits.device)
    scores = torch.stack([_score(part) for part in logits[order].double().tensor_split(splits)])
    return float(scores.mean()), float(scores.std(correction=0))


def _score(logits: Tensor) -> Tensor:
    given = logits.softmax(dim=1)  # [n, K]
    return (torch.xlogy(given, given) - torch.xlogy(given, given.mean(dim=0))).sum(dim=1).mean().exp()


def _shares(name: str, histogram: Tensor, classes: int | str) -> Tensor:
    shares = check_finite(name, check_numbers(name, histogram, (classes,))).double()
    if not len(shares) or shares.amin() < 0 or shares.sum() == 0:
        raise ValueError(f"{name}: expected counts or shares of 0 or more, not all of them 0, got {shares.tolist()}")
    return shares / shares.sum()
