"""ResNetGAN: the residual networks of WGAN-GP's published code, and blocks that resample as they convolve."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.data import Dataset
from fastgen.models import ResNetGAN
from fastgen.models.residual_blocks import (
    ConditionalBatchNorm2d,
    DownBlock,
    PooledConv2d,
    UpBlock,
    UpsampledConv2d,
)
from fastgen.training import Recipe, Trainer
from parity import assert_parity
from trainers import assert_same, lines, new_run

SMALL = {"in_channels": 1, "levels": 5, "latent": 6, "channels": 4, "image_size": 8}
HINGE = {"loss": "hinge", "gradient_penalty": 0.0}


def images(n: int = 12) -> Tensor:
    return torch.randint(5, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def counted(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def convolutions(module: nn.Module) -> list[tuple[int, int, int]]:
    found = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return [(layer.in_channels, layer.out_channels, layer.kernel_size[0]) for layer in found]


def test_the_networks_of_the_published_code_at_32_pixels() -> None:
    """gan_cifar_resnet.py, layer by layer, as many weights as its 128 channels make, and how these begin."""
    model = ResNetGAN()
    up, down = [(128, 128, 3), (128, 128, 3), (128, 128, 1)], [(3, 128, 3), (128, 128, 3), (3, 128, 1)]
    assert convolutions(model.generator) == up * 3 + [(128, 3, 3)]
    assert convolutions(model.discriminator) == down + up + up[:2] * 2
    assert counted(model.generator) == 128 * 2048 + 2048 + 3 * (4 * 128 + 2 * 147_584 + 16_512) + 256 + 3_459
    assert counted(model.discriminator) == 3_584 + 147_584 + 512 + 6 * 147_584 + 16_512 + 129
    narrow = ResNetGAN(1, channels=32)
    assert (counted(narrow.generator), counted(narrow.discriminator)) == (125_441, 66_209)
    drawn, judged = list(model.generator.blocks), list(model.discriminator.blocks)
    assert [block.pools for block in judged] == [True, True, False, False]
    assert (judged[0].first, judged[1].first) == (True, False), "an image is not cut by a ReLU"
    assert isinstance(judged[2].shortcut, nn.Identity)
    assert not [layer for layer in model.discriminator.modules() if "Norm" in type(layer).__name__]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model.generator.modules()) == 7
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            relu = isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and layer is not model.generator.last
            area = layer.weight[0, 0].numel() if layer.weight.dim() == 4 else 1
            fans = area * (layer.weight.shape[0] + layer.weight.shape[1])
            deviation = math.sqrt((4 if relu else 2) / fans)
            slack = 4 / math.sqrt(layer.weight.numel())
            assert abs(layer.weight.std() / deviation - 1) < slack, name
            assert layer.weight.abs().max() <= deviation * math.sqrt(3), name
            assert not layer.bias.any(), name
    assert drawn[0].odd == (0, 0)


def test_the_networks_of_the_published_code_at_64_pixels() -> None:
    """gan_64x64.py, with its layer norm: widths double inwards, and the critic reads all of its last stage."""
    model = ResNetGAN(channels=4, image_size=64, normalization="layer")
    widths = [(block.conv1.in_channels, block.conv2.out_channels) for block in model.generator.blocks]
    assert widths == [(32, 32), (32, 16), (16, 8), (8, 4)]
    first, *blocks = model.discriminator.blocks
    assert (first.in_channels, first.out_channels) == (3, 4)
    assert [(b.conv1.in_channels, b.conv1.out_channels, b.conv2.out_channels) for b in blocks] == [
        (4, 4, 8), (8, 8, 16), (16, 16, 32), (32, 32, 32),
    ]  # fmt: skip
    assert all(
        block.pools and isinstance(block.norm1, nn.GroupNorm) and block.norm1.num_groups == 1 for block in blocks
    )
    assert model.discriminator.last.in_features == 32 * 4 * 4
    assert model.sample(2).shape == (2, 3, 64, 64)
    constant = ResNetGAN(channels=4, image_size=64, widths="constant").discriminator
    assert constant.features(torch.randn(2, 3, 64, 64)).shape == (2, 4)


@pytest.mark.parametrize("odd", [(0, 0), (1, 0), (1, 1)])
def test_resampling_convolutions_are_what_they_replace(odd: tuple[int, int]) -> None:
    """Results and every gradient, in float32, as near to float64 as the plain form; and the second derivative."""
    torch.manual_seed(0)
    up, x = UpsampledConv2d(3, 5, odd), torch.randn(2, 3, 4, 3)
    down, y = PooledConv2d(3, 5), torch.randn(2, 3, 8 + odd[0], 6 + odd[1])
    both = [
        (up, x, lambda v, w, b: F.conv2d(F.pad(F.interpolate(v, scale_factor=2), (0, odd[1], 0, odd[0])), w, b, 1, 1)),
        (down, y, lambda v, w, b: F.avg_pool2d(F.conv2d(v, w, b, 1, 1), 2)),
    ]
    for layer, given, plain in both:
        results = []
        for dtype, form in ((torch.float32, None), (torch.float32, plain), (torch.float64, plain)):
            inputs = [part.detach().to(dtype).requires_grad_() for part in (given, layer.weight, layer.bias)]
            call = (lambda v, w, b, layer=layer: torch.func.functional_call(layer, {"weight": w, "bias": b}, v)) if (
                form is None
            ) else form  # fmt: skip
            out = call(*inputs)
            (slope,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
            slope.square().sum().backward()
            results.append([out.detach(), slope.detach(), *(part.grad for part in inputs)])
        for ours, eager, exact in zip(*results, strict=True):
            assert_parity(ours, eager, exact, lambda exact=exact: 1e-6 * exact.abs().max().item())


def test_blocks_are_the_published_ones() -> None:
    torch.manual_seed(0)
    up, down, first = UpBlock(3, 4, nn.BatchNorm2d), DownBlock(3, 4, lambda n: nn.GroupNorm(1, n)), None
    first = DownBlock(3, 4, nn.BatchNorm2d, first=True)
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    for block in (up, down, first):
        block.double()
    plain = lambda layer, v: F.conv2d(v, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)  # noqa: E731
    twice = lambda v: F.interpolate(v, scale_factor=2)  # noqa: E731
    h = plain(up.conv1, twice(F.relu(up.norm1(x))))
    expected = plain(up.conv2, F.relu(up.norm2(h))) + plain(up.shortcut, twice(x))
    assert_parity(up(x).detach(), expected.detach(), expected.detach())
    h = plain(down.conv1, F.relu(down.norm1(x)))
    expected = F.avg_pool2d(plain(down.conv2, F.relu(down.norm2(h))) + plain(down.shortcut, x), 2)
    assert_parity(down(x).detach(), expected.detach(), expected.detach())
    h = F.avg_pool2d(plain(first.conv2, F.relu(plain(first.conv1, x))), 2)
    expected = h + plain(first.shortcut, F.avg_pool2d(x, 2))
    assert_parity(first(x).detach(), expected.detach(), expected.detach())


def test_conditional_batch_norm() -> None:
    torch.manual_seed(0)
    layer, plain = ConditionalBatchNorm2d(3, 4).double(), nn.BatchNorm2d(3, affine=False).double()
    x, labels = torch.randn(6, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.equal(layer(x, labels), plain(x)), "γ begins as 1 and β as 0"
    nn.init.normal_(layer.weight.weight)
    nn.init.normal_(layer.bias.weight)
    gamma, beta = (each.weight[labels][:, :, None, None] for each in (layer.weight, layer.bias))
    expected = (gamma * plain(x) + beta).detach()
    assert_parity(layer(x, labels).detach(), expected, expected)
    assert torch.equal(layer.normalize.running_mean, plain.running_mean)


@pytest.mark.parametrize("size", [2, (3, 2), 7, (9, 14), 28])
def test_every_size_is_drawn_and_judged(size: int | tuple[int, int]) -> None:
    for widths in ("constant", "doubling"):
        model = ResNetGAN(2, 4, latent=3, channels=2, widths=widths, image_size=size)
        assert model.sample(2).shape == (2, 2, *model.sides)
        found = model.losses(torch.randint(4, (3, 2, *model.sides)))
        assert list(found) == ["loss", "wasserstein", "game", "gradient_penalty"]
        assert all(each.shape == (3,) for each in found.values())
    sizes = [block.conv1.odd for block in ResNetGAN(channels=2, image_size=28).generator.blocks]
    assert len(sizes) == 2, "7 → 14 → 28"


@pytest.mark.parametrize("conditioning", ["concat", "auxiliary", "projection"])
@pytest.mark.parametrize("normalization", ["none", "spectral"])
def test_classes(conditioning: str, normalization: str) -> None:
    torch.manual_seed(0)
    model = ResNetGAN(**SMALL, classes=3, conditioning=conditioning, normalization=normalization, game=HINGE)
    told = [layer for layer in model.generator.modules() if isinstance(layer, ConditionalBatchNorm2d)]
    assert len(told) == (0 if conditioning == "concat" else 2)
    assert isinstance(model.generator.norm, nn.BatchNorm2d), "the last is plain"
    sums = normalization == "spectral" or conditioning == "projection"
    assert model.discriminator.pooling == ("sum" if sums else "mean")
    labels = torch.arange(12) % 3
    for layer in told:
        nn.init.normal_(layer.weight.weight)
    drawn = [model.sample(4, seed=0, labels=label) for label in range(3)]
    assert not torch.equal(drawn[0], drawn[1])
    model.losses(images(), labels)["loss"].mean().backward()
    real, judge = model.to_images(images()), model.discriminator.eval()
    judged, others = judge.judge(real, labels), judge.judge(real, (labels + 1) % 3)
    assert torch.equal(judged.scores, others.scores) == (conditioning == "auxiliary")
    if conditioning == "projection":
        table, features = judge.embedding.weight.double(), judge.features(real).double()
        exact = ((table[labels] - table[(labels + 1) % 3]) * features).sum(1).detach()
        eager = (judge.embedding(labels) * judge.features(real)).sum(1).detach()
        eager = eager - (judge.embedding((labels + 1) % 3) * judge.features(real)).sum(1).detach()
        assert_parity((judged.scores - others.scores).detach(), eager, exact, lambda: 4e-7 * judged.scores.abs().max())
        if normalization == "none":
            nn.init.zeros_(judge.embedding.weight)
            assert torch.equal(judge(real, labels), judge(real, 0 * labels)), "without an embedding, of any class"


def test_what_normalises_the_critic() -> None:
    for name in ("none", "layer", "instance", "spectral"):
        assert ResNetGAN(**SMALL, normalization=name).losses(images())["gradient_penalty"].shape == (12,)
    with pytest.raises(ValueError, match="gradient_penalty: expected 0 with batch norm in the discriminator"):
        ResNetGAN(**SMALL, normalization="batch")
    ResNetGAN(**SMALL, normalization="batch", game=HINGE)
    with pytest.raises(ValueError, match="widths: expected one of 'by-size', 'constant', 'doubling', got 'wide'"):
        ResNetGAN(**SMALL, widths="wide")


def test_no_image_depends_on_those_drawn_beside_it() -> None:
    model = ResNetGAN(**SMALL, classes=3)
    model.generator(model.noise(64), torch.arange(64) % 3)  # running statistics of some sort
    for mode in (True, False):
        model.train(mode)
        drawn = model.sample(4, seed=3, labels=1)
        assert torch.equal(model.sample(2, seed=3, labels=1), drawn[:2])
        assert torch.equal(model.sample(1, seed=3, labels=1, first=3), drawn[3:])
        assert model.generator.training == mode


def halves(n: int = 96) -> Dataset:
    shade = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    shade[:, :, :, 4:] = 4  # dark on the left, light on the right; rows of noise on top
    shade[:, :, :2] = torch.randint(5, (n, 1, 2, 8), generator=torch.Generator().manual_seed(0))
    return Dataset(shade, torch.arange(n) % 3, 5, 3, "halves")


def trainer(folder: Path | None = None, **changes: object) -> Trainer:
    torch.manual_seed(0)
    model = ResNetGAN(**SMALL, classes=3, game={**ResNetGAN.default_game().config, "discriminator_steps": 2})
    defaults = {name: value for name, value in model.defaults.items() if name in Recipe.__dataclass_fields__}
    recipe = replace(Recipe(**defaults), batch_size=16, lr=1e-2, schedule="constant")
    return Trainer(model, replace(recipe, **changes), None if folder is None else new_run(folder))


def test_it_learns_and_conditional_batch_norms_settle() -> None:
    trained, distances = trainer(epochs=4), []
    before = trained.model.sample(64, seed=1, labels=1).float()
    trained.fit(halves(480), halves(), on_epoch=lambda record: distances.append(record["held_out_pixel_distance"]))
    drawn = trained.ema.sample(64, seed=1, labels=1).float()
    gap = lambda images: (images[:, :, 2:, 4:].mean() - images[:, :, 2:, :4].mean()).item()  # noqa: E731
    assert abs(gap(before)) < 1
    assert gap(drawn) > 2, "of 4"
    assert distances[-1] < distances[0] / 2
    layer, read = trained.ema.generator.blocks[0].norm2.normalize, []
    hook = layer.register_forward_pre_hook(lambda _, given: read.append(given[0].detach()))
    trained.objective.settle(trained.ema)
    hook.remove()
    every = torch.cat(read)
    assert len(every) == 2048
    assert torch.allclose(layer.running_mean, every.mean((0, 2, 3)), atol=1e-4), "of all, and of no other weights"


def test_resumed_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors comes with fastgen[train]")
    data, stopped = halves(80), trainer(tmp_path / "run", epochs=1)
    stopped.fit(data, data)
    assert stopped.position.step == 5, "in the middle of a round"
    resumed = trainer(epochs=2)
    resumed.run = stopped.run
    resumed.resume()
    resumed.fit(data, data)
    unbroken = trainer(tmp_path / "unbroken", epochs=2)
    unbroken.fit(data, data)
    assert_same(resumed, unbroken)
    assert lines(resumed.run) == lines(unbroken.run)
