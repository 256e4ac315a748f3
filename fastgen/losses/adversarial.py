"""What discriminators and generators minimise, by their scores of real images r and of drawn ones f.

    minimax           D: −log σ(r) − log(1 − σ(f))       G: log(1 − σ(f))        Goodfellow 2014, arXiv:1406.2661, eq. 1
    non-saturating    D: the same                        G: −log σ(f)            the same, section 3
    least squares     D: ½(r − b)² + ½(f − a)²           G: ½(f − c)²            Mao 2017, arXiv:1611.04076, eq. 2
    Wasserstein       D: f − r                           G: −f                   Arjovsky 2017, arXiv:1701.07875, alg. 1
    hinge             D: max(0, 1 − r) + max(0, 1 + f)   G: −f                   Lim 2017, arXiv:1705.02894

σ is the logistic function; −log σ(s) is computed as softplus(−s), which no score saturates.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_floating, check_number, check_option

ZERO_ONE = (0.0, 1.0, 1.0)
"""(a, b, c) of least squares: drawn images are 0 and real ones 1, and the generator wants 1."""

PEARSON = (-1.0, 1.0, 0.0)
"""(a, b, c) of least squares: the generator minimises Pearson's χ² of p + q and 2q, since b − c = 1 and b − a = 2."""


def log_loss_discriminator(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """−(1 − α)·log σ(r) − α·log(1 − σ(r)) − log(1 − σ(f)): cross-entropy, of minimax and of non-saturating.

    Args:
        real: logits (N,) of real images.
        fake: logits (N,) of drawn ones.
        smoothing: α in [0, 0.5], one-sided: real images are told to be so with probability 1 − α, drawn ones never
            (Salimans 2016, arXiv:1606.03498, section 3.4: smoothed on both sides, the best D depends on more than
            p / (p + q)).

    Returns:
        (N,) nats; where D cannot tell, and says ½, 2·log 2 = 1.386.
    """
    _check(real, fake)
    alpha = check_number("smoothing", smoothing, 0, 0.5)
    real_loss = F.softplus(-real)
    if alpha:
        real_loss = (1 - alpha) * real_loss + alpha * F.softplus(real)
    return real_loss + F.softplus(fake)


def minimax_generator(fake: Tensor) -> Tensor:
    """log(1 − σ(f)), which is −(what D minimises) of drawn images: nearly flat where D is sure. (N,) → (N,) nats."""
    return -F.softplus(_scores("fake", fake))


def non_saturating_generator(fake: Tensor) -> Tensor:
    """−log σ(f): the same fixed point as minimax, and a gradient where D is sure. (N,) → (N,) nats."""
    return F.softplus(-_scores("fake", fake))


def least_squares_discriminator(
    real: Tensor, fake: Tensor, coding: tuple[float, float, float] = ZERO_ONE, smoothing: float = 0.0
) -> Tensor:
    """½(r − b)² + ½(f − a)².

    Args:
        real: scores (N,) of real images.
        fake: scores (N,) of drawn ones.
        coding: (a, b, c): what drawn and real images are to be scored, and what the generator wants.
        smoothing: α in [0, 0.5], one-sided: real images are to be scored b − α·(b − a).

    Returns:
        (N,); where D cannot tell, ¼ with the coding (0, 1, 1), and 1 with (−1, 1, 0).
    """
    _check(real, fake)
    a, b, _ = _coding(coding)
    b -= check_number("smoothing", smoothing, 0, 0.5) * (b - a)
    return 0.5 * (real - b).square() + 0.5 * (fake - a).square()


def least_squares_generator(fake: Tensor, coding: tuple[float, float, float] = ZERO_ONE) -> Tensor:
    """½(f − c)². (N,) → (N,)"""
    return 0.5 * (_scores("fake", fake) - _coding(coding)[2]).square()


def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """F − r: −(its mean) is a lower bound on the Wasserstein distance, of a critic that is 1-Lipschitz. (N,) → (N,)"""
    _check(real, fake)
    return fake - real


def wasserstein_generator(fake: Tensor) -> Tensor:
    """−f. (N,) → (N,)"""
    return -_scores("fake", fake)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 − r) + max(0, 1 + f). (N,) → (N,); 2 where D cannot tell, and says 0."""
    _check(real, fake)
    return F.relu(1 - real) + F.relu(1 + fake)


def hinge_generator(fake: Tensor) -> Tensor:
    """−f: no hinge. (N,) → (N,)"""
    return -_scores("fake", fake)


class AdversarialLoss(NamedTuple):
    """A pair of losses.

    Attributes:
        discriminator: (scores of real images (N,), of drawn ones (N,), smoothing) → (N,).
        generator: scores of drawn images (N,) → (N,).
        threshold: scores above it say that an image is real; None where scores are no decision.
        equilibrium: the losses of discriminator and generator where drawn images are of the data's law, and D the best
            there is.
        smooths: whether its discriminator takes a smoothing other than 0.
    """

    discriminator: Callable[[Tensor, Tensor, float], Tensor]
    generator: Callable[[Tensor], Tensor]
    threshold: float | None
    equilibrium: tuple[float, float]
    smooths: bool = False


def _plain(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, float], Tensor]:
    return lambda real, fake, smoothing: loss(real, fake)


_LOG2 = 0.6931471805599453

LOSSES: dict[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(log_loss_discriminator, minimax_generator, 0.0, (2 * _LOG2, -_LOG2), True),
    "non-saturating": AdversarialLoss(log_loss_discriminator, non_saturating_generator, 0.0, (2 * _LOG2, _LOG2), True),
    "least-squares": AdversarialLoss(
        lambda real, fake, smoothing: least_squares_discriminator(real, fake, ZERO_ONE, smoothing),
        least_squares_generator, 0.5, (0.25, 0.125), True,
    ),
    "least-squares-pearson": AdversarialLoss(
        lambda real, fake, smoothing: least_squares_discriminator(real, fake, PEARSON, smoothing),
        lambda fake: least_squares_generator(fake, PEARSON), 0.0, (1.0, 0.0), True,
    ),
    "wasserstein": AdversarialLoss(_plain(wasserstein_critic), wasserstein_generator, None, (0.0, 0.0)),
    "hinge": AdversarialLoss(_plain(hinge_discriminator), hinge_generator, 0.0, (2.0, 0.0)),
}  # fmt: skip
"""The pairs by their names on the command line."""

EQUILIBRIUM: dict[str, tuple[float, float]] = {name: loss.equilibrium for name, loss in LOSSES.items()}
"""Losses of discriminator and generator at the equilibrium, by name; the generator's of wasserstein and hinge
is up to a constant, which the discriminator may add to every score."""


def equilibrium(loss: str, smoothing: float = 0.0) -> tuple[float, float]:
    """Losses of discriminator and generator at the equilibrium of a game, where real images' labels are smoothed by α.

    Then the best D is (1 − α)/2 everywhere, or with least squares the mean of a and b − α·(b − a).

    Args:
        loss: a name in ``LOSSES``.
        smoothing: α in [0, 0.5]; of losses that take none, 0.
    """
    pair = LOSSES[check_option("loss", loss, list(LOSSES))]
    alpha = check_number("smoothing", smoothing, 0, 0.5)
    if not alpha or not pair.smooths:
        return pair.equilibrium
    if loss in ("minimax", "non-saturating"):
        score = math.log((1 - alpha) / (1 + alpha))
    else:
        a, b, _ = ZERO_ONE if loss == "least-squares" else PEARSON
        score = (a + b - alpha * (b - a)) / 2
    at = torch.tensor([score], dtype=torch.float64)
    return pair.discriminator(at, at, alpha).item(), pair.generator(at).item()


def smallest_loss(loss: str, smoothing: float = 0.0) -> float:
    """The least that a discriminator's loss can be, which tells real images and drawn ones apart without a doubt.

    0; −∞ of wasserstein; with smoothed labels, of minimax and of non-saturating, the entropy of these: H(α) =
    −α·log α − (1 − α)·log(1 − α), where it says 1 − α of real images.

    Args:
        loss: a name in ``LOSSES``.
        smoothing: α in [0, 0.5].
    """
    alpha = check_number("smoothing", smoothing, 0, 0.5)
    if check_option("loss", loss, list(LOSSES)) == "wasserstein":
        return -math.inf
    if not alpha or loss not in ("minimax", "non-saturating"):
        return 0.0
    return -alpha * math.log(alpha) - (1 - alpha) * math.log(1 - alpha)


def _coding(coding: tuple[float, float, float]) -> tuple[float, float, float]:
    if not isinstance(coding, (tuple, list)) or len(coding) != 3:
        raise ValueError(f"coding: expected three numbers (a, b, c), got {coding!r}")
    a, b, c = (check_number(f"coding[{index}]", each) for index, each in enumerate(coding))
    if a == b:
        raise ValueError(f"coding: expected other scores of real images than of drawn ones, got {a} for both")
    return a, b, c


def _scores(name: str, scores: Tensor) -> Tensor:
    return check_floating(name, scores, ("N",))


def _check(real: Tensor, fake: Tensor) -> None:
    _scores("real", real)
    check_floating("fake", fake, (real.shape[0],))
