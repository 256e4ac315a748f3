"""Bernoulli and Categorical: likelihoods against float64, draws against the inverse of the distribution function."""

import pytest
import torch
from torch import Tensor

from fastgen.distributions import Bernoulli, Categorical
from parity import assert_parity

DISTRIBUTIONS = [Bernoulli(), Categorical(2), Categorical(7), Categorical(256)]
N, H, W = 5, 3, 2


def _case(distribution: Bernoulli | Categorical, C: int, scale: float = 3) -> tuple[Tensor, Tensor]:
    params = scale * torch.randn(N, distribution.param_channels(C), H, W)
    return params, torch.randint(distribution.levels, (N, C, H, W))


def _probabilities(distribution: Bernoulli | Categorical, params: Tensor, C: int) -> Tensor:
    """(N, C, levels, H, W), straight from the definition."""
    if isinstance(distribution, Bernoulli):
        p = 1 / (1 + torch.exp(-params))
        return torch.stack((1 - p, p), dim=2)
    weights = torch.exp(params.view(N, C, distribution.levels, H, W))
    return weights / weights.sum(dim=2, keepdim=True)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
@pytest.mark.parametrize("C", [1, 3])
def test_log_prob(distribution, C):
    params, values = _case(distribution, C)

    def from_definition(params: Tensor) -> Tensor:
        return _probabilities(distribution, params, C).log().gather(2, values.unsqueeze(2)).squeeze(2)

    actual = distribution.log_prob(params, values)
    assert_parity(actual, eager=from_definition(params), exact=from_definition(params.double()))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_gradient(distribution):
    params, values = _case(distribution, C=2)
    params, values = params[:1, :, :1].double().requires_grad_(), values[:1, :, :1]
    assert torch.autograd.gradcheck(lambda params: distribution.log_prob(params, values), params)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_extreme_logits_stay_finite(distribution):
    params, values = _case(distribution, C=1, scale=1e4)
    params.requires_grad_()
    log_prob = distribution.log_prob(params, values)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert (log_prob <= 0).all()
    assert params.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_half_types_are_computed_in_float32(distribution, dtype):
    params, values = _case(distribution, C=1)
    params, uniforms = params.to(dtype), torch.rand(N, 1, H, W)
    assert torch.equal(distribution.log_prob(params, values), distribution.log_prob(params.float(), values))
    assert torch.equal(distribution.draw(params, uniforms), distribution.draw(params.float(), uniforms))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draw_inverts_the_distribution_function(distribution, temperature):
    params, _ = _case(distribution, C=3)
    uniforms = torch.rand(N, 3, H, W)
    probabilities = _probabilities(distribution, params.double() / temperature, 3)
    if isinstance(distribution, Bernoulli):
        probabilities = probabilities.flip(2)  # its draws are 1 for small uniforms
    upper = probabilities.cumsum(dim=2)
    expected = (upper <= uniforms.unsqueeze(2)).sum(dim=2).clamp(max=distribution.levels - 1)
    if isinstance(distribution, Bernoulli):
        expected = 1 - expected
    drawn = distribution.draw(params, uniforms, temperature)
    assert drawn.dtype == torch.int64
    assert torch.equal(drawn, expected)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS[:3], ids=repr)
def test_evenly_spread_uniforms_draw_in_proportion(distribution):
    count = 1000
    params = torch.randn(1, distribution.param_channels(1), 1, 1)
    uniforms = ((torch.arange(count) + 0.5) / count).view(count, 1, 1, 1)
    drawn = distribution.draw(params.expand(count, -1, -1, -1), uniforms)
    counts = torch.bincount(drawn.flatten(), minlength=distribution.levels)
    every = torch.arange(distribution.levels).view(-1, 1, 1, 1)
    log_prob = distribution.log_prob(params.expand(distribution.levels, -1, -1, -1), every).flatten()
    assert (counts - count * log_prob.exp()).abs().max() <= 1  # one uniform either way at the ends of an interval


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_the_ends_of_the_interval(distribution):
    params = torch.zeros(1, distribution.param_channels(1), 1, 1)
    lowest, highest = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 1 - 2.0**-24)
    drawn = {distribution.draw(params, lowest).item(), distribution.draw(params, highest).item()}
    assert drawn == {0, distribution.levels - 1}


def test_rounding_never_draws_past_the_last_level():
    params = torch.randn(100, 256, 1, 1)
    highest = torch.full((100, 1, 1, 1), 1 - 2.0**-24)
    assert (params.softmax(dim=1).cumsum(dim=1)[:, -1:] < highest).any()  # some of them do end too low
    assert Categorical(256).draw(params, highest).max() <= 255


def test_a_level_without_probability_is_never_drawn():
    params = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]).view(1, 5, 1, 1).expand(100, -1, -1, -1)
    uniforms = (torch.arange(100) / 100).view(100, 1, 1, 1)
    assert set(Categorical(5).draw(params, uniforms).flatten().tolist()) == {1, 3}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_each_colour_reads_its_own_part(distribution):
    params, values = _case(distribution, C=3)
    uniforms = torch.rand(N, 3, H, W)
    eager, exact = distribution.log_prob(params, values), distribution.log_prob(params.double(), values)
    drawn = distribution.draw(params, uniforms)
    for k, part in enumerate(params.chunk(3, dim=1)):
        one = slice(k, k + 1)
        assert_parity(distribution.log_prob(part, values[:, one]), eager[:, one], exact[:, one])
        assert torch.equal(distribution.draw(part, uniforms[:, one]), drawn[:, one])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_to_input_spans_minus_one_to_one(distribution):
    values = torch.arange(distribution.levels, dtype=torch.uint8)
    x = distribution.to_input(values)
    exact = torch.linspace(-1, 1, distribution.levels, dtype=torch.float64)
    assert x.dtype == torch.float32
    assert_parity(x, eager=exact.float(), exact=exact)


ZEROS = torch.zeros(2, 3, 4, 4)
VALUES = torch.zeros(2, 1, 4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Categorical(1), ValueError, "levels: expected an integer of at least 2, got 1"),
        (lambda: Categorical(2.5), ValueError, "levels: expected an integer of at least 2, got 2.5"),
        (lambda: Categorical(3).log_prob(ZEROS, VALUES.float()), TypeError, "values: expected an integer tensor"),
        (lambda: Categorical(3).log_prob(ZEROS, VALUES + 3), ValueError, r"values: expected integers in \[0, 3\), got"),
        (lambda: Categorical(3).log_prob(ZEROS, VALUES - 1), ValueError, "got values from -1 to -1"),
        (lambda: Categorical(3).log_prob(ZEROS, VALUES[0]), ValueError, r"values: expected shape \(N, C, H, W\)"),
        (lambda: Categorical(4).log_prob(ZEROS, VALUES), ValueError, r"params: expected shape \(2, 4, 4, 4\)"),
        (lambda: Categorical(3).log_prob(ZEROS.long(), VALUES), TypeError, "params: expected a floating-point tensor"),
        (lambda: Categorical(3).draw(ZEROS, VALUES), TypeError, "uniforms: expected a floating-point tensor"),
        (lambda: Categorical(3).draw(ZEROS, ZEROS), ValueError, r"params: expected shape \(2, 9, 4, 4\)"),
        (
            lambda: Bernoulli().draw(ZEROS, ZEROS, 0.0),
            ValueError,
            "temperature: .* at least 1e-6, got 0.0",
        ),
        (
            lambda: Bernoulli().draw(ZEROS, ZEROS, -1.0),
            ValueError,
            "temperature: .* at least 1e-6, got -1.0",
        ),
        (
            lambda: Bernoulli().draw(ZEROS, ZEROS, float("nan")),
            ValueError,
            "temperature: .* at least 1e-6",
        ),
    ],
)
def test_errors_name_argument_expected_and_got(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
@pytest.mark.parametrize("C", [1, 3])
def test_the_law_of_all_values_says_how_often_each_is(distribution: Bernoulli | Categorical, C: int) -> None:
    """And of what never was, that it may be: once in as many values as there are, and once more for each level."""
    L = distribution.levels
    values = torch.randint(L, (N, C, H, W), dtype=torch.uint8)
    values[:, :, 0] = 0
    marginal = distribution.marginal(values)
    assert marginal.params.dtype == marginal.std.dtype == torch.float32
    p = _probabilities(distribution, marginal.params.view(1, -1, 1, 1).expand(N, -1, H, W), C)[0, :, :, 0, 0]
    counts = torch.stack([(values == level).sum((0, 2, 3)) for level in range(L)], 1)
    torch.testing.assert_close(p, (counts + 1) / (N * H * W + L))
    assert marginal.std.tolist() == [1.0] * distribution.param_channels(C)


def test_no_law_of_no_values() -> None:
    with pytest.raises(ValueError, match=r"values: expected shape .* of one pixel or more, got \(0, 1, 2, 2\)"):
        Categorical(4).marginal(torch.zeros(0, 1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"values: expected .*\[0, 4\)"):
        Categorical(4).marginal(torch.full((1, 1, 2, 2), 4))
    with pytest.raises(TypeError, match=r"values: expected .*integer"):
        Categorical(4).marginal(torch.zeros(1, 1, 2, 2))
