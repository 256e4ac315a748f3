"""VAE: its bounds against what is known in closed form, its gradients against plain torch, and what it refuses."""

import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from fastgen import _philox, models
from fastgen.models import VAE, vae
from fastgen.models.vae import Posterior
from parity import assert_parity

SMALL = {"latent": 3, "hidden": (8,), "image_size": (4, 5)}
CONFIGS = {
    "bernoulli": {},
    "grey": {"levels": 256},
    "gaussian": {"levels": 256, "likelihood": "gaussian"},
    "categorical": {"in_channels": 3, "levels": 4, "likelihood": "categorical"},
    "logistic": {"in_channels": 3, "levels": 256, "likelihood": "logistic", "activation": "relu"},
    "classes": {"classes": 3},
    "convolutional": {"channels": (4, 6), "image_size": (7, 9), "activation": "relu"},
    "convolutional-classes": {"channels": (4,), "hidden": (), "classes": 3},
}


def build(kind: str, **changes: object) -> VAE:
    return VAE(**(SMALL | CONFIGS[kind] | changes))


def some(model: VAE, n: int = 6) -> tuple[Tensor, Tensor | None]:
    values = torch.randint(model.levels, (n, model.in_channels, *model.sides))
    return values, None if model.classes is None else torch.arange(n) % model.classes


def linear_gaussian(exact_posterior: bool) -> tuple[VAE, MultivariateNormal]:
    """The model x = Wz + b + noise: p(x) is Gaussian; p(z|x) too, with a diagonal covariance since WᵀW is diagonal."""
    model = VAE(1, 256, latent=2, hidden=(), likelihood="gaussian", image_size=(2, 3)).double().eval()
    W = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64)).Q * torch.tensor([0.5, 0.3], dtype=torch.float64)
    b, r = 0.1 * torch.randn(6, dtype=torch.float64), -3.0
    variance = math.exp(r) + (1 / 255) ** 2
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + W.T @ W / variance)
    off = 0.0 if exact_posterior else 0.3
    with torch.no_grad():
        model.decoder.linear[0].weight.copy_(torch.cat([W, 0 * W]))
        model.decoder.linear[0].bias.copy_(torch.cat([b, torch.full_like(b, r)]))
        to_mean = covariance @ W.T / variance  # of x − b; the encoder reads (x + 1) / 2
        model.encoder.linear[0].weight.copy_(torch.cat([2 * to_mean, 0 * W.T]))
        mean = -to_mean @ (1 + b) + off
        model.encoder.linear[0].bias.copy_(torch.cat([mean, covariance.diagonal().log() + off]))
    return model, MultivariateNormal(b, W @ W.T + variance * torch.eye(6, dtype=torch.float64))


def log_prob(p: MultivariateNormal, values: Tensor) -> Tensor:
    return p.log_prob(values.flatten(1).double() * 2 / 255 - 1) + 6 * math.log(2 / 255)


def test_with_the_exact_posterior_every_bound_is_the_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each weight is then p(x) itself, whatever was drawn."""
    model, p = linear_gaussian(exact_posterior=True)
    values = torch.randint(90, 170, (5, 1, 2, 3))
    exact = log_prob(p, values)
    for k in (2, 7):
        assert_parity(model.elbo(values, samples=k).float(), exact.float(), exact)
    for rows in (1, 3 * 12, 7 * 12, 1 << 20):
        monkeypatch.setattr(vae, "ROWS", rows)
        assert_parity(model.importance_log_prob(values, samples=10).float(), exact.float(), exact)


def test_elbo_is_below_the_importance_weighted_bound_is_below_the_likelihood() -> None:
    model, p = linear_gaussian(exact_posterior=False)
    values = torch.randint(90, 170, (1, 1, 2, 3)).expand(4000, -1, -1, -1)
    exact = log_prob(p, values[:1]).item()
    below, gaps = -math.inf, []
    for k in (1, 3, 10):
        bound = model.elbo(values, samples=k).detach()
        mean, error = bound.mean().item(), bound.std().item() / math.sqrt(len(bound))
        assert below < mean - 4 * error
        below = mean + 4 * error
        assert below < exact
        gaps.append(exact - mean)
    estimate = model.importance_log_prob(values[:8], samples=20_000)
    error = estimate.std().item()
    assert abs(estimate.mean().item() - exact) <= 4 * error
    assert error < gaps[-1] < gaps[1] < gaps[0]


def test_elbo_of_a_linear_gaussian_model_in_closed_form() -> None:
    """L = log p(x) − KL(q(z|x) ‖ p(z|x)), on average over the draw."""
    model, p = linear_gaussian(exact_posterior=False)
    posterior, _ = linear_gaussian(exact_posterior=True)
    posterior.load_state_dict({k: v for k, v in model.state_dict().items()})
    with torch.no_grad():
        posterior.encoder.linear[0].bias -= 0.3
    values = torch.randint(90, 170, (1, 1, 2, 3)).expand(20_000, -1, -1, -1)
    q, true = (
        Normal(m.mean, torch.exp(0.5 * m.logvar)) for m in (part.posterior(values[:1]) for part in (model, posterior))
    )
    exact = log_prob(p, values[:1]).item() - kl_divergence(q, true).sum().item()
    bound = model.elbo(values).detach()
    assert abs(bound.mean().item() - exact) < 4 * bound.std().item() / math.sqrt(len(bound))


def test_kl_in_closed_form_agrees_with_monte_carlo() -> None:
    q = Posterior(torch.randn(1, 3).double(), torch.randn(1, 3).double())
    normal, prior = Normal(q.mean, torch.exp(0.5 * q.logvar)), Normal(0, 1)
    exact = kl_divergence(normal, Normal(torch.zeros(1, 3).double(), 1))
    assert_parity(q.kl_per_dimension(), exact, exact)
    z = normal.sample((200_000,))
    each = normal.log_prob(z) - prior.log_prob(z)
    error = each.std(dim=0) / math.sqrt(len(z))
    assert ((each.mean(dim=0) - q.kl_per_dimension()).abs() < 4 * error).all()


def plain_bound(model: VAE, values: Tensor, labels: Tensor | None, k: int) -> Tensor:
    """L or L_k by torch.distributions, with the noise that the model draws after ``torch.manual_seed(5)``."""
    torch.manual_seed(5)
    seed = torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64)
    mean, logvar = model.encoder(model.to_input(values), labels).chunk(2, dim=1)
    noise = _philox.normals(seed, k * mean.numel(), mean.dtype).view(k, *mean.shape)
    q, prior = Normal(mean, torch.exp(0.5 * logvar)), Normal(torch.zeros_like(mean), 1)
    z = q.mean + q.stddev * noise
    params = model.decoder(z.flatten(0, 1), None if labels is None else labels.repeat(k))
    log_p = model.p_x.log_prob(params.view(k, len(values), *params.shape[1:]), values)
    if k == 1:
        return log_p[0] - kl_divergence(q, prior).sum(1)
    return torch.logsumexp(log_p + (prior.log_prob(z) - q.log_prob(z)).sum(2), dim=0) - math.log(k)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("kind", CONFIGS)
def test_bounds_and_their_gradients_are_those_of_plain_torch(kind: str, k: int) -> None:
    model = build(kind, importance_samples=k).double()
    values, labels = some(model)
    torch.manual_seed(5)
    actual = model.losses(values, labels)["nats"]
    exact = -plain_bound(model, values, labels, k)
    assert_parity(actual.float(), exact.float(), exact)
    torch.manual_seed(5)
    bound = model.elbo(values, labels, samples=k)
    assert torch.equal(bound, -actual)
    parameters = list(model.parameters())
    grads, wanted = (torch.autograd.grad(nats.sum(), parameters) for nats in (actual, exact))
    for grad, want in zip(grads, wanted, strict=True):
        assert_parity(grad.float(), want.float(), want)


def test_terms_add_up() -> None:
    model = build("convolutional")
    terms = model.losses(*some(model))
    assert list(terms) == ["nats", "reconstruction", "kl"]
    total = terms["reconstruction"].double() + terms["kl"].double()
    assert_parity(terms["nats"], total.float(), total)
    assert not terms["kl"].requires_grad


def test_weights_of_the_kl_count_in_training_only() -> None:
    model = build("bernoulli", beta=3.0, warmup=0.5)
    values, _ = some(model)

    def losses(progress: float) -> dict[str, Tensor]:
        torch.manual_seed(1)
        return model.losses(values, None, progress)

    for progress, weight in [(0.0, 0.0), (0.25, 1.5), (0.5, 3.0), (1.0, 3.0)]:
        terms = losses(progress)
        assert next(iter(terms)) == "objective"
        expected = terms["reconstruction"].double() + weight * terms["kl"].double()
        assert_parity(terms["objective"], expected.float(), expected)
    model.eval()
    plain = losses(0.25)
    assert list(plain) == ["nats", "reconstruction", "kl"]
    assert torch.equal(plain["nats"], terms["nats"])


def test_free_bits_are_free_in_each_dimension() -> None:
    model = build("bernoulli", free_bits=0.2)
    with torch.no_grad():
        model.encoder.linear[-1].bias.copy_(torch.tensor([2.0, 0.0, 0.05, 0.0, 0.0, 0.0]))  # KL of about 2, 0, 0
        model.encoder.linear[-1].weight.mul_(0.01)
    values, _ = some(model)
    terms, each = model.losses(values), model.posterior(values).kl_per_dimension()
    assert [bool(kl > 0.2) for kl in each.mean(0)] == [True, False, False]
    expected = terms["reconstruction"].double() + each[:, 0].double() + 2 * 0.2
    assert_parity(terms["objective"].double().float(), expected.float(), expected)
    grad = torch.autograd.grad(
        (terms["objective"] - model.losses(values)["objective"]).sum(), model.encoder.parameters(), allow_unused=True
    )
    assert all(part is not None for part in grad)
    penalty = torch.where(each.detach().mean(0) > 0.2, each, 0.2).sum()
    bias = torch.autograd.grad(penalty, model.encoder.linear[-1].bias)[0]
    assert [bool(part != 0) for part in bias] == [True, False, False, True, False, False]


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_image_depends_on_the_seed_and_its_index_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(kind)
    labels = None if model.classes is None else torch.arange(5) % model.classes
    drawn = model.sample(5, seed=7, labels=labels)
    assert model.training
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < model.levels
    assert not torch.equal(drawn[0], drawn[1])
    monkeypatch.setattr(vae, "ROWS", 1)
    assert torch.equal(model.sample(3, seed=7, labels=labels if labels is None else labels[:3]), drawn[:3])
    assert not torch.equal(model.sample(5, seed=8, labels=labels), drawn)
    assert torch.equal(model.sample(2, seed=7, labels=labels if labels is None else labels[3:], first=3), drawn[3:])
    cold = model.sample(5, seed=7, labels=labels, temperature=0, means=True)
    assert torch.equal(cold[0], cold[-1]) or model.classes is not None


def test_torch_seed_governs_what_is_drawn() -> None:
    model = build("bernoulli")
    values, _ = some(model)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append((model.losses(values)["nats"], model.sample(4)))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])


def test_labels_condition_encoder_and_decoder() -> None:
    model = build("classes").eval()
    values, labels = some(model)
    assert not torch.equal(model.encode(values, labels), model.encode(values, labels.flip(0)))
    z = torch.zeros(3, 3)
    images = model.decode(z, torch.arange(3))
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("kind", CONFIGS)
def test_config_builds_the_same_model(kind: str) -> None:
    model = build(kind).eval()
    twin = models.build("vae", **json.loads(json.dumps(model.config))).eval()
    twin.load_state_dict(model.state_dict())
    values, labels = some(model)
    assert twin.config == model.config
    assert torch.equal(twin.reconstruct(values, labels), model.reconstruct(values, labels))


def test_up_convolutions_have_the_weights_of_torchs_layers() -> None:
    model = build("convolutional")
    plain = nn.Sequential(nn.ConvTranspose2d(6, 4, 4, bias=False), nn.BatchNorm2d(4))
    assert model.decoder.convolutions[1].state_dict().keys() == plain.state_dict().keys()


def test_half_precision_is_summed_in_float32() -> None:
    model = build("gaussian")
    values, _ = some(model)
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.losses(values)
    assert all(term.dtype == torch.float32 and term.isfinite().all() for term in terms.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_parameters_of_any_dtype(dtype: torch.dtype) -> None:
    for name in ("bernoulli", "convolutional"):
        model = build(name).to(dtype)
        values, labels = some(model)
        terms = model.losses(values, labels)
        terms["nats"].sum().backward()
        assert all(each.grad is not None and each.grad.dtype == dtype for each in model.parameters())
        found = terms["nats"], model.elbo(values, labels), model.elbo(values, labels, samples=3)
        assert all(each.isfinite().all() and each.dtype == torch.promote_types(dtype, torch.float32) for each in found)
        assert model.encode(values, labels).dtype == dtype
        assert model.reconstruct(values, labels).shape == values.shape


VALUES = torch.zeros(2, 1, 4, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: VAE(latent=0), ValueError, "latent: expected a positive integer, got 0"),
        (lambda: VAE(hidden=(8, 0)), ValueError, "hidden: expected a positive integer, got 0"),
        (lambda: VAE(channels=(1,) * 5), ValueError, r"channels: expected at most as many .* of \(28, 28\) .* got 5"),
        (lambda: VAE(activation="elu"), ValueError, "activation: expected one of 'relu', 'tanh', 'sigmoid', got 'elu'"),
        (lambda: VAE(likelihood="x"), ValueError, "likelihood: expected one of 'bernoulli', .* got 'x'"),
        (lambda: VAE(image_size=None), ValueError, r"image_size: expected one size or \(H, W\), got None"),
        (lambda: VAE(beta=-1.0), ValueError, "beta: expected a finite number of at least 0, got -1.0"),
        (lambda: VAE(warmup=2.0), ValueError, "warmup: expected a finite number from 0 to 1, got 2.0"),
        (lambda: VAE(beta=2.0, importance_samples=5), ValueError, "importance_samples: expected 1 with .* got 5"),
        (lambda: build("bernoulli").losses(VALUES[..., 1:]), ValueError, r"values: expected shape \(N, 1, 4, 5\), got"),
        (lambda: build("bernoulli").losses(VALUES.float()), TypeError, "values: expected an integer tensor, got"),
        (lambda: build("bernoulli").losses(VALUES + 2), ValueError, r"values: expected integers in \[0, 2\), got"),
        (lambda: build("classes").losses(VALUES), ValueError, r"labels: expected 2 integers in \[0, 3\), .* got None"),
        (lambda: build("classes").sample(2), ValueError, r"labels: expected 2 integers in \[0, 3\), .* got None"),
        (lambda: build("bernoulli").decode(torch.zeros(2, 4)), ValueError, r"z: expected shape \(N, 3\), got \(2, 4\)"),
        (lambda: build("bernoulli").sample(0), ValueError, "n: expected a positive integer, got 0"),
        (lambda: build("bernoulli").elbo(VALUES, samples=0), ValueError, "samples: expected a positive integer, got 0"),
    ],
)  # fmt: skip
def test_errors_name_argument_expected_and_got(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
