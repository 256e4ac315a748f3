"""What BEGAN minimises, and what holds its two networks in balance: Berthelot 2017, arXiv:1703.10717, section 3.

L(v) = mean |v − D(v)|                                    D is an autoencoder, v an image                        eq. 1
D makes L(x) − k·L(G(z)) small, G makes L(G(z)) small                                                            3.3
k ← clip(k + λ·(γ·L(x) − L(G(z))), 0, 1)                  k begins at 0, so that L(G(z)) tends to γ·L(x)         3.3
M = L(x) + |γ·L(x) − L(G(z))|                             how far the game has come: less is better              3.4.1
"""

import torch
from torch import Tensor

from .._checks import check_floating, check_number, check_tensor


def reconstruction_error(images: Tensor, reconstructed: Tensor) -> Tensor:
    """L(v) = mean |v − D(v)| over the dimensions of each image.

    Args:
        images: v (N, …), floating point.
        reconstructed: D(v), of the same shape.

    Returns:
        (N,), 0 or more.
    """
    check_floating("images", images)
    check_floating("reconstructed", reconstructed, tuple(images.shape))
    return (images - reconstructed).abs().flatten(1).mean(1)


def began_discriminator(real: Tensor, fake: Tensor, k: Tensor | float) -> Tensor:
    """L(x) − k·L(G(z)): with k = 0 that of an autoencoder of images alone.

    Args:
        real: L(x) (N,) of images.
        fake: L(G(z)) (N,) of drawn ones.
        k: one number in [0, 1].
    """
    check_floating("real", real, ("N",))
    check_floating("fake", fake, (real.shape[0],))
    return real - (_one("k", k) if isinstance(k, Tensor) else check_number("k", k, 0, 1)) * fake


def began_generator(fake: Tensor) -> Tensor:
    """L(G(z)) itself. (N,) → (N,)"""
    return check_floating("fake", fake, ("N",))


def began_balance(k: Tensor, real: Tensor, fake: Tensor, gamma: float, gain: float) -> Tensor:
    """The next k: clip(k + λ·(γ·L(x) − L(G(z))), 0, 1).

    Args:
        k: one number, in [0, 1].
        real: L(x), the mean of a step's images.
        fake: L(G(z)), the mean of as many drawn ones.
        gamma: γ, what L(G(z)) / L(x) is to be.
        gain: λ.
    """
    for name, value in (("k", k), ("real", real), ("fake", fake)):
        _one(name, value)
    balance = check_number("gamma", gamma, 0) * real - fake
    return torch.clamp(k + check_number("gain", gain, 0) * balance, 0, 1)


def began_convergence(real: Tensor, fake: Tensor, gamma: float) -> Tensor:
    """M = L(x) + |γ·L(x) − L(G(z))|, of means; never below L(x).

    Args:
        real: L(x), a mean.
        fake: L(G(z)), a mean.
        gamma: γ.
    """
    for name, value in (("real", real), ("fake", fake)):
        _one(name, value)
    return real + (check_number("gamma", gamma, 0) * real - fake).abs()


def _one(name: str, value: Tensor | float) -> Tensor | float:
    """``value``, one number: a tensor's is not looked at."""
    return check_tensor(name, value, ()) if isinstance(value, Tensor) else check_number(name, value, 0)
