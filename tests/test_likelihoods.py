"""What decoders' outputs mean: probabilities that add up to one, and draws that have them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from fastgen import distributions
from fastgen._draws import batch_of, uniforms_of_batch
from fastgen.models import VAE, likelihoods
from fastgen.models.likelihoods import LIKELIHOODS, Likelihood, likelihood
from parity import assert_parity

KINDS = [("bernoulli", 2), ("categorical", 5), ("logistic", 2), ("logistic", 6), ("logistic", 256), ("gaussian", 256)]


def random_params(p_x: Likelihood, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    N, C, H, W = shape
    return torch.randn(N, p_x.param_channels(C), H, W, dtype=dtype)


def every_value(p_x: Likelihood) -> tuple[Tensor, Tensor]:
    """Parameters of one pixel, and all values it can have: (L, P, 1, 1) and (L, 1, 1, 1)."""
    params = random_params(p_x, 1, 1, 1, 1, dtype=torch.float64)
    return params.expand(p_x.levels, -1, -1, -1), torch.arange(p_x.levels).view(-1, 1, 1, 1)


@pytest.mark.parametrize(("name", "levels"), [kind for kind in KINDS if kind[0] != "gaussian"])
def test_probabilities_add_up_to_one(name: str, levels: int) -> None:
    p_x = likelihood(name, levels)
    total, one = p_x.log_prob(*every_value(p_x)).exp().sum().float(), torch.ones(())
    assert_parity(total, one, one.double())


@pytest.mark.parametrize("name", ["bernoulli", "categorical"])
def test_agrees_with_the_pixel_distributions(name: str) -> None:
    levels = 2 if name == "bernoulli" else 4
    p_x, values = likelihood(name, levels), torch.randint(levels, (2, 3, 4, 5))
    params = random_params(p_x, 2, 3, 4, 5)
    other = distributions.Bernoulli() if name == "bernoulli" else distributions.Categorical(levels)
    eager, exact = (other.log_prob(p, values).sum(dim=(1, 2, 3)) for p in (params, params.double()))
    assert_parity(p_x.log_prob(params, values), eager, exact)


def test_grey_values_are_probabilities() -> None:
    """The nats are the expected ones of images binarised at random."""
    p_x, values = likelihood("bernoulli", 256), torch.randint(256, (2, 1, 3, 3))
    params = random_params(p_x, 2, 1, 3, 3)

    def expected(params: Tensor) -> Tensor:
        white = values.to(params.dtype) / 255
        return (white * F.logsigmoid(params) + (1 - white) * F.logsigmoid(-params)).sum(dim=(1, 2, 3))

    assert_parity(p_x.log_prob(params, values), expected(params), expected(params.double()))
    assert torch.equal(p_x.draw(params, torch.rand(2, 1, 3, 3)), p_x.mean(params).round().long())


def test_gaussian_has_a_learned_mean_and_covariance() -> None:
    p_x, values = likelihood("gaussian", 256), torch.randint(256, (2, 3, 4, 5))
    params = random_params(p_x, 2, 3, 4, 5)

    def from_definition(params: Tensor) -> Tensor:
        mean, r = params.view(2, 3, 2, 4, 5).unbind(2)
        density = Normal(mean, torch.sqrt(r.exp() + (1 / 255) ** 2)).log_prob(values.to(params.dtype) * 2 / 255 - 1)
        return (density + math.log(2 / 255)).sum(dim=(1, 2, 3))

    assert_parity(p_x.log_prob(params, values), from_definition(params), from_definition(params.double()))


def test_dequantised_it_reads_a_place_in_the_interval() -> None:
    """The same place for an image in the same batch, wherever it is computed, and for all parameters of a value."""
    p_x, values = likelihood("gaussian", 256, dequantize=True), torch.randint(256, (4, 3, 2, 5))
    params = random_params(p_x, 4, 3, 2, 5).expand(2, -1, -1, -1, -1)
    with batch_of(0, 1, "model", torch.arange(4)):
        uniforms = uniforms_of_batch(4, (3, 2, 5), params)
    mean, r = params[0].view(4, 3, 2, 2, 5).unbind(2)
    places = (values + uniforms - 0.5) * 2 / 255 - 1
    density = Normal(mean, torch.sqrt(r.exp() + (1 / 255) ** 2)).log_prob(places)
    with batch_of(0, 1, "model", torch.arange(4)):
        found = p_x.log_prob(params, values)
    torch.testing.assert_close(found, (density + math.log(2 / 255)).sum((1, 2, 3)).expand(2, -1))
    with batch_of(0, 1, "model", torch.arange(2, 4)):
        assert torch.equal(p_x.log_prob(params[:, 2:], values[2:]), found[:, 2:])
        assert not torch.equal(p_x.log_prob(params[:, 2:], values[2:]), found[:, 2:]), "other places at another call"


@pytest.mark.parametrize("r", [-60.0, -4.0, 0.0])
def test_dequantised_nats_bound_those_of_a_law(r: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On average over the places; on the narrowest scale too, where those at the midpoint are of no law."""
    L = 16
    p_x, values = likelihood("gaussian", L, dequantize=True), torch.arange(L).view(L, 1, 1, 1)
    params = torch.tensor([2 * 5 / (L - 1) - 1, r], dtype=torch.float64).view(1, 2, 1, 1).expand(L, -1, -1, -1)
    variance = p_x.moments(params)[1][0].item()
    away = -(values.flatten() - 5).abs().double()  # from the mean
    upper, lower = (torch.special.log_ndtr((away + d) * p_x.width / math.sqrt(variance)) for d in (0.5, -0.5))
    law = upper + torch.log(-torch.expm1(lower - upper))
    nats = []
    for u in (torch.arange(100).double() + 0.5) / 100:
        monkeypatch.setattr(likelihoods, "uniforms_of_batch", lambda *_, u=u: u)
        nats.append(-p_x.log_prob(params, values))
    bound = torch.stack(nats).mean(0)
    assert (bound >= -law - 1e-4).all()
    assert (-bound).exp().sum() <= 1
    assert (likelihood("gaussian", L).log_prob(params, values) > law).any()


def test_only_a_density_needs_dequantising() -> None:
    for name in ("bernoulli", "categorical", "logistic"):
        message = f"dequantize: expected False with the likelihood {name}, which is of no density, got True"
        with pytest.raises(ValueError, match=message):
            VAE(1, 4, likelihood=name, dequantize=True)
    with pytest.raises(ValueError, match="dequantize: expected True or False, got 'no'"):
        VAE(1, 4, likelihood="gaussian", dequantize="no")
    model = VAE(1, 4, 2, (4,), likelihood="gaussian", image_size=2, dequantize=True)
    assert VAE(**model.config).p_x.dequantize
    values = torch.randint(4, (3, 1, 2, 2))
    with torch.no_grad():
        model.rsample_kl.forward = lambda h: (h.chunk(2, dim=1)[0], h.sum(1))
        assert not torch.equal(model.losses(values)["nats"], model.losses(values)["nats"])


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_logistic_is_a_difference_of_cumulative_distributions(spread: float) -> None:
    p_x, values = likelihood("logistic", 256), torch.arange(256).view(1, 1, 16, 16)
    params = torch.cat([torch.randn(1, 1, 16, 16), spread * torch.randn(1, 1, 16, 16).clamp(-7 / spread, 1)], dim=1)

    def from_definition(params: Tensor) -> Tensor:
        mean, s = params[:, :1], params[:, 1:].exp()
        x = values.to(params.dtype) * 2 / 255 - 1
        above = torch.where(values == 255, 1, torch.sigmoid((x + 1 / 255 - mean) / s))
        below = torch.where(values == 0, 0, torch.sigmoid((x - 1 / 255 - mean) / s))
        return torch.log((above - below).clamp(min=1e-300)).sum(dim=(1, 2, 3))

    likely = p_x.log_prob(params.double(), values)
    if spread == 1.0:
        assert_parity(likely.float(), from_definition(params.double()).float(), from_definition(params.double()))
    assert_parity(p_x.log_prob(params, values), likely.float(), p_x.log_prob(params.double(), values))


def test_logistic_is_finite_far_away() -> None:
    p_x = likelihood("logistic", 256)
    params = torch.tensor([[900.0, -30.0], [-900.0, 3.0], [0.0, 15.0]]).view(3, 2, 1, 1).requires_grad_()
    for value in (0, 100, 255):
        nats = p_x.log_prob(params, torch.full((3, 1, 1, 1), value))
        assert nats.isfinite().all()
        assert torch.autograd.grad(nats.sum(), params)[0].isfinite().all()


@pytest.mark.parametrize(("name", "levels"), KINDS)
def test_draws_have_their_probabilities(name: str, levels: int) -> None:
    p_x, M = likelihood(name, levels), 4096
    params, values = every_value(p_x)
    params = params.float().double()
    if name == "gaussian":
        mean, variance = (moment[0].item() for moment in p_x.moments(params))
        edges = (torch.arange(levels + 1).double() - 0.5) * p_x.width - 1
        cdf = Normal(mean, math.sqrt(variance)).cdf(edges)
        cdf[0], cdf[-1] = 0, 1
        p = cdf.diff()
    else:
        p = p_x.log_prob(params, values).exp()
    u = (torch.arange(M).double() + 0.5) / M
    drawn = p_x.draw(params[:1].expand(M, -1, -1, -1), u.view(M, 1, 1, 1).float())
    assert drawn.dtype == torch.int64
    frequency = torch.bincount(drawn.flatten(), minlength=levels) / M
    assert ((frequency - p).abs() <= 2 / M).all()


@pytest.mark.parametrize(("name", "levels"), [("bernoulli", 2), ("categorical", 5)])
def test_mean_is_the_expected_value(name: str, levels: int) -> None:
    p_x = likelihood(name, levels)
    params, values = every_value(p_x)
    expected = (p_x.log_prob(params, values).exp() * values.flatten()).sum().view(1, 1, 1, 1)
    assert_parity(p_x.mean(params[:1]).float(), expected.float(), expected)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_and_leading_dimensions(name: str) -> None:
    levels = 2 if name == "bernoulli" else 4
    p_x, values = likelihood(name, levels), torch.randint(levels, (2, 2, 2, 3))
    params = random_params(p_x, 6, 2, 2, 3, dtype=torch.float64).view(3, 2, -1, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(p_x.log_prob, (params, values))
    every = torch.stack([p_x.log_prob(part, values) for part in params])
    assert_parity(p_x.log_prob(params, values), every, every.detach())


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"likelihood: expected one of 'bernoulli', 'gaussian', .* got 'poisson'"):
        likelihood("poisson", 2)
