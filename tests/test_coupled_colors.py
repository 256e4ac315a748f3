"""Distributions that couple the colours of a pixel, and that want several uniforms for a value."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from architectures import randomise
from fastgen import sampling
from fastgen.distributions import Categorical, Distribution
from fastgen.nn import MaskedConv2d
from fastgen.ops import discretized_logistic_mixture
from mixtures import CHANNELS
from samplers import assert_same_as_naive

K = 2


class LogisticMixture(Distribution):
    """Of K logistics that a pixel's colours share, the means of green and blue moved by the colours before them."""

    uniforms_per_value = 2  # one for the component, of which a pixel reads the first alone, and one for the value
    couples_colors = True

    def param_channels(self, channels: int) -> int:
        return CHANNELS[channels] * K

    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        return discretized_logistic_mixture(params, values, self.levels).unsqueeze(1)

    def _draw_color(self, params: Tensor, uniforms: Tensor, values: Tensor, k: int, temperature: float) -> Tensor:
        C = values.shape[1]
        parts = params[:, K:].unflatten(1, (C, 3 if C == 3 else 2, K)).unbind(2)
        cdf = (params[:, :K] / temperature).softmax(1).cumsum(1)
        chosen = (cdf <= uniforms[:, :1]).sum(1, keepdim=True).clamp_(max=K - 1)
        mean = parts[0][:, k]
        for earlier in range(k):
            coefficient = parts[2][:, earlier + k - 1].tanh()
            mean = mean + coefficient * self.to_input(values[:, earlier : earlier + 1])
        scale = parts[1][:, k].clamp(min=-7).exp() * temperature
        x = mean.gather(1, chosen) + scale.gather(1, chosen) * uniforms[:, 2 * k + 1 : 2 * k + 2].logit(1e-6)
        return ((x + 1) * (self.levels - 1) / 2).round().clamp(0, self.levels - 1).long().squeeze(1)


class Twice(Categorical):
    """Draws from the mean of two uniforms: no law that anyone wants, but it needs both."""

    uniforms_per_value = 2

    def _draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        return super()._draw(logits, uniforms.unflatten(1, (-1, 2)).mean(2))


class Net(nn.Module):
    """All parameters of a pixel from the pixels before it; with ``groups``, of a colour from those before it, too."""

    def __init__(self, colors: int, params: int, groups: int = 1) -> None:
        super().__init__()
        self.first = MaskedConv2d(colors, 12, 5, "A", color_groups=groups)
        self.output = MaskedConv2d(12, params, 3, "B", color_groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.relu(self.first(x)))


def mixture(colors: int, levels: int = 5) -> tuple[nn.Module, LogisticMixture]:
    law = LogisticMixture(levels)
    return randomise(Net(colors, law.param_channels(colors))).eval(), law


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize("n", [1, 5])
def test_samples_are_those_of_naive_sampling(colors: int, n: int) -> None:
    model, law = mixture(colors)
    shape = (colors, 5, 4)
    naive = sampling.NaiveSampler(model, shape, law, "[-1, 1]")
    uniforms = torch.rand(n, 2 * colors, 5, 4)
    known, mask = torch.randint(5, (n, *shape)), torch.rand(n, *shape) < 0.3
    for executor in ("native", "reference"):
        sampler = sampling.CompiledSampler(model, shape, law, "[-1, 1]", executor=executor)
        for options in ({}, {"temperature": 0.7}, {"known": known, "known_mask": mask}):
            drawn = sampler.sample(uniforms=uniforms, **options)
            assert torch.equal(drawn, naive.sample(uniforms=uniforms, **options))
            assert len(drawn.unique()) > 2
        assert torch.equal(drawn[mask], known[mask])
        assert torch.equal(sampler.sample(n, seed=3), naive.sample(n, seed=3))
        assert sampling.verify(sampler, n=n).same
    assert_same_as_naive(model, shape, law, n)


def test_every_colour_reads_what_was_drawn_before_it() -> None:
    """A known red moves green and blue, with nothing else changed; the first pixel has no other neighbours."""
    model, law = mixture(3, levels=64)
    model.output.bias.detach()[K:].view(3, 3, K)[:, 2] = 2.0  # strong coefficients
    sampler = sampling.compile(model, (3, 1, 1), law, "[-1, 1]")
    mask = torch.tensor([True, False, False])[:, None, None]
    dark, bright = (
        sampler.sample(64, seed=1, known=torch.full((3, 1, 1), red), known_mask=mask).float() for red in (0, 63)
    )
    assert (bright[:, 1:] - dark[:, 1:]).mean(0).min() > 5


@pytest.mark.parametrize("colors", [1, 3])
def test_draws_follow_the_likelihood(colors: int) -> None:
    """Each image of one pixel, of three levels, as often as its likelihood says: within five standard errors."""
    law, n = LogisticMixture(3), 40_000
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(1, law.param_channels(colors), 1, 1, generator=generator)
    images = torch.tensor(list(itertools.product(range(3), repeat=colors)))[:, :, None, None]
    p = law.log_prob(params.expand(len(images), -1, -1, -1), images).flatten().exp().double()
    assert p.sum().sub(1).abs() < 1e-5
    uniforms = torch.rand(n, 2 * colors, 1, 1, generator=generator)
    drawn = law.draw(params.expand(n, -1, -1, -1), uniforms).flatten(1)
    index = (drawn * torch.tensor([3**power for power in reversed(range(colors))])).sum(1)
    found = torch.bincount(index, minlength=len(images)) / n
    assert ((found - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1 / n).all()
    values = torch.zeros(n, colors, 1, 1, dtype=torch.int64)
    for k in range(colors):
        values[:, k : k + 1] = law.draw_color(params.expand(n, -1, -1, -1), uniforms, values, k)
    assert torch.equal(values.flatten(1), drawn)


def test_temperature_is_that_of_every_colour() -> None:
    model, law = mixture(3)
    uniforms, values = torch.rand(64, 6, 1, 1), torch.zeros(64, 3, 1, 1, dtype=torch.int64)
    params = model(torch.zeros(64, 3, 1, 1)).detach()  # the first pixel's, which no value decides
    for k in range(3):
        values[:, k : k + 1] = law.draw_color(params, uniforms, values, k, 0.3)
    sampler = sampling.NaiveSampler(model, (3, 1, 1), law, "[-1, 1]")
    assert torch.equal(sampler.sample(uniforms=uniforms, temperature=0.3), values)
    assert not torch.equal(sampler.sample(uniforms=uniforms), values)


def test_two_uniforms_for_each_value_of_colours_that_are_not_coupled() -> None:
    law = Twice(3)
    model = randomise(Net(3, 9, groups=3)).eval()
    both = (
        sampling.compile(model, (3, 4, 5), law, "[-1, 1]"),
        sampling.NaiveSampler(model, (3, 4, 5), law, "[-1, 1]"),
    )
    uniforms = torch.rand(2, 6, 4, 5)
    compiled, naive = (sampler.sample(uniforms=uniforms) for sampler in both)
    assert torch.equal(compiled, naive)
    once = sampling.compile(model, (3, 4, 5), Categorical(3), "[-1, 1]")
    assert torch.equal(compiled, once.sample(uniforms=uniforms.unflatten(1, (3, 2)).mean(2)))
    assert torch.equal(*(sampler.sample(3, seed=5) for sampler in both))


def test_what_does_not_fit_is_named() -> None:
    model, law = mixture(3)
    sampler = sampling.compile(model, (3, 4, 4), law, "[-1, 1]")
    with pytest.raises(ValueError, match=r"uniforms: expected shape \(N, 6, 4, 4\), got \(2, 3, 4, 4\)"):
        sampler.sample(uniforms=torch.rand(2, 3, 4, 4))
    params, uniforms = torch.zeros(1, 10 * K, 1, 1), torch.rand(1, 6, 1, 1)
    with pytest.raises(ValueError, match=r"uniforms: expected shape \(N, C·2, H, W\), got \(1, 3, 1, 1\)"):
        law.draw(params, uniforms[:, :3])
    with pytest.raises(ValueError, match="k: expected an integer from 0 to 2, got 3"):
        law.draw_color(params, uniforms, torch.zeros(1, 3, 1, 1, dtype=torch.int64), 3)
    with pytest.raises(ValueError, match=r"values: expected shape \(1, 3, 1, 1\), got \(1, 2, 1, 1\)"):
        law.draw_color(params, uniforms, torch.zeros(1, 2, 1, 1, dtype=torch.int64), 0)
    with pytest.raises(TypeError, match=r"draw_color: expected a distribution that couples colours, got Categorical"):
        Categorical(3).draw_color(params, uniforms, torch.zeros(1, 3, 1, 1, dtype=torch.int64), 0)
    own = type("Own", (), {"levels": 3, "param_channels": int, "draw": None, "couples_colors": True})()
    with pytest.raises(TypeError, match="distribution: expected draw_color of one that couples colours, got"):
        sampling.NaiveSampler(model, (3, 4, 4), own, "[-1, 1]")


def test_parameters_that_depend_on_a_colour_of_their_pixel_are_refused() -> None:
    """They are all read when the first colour is drawn."""
    law = LogisticMixture(5)
    model = randomise(nn.Sequential(MaskedConv2d(3, 30, 3, "A", color_groups=3), nn.Conv2d(30, 10 * K, 1))).eval()
    with pytest.raises(sampling.UnsupportedModelError, match=r"of colour 0 depend on colour 1 of pixel \(r, c\)"):
        sampling.compile(model, (3, 4, 4), law, "[-1, 1]")
