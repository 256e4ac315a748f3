"""DiscretizedLogisticMixture: its probabilities against their definition, its draws against the inverse of that law."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from architectures import randomise
from fastgen import sampling
from fastgen.distributions import Categorical, DiscretizedLogisticMixture
from fastgen.nn import MaskedConv2d
from fastgen.ops.sample import PackedPlan, Walk
from mixtures import pixels
from plans import ABOVE, LEFT, Builder
from samplers import assert_same_as_naive

K = 3


def edges(law: DiscretizedLogisticMixture, params: Tensor, values: Tensor, temperature: float = 1.0) -> list[Tensor]:
    """Of every value, of every component: the logistic's distribution function at the edges of its bin, in float64.

    (N, C, K, H, W) each, straight from the definition.
    """
    C, last = values.shape[1], law.levels - 1
    parts = params[:, law.components :].double().unflatten(1, (C, -1, law.components))
    x = (2 * values.double() / last - 1).unsqueeze(2)
    means = [parts[:, 0, 0]]
    if C == 3:
        c = parts[:, :, 2].tanh()
        means += [parts[:, 1, 0] + c[:, 0] * x[:, 0], parts[:, 2, 0] + c[:, 1] * x[:, 0] + c[:, 2] * x[:, 1]]
    mean, scale = torch.stack(means, 1), parts[:, :, 1].clamp(min=-7).exp() * temperature
    v = values.unsqueeze(2)
    lower, upper = (torch.sigmoid((x + side / last - mean) / scale) for side in (-1, 1))
    return [torch.where(v == 0, 0, lower), torch.where(v == last, 1, upper)]


def probability(law: DiscretizedLogisticMixture, params: Tensor, values: Tensor) -> Tensor:
    lower, upper = edges(law, params, values)
    weights = params[:, : law.components].double().softmax(1)
    return (weights * (upper - lower).prod(1)).sum(1, keepdim=True)


@pytest.mark.parametrize("log_scale", [-9.0, -4.0, -1.0, 2.0])
@pytest.mark.parametrize("levels", [2, 256, 1000])
def test_the_probabilities_of_all_values_of_one_colour_add_up_to_one(levels: int, log_scale: float) -> None:
    law = DiscretizedLogisticMixture(K, levels)
    params, *_ = pixels((6, 1, K, 1, 1), levels=levels, log_scale=log_scale)
    every = torch.arange(levels).view(-1, 1, 1, 1)
    for one in params:
        one = one.expand(levels, -1, -1, -1)
        p = law.log_prob(one, every).double().exp()
        assert abs(p.sum() - 1) < 1e-5
        exact = law.log_prob(one.double(), every).exp()
        assert abs(exact.sum() - 1) < 1e-12
        assert (exact - probability(law, one, every)).abs().max() < 1e-12


@pytest.mark.parametrize("log_scale", [-9.0, -1.0, 2.0])
@pytest.mark.parametrize(("levels", "reds"), [(2, (0, 1)), (12, range(12)), (256, (0, 255))])
def test_those_of_all_pixels_of_three_colours_do(levels: int, reds: Sequence[int], log_scale: float) -> None:
    """Green and blue given a red add up to the red's own probability, and reds to one."""
    law = DiscretizedLogisticMixture(K, levels)
    params, *_ = pixels((1, 3, K, 1, 1), levels=levels, log_scale=log_scale)
    of_red = torch.cat((params[:, :K], params[:, K : 3 * K]), 1).double()  # its law is that of one colour
    rest = torch.cartesian_prod(torch.arange(levels), torch.arange(levels))
    every = params.expand(len(rest), -1, -1, -1)
    total = 0.0
    for red in reds:
        images = torch.cat((torch.full((len(rest), 1), red), rest), 1)[:, :, None, None]
        p = law.log_prob(every, images).double().exp()
        assert (p - probability(law, every, images)).abs().max() < 1e-5
        assert abs(p.sum() - law.log_prob(of_red, torch.full((1, 1, 1, 1), red)).exp()) < 1e-5
        total += p.sum().item()
    assert len(reds) < levels or abs(total - 1) < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("C", [1, 3])
def test_a_draw_inverts_the_distribution_function(C: int, temperature: float) -> None:
    """Its uniform lies between the edges of the value's bin under the component that the other uniform chose."""
    law = DiscretizedLogisticMixture(K)
    params, *_ = pixels((40, C, K, 5, 7), log_scale=-2.0)
    uniforms = torch.rand(40, 2 * C, 5, 7, dtype=torch.float64)
    uniforms[0], uniforms[1] = 0, 1 - 2.0**-53
    values = law.draw(params, uniforms, temperature)
    assert values.dtype == torch.int64
    assert {0, 255} < set(values.flatten().tolist())
    chosen = Categorical(K).draw(params[:, :K].double(), uniforms[:, :1], temperature)
    chosen = chosen[:, :, None].expand(-1, C, -1, -1, -1)
    lower, upper = (edge.gather(2, chosen).squeeze(2) for edge in edges(law, params, values, temperature))
    u = uniforms[:, 1::2]
    assert ((lower - 1e-12 <= u) & (u <= upper + 1e-12)).all()
    assert torch.equal(law.draw(params.bfloat16(), uniforms), law.draw(params.bfloat16().float(), uniforms))


def test_what_public_samplers_draw_is_the_same_mixture_on_a_finer_grid() -> None:
    law = DiscretizedLogisticMixture(K)
    fine = law.continuous()
    assert (fine.components, fine.levels) == (K, 65536)
    params, *_ = pixels((40, 3, K, 5, 7), log_scale=-2.0)
    uniforms = torch.rand(40, 6, 5, 7)
    values, x = law.draw(params, uniforms), law.continuous().draw(params, uniforms)
    near = (values / 255 - x / 65535).abs() <= (0.5 + 1e-9) / 255 + 0.5 / 65535
    assert near[:, 0].all()  # red is the same, rounded
    assert not torch.equal(values, (x * 255 / 65535).round().long())  # what follows reads another red


@pytest.mark.parametrize(("C", "levels"), [(1, 256), (3, 256), (1, 2), (3, 5), (1, 70000)])
def test_the_law_of_all_values_is_as_likely_as_the_one_they_are_of(C: int, levels: int) -> None:
    law = DiscretizedLogisticMixture(K, levels)
    params, *_ = pixels((1, C, K, 1, 1), levels=levels, log_scale=-2.0)
    params = params.expand(8, -1, 40, 40)
    values = law.draw(params, torch.rand(8, 2 * C, 40, 40))
    marginal = law.marginal(values)
    assert (marginal.std[:K] == 1).all()
    assert (marginal.std[K:] <= 0.01).all()
    assert marginal.params.dtype == marginal.std.dtype == torch.float32
    found = law.log_prob(marginal.params.view(1, -1, 1, 1).expand_as(params), values).mean()
    assert found > law.log_prob(params, values).mean() - 0.02
    assert torch.equal(marginal.params, law.marginal(values).params), "the same in every process"


def test_the_law_of_a_few_frequent_values_has_narrow_logistics_for_them() -> None:
    """As grey digits are: four fifths 0, many 252 to 254, and anything in between. It asks for no gradients."""
    often = torch.tensor([0] * 3200 + [252] * 80 + [253] * 360 + [254] * 120 + list(range(1, 241)))
    frequencies = often.bincount() / len(often)
    entropy = -frequencies.xlogy(frequencies).sum()
    law = DiscretizedLogisticMixture(5)
    with torch.no_grad():
        params = law.marginal(often.view(40, 1, 10, 10)).params
    found = -law.log_prob(params.view(1, -1, 1, 1).expand(40, -1, 10, 10), often.view(40, 1, 10, 10)).mean()
    assert entropy < found < 1.05 * entropy
    assert not params.requires_grad


@pytest.mark.parametrize("greys", [[100, 150], [7], [0, 255], [60, 61, 62, 250]])
def test_the_law_of_few_values_can_still_be_left(greys: list[int]) -> None:
    """No log-scale is where its gradient is zero, and a mean varies by no more than its scale."""
    values = torch.tensor(greys)[torch.randint(len(greys), (4, 1, 8, 8))]
    law = DiscretizedLogisticMixture(5)
    with torch.inference_mode():
        params, std = law.marginal(values)
    log_scales = params[10:]
    assert log_scales.amin() >= -6
    assert (std[5:10] <= log_scales.exp() * 1.0001).all()
    leaf = params.clone().requires_grad_()
    later = (values + torch.randint(-20, 21, values.shape)).clamp(0, 255)
    law.log_prob(leaf.view(1, -1, 1, 1).expand(4, -1, 8, 8), later).sum().backward()
    assert (leaf.grad[10:] != 0).all()


class Net(nn.Module):
    """All parameters of a pixel from the pixels before it, and from a class where there are some."""

    def __init__(self, colors: int, params: int, classes: int | None = None) -> None:
        super().__init__()
        self.classes = classes
        self.first = MaskedConv2d(colors, 12, 5, "A")
        self.told = None if classes is None else nn.Embedding(classes, 12)
        self.output = MaskedConv2d(12, params, 3, "B")

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.first(x)
        if self.told is not None:
            h = h + self.told(labels)[:, :, None, None]
        return self.output(torch.relu(h))


def net(colors: int, law: DiscretizedLogisticMixture, classes: int | None = None) -> nn.Module:
    model = randomise(Net(colors, law.param_channels(colors), classes)).eval()
    parts = model.output.bias.detach()[law.components :].view(colors, -1, law.components)
    parts[:, 1] -= 2.0  # values that are not all at the edges
    return model


@pytest.mark.parametrize(("colors", "n", "classes"), [(1, 5, None), (3, 1, None), (3, 4, 4)])
def test_compiled_code_draws_what_naive_sampling_draws(colors: int, n: int, classes: int | None) -> None:
    law, shape = DiscretizedLogisticMixture(K, 16), (colors, 6, 5)
    model = net(colors, law, classes)
    sampler, naive = sampling.compile(model, shape, law, "[-1, 1]"), sampling.NaiveSampler(model, shape, law, "[-1, 1]")
    labels = None if classes is None else torch.arange(n) % classes
    assert sampler._program(labels is not None).draws
    uniforms = torch.rand(n, 2 * colors, 6, 5)
    known, mask = torch.randint(16, (n, *shape)), torch.rand(n, *shape) < 0.3
    for options in ({}, {"temperature": 0.7}, {"known": known, "known_mask": mask}):
        drawn = sampler.sample(uniforms=uniforms, labels=labels, **options)
        assert torch.equal(drawn, naive.sample(uniforms=uniforms, labels=labels, **options))
        assert len(drawn.unique()) > 5
    assert torch.equal(drawn[mask], known[mask])
    assert torch.equal(sampler.sample(n, seed=3, labels=labels), naive.sample(n, seed=3, labels=labels))
    assert sampling.verify(sampler, n=n, labels=labels).same
    assert_same_as_naive(model, shape, law, n, condition=labels)


@pytest.mark.parametrize("levels", [2, 256])
def test_on_a_wavefront_and_off_it_and_in_any_batch(levels: int) -> None:
    """The same values to the last bit; and they are what torch draws from the parameters that were seen."""
    law, shape = DiscretizedLogisticMixture(K, levels), (3, 24, 20)
    model = net(3, law)
    wave = sampling.compile(model, shape, law, "[-1, 1]")
    raster = sampling.CompiledSampler(model, shape, law, "[-1, 1]", wavefront=False)
    assert (wave.plan.slope, raster.plan.slope) == (3, None)
    uniforms = torch.rand(70, 6, 24, 20)
    drawn = wave.sample(uniforms=uniforms)
    assert torch.equal(drawn[3:4], wave.sample(uniforms=uniforms[3:4]))
    for sampler in (wave, raster):
        drawn = sampler.sample(uniforms=uniforms[:8], temperature=0.8)
        seen = sampler.forced(drawn)
        assert seen.shape == (8, 10 * K, 24, 20)
        assert torch.equal(law.draw(seen, uniforms[:8], 0.8), drawn)


def test_parameters_that_are_not_finite_are_refused() -> None:
    law = DiscretizedLogisticMixture(K)
    model = net(1, law)
    model.output.bias.detach()[-1] = float("inf")
    with pytest.raises(ValueError, match="model: expected finite parameters, got inf or nan in row 0"):
        sampling.compile(model, (1, 4, 4), law, "[-1, 1]").sample(2)


def test_a_mixture_that_no_number_is_drawn_from_is_zero_on_every_path() -> None:
    """0 · ∞, where a scale overflows and the uniform is a half."""
    law, b = DiscretizedLogisticMixture(1), Builder(1, 2, 3)
    plan = b.finish(b.map([(0, ABOVE + LEFT)], 3))
    plan.instructions[-1].weight.zero_()
    plan.instructions[-1].bias.copy_(torch.tensor([0.0, 0.0, 1e4]))
    table, uniforms = law.to_input(torch.arange(256))[None], torch.full((2, 2, 2, 3), 0.5)
    walk = Walk(PackedPlan(*plan.encode()), uniforms, table, params=3, components=1)
    assert walk.advance() is None
    assert torch.equal(walk.values, law.draw(walk.params, uniforms))
    assert not walk.values.any()


def test_what_compiled_code_is_given_is_checked() -> None:
    b = Builder(1, 2, 3)
    packed = PackedPlan(*b.finish(b.map([(0, ABOVE + LEFT)], 6)).encode())
    table, uniforms = torch.rand(1, 4), torch.rand(2, 2, 2, 3)
    with pytest.raises(ValueError, match=r"uniforms: expected shape \(N, 2, 2, 3\), got \(2, 1, 2, 3\)"):
        Walk(packed, uniforms[:, :1], table, components=2)
    for components in (1, 3, 2**40):
        with pytest.raises(RuntimeError, match="components: expected"):
            Walk(packed, uniforms, table, components=components).advance()
    assert Walk(packed, uniforms, table, components=2).advance() is None
    b = Builder(2, 2, 3)
    packed = PackedPlan(*b.finish(*[b.map([(0, ABOVE + LEFT)], 6)] * 2).encode())
    with pytest.raises(RuntimeError, match="components: expected a plan of 1 or 3 colours"):
        Walk(packed, torch.rand(2, 4, 2, 3), table.expand(2, -1), components=2).advance()


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="components: expected a positive integer, got 0"):
        DiscretizedLogisticMixture(0)
    with pytest.raises(ValueError, match="levels: expected an integer of at least 2, got 1"):
        DiscretizedLogisticMixture(5, 1)
    law = DiscretizedLogisticMixture(5)
    assert repr(law) == "DiscretizedLogisticMixture(components=5, levels=256)"
    assert (law.param_channels(1), law.param_channels(3)) == (15, 50)
    with pytest.raises(
        ValueError, match="channels: expected 1 or 3 colours, which a mixture of logistics couples, got 2"
    ):
        law.param_channels(2)
    with pytest.raises(ValueError, match=r"params: expected shape \(1, 50, 2, 2\) for values of \(1, 3, 2, 2\), got"):
        law.log_prob(torch.zeros(1, 15, 2, 2), torch.zeros(1, 3, 2, 2).long())


def test_log_prob_is_that_of_whole_pixels_and_differentiable() -> None:
    law = DiscretizedLogisticMixture(K)
    params, values, _ = pixels((2, 3, K, 3, 4))
    log_prob = law.log_prob(params.double().requires_grad_(), values)
    assert log_prob.shape == (2, 1, 3, 4)
    assert (log_prob - probability(law, params, values).log()).abs().max() < 1e-9
    assert torch.autograd.gradcheck(
        lambda params: law.log_prob(params, values[:1, :, :1, :1]), params[:1, :, :1, :1].double().requires_grad_()
    )
