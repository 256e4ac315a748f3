"""What a training loop of one's own gives to parts of a model, where a slip was taken without a word before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgen import distributions, models
from fastgen.losses import began_balance, began_convergence, began_discriminator, clip_weights, gradient_penalty
from fastgen.models.likelihoods import LIKELIHOODS, likelihood
from ops import assert_raises

N, LEVELS, SIDE = 6, 17, 8
SIZES: dict[str, Any] = {"levels": LEVELS, "image_size": SIDE}


def values() -> Tensor:
    return torch.randint(LEVELS, (N, 1, SIDE, SIDE))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_take_values_of_their_images_alone(name: str) -> None:
    law, v = likelihood(name, LEVELS), values()
    params = torch.randn(N, law.param_channels(1), SIDE, SIDE)
    more = torch.randn(2, *params.shape)
    assert law.log_prob(more, v).shape == (2, N)
    shape = rf"params: expected shape \(\*, {N}, {params.shape[1]}, 8, 8\), got"
    assert_raises(
        [
            (lambda: law.log_prob(params, v / (LEVELS - 1)), TypeError, "values: expected an integer tensor"),
            (lambda: law.log_prob(params, v + LEVELS), ValueError, r"values: expected integers in \[0, 17\)"),
            (lambda: law.log_prob(params, v[0]), ValueError, r"values: expected shape \(N, C, H, W\)"),
            (lambda: law.log_prob(params[:1], v), ValueError, shape),
            (lambda: law.log_prob(params[..., :1, :1], v), ValueError, shape),
            (lambda: law.log_prob(params, v.expand(-1, 3, -1, -1)), ValueError, r"params: expected shape \(\*, 6, "),
            (lambda: law.log_prob(params[0], v), ValueError, shape),
            (lambda: law.log_prob(params.long(), v), TypeError, "params: expected a floating-point tensor"),
        ]
    )


READERS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "VAE": lambda: models.VAE(latent=3, hidden=(4,), **SIZES).to_input,
    "autoencoder": lambda: models.Autoencoder(latent=3, hidden=(4,), **SIZES).to_input,
    "DCGAN": lambda: models.DCGAN(1, latent=3, channels=2, **SIZES).to_images,
    "dequantised": lambda: models.ResNetGAN(1, latent=3, channels=2, **SIZES, game={"dequantize": True}).to_images,
    "PixelCNN": lambda: models.PixelCNN(1, channels=4, layers=1, levels=LEVELS).to_input,
    "image GPT": lambda: models.ImageGPT(1, channels=8, layers=1, heads=2, **SIZES).to_input,
    "embedded": lambda: models.GatedPixelCNN(1, channels=4, layers=1, embedding=5, **SIZES).to_input,
    "a law": lambda: distributions.Categorical(LEVELS).to_input,
}


@pytest.mark.parametrize("name", READERS)
def test_models_read_levels(name: str) -> None:
    """Images that torchvision has scaled to [0, 1] are nearly black to them."""
    read, v = READERS[name](), values()
    assert read(v.to(torch.uint8)).is_floating_point()
    assert_raises(
        [
            (lambda: read(v / LEVELS), TypeError, "values: expected an integer tensor, got torch.float32"),
            (lambda: read(v + LEVELS), ValueError, r"values: expected integers in \[0, 17\)"),
            (lambda: read(3), TypeError, "values: expected a tensor, got 3"),
        ]
    )


@pytest.mark.parametrize("name", ["image GPT", "embedded"])
def test_what_is_embedded_is_whole(name: str) -> None:
    """A fraction was cut off: images in [0, 1] were black."""
    model = READERS[name]().__self__  # type: ignore[attr-defined]
    x = model.to_input(values())
    assert torch.isfinite(model(x)).all()
    for wrong in (x / (LEVELS + 1), x + LEVELS, -1 - x, x * torch.nan):
        with pytest.raises(ValueError, match=r"x: expected whole numbers in \[0, 17\)"):
            model(wrong)


NETWORKS: dict[str, Callable[..., Any]] = {
    "GAN": lambda **given: models.GAN(1, latent=3, hidden=(8,), discriminator_hidden=(8,), **SIZES, **given),
    "DCGAN": lambda **given: models.DCGAN(1, latent=3, channels=2, **SIZES, **given),
    "ResNetGAN": lambda **given: models.ResNetGAN(1, latent=3, channels=2, **SIZES, **given),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("conditioning", ["concat", "projection", "auxiliary", None])
def test_networks_are_told_classes_or_none(name: str, conditioning: str | None) -> None:
    """A score without its class's term, and one label for all images."""
    told = {} if conditioning is None else {"conditioning": conditioning, "classes": 3}
    model, labels = NETWORKS[name](**told), torch.arange(N) % 3
    for network, given in ((model.generator, torch.randn(N, 3)), (model.discriminator, torch.randn(N, 1, SIDE, SIDE))):
        assert len(network(given, labels if told else None)) == N
        assert len(network(given, labels.int() if told else None)) == N
        if not told:
            with pytest.raises(ValueError, match="labels: expected None, since the network is told no classes"):
                network(given, labels)
            continue
        for wrong, message in (
            (labels[:1], rf"labels: expected shape \({N},\), got \(1,\)"),
            (labels + 1, r"labels: expected integers in \[0, 3\), got values from 1 to 3"),
        ):
            with pytest.raises(ValueError, match=message):
                network(given, wrong)
        if network is model.generator or conditioning != "auxiliary":
            with pytest.raises(ValueError, match=r"labels: expected 6 integers in \[0, 3\), one for each .* got None"):
                network(given)
    if conditioning == "auxiliary":
        assert torch.equal(model.discriminator.eval()(given), model.discriminator(given, labels))


def test_other_networks_are_told_no_classes() -> None:
    labels = torch.arange(N) % 3
    began = models.BEGAN(1, latent=3, channels=2, **SIZES)
    infogan = models.InfoGAN(1, channels=2, **SIZES)
    pairs = [(began.generator, began.noise(N)), (began.discriminator, torch.randn(N, 1, SIDE, SIDE))]
    for network, given in (*pairs, (infogan.generator, infogan.noise(N))):
        assert len(network(given)) == N
        with pytest.raises(ValueError, match="labels: expected None"):
            network(given, labels)


@pytest.mark.parametrize("kind", [models.VAE, models.Autoencoder])
def test_labels_that_nobody_reads_are_refused(kind: Any) -> None:
    model, v, labels = kind(latent=3, hidden=(4,), **SIZES), values(), torch.arange(N)
    assert len(next(iter(model.losses(v, labels).values()))) == N  # as documented: whatever the data has
    names = ("encode", "reconstruct", "posterior", "elbo", "importance_log_prob")
    calls = [getattr(model, name) for name in names if hasattr(model, name)]
    assert len(calls) == (5 if kind is models.VAE else 2)
    for call in calls:
        with pytest.raises(ValueError, match="labels: expected None, since the model has no classes"):
            call(v, labels)
    with pytest.raises(ValueError, match="labels: expected None, since the model has no classes"):
        model.decode(torch.zeros(N, 3), labels)


@pytest.mark.parametrize("shape", [(64,), (1, 4, 16), (3, 8, 8)])
def test_a_generator_of_ones_own_makes_images(shape: tuple[int, ...]) -> None:
    size = torch.Size(shape).numel()
    network = nn.Sequential(nn.Linear(16, size), nn.Tanh(), nn.Unflatten(1, shape))
    judge = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    model = models.AdversarialPair(network, judge, 16, 1, SIDE, levels=LEVELS)
    message = r"generator: expected images \(\d, 1, 8, 8\), got \(\d, "
    for call in (
        lambda: model.sample(2, seed=0),
        lambda: model.decode(torch.zeros(2, 16)),
        lambda: model.losses(values()),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_balance_of_began_is_one_number() -> None:
    real, fake, k = torch.rand(N), torch.rand(N), torch.tensor(0.5)
    assert began_discriminator(real, fake, k).shape == began_discriminator(real, fake, 0.5).shape == (N,)
    assert began_balance(k, real.mean(), fake.mean(), 0.5, 0.1).shape == ()
    one = r"expected shape \(\), got \(6,\)"
    assert_raises(
        [
            (lambda: began_discriminator(real, fake, torch.rand(N, 1)), ValueError, r"k: expected shape \(\), got"),
            (lambda: began_discriminator(real, fake, 5.0), ValueError, "k: expected a finite number from 0 to 1"),
            (lambda: began_balance(real, real.mean(), fake.mean(), 0.5, 0.1), ValueError, f"k: {one}"),
            (lambda: began_balance(k, real, fake.mean(), 0.5, 0.1), ValueError, f"real: {one}"),
            (lambda: began_balance(k, real.mean(), fake, 0.5, 0.1), ValueError, f"fake: {one}"),
            (lambda: began_convergence(real, fake.mean(), 0.5), ValueError, f"real: {one}"),
            (lambda: began_convergence(real.mean(), fake, 0.5), ValueError, f"fake: {one}"),
        ]
    )


@pytest.mark.parametrize("name", ["PixelCNNPP", "PixelSNAIL"])
def test_weights_begin_from_more_than_one_value(name: str) -> None:
    sizes: dict[str, Any] = {"channels": 8, "blocks": 1, **SIZES}
    model, v = getattr(models, name)(1, **sizes), values()
    for wrong in (v[:1, :, :1, :1], torch.zeros_like(v)):
        with pytest.raises(ValueError, match="values: expected images of more than one value"):
            model.begin_training(wrong)
    assert model.initialised == 0
    model.begin_training(v)
    assert model.initialised == 1


def test_other_slips_are_named() -> None:
    dcgan, linear = models.DCGAN(1, latent=3, channels=2, **SIZES), nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    adversarial = models.AdversarialAutoencoder(1, latent=2, hidden=(4,), discriminator_hidden=(4,), **SIZES)
    x, out = torch.randn(N, 4), torch.full((N,), 3.0)
    assert_raises(
        [
            (lambda: dcgan.noise(-1), ValueError, "n: expected an integer of at least 0, got -1"),
            (lambda: dcgan.noise(2.5), ValueError, "n: expected an integer of at least 0, got 2.5"),
            (
                lambda: clip_weights(linear, 0.01),
                TypeError,
                r"parameters: .* module.parameters\(\), got a Seq",
            ),
            (lambda: clip_weights([linear], 0.01), TypeError, "parameters: expected a tensor, got Sequential"),
            (lambda: gradient_penalty(linear, x, x, out), ValueError, r"mix: expected numbers in \[0, 1\], got 3 to 3"),
            (lambda: adversarial.losses(values(), progress=7.0), ValueError, "progress: expected a finite number from"),
        ]
    )
    codes = models.VQVAE(1, channels=8, codes=4, **SIZES)
    codes.begin_training(values())  # as of others, without a condition
