"""Losses of games: each is its formula, with the formula's gradient, and has its known value where that is known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgen import losses
from fastgen.losses import EQUILIBRIUM, LOSSES
from fastgen.losses.adversarial import PEARSON, ZERO_ONE

LN2 = math.log(2)

sigma = torch.sigmoid

DISCRIMINATORS: dict[str, tuple[Callable, Callable, Callable]] = {
    "log": (
        losses.log_loss_discriminator,
        lambda r, f: -sigma(r).log() - (1 - sigma(f)).log(),
        lambda r, f: (sigma(r) - 1, sigma(f)),
    ),
    "log, smoothed": (
        lambda r, f: losses.log_loss_discriminator(r, f, 0.1),
        lambda r, f: -0.9 * sigma(r).log() - 0.1 * (1 - sigma(r)).log() - (1 - sigma(f)).log(),
        lambda r, f: (sigma(r) - 0.9, sigma(f)),
    ),
    "least squares": (
        losses.least_squares_discriminator,
        lambda r, f: (r - 1) ** 2 / 2 + f**2 / 2,
        lambda r, f: (r - 1, f),
    ),
    "least squares, smoothed": (
        lambda r, f: losses.least_squares_discriminator(r, f, PEARSON, 0.2),
        lambda r, f: (r - 0.6) ** 2 / 2 + (f + 1) ** 2 / 2,
        lambda r, f: (r - 0.6, f + 1),
    ),
    "wasserstein": (
        losses.wasserstein_critic,
        lambda r, f: f - r,
        lambda r, f: (-torch.ones_like(r), torch.ones_like(f)),
    ),
    "hinge": (
        losses.hinge_discriminator,
        lambda r, f: (1 - r).clamp(min=0) + (1 + f).clamp(min=0),
        lambda r, f: (-(r < 1).double(), (f > -1).double()),
    ),
}
"""Each with its formula, and the formula's derivatives by both scores."""

GENERATORS: dict[str, tuple[Callable, Callable, Callable]] = {
    "minimax": (losses.minimax_generator, lambda f: (1 - sigma(f)).log(), lambda f: -sigma(f)),
    "non-saturating": (losses.non_saturating_generator, lambda f: -sigma(f).log(), lambda f: sigma(f) - 1),
    "least squares": (losses.least_squares_generator, lambda f: (f - 1) ** 2 / 2, lambda f: f - 1),
    "least squares, Pearson": (
        lambda f: losses.least_squares_generator(f, PEARSON),
        lambda f: f**2 / 2,
        lambda f: f,
    ),
    "wasserstein": (losses.wasserstein_generator, lambda f: -f, lambda f: -torch.ones_like(f)),
    "hinge": (losses.hinge_generator, lambda f: -f, lambda f: -torch.ones_like(f)),
}


def scores(n: int = 101) -> tuple[Tensor, Tensor]:
    """Of real and of drawn images; none lies on a hinge."""
    real, fake = (3 * torch.randn(2, n, dtype=torch.float64)).unbind()
    return real.requires_grad_(), fake.requires_grad_()


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_discriminators_loss_is_its_formula_and_its_gradient_the_formulas(name: str) -> None:
    loss, formula, slopes = DISCRIMINATORS[name]
    real, fake = scores()
    found = loss(real, fake)
    torch.testing.assert_close(found, formula(real, fake))
    grads = torch.autograd.grad(found.sum(), (real, fake))
    for grad, slope in zip(grads, slopes(real.detach(), fake.detach()), strict=True):
        torch.testing.assert_close(grad, slope)
    assert torch.autograd.gradcheck(loss, (real, fake))


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generators_loss_is_its_formula_and_its_gradient_the_formulas(name: str) -> None:
    loss, formula, slope = GENERATORS[name]
    _, fake = scores()
    found = loss(fake)
    torch.testing.assert_close(found, formula(fake))
    (grad,) = torch.autograd.grad(found.sum(), fake)
    torch.testing.assert_close(grad, slope(fake.detach()))
    assert torch.autograd.gradcheck(loss, (fake,))


def test_no_score_saturates_a_loss() -> None:
    """−log(σ(s) + 1e-8), as many write it, has no slope at −100, and log(1 − σ(s)) is −inf at 100."""
    sure = torch.tensor([-1000.0, -100.0, 100.0, 1000.0], requires_grad=True)
    found = losses.non_saturating_generator(sure)
    assert found.tolist() == [1000.0, 100.0, pytest.approx(0), 0.0]
    (grad,) = torch.autograd.grad(found.sum(), sure)
    assert grad.tolist() == [-1.0, -1.0, pytest.approx(0), 0.0]
    assert losses.minimax_generator(sure).tolist() == [0.0, pytest.approx(0), -100.0, -1000.0]
    assert losses.log_loss_discriminator(sure, sure).isfinite().all()


@pytest.mark.parametrize(
    ("name", "known", "score"),
    [
        ("minimax", (1.386294, -0.693147), 0.0),
        ("non-saturating", (1.386294, 0.693147), 0.0),
        ("least-squares", (0.25, 0.125), 0.5),
        ("least-squares-pearson", (1.0, 0.0), 0.0),
        ("wasserstein", (0.0, 0.0), 0.0),
        ("hinge", (2.0, 0.0), 0.0),
    ],
)
def test_values_where_a_discriminator_cannot_tell(name: str, known: tuple[float, float], score: float) -> None:
    pair, undecided = LOSSES[name], torch.full((3,), score, dtype=torch.float64)
    found = pair.discriminator(undecided, undecided, 0.0), pair.generator(undecided)
    for loss, said, value in zip(found, EQUILIBRIUM[name], known, strict=True):
        assert loss.tolist() == [pytest.approx(value, abs=1e-6)] * 3
        assert said == pytest.approx(value, abs=1e-6)
    assert pair.threshold in (score, None)


@pytest.mark.parametrize("name", [name for name, pair in LOSSES.items() if pair.smooths])
def test_equilibrium_with_smoothed_labels_is_where_no_other_score_is_better(name: str) -> None:
    pair, alpha = LOSSES[name], 0.1
    s = torch.linspace(-3, 3, 60001, dtype=torch.float64)
    on_all = pair.discriminator(s, s, alpha)
    d, g = losses.equilibrium(name, alpha)
    assert d == pytest.approx(on_all.min().item(), abs=1e-7)
    assert g == pytest.approx(pair.generator(s[on_all.argmin()][None]).item(), abs=1e-3)
    assert losses.equilibrium(name) == EQUILIBRIUM[name]
    assert losses.equilibrium("hinge", 0.1) == (2.0, 0.0)


# p = N(0, 1), q = N(2, 1): log p(x)/q(x) = 2 − 2x, so that a linear score is enough for the best D = σ(2 − 2x)
JSD = 0.33683
"""Of p and q, in nats, by quadrature."""


def gaussians(n: int = 100_000) -> tuple[Tensor, Tensor]:
    return torch.randn(n, dtype=torch.float64), torch.randn(n, dtype=torch.float64) + 2


def grid() -> tuple[Tensor, Tensor, Tensor, float]:
    """Points, both densities there, and the width of a step."""
    x = torch.linspace(-10, 12, 22001, dtype=torch.float64)
    p, q = ((-0.5 * (x - mean) ** 2).exp() / math.sqrt(2 * math.pi) for mean in (0, 2))
    return x, p, q, (x[1] - x[0]).item()


def expected(loss: Tensor, density: Tensor, step: float) -> float:
    return (loss * density).sum().item() * step


def test_the_best_log_loss_is_two_log_two_less_two_jsd() -> None:
    """Theorem 1 of the 2014 paper: C(G) = −log 4 + 2·JSD(p ‖ q), minus what the discriminator minimises."""
    x, p, q, step = grid()
    m = (p + q) / 2
    jsd = 0.5 * (expected((p / m).log(), p, step) + expected((q / m).log(), q, step))
    assert jsd == pytest.approx(JSD, abs=5e-6)
    zero = torch.zeros_like(x)
    on_real = losses.log_loss_discriminator(2 - 2 * x, zero) - LN2
    on_fake = losses.log_loss_discriminator(zero, 2 - 2 * x) - LN2
    best = expected(on_real, p, step) + expected(on_fake, q, step)
    assert best == pytest.approx(0.71263, abs=1e-5)
    assert best == pytest.approx(2 * LN2 - 2 * jsd, abs=1e-9)


def fitted(loss: Callable[[Tensor, Tensor], Tensor], steps: int = 200) -> tuple[Tensor, float]:
    """A linear score w·x + b that makes ``loss`` small on 1e5 points of each law; (w, b), and the loss."""
    torch.manual_seed(0)
    real, fake = gaussians()
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    newton = torch.optim.LBFGS([line], max_iter=steps, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        newton.zero_grad()
        total = loss(line[0] * real + line[1], line[0] * fake + line[1]).mean()
        total.backward()
        return total

    newton.step(closure)
    return line.detach(), closure().item()


def test_a_trained_linear_discriminator_reaches_the_closed_form() -> None:
    line, found = fitted(losses.log_loss_discriminator)
    assert found == pytest.approx(0.71263, abs=0.01)
    assert line.tolist() == [pytest.approx(-2, abs=0.05), pytest.approx(2, abs=0.05)]


def test_one_sided_smoothing_has_the_optimum_that_its_paper_says() -> None:
    """(1 − α)·p / (p + q): a discriminator's outputs for this x are best there, and at no other value nearby."""
    alpha = 0.1
    _, p, q, _ = grid()
    seen = (p + q) > 1e-6
    p, q = p[seen], q[seen]
    best = (1 - alpha) * p / (p + q)
    s = torch.logit(best).requires_grad_()
    zero = torch.zeros_like(s)
    total = p * losses.log_loss_discriminator(s, zero, alpha) + q * losses.log_loss_discriminator(zero, s, alpha)
    (grad,) = torch.autograd.grad((total / (p + q)).sum(), s)
    assert grad.abs().max() < 1e-9
    assert best.max() <= 0.9


def test_the_best_least_squares_loss_is_half_the_harmonic_overlap() -> None:
    """½∫pq/(p + q), at D = p / (p + q), with the coding 0 and 1."""
    _, p, q, step = grid()
    best = (p / (p + q)).nan_to_num()
    zero, one = torch.zeros_like(best), torch.ones_like(best)
    on_real = losses.least_squares_discriminator(best, zero, ZERO_ONE)
    on_fake = losses.least_squares_discriminator(one, best, ZERO_ONE)
    found = expected(on_real, p, step) + expected(on_fake, q, step)
    assert found == pytest.approx(0.11240, abs=1e-5)


def test_the_critics_loss_is_minus_the_distance() -> None:
    """Two Gaussians 3 apart: f(x) = −x is 1-Lipschitz, scores what is real high, and has W = 3."""
    torch.manual_seed(0)
    real = torch.randn(100_000, dtype=torch.float64)
    found = losses.wasserstein_critic(-real, -(real + 3))
    assert found.mean().item() == pytest.approx(-3)


N = torch.zeros(3)
WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: losses.log_loss_discriminator(N, torch.zeros(4)), ValueError, r"fake: expected shape \(3,\), got \(4,\)"),
    (
        lambda: losses.hinge_discriminator(torch.zeros(3, 1), N),
        ValueError,
        r"real: expected shape \(N,\), got \(3, 1\)",
    ),
    (lambda: losses.wasserstein_critic(N.long(), N), TypeError, "real: expected a floating-point tensor, got"),
    (lambda: losses.non_saturating_generator([0.0]), TypeError, "fake: expected a tensor"),
    (lambda: losses.minimax_generator(torch.zeros(())), ValueError, r"fake: expected shape \(N,\), got \(\)"),
    (lambda: losses.log_loss_discriminator(N, N, 0.7), ValueError, "smoothing: expected a finite number .* got 0.7"),
    (lambda: losses.least_squares_generator(N, (0, 1)), ValueError, r"coding: expected three numbers .* got \(0, 1\)"),
    (lambda: losses.least_squares_generator(N, (1, 1, 0)), ValueError, "coding: expected other scores .* got 1 for"),
    (lambda: losses.least_squares_generator(N, (0, "1", 0)), ValueError, r"coding\[1\]: expected a finite number"),
]


@pytest.mark.parametrize("index", range(len(WRONG)))
def test_what_does_not_fit_is_named(index: int) -> None:
    call, error, message = WRONG[index]
    with pytest.raises(error, match=message):
        call()
