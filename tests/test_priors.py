"""Priors of codes: exact samples, where their components lie, and the ways through them."""

import math

import pytest
import torch
from torch import Tensor

from fastgen.models.priors import CodePrior, NormalPrior, RingPrior, SwissRollPrior

N = 20_000


def drawn(prior: CodePrior, parts: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    u = torch.rand(N, prior.uniforms, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return prior.from_uniforms(u, parts, temperature)


def near(found: Tensor, expected: Tensor | float, spread: float) -> None:
    """Within five standard errors of a mean of N."""
    assert (found - expected).abs().max() < 5 * spread / math.sqrt(N)


def test_normal_codes_have_the_prior_s_deviation() -> None:
    z = drawn(NormalPrior(3, std=5.0))
    near(z.mean(0), 0.0, 5.0)
    near(z.square().mean(0), 25.0, 25 * math.sqrt(2))
    near((z[:, 0] * z[:, 1]).mean(), 0.0, 25.0)
    assert NormalPrior(3).walk(4) is None
    assert torch.equal(drawn(NormalPrior(2), temperature=0.5), 0.5 * drawn(NormalPrior(2)))


@pytest.mark.parametrize("part", [0, 3, 9])
def test_a_component_of_the_ring(part: int) -> None:
    """A Gaussian at its angle, of deviation 0.5 along the radius and 0.1 across."""
    prior = RingPrior(10)
    z = drawn(prior, torch.full((N,), part))
    angle = 2 * math.pi * part / 10
    out = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    across = torch.tensor([-out[1], out[0]], dtype=torch.float64)
    near(z.mean(0), 1.4 * out, 0.5)
    near((z @ out - 1.4).square().mean(), 0.25, 0.25 * math.sqrt(2))
    near((z @ across).square().mean(), 0.01, 0.01 * math.sqrt(2))
    near(((z @ out - 1.4) * (z @ across)).mean(), 0.0, 0.05)
    assert (prior.components_of(z) == part).double().mean() > 0.9
    still = drawn(prior, torch.full((N,), part), temperature=0.0)
    torch.testing.assert_close(still, (1.4 * out).expand(N, 2))


def test_the_roll_is_an_arc_of_two_turns() -> None:
    prior = SwissRollPrior(10)
    z = drawn(prior)
    radius, angle = z.norm(dim=1), torch.atan2(z[:, 1], z[:, 0])
    turn = (4 * math.pi * radius / 3 - angle) / (2 * math.pi)
    torch.testing.assert_close(turn, turn.round(), atol=1e-9, rtol=0)
    assert set(turn.round().tolist()) == {0.0, 1.0, 2.0}
    near((radius / 3).square().mean(), 0.5, math.sqrt(1 / 12))
    for part in (0, 7):
        t = (drawn(prior, torch.full((N,), part)).norm(dim=1) / 3).square()
        assert part / 10 <= t.min() < t.max() < (part + 1) / 10
        near(10 * t.mean(), part + 0.5, math.sqrt(1 / 12))
    parts = torch.arange(N) % 10
    assert torch.equal(prior.components_of(drawn(prior, parts)), parts)


@pytest.mark.parametrize("prior", [RingPrior(4), SwissRollPrior(4)], ids=lambda prior: prior.name)
def test_no_component_is_a_draw_from_all_of_them(prior: CodePrior) -> None:
    whole = drawn(prior)
    assert torch.equal(whole, drawn(prior, torch.full((N,), 4))), "the label behind the last says so"
    shares = torch.bincount(prior.components_of(whole), minlength=4) / N
    near(shares, 0.25, 0.5)
    some = torch.arange(N) % 5
    mixed = drawn(prior, some)
    assert torch.equal(mixed[some == 4], whole[some == 4])
    for part in range(4):
        assert torch.equal(mixed[some == part], drawn(prior, torch.full((N,), part))[some == part])


@pytest.mark.parametrize("prior", [RingPrior(5), SwissRollPrior(5)], ids=lambda prior: prior.name)
def test_a_way_leads_through_each_component_evenly(prior: CodePrior) -> None:
    way = prior.walk(8)
    assert way.shape == (5, 8, 2)
    assert torch.equal(prior.components_of(way.flatten(0, 1)), torch.arange(5).repeat_interleave(8))
    for part in range(5):
        radii = drawn(prior, torch.full((N,), part)).norm(dim=1)
        if prior.name == "mixture":
            radii = drawn(prior, torch.full((N,), part)) @ (way[part].double().mean(0) / 1.4)
            mine = way[part].double() @ (way[part].double().mean(0) / 1.4)
        else:
            mine = way[part].norm(dim=1).double()
        assert torch.equal(mine, mine.sort().values)
        near((radii[:, None] < mine).double().mean(0), (torch.arange(8) + 0.5) / 8, 0.5)
