"""Compiled and naive sampling draw the same images, and the compiled path sees what one full forward sees."""

import copy

import pytest
import torch
from torch import nn

from autoregressive import CONFIGS, PlainTorch, TwoBranches, build, labels_for, random_values
from conftest import DEVICES
from fastgen import sampling
from fastgen.distributions import Bernoulli, Categorical
from fastgen.sampling import NaiveSampler
from parity import assert_parity

SIZES = [(1, 1), (1, 5), (5, 1), (4, 6), (7, 3)]
N = 3


def _samplers(model: nn.Module, H: int, W: int, to_input: str | None = None) -> tuple[sampling.Sampler, NaiveSampler]:
    shape = (model.in_channels, H, W)
    return sampling.compile(model, shape, to_input=to_input), NaiveSampler(model, shape, to_input=to_input)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize(("H", "W"), SIZES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_cached_draws_what_naive_draws(kind, H, W, temperature):
    model = build(kind)
    compiled, naive = _samplers(model, H, W)
    uniforms = torch.rand(N, model.in_channels, H, W)
    given = {"uniforms": uniforms, "temperature": temperature, "labels": labels_for(model, N)}
    drawn = compiled.sample(**given)
    assert drawn.dtype == torch.int64
    assert torch.equal(drawn, naive.sample(**given))
    assert torch.equal(drawn, model.sample(size=(H, W), **given))


@pytest.mark.parametrize(("H", "W"), SIZES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_forced_sees_what_one_forward_sees(kind, H, W):
    """Computed in float64, so that agreement to float32 rounding leaves no room for a mistake."""
    model = build(kind).double()
    values, labels = random_values(model, N, H, W), labels_for(model, N)
    with torch.no_grad():
        exact = model(model.distribution.to_input(values).double(), labels)
    for sampler in _samplers(model, H, W):
        assert_parity(sampler.forced(values, labels).float(), exact.float(), exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_forced_is_as_accurate_as_one_forward(kind, device):
    model = build(kind, channels=24).to(device)
    values, labels = random_values(model, 16, 6, 7).to(device), labels_for(model, 16)
    labels = labels if labels is None else labels.to(device)
    x = model.distribution.to_input(values)
    with torch.no_grad():
        eager, exact = model(x, labels), copy.deepcopy(model).double()(x.double(), labels)
    compiled, _ = _samplers(model, 6, 7)
    assert_parity(compiled.forced(values, labels), eager, exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["pixelcnn-rgb", "gated-pixelcnn-classes"])
def test_a_seed_draws_the_same_images_on_every_device(kind, device):
    model = build(kind).double()
    here = model.sample(N, size=(4, 5), seed=1, labels=labels_for(model, N))
    there = model.to(device).sample(N, size=(4, 5), seed=1, labels=labels_for(model, N))
    assert there.device.type == device
    assert torch.equal(there.cpu(), here)


@pytest.mark.parametrize("kind", CONFIGS)
def test_in_painting_keeps_what_is_known(kind):
    H, W = 4, 5
    model = build(kind)
    C = model.in_channels
    compiled, naive = _samplers(model, H, W)
    one, many = random_values(model, 1, H, W)[0], random_values(model, N, H, W)
    checkered = (torch.arange(H)[:, None] + torch.arange(W)) % 2 == 0
    for known, mask in ((many, checkered), (one, checkered), (many, torch.rand(N, C, H, W) < 0.5)):
        given = {"seed": 7, "labels": labels_for(model, N), "known": known, "known_mask": mask}
        drawn = compiled.sample(N, **given)
        assert torch.equal(drawn, naive.sample(N, **given))
        kept = mask.expand(N, C, H, W)
        assert torch.equal(drawn[kept], known.expand(N, C, H, W)[kept])
        assert not torch.equal(drawn, compiled.sample(N, seed=7, labels=labels_for(model, N)))


def test_values_that_are_not_known_are_not_read():
    model = build("gated-pixelcnn")
    known = random_values(model, N, 4, 5)
    mask = torch.rand(N, 1, 4, 5) < 0.5
    elsewhere = torch.where(mask, known, 99)
    drawn = model.sample(size=(4, 5), seed=1, known=known, known_mask=mask)
    assert torch.equal(drawn, model.sample(size=(4, 5), seed=1, known=elsewhere, known_mask=mask))


@pytest.mark.parametrize("kind", ["pixelcnn-levels", "gated-pixelcnn-rgb"])
def test_an_image_depends_on_seed_and_index_alone(kind):
    model = build(kind)
    images = model.sample(5, size=4, seed=3)
    assert torch.equal(model.sample(2, size=4, seed=3), images[:2])
    assert torch.equal(NaiveSampler(model, images.shape[1:]).sample(5, seed=3), images)
    assert len({tuple(image.flatten().tolist()) for image in images}) == 5
    assert not torch.equal(model.sample(5, size=4, seed=4), images)


def test_without_a_seed_torchs_generator_decides():
    model = build("pixelcnn-levels")
    torch.manual_seed(1)
    first, second = model.sample(size=4), model.sample(size=4)
    torch.manual_seed(1)
    assert torch.equal(model.sample(size=4), first)
    assert not torch.equal(first, second)


def test_progress_counts_rows():
    rows = []
    build("pixelcnn").sample(size=(3, 2), progress=lambda done, total: rows.append((done, total)))
    assert rows == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("H", "W"), SIZES)
def test_a_model_of_two_branches_can_be_compiled(H, W):
    model = TwoBranches().double()
    compiled, naive = _samplers(model, H, W, to_input="[-1, 1]")
    values = torch.randint(3, (N, 2, H, W))
    with torch.no_grad():
        exact = model(model.distribution.to_input(values).double())
    assert_parity(compiled.forced(values).float(), exact.float(), exact)
    assert torch.equal(compiled.sample(N, seed=1), naive.sample(N, seed=1))


def test_naive_takes_any_model():
    model = PlainTorch().double()
    sampler = NaiveSampler(model, (2, 4, 5), Categorical(3), to_input=lambda values: values * 0.5)
    values = torch.randint(3, (N, 2, 4, 5))
    seen = sampler.forced(values)
    with torch.no_grad():
        exact = model.eval()(values.double() * 0.5)
    assert_parity(seen.float(), exact.float(), exact)
    assert torch.equal(sampler.sample(2, seed=1), sampler.sample(4, seed=1)[:2])


def test_forced_never_sees_ahead():
    """A model that looks one pixel ahead: forced shows it zeros there, and so exposes it."""
    model = nn.Conv2d(1, 1, (1, 3), padding=(0, 1))
    values = torch.ones(1, 1, 1, 4, dtype=torch.int64)
    with torch.no_grad():
        forward = model(torch.ones(1, 1, 1, 4))
    forced = NaiveSampler(model, (1, 1, 4), Bernoulli(), to_input=lambda values: values.float()).forced(values)
    assert (forced != forward).tolist() == [[[[True, True, True, True]]]]


@pytest.mark.parametrize("kind", ["pixelcnn", "gated-pixelcnn"])
def test_sampling_leaves_the_model_as_it_was(kind):
    model = build(kind).train()
    model.output.eval()
    modes = [module.training for module in model.modules()]
    model.log_prob(random_values(model, 1, 4, 4)).sum().backward()
    before = {name: (p.detach().clone(), p.grad.clone()) for name, p in model.named_parameters()}
    drawn = model.sample(N, size=4)
    sampling.compile(model, (1, 4, 4)).forced(drawn)
    assert [module.training for module in model.modules()] == modes
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert torch.equal(parameter.grad, before[name][1])
    model.log_prob(drawn).sum().backward()  # what was drawn can be trained on


def test_modes_are_restored_after_an_error():
    model = build("gated-pixelcnn-classes").train()
    with pytest.raises(ValueError, match="labels: expected 2 integers"):
        model.sample(2, size=4)
    assert all(module.training for module in model.modules())


def test_changed_weights_are_noticed():
    model = build("gated-pixelcnn")
    compiled, naive = _samplers(model, 5, 4)
    compiled.sample(N, seed=1)
    model.load_state_dict(build("gated-pixelcnn").state_dict())
    assert torch.equal(compiled.sample(N, seed=1), naive.sample(N, seed=1))


def test_a_model_that_diverged_is_not_sampled():
    model = build("pixelcnn")
    nn.init.constant_(model.output.bias, float("nan"))
    for sampler in _samplers(model, 3, 3):
        with pytest.raises(ValueError, match="model: expected finite parameters, got inf or nan in row 0"):
            sampler.sample()


SAMPLER = sampling.compile(build("pixelcnn"), (1, 4, 5))
U = torch.zeros(2, 1, 4, 5)
KNOWN = U.long()
MASK = torch.ones(4, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sampling.compile(build("pixelcnn"), (3, 4, 4)), ValueError, "shape: expected 1 channels to fit"),
        (lambda: sampling.compile(build("pixelcnn"), (4, 4)), ValueError, "shape: expected three positive integers"),
        (
            lambda: NaiveSampler(PlainTorch(), (2, 4, 4)),
            TypeError,
            "distribution: expected one, since PlainTorch names none",
        ),
        (lambda: SAMPLER.sample(0), ValueError, "n: expected a positive integer, got 0"),
        (
            lambda: SAMPLER.sample(3, uniforms=U),
            ValueError,
            "n, uniforms: expected one batch size, got 3 from n, 2 from",
        ),
        (
            lambda: SAMPLER.sample(uniforms=U[:1], known=KNOWN, known_mask=MASK),
            ValueError,
            "1 from uniforms, 2 from kn",
        ),
        (lambda: SAMPLER.sample(uniforms=U, seed=1), ValueError, "seed: expected None together with uniforms"),
        (lambda: SAMPLER.sample(uniforms=U.to("meta")), ValueError, "uniforms: expected a tensor with values"),
        (lambda: SAMPLER.sample(uniforms=U.to_sparse()), TypeError, "uniforms: expected a dense tensor"),
        (lambda: SAMPLER.sample(uniforms=U.to(torch.float8_e5m2)), TypeError, "uniforms: expected a floating-point"),
        (lambda: SAMPLER.sample(known=KNOWN.to("meta"), known_mask=MASK), ValueError, "known: expected a tensor with"),
        (lambda: SAMPLER.sample(labels=KNOWN[:, 0, 0, 0].to("meta")), ValueError, "labels: expected a tensor with"),
        (lambda: sampling.verify(SAMPLER, -1), ValueError, "n: expected a positive integer, got -1"),
        (
            lambda: NaiveSampler(build("pixelcnn"), (1, 4, 5), object()),
            TypeError,
            "distribution: expected one of .* got <object .* without levels, param_channels, draw",
        ),
        (lambda: SAMPLER.sample(uniforms=U + 1), ValueError, r"uniforms: expected numbers in \[0, 1\)"),
        (
            lambda: SAMPLER.sample(uniforms=KNOWN),
            TypeError,
            "uniforms: expected a floating-point tensor, got torch.int",
        ),
        (lambda: SAMPLER.sample(uniforms=U[..., 1:]), ValueError, r"uniforms: expected shape \(N, 1, 4, 5\), got"),
        (lambda: SAMPLER.sample(temperature=0), ValueError, "temperature: .*number of at least 1e-6, got 0"),
        (
            lambda: SAMPLER.sample(known=KNOWN),
            ValueError,
            "known_mask: expected a tensor together with known, got None",
        ),
        (lambda: SAMPLER.sample(known_mask=MASK), ValueError, "known: expected a tensor together with known_mask"),
        (
            lambda: SAMPLER.sample(known=KNOWN[:, 0], known_mask=MASK),
            ValueError,
            r"known: expected shape \(N, 1, 4, 5\)",
        ),
        (
            lambda: SAMPLER.sample(known=U, known_mask=MASK),
            TypeError,
            "known: expected an integer tensor, got torch.fl",
        ),
        (lambda: SAMPLER.sample(known=KNOWN + 2, known_mask=MASK), ValueError, r"known: expected integers in \[0, 2\)"),
        (lambda: SAMPLER.sample(known=KNOWN, known_mask=MASK.int()), TypeError, "known_mask: expected a bool tensor"),
        (
            lambda: SAMPLER.sample(known=KNOWN, known_mask=MASK[1:]),
            ValueError,
            r"broadcasts to \(2, 1, 4, 5\), got \(3",
        ),
        (lambda: SAMPLER.sample(2, labels=KNOWN[:, 0, 0, 0]), ValueError, "labels: expected None, since the model has"),
        (lambda: SAMPLER.forced(U), TypeError, "values: expected an integer tensor, got torch.float32"),
        (lambda: SAMPLER.forced(KNOWN + 2), ValueError, r"values: expected integers in \[0, 2\), got"),
        (lambda: SAMPLER.forced(KNOWN[0]), ValueError, r"values: expected shape \(N, 1, 4, 5\), got \(1, 4, 5\)"),
    ],
)
def test_errors_name_argument_expected_and_got(call, error, message):
    with pytest.raises(error, match=message):
        call()
