"""DCGAN: the networks of the paper and of PyTorch's example, at every size, with classes in three ways."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fastgen.data import Dataset
from fastgen.models import DCGAN, Game
from fastgen.models.dcgan import stages
from fastgen.nn import ConvTranspose2dChain
from fastgen.training import Recipe, Trainer
from parity import assert_parity

SMALL = {"in_channels": 1, "levels": 5, "latent": 6, "channels": 4, "image_size": 8}


def images(n: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(5, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed))


def counted(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("colors", "size", "of_generator", "of_discriminator"),
    [(3, 64, 3_576_704, 2_765_568), (1, 32, 1_066_880, 661_248), (1, 28, 759_680, 138_624)],
)
def test_as_large_as_the_public_ones(colors: int, size: int, of_generator: int, of_discriminator: int) -> None:
    model = DCGAN(colors, image_size=size)
    assert counted(model.generator) == of_generator
    assert counted(model.discriminator) == of_discriminator


def test_what_the_guidelines_say() -> None:
    model = DCGAN(3, image_size=64, channels=4)
    drawn, judged = list(model.generator.main), list(model.discriminator.main)
    assert type(model.generator.main) is ConvTranspose2dChain
    assert not [layer for layer in (*drawn, *judged) if "Pool" in type(layer).__name__ or isinstance(layer, nn.Linear)]
    kinds = [type(layer).__name__ for layer in drawn]
    assert kinds == ["ConvTranspose2d", "BatchNorm2d", "ReLU"] * 4 + ["ConvTranspose2d", "Tanh"]
    rest = ["Conv2d", "BatchNorm2d", "LeakyReLU"] * 3 + ["Conv2d"]
    assert [type(layer).__name__ for layer in judged] == ["Conv2d", "LeakyReLU", *rest]
    assert {layer.negative_slope for layer in judged if isinstance(layer, nn.LeakyReLU)} == {0.2}
    wide = DCGAN(3, image_size=64)
    for name, weight in wide.named_parameters():
        batch_norm = "weight" in name and weight.dim() == 1
        mean, spread = (1.0, 0.02) if batch_norm else (0.0, 0.0 if weight.dim() == 1 else 0.02)
        slack = 5 / weight.numel() ** 0.5  # standard errors of mean and standard deviation
        assert abs(weight.mean() - mean) <= slack * 0.02, name
        assert abs(weight.std() - spread) <= slack * 0.02, name


@pytest.mark.parametrize(
    ("sides", "sizes"),
    [
        ((28, 28), [28, 14, 7]), ((32, 32), [32, 16, 8, 4]), ((64, 64), [64, 32, 16, 8, 4]), ((8, 8), [8, 4]),
        ((128, 128), [128, 64, 32, 16, 8, 4]), ((7, 7), [7, 3]), ((45, 45), [45, 22, 11, 5]), ((2, 2), [2, 1]),
    ],
)  # fmt: skip
def test_every_size_is_halved_and_doubled(sides: tuple[int, int], sizes: list[int]) -> None:
    assert stages(sides, 3) == ([3 * 2**i for i in range(len(sizes) - 1)], [(size, size) for size in sizes])
    if sides[0] <= 64:
        model = DCGAN(2, 4, latent=3, channels=2, image_size=sides)
        assert model.sample(2).shape == (2, 2, *sides)
        assert model.discriminator(model.to_images(model.sample(3))).shape == (3,)
    with pytest.raises(ValueError, match=r"image_size: expected sides of 2 pixels or more, got \(1, 5\)"):
        DCGAN(image_size=(1, 5))


def test_images_lie_in_the_range_of_tanh() -> None:
    model = DCGAN(**SMALL)
    values = torch.tensor([0, 1, 2, 3, 4]).view(5, 1, 1, 1).expand(5, 1, 8, 8)
    assert model.to_images(values)[:, 0, 0, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert torch.equal(model.to_values(model.to_images(values)), values.float())
    model = DCGAN(**SMALL, game=Game(dequantize=True))
    x = model.to_images(values)
    assert torch.equal(((x + 1) * 2.5).floor(), values.float()), "noise of a level's width, and no more"
    assert -1 <= x.min() < x.max() < 1
    assert x.unique().numel() > 100


@pytest.mark.parametrize("conditioning", ["concat", "auxiliary", "projection"])
def test_classes(conditioning: str) -> None:
    torch.manual_seed(0)
    model = DCGAN(**SMALL, classes=3, conditioning=conditioning)
    values, labels = images(), torch.arange(12) % 3
    z = model.draw_codes(12, 0)
    by_class = [model.decode(z, torch.full((12,), label)) for label in range(3)]
    assert not torch.equal(by_class[0], by_class[1]), "the generator is told"
    real = model.to_images(values)
    judged = model.discriminator.eval().judge(real, labels)
    others = model.discriminator.judge(real, (labels + 1) % 3)
    assert torch.equal(judged.scores, others.scores) == (conditioning == "auxiliary")
    assert (judged.logits is not None) == (conditioning == "auxiliary")
    if conditioning == "projection":
        table, features = model.discriminator.embedding, model.discriminator.features(real)
        apart = ((table(labels) - table((labels + 1) % 3)) * features).sum(1)
        exact = ((table(labels) - table((labels + 1) % 3)).double() * features.double()).sum(1)
        assert_parity((judged.scores - others.scores).detach(), apart.detach(), exact.detach())
    found = model.losses(values, labels)
    assert ("classes" in found) == (conditioning == "auxiliary")
    if conditioning == "auxiliary":
        doubled = DCGAN(**SMALL, classes=3, conditioning=conditioning, game={"class_weight": 0.0})
        doubled.load_state_dict(model.state_dict())
        torch.manual_seed(1)
        found = model.eval().losses(values, labels)
        torch.manual_seed(1)
        without = doubled.eval().losses(values, labels)
        assert torch.allclose(found["loss"] - without["loss"], found["classes"] + found["classes_of_fake"], atol=1e-5)
    with pytest.raises(ValueError, match=r"labels: expected 12 integers in \[0, 3\)"):
        model.losses(values)


def test_normalizations_and_what_they_go_with() -> None:
    for name in ("spectral", "layer", "instance", "none"):
        model = DCGAN(**SMALL, normalization=name, game={"gradient_penalty": 10.0})
        assert model.losses(images())["gradient_penalty"].shape == (12,)
        assert not [layer for layer in model.discriminator.modules() if isinstance(layer, nn.BatchNorm2d)]
    spectral = DCGAN(**SMALL, normalization="spectral")
    for _ in range(20):
        spectral.discriminator(spectral.to_images(images()))
    for layer in spectral.discriminator.modules():
        if isinstance(layer, nn.Conv2d):
            largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item()
            assert abs(largest - 1) < 0.05, "power iteration, one step a forward"
    with pytest.raises(ValueError, match="gradient_penalty: expected 0 with batch norm in the discriminator"):
        DCGAN(**{**SMALL, "image_size": 16}, game={"gradient_penalty": 10.0})
    with pytest.raises(ValueError, match="normalization: expected one of 'batch'"):
        DCGAN(**SMALL, normalization="group")


def test_learns_where_the_ink_is() -> None:
    torch.manual_seed(0)
    shade = torch.zeros(256, 1, 8, 8, dtype=torch.uint8)
    shade[:, :, :, 4:] = 4  # dark on the left, light on the right; rows of noise on top
    shade[:, :, :2] = torch.randint(5, (256, 1, 2, 8))
    data = Dataset(shade, None, 5, None, "halves")
    model = DCGAN(**{**SMALL, "channels": 8})
    defaults = {name: value for name, value in model.defaults.items() if name in Recipe.__dataclass_fields__}
    recipe = replace(Recipe(**defaults), epochs=40, batch_size=32, lr=2e-3)
    before = model.sample(64, seed=1).float()
    trained = Trainer(model, recipe)
    distances = []
    trained.fit(data, data, on_epoch=lambda record: distances.append(record["held_out_pixel_distance"]))
    after = trained.ema.sample(64, seed=1).float()
    gap = lambda drawn: (drawn[:, :, 2:, 4:].mean() - drawn[:, :, 2:, :4].mean()).item()  # noqa: E731
    assert abs(gap(before)) < 0.5
    assert gap(after) > 2.5, "of 4"
    assert distances[-1] < distances[0] / 4
