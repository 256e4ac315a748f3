"""What keeps a critic's slope in bounds: penalties on its gradient with respect to images, and clipped weights."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .._checks import check_floating, check_number, check_same, check_tensor

TINY = 1e-12
"""Below the root of a norm: at zero the root itself has no gradient."""


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor | None = None
) -> Tensor:
    """(‖∇f(x̂)‖₂ − 1)² at x̂ = ε·x + (1 − ε)·G(z), with one ε in [0, 1) for each pair of images.

    Args:
        critic: images (N, …) → scores (N,); the score of an image may depend on that image alone, which rules out batch
            norm in training mode. It is differentiated twice.
        real: x (N, …), floating point.
        fake: G(z) (N, …); no gradient flows back into it.
        mix: ε (N,); by default uniform, from torch's generator.

    Returns:
        (N,), with gradients of the critic's parameters. Of f(x) = w·x it is (‖w‖ − 1)².

    Raises:
        ValueError: shapes do not fit; the critic's scores do not depend on the images.
        TypeError: a dtype does not fit.

    Source: Gulrajani et al. 2017, arXiv:1704.00028, eq. 3 and algorithm 1.
    """
    check_floating("real", real)
    check_floating("fake", fake, tuple(real.shape))
    check_same("fake", fake, "real", real)
    if mix is None:
        mix = torch.rand(real.shape[0], device=real.device, dtype=real.dtype)
    check_floating("mix", mix, (real.shape[0],))
    looked_at = mix.device.type == "cpu" and mix.numel() and not torch.compiler.is_compiling()
    if looked_at and not 0 <= float(mix.min()) <= float(mix.max()) <= 1:
        raise ValueError(f"mix: expected numbers in [0, 1], got {float(mix.min()):g} to {float(mix.max()):g}")
    epsilon = mix.view(-1, *[1] * (real.dim() - 1))
    between = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_()
    squares = _slope(critic, between).flatten(1).square().sum(1)
    return (torch.sqrt(squares + TINY) - 1).square()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """½‖∇D(x)‖² at real images: zero where D is flat around them, as it is at the equilibrium.

    Args:
        discriminator: images (N, …) → logits (N,), of each image by itself; it is differentiated twice.
        real: x (N, …), floating point.

    Returns:
        (N,), with gradients of the discriminator's parameters.

    Raises:
        ValueError: its scores do not depend on the images.
        TypeError: the dtype does not fit.

    Source: Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, eq. 9; its γ is the weight of what is returned.
    """
    check_floating("real", real)
    return 0.5 * _slope(discriminator, real.detach().requires_grad_()).flatten(1).square().sum(1)


@torch.no_grad()
def clip_weights(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Clamp every parameter to [−most, most], in place: after each step of a critic.

    It bounds the critic's slope, by a constant that nobody knows; so its losses compare between runs of the same
    networks only.

    Raises:
        ValueError: ``most`` is not positive.
        TypeError: what comes are no parameters, but a module, or modules.

    Source: Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875, algorithm 1, line 7.
    """
    if check_number("most", most, 0) == 0:
        raise ValueError("most: expected a positive number, got 0")
    if isinstance(parameters, nn.Module):
        kind = type(parameters).__name__
        raise TypeError(f"parameters: expected those of a module, module.parameters(), got a {kind} itself")
    for parameter in [check_tensor("parameters", parameter) for parameter in parameters]:
        parameter.clamp_(-most, most)


def _slope(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of each image's score by that image, to be differentiated again."""
    with torch.enable_grad():
        scores = critic(x)
        check_floating("critic", scores, (x.shape[0],))
        (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True, allow_unused=True)
    if slope is None:
        raise ValueError("critic: expected scores that depend on the images, got some that do not")
    return slope
