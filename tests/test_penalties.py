"""What bounds a critic's slope: penalties by the formula, differentiated twice, and weights clipped or normalised."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastgen import losses
from fastgen.losses.penalties import TINY
from fastgen.models.discriminators import spectrally_normalized
from fastgen.models.networks import mlp


def test_the_penalty_of_a_linear_critic_is_by_its_slope() -> None:
    """Over all dimensions of an image, (‖w‖ − 1)²; of a critic without a slope 1, and no NaN behind it."""
    torch.manual_seed(0)
    real, fake = torch.rand(2, 5, 3, 4, 4, dtype=torch.float64).unbind()
    w = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    found = losses.gradient_penalty(lambda x: (x * w).flatten(1).sum(1), real, fake)
    norm = w.detach().norm()
    torch.testing.assert_close(found, ((norm - 1) ** 2).expand(5))
    (grad,) = torch.autograd.grad(found.mean(), w)
    torch.testing.assert_close(grad, 2 * (norm - 1) * w.detach() / norm)
    r1 = losses.r1_penalty(lambda x: (x * w).flatten(1).sum(1), real)
    torch.testing.assert_close(r1, (0.5 * norm**2).expand(5))
    torch.testing.assert_close(torch.autograd.grad(r1.mean(), w)[0], w.detach())

    flat = torch.zeros(3, 4, 4, dtype=torch.float64, requires_grad=True)
    found = losses.gradient_penalty(lambda x: (x * flat).flatten(1).sum(1), real, fake)
    assert found.tolist() == [pytest.approx((1 - math.sqrt(TINY)) ** 2)] * 5
    assert torch.autograd.grad(found.sum(), flat)[0].isfinite().all()


def test_the_penalty_is_taken_on_the_way_from_a_drawn_image_to_its_real_one() -> None:
    """One ε for a pair: x̂ lies on the line between them, and no gradient flows back into the generator."""
    torch.manual_seed(0)
    real, fake = torch.randn(2, 64, 2, 3, 3).unbind()
    fake.requires_grad_()
    seen = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x)
        return x.flatten(1).square().sum(1)

    found = losses.gradient_penalty(critic, real, fake)
    assert torch.autograd.grad(found.sum(), fake, allow_unused=True) == (None,)
    x = seen[0].detach()
    near, far, all_of_it = ((a - b).detach().flatten(1).norm(dim=1) for a, b in ((x, real), (x, fake), (real, fake)))
    torch.testing.assert_close(near + far, all_of_it)
    share = far / all_of_it
    assert share.min() >= 0
    assert share.std() > 0.2, "each pair has its own ε, uniform"
    losses.gradient_penalty(critic, real, fake, torch.linspace(0, 1, 64))
    torch.testing.assert_close(seen[1][0], fake[0].detach())
    torch.testing.assert_close(seen[1][-1], real[-1])


def test_penalties_are_differentiated_twice_as_finite_differences_say() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 4, 1, 3, 3, dtype=torch.float64).unbind()
    mix = torch.rand(4, dtype=torch.float64)
    first = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    second = torch.randn(5, dtype=torch.float64, requires_grad=True)

    def score(first: Tensor, second: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.tanh(x.flatten(1) @ first.T) @ second

    for penalty in (
        lambda *weights: losses.gradient_penalty(score(*weights), real, fake, mix),
        lambda *weights: losses.r1_penalty(score(*weights), real),
    ):
        assert torch.autograd.gradcheck(penalty, (first, second))
        assert torch.autograd.gradgradcheck(penalty, (first, second))


def test_weights_are_clamped_in_place() -> None:
    weight = torch.nn.Parameter(torch.tensor([-2.0, 0.005, 1.0]))
    losses.clip_weights([weight], 0.01)
    assert weight.tolist() == [pytest.approx(-0.01), pytest.approx(0.005), pytest.approx(0.01)]
    assert weight.grad_fn is None
    with pytest.raises(ValueError, match="most: expected a positive number, got 0"):
        losses.clip_weights([weight], 0)


def test_a_critic_measures_how_far_two_gaussians_are_apart() -> None:
    """N(0, 1) and N(3, 1): the Wasserstein distance is 3, and what a penalty of weight λ lets the critic surpass it by.

    In one dimension E f(x) − E f(G(z)) = ∫ f'·g, g the difference of both distribution functions, ∫ |g| the distance;
    less λ·∫ (|f'| − 1)²·q, q the density of x̂, it is largest where f' = 1 + g / (2λq): then it is 3 + ∫ g² / (2λq).
    """
    x, share = torch.linspace(-6, 9, 1501, dtype=torch.float64), (torch.arange(500) + 0.5)[:, None] / 500
    g = torch.special.ndtr(x) - torch.special.ndtr(x - 3)
    assert torch.trapezoid(g, x).item() == pytest.approx(3)
    spread = (share**2 + (1 - share) ** 2).sqrt()
    q = (torch.exp(-0.5 * ((x - 3 * (1 - share)) / spread) ** 2) / spread).mean(0) / math.sqrt(2 * math.pi)
    expected = 3 + torch.trapezoid(g**2 / (20 * q), x).item()
    torch.manual_seed(0)
    critic = mlp((1, 32, 32, 1), nn.ReLU)
    optimizer = torch.optim.Adam(critic.parameters(), lr=5e-3, betas=(0.0, 0.9))
    score = lambda x: critic(x)[:, 0]  # noqa: E731
    for _ in range(250):
        real, fake = torch.randn(128, 1), torch.randn(128, 1) + 3
        loss = losses.wasserstein_critic(score(real), score(fake)) + 10 * losses.gradient_penalty(score, real, fake)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    real, fake = torch.randn(20000, 1), torch.randn(20000, 1) + 3
    assert abs(losses.wasserstein_critic(score(real), score(fake)).mean().item() + expected) < 0.3


def test_normalised_weights_have_a_largest_singular_value_of_one() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 1))
    both = nn.ModuleDict({"table": nn.Embedding(5, 3), "network": network})
    spectrally_normalized(both)
    for _ in range(20):
        network(torch.randn(2, 2, 3, 3))
        both["table"](torch.arange(5))
    both.eval()
    for layer in (network[0], network[2], both["table"]):
        assert abs(torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() - 1) < 1e-3
        assert torch.equal(layer.weight, layer.weight), "and eval mode leaves it there"


N = torch.zeros(3)
WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: losses.gradient_penalty(lambda x: x, N, torch.zeros(4)), ValueError, r"fake: expected shape \(3,\)"),
    (lambda: losses.gradient_penalty(lambda x: x, N, N.double()), TypeError, "fake: expected the dtype of real"),
    (lambda: losses.gradient_penalty(lambda x: x, N, N, N[:2]), ValueError, r"mix: expected shape \(3,\), got \(2,\)"),
    (lambda: losses.gradient_penalty(lambda x: x.sum(), N, N), ValueError, r"critic: expected shape \(3,\), got \(\)"),
    (
        lambda: losses.r1_penalty(lambda x: torch.ones(3, requires_grad=True), N),
        ValueError,
        "critic: expected scores that depend on the images, got some that do not",
    ),
    (lambda: losses.r1_penalty(lambda x: x, N.long()), TypeError, "real: expected a floating-point tensor"),
]


@pytest.mark.parametrize("index", range(len(WRONG)))
def test_what_does_not_fit_is_named(index: int) -> None:
    call, error, message = WRONG[index]
    with pytest.raises(error, match=message):
        call()
