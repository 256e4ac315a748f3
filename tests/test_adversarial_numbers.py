"""Numbers of games where they were wrong without a word: 16 bits, few levels, many classes, a player that is done."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgen import losses
from fastgen.data import Dataset
from fastgen.models import DCGAN, GAN, VAE, AdversarialAutoencoder, AdversarialPair, InfoGAN, ResNetGAN
from fastgen.models.adversarial_words import words
from fastgen.models.point_gan import PointGAN
from fastgen.training import Recipe, Trainer

for package in ("safetensors", "tqdm"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

RECIPE = Recipe(epochs=1, batch_size=8, lr=2e-3, optimizer="adam", clip=0, ema=0.9)


def noise(n: int, size: int = 8, levels: int = 5, classes: int | None = None) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(levels, (n, 1, size, size), generator=generator).to(torch.uint8)
    return Dataset(values, None if classes is None else torch.arange(n) % classes, levels, classes, "noise")


CODERS: dict[str, Any] = {
    "gan": lambda: GAN(1, 5, latent=8, hidden=(4,), discriminator_hidden=(4,), prior="normal", image_size=8),
    "infogan": lambda: InfoGAN(1, 5, latent=20, channels=2, hidden=4, code_hidden=4, image_size=8),
    "aae": lambda: AdversarialAutoencoder(1, 5, hidden=(4,), discriminator_hidden=(4,), image_size=8),
    "ring": lambda: AdversarialAutoencoder(1, 5, "mixture", hidden=(4,), discriminator_hidden=(4,), image_size=8),
}


@pytest.mark.parametrize("name", CODERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codes_in_16_bits_are_those_of_32_rounded(name: str, dtype: torch.dtype) -> None:
    """Uniform numbers in 16 bits are 1 now and then, of which no normal number is made."""
    torch.manual_seed(0)
    model = CODERS[name]()
    z = model.draw_codes(4096, 0)
    narrow = copy.deepcopy(model).to(dtype)
    assert torch.equal(narrow.draw_codes(4096, 0), z.to(dtype))
    assert narrow.sample(300, seed=0).shape == (300, 1, 8, 8)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "logistic", "categorical"])
def test_a_vae_draws_in_16_bits(likelihood: str) -> None:
    torch.manual_seed(0)
    model = VAE(1, 5, latent=8, hidden=(4,), likelihood=likelihood, image_size=8).bfloat16()
    drawn = model.sample(300, seed=0).double()
    assert 0 <= drawn.min() <= drawn.max() < 5
    wide = model.float().sample(300, seed=0).double()
    assert (drawn - wide).abs().mean() < 0.1


@pytest.mark.parametrize("levels", [2, 3, 4, 256])
@pytest.mark.parametrize("dequantize", [False, True])
def test_a_perfect_generator_draws_the_data(levels: int, dequantize: bool) -> None:
    """Values, as images that the networks know, and back again; half of the outermost were their neighbours."""
    model = GAN(1, levels, image_size=16, hidden=(4,), discriminator_hidden=(4,), game={"dequantize": dequantize})
    values = torch.arange(8 * 256).view(8, 1, 16, 16) % levels
    torch.manual_seed(0)
    for _ in range(5):
        images = model.to_images(values)
        assert -1 <= images.min() < images.max() <= 1
        assert torch.equal(model.to_values(images).round().long(), values)
    ends = model.to_values(torch.tensor([-1.0, 1.0, -2.0, 2.0]))
    assert ends.tolist() == [0, levels - 1, 0, levels - 1]


@pytest.mark.parametrize(
    ("game", "expected"),
    [
        ({}, (1, 1, 1)),
        ({"class_weight": 0.5}, (0.5, 0.5, 0.5)),
        ({"generator_class_weight": 0.1}, (1, 1, 0.1)),
        ({"fake_class_weight": 0, "generator_class_weight": 0.1, "class_weight": 2}, (2, 0, 0.1)),
    ],
)
def test_each_loss_weighs_the_classes_by_itself(game: dict[str, float], expected: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    model = DCGAN(1, 5, latent=3, channels=2, image_size=8, classes=3, conditioning="auxiliary", game=game)
    data, objective = noise(6, classes=3), model.objective()
    d = objective.discriminated(data.values.long(), data.labels, 0.0)
    g = objective.generated(data.values.long(), data.labels, 0.0)
    real, fake, generator = expected
    torch.testing.assert_close(d["loss"], d["game"] + real * d["classes"] + fake * d["classes_of_fake"])
    torch.testing.assert_close(g["loss"], g["game"] + generator * g["classes"])
    twin = DCGAN(**model.config)
    assert twin.settings == model.settings
    old = {key: value for key, value in model.game.items() if not key.endswith("_class_weight")}
    assert DCGAN(**{**model.config, "game": old}).settings.class_weight == model.settings.class_weight


def test_the_papers_recipe_has_its_weights_of_classes() -> None:
    """Published code: the critic learns classes of real images, and the generator's loss has a tenth of them."""
    recipe = ResNetGAN.recipes["paper"]
    assert (recipe["fake_class_weight"], recipe["generator_class_weight"]) == (0.0, 0.1)


class ByClass(nn.Module):
    """A generator whose batch norm sees nothing but the class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(classes, 4), nn.BatchNorm1d(4)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.norm(self.table(labels)).view(-1, 1, 2, 2).tanh()


class Judge(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *layers)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(x)


def test_statistics_of_the_average_are_of_all_classes() -> None:
    """Of more than fit a batch of those that settle it, too: 256 of them here, as often as each other."""
    torch.manual_seed(0)
    pair = AdversarialPair(ByClass(256), Judge(nn.Linear(4, 1)), 2, 1, image_size=2, levels=3, classes=256)
    with torch.no_grad():
        pair.generator.network.table.weight[128:] += 5
    pair.objective().settle(pair)
    torch.testing.assert_close(pair.generator.network.norm.running_mean, pair.generator.network.table.weight.mean(0))


def test_a_model_is_trained_once_more() -> None:
    """Whose turn it was last leaves no mark: both players' weights need a gradient, and both move again."""
    torch.manual_seed(0)
    model, data = DCGAN(1, 5, latent=3, channels=2, image_size=8), noise(16)
    for _ in range(2):
        before = copy.deepcopy(model.state_dict())
        Trainer(model, RECIPE).fit(data, noise(8))
        assert all(parameter.requires_grad for parameter in model.parameters())
        moved = {name.partition(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert moved == {"generator", "discriminator"}


def test_a_last_held_out_image_is_judged_alone() -> None:
    """It has no statistics of a batch, where a batch norm has one number of each image."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
    judge = Judge(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    pair, records = AdversarialPair(generator, judge, 2, 1, image_size=8, levels=5), []
    Trainer(pair, RECIPE).fit(noise(16), noise(9), records.append)
    assert torch.tensor(records[-1]["held_out_loss"]).isfinite()


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class FirstOrder(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x)


def test_an_op_without_a_second_derivative_is_refused_before_the_first_step() -> None:
    generator = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
    judge = Judge(nn.Linear(64, 4), FirstOrder(), nn.Linear(4, 1))
    pair = AdversarialPair(generator, judge, 2, 1, image_size=8, levels=5, game={"r1": 1.0})
    with pytest.raises(ValueError, match="module: expected one that can be differentiated twice, got: trying to"):
        Trainer(pair, RECIPE)
    plain = DCGAN(1, 5, latent=3, channels=2, normalization="layer", image_size=8, game={"r1": 1.0})
    with pytest.raises(ValueError, match="compile: expected False with a penalty on the gradient of the discriminator"):
        Trainer(plain, replace(RECIPE, compile=True))


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_who_has_won_is_said_with_smoothed_labels_too(alpha: float) -> None:
    """Then the discriminator's loss cannot fall below the entropy of the labels, which it reaches where it is sure."""
    sure = torch.tensor([50.0 if not alpha else torch.logit(torch.tensor(1 - alpha)).item()]), torch.tensor([-50.0])
    least = losses.log_loss_discriminator(*sure, alpha).item()
    assert losses.smallest_loss("non-saturating", alpha) == pytest.approx(least)
    game = {"loss": "non-saturating", "label_smoothing": alpha}
    record = {"train_discriminator_loss": least + 0.01, "train_generator_loss": 9.0}
    assert any("the discriminator has won" in said for said in words(record, game))
    middle = losses.equilibrium("non-saturating", alpha)[0] * 0.6 + least * 0.4
    assert len(words(record | {"train_discriminator_loss": middle}, game)) == 1
    assert losses.smallest_loss("least-squares", 0.1) == losses.smallest_loss("hinge") == 0
    assert losses.smallest_loss("wasserstein") == -float("inf")


def test_labels_are_where_the_model_is() -> None:
    """A list has no device, and labels of a data set lie on the CPU."""
    model = DCGAN(1, 5, latent=3, channels=2, image_size=8, classes=3).to("meta")
    for labels in ([0, 2], torch.tensor([0, 2]), 1):
        assert model.check_labels(2, labels).device.type == "meta"


@pytest.mark.parametrize("name", ["dequantize", "class_weight", "fake_class_weight", "generator_class_weight"])
def test_points_have_neither_levels_nor_classes(name: str) -> None:
    with pytest.raises(ValueError, match=f"game: expected no {name}, since points have neither levels nor classes"):
        PointGAN(game={name: 0.5 if name != "dequantize" else True})
    with pytest.raises(ValueError, match=r"betas: expected two numbers in \[0, 1\), got \(0.5, 2\)"):
        PointGAN().fit(torch.zeros(2, 2), 1, betas=(0.5, 2))
