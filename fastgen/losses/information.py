"""Information that images tell of the codes they are drawn from: a lower bound, by a network Q that reads these codes.

    L_I = E[log Q(c | G(z, c))] + H(c)  ≤  I(c; G(z, c))  ≤  H(c)           Chen 2016, arXiv:1606.03657, eq. 4 and 5

Each function gives the addend of one image, in nats; their mean is L_I. A generator and Q make it large.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_floating, check_number, check_values

LOG2PI = math.log(2 * math.pi)


def categorical_information(logits: Tensor, codes: Tensor) -> Tensor:
    """Log softmax(logits)[c] + log K, of a code c that is each of K categories with probability 1 / K.

    Args:
        logits: Q's, (N, K), floating point.
        codes: the categories that the images were drawn from, integers (N,) in [0, K).

    Returns:
        (N,) nats, at most log K: 2.303 with K = 10, where Q is sure and right; 0 where it says 1 / K of all.

    Raises:
        ValueError: shapes do not fit, or a code is no category.
        TypeError: a dtype does not fit.

    Source: arXiv:1606.03657, eq. 5 and section 6.
    """
    check_floating("logits", logits, ("N", "K"))
    check_values(codes, logits.shape[1], "codes")
    if codes.shape != logits.shape[:1]:
        raise ValueError(f"codes: expected shape ({len(logits)},), got {tuple(codes.shape)}")
    return math.log(logits.shape[1]) - F.cross_entropy(logits, codes.long(), reduction="none")


def gaussian_information(mean: Tensor, codes: Tensor, logvar: Tensor | None = None, entropy: float = 0.0) -> Tensor:
    """Σ_d log N(c_d; μ_d, σ_d²) + H(c_d), of real codes.

    Args:
        mean: Q's μ, (N, D), floating point.
        codes: those that the images were drawn from, likewise.
        logvar: Q's log σ², (N, D); None is σ = 1, and what is left is −½(c − μ)² and a constant.
        entropy: H of one dimension, in nats; log 2 of a code that is uniform in (−1, 1).

    Returns:
        (N,) nats. With σ = 1 their mean is at most D·(H − 0.919), which may be negative: a bound, and a loose one.

    Raises:
        ValueError: shapes do not fit.
        TypeError: a dtype does not fit.

    Source: arXiv:1606.03657, eq. 5 and section 6.
    """
    check_floating("mean", mean, ("N", "D"))
    check_floating("codes", codes, tuple(mean.shape))
    entropy = check_number("entropy", entropy)
    logvar = torch.zeros_like(mean) if logvar is None else check_floating("logvar", logvar, tuple(mean.shape))
    log_q = -0.5 * ((codes - mean).square() * torch.exp(-logvar) + logvar + LOG2PI)
    return (log_q + entropy).sum(1)
