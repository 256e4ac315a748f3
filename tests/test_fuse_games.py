"""fuse: discriminators and residual generators of published code; what is left is told, and nothing has changed."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgen
from fastgen.fusing import worth
from fastgen.nn import check_double_backward
from fusable import Generator, assert_same_results, twins


class Discriminator(nn.Module):
    """DCGAN's, as PyTorch's examples have it, at 32 pixels."""

    def __init__(self, nc: int = 3, ndf: int = 3) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, ndf * 4, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 4),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 4, 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.main(input).view(-1, 1).squeeze(1)


class ConditionalBatchNorm2d(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, affine=False)
        self.embed = nn.Embedding(classes, channels * 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gamma, beta = self.embed(y).chunk(2, 1)
        return (1 + gamma)[:, :, None, None] * self.bn(x) + beta[:, :, None, None]


class Block(nn.Module):
    """Of a residual generator, WGAN-GP's and SNGAN's; with ``classes``, conditional batch norms."""

    def __init__(self, I: int, O: int, classes: int = 0) -> None:
        super().__init__()
        norm = (lambda n: ConditionalBatchNorm2d(n, classes)) if classes else nn.BatchNorm2d
        self.norm1, self.norm2 = norm(I), norm(O)
        self.conv1, self.conv2 = nn.Conv2d(I, O, 3, padding=1), nn.Conv2d(O, O, 3, padding=1)
        self.shortcut = nn.Conv2d(I, O, 1)

    def forward(self, x: Tensor, *y: Tensor) -> Tensor:
        h = self.conv1(F.interpolate(F.relu(self.norm1(x, *y)), scale_factor=2))
        return self.conv2(F.relu(self.norm2(h, *y))) + self.shortcut(F.interpolate(x, scale_factor=2))


class Residual(nn.Module):
    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.linear = nn.Linear(8, 6 * 16)
        self.blocks = nn.ModuleList(Block(6, 6, classes) for _ in range(2))
        self.out = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        x = self.linear(z).view(-1, 6, 4, 4)
        labels = (torch.arange(len(z), device=z.device) % self.classes,) if self.classes else ()
        for block in self.blocks:
            x = block(x, *labels)
        return self.out(x)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], dict[str, set[str]]]] = {
    "discriminator": (
        Discriminator,
        lambda: torch.randn(4, 3, 32, 32),
        {
            worth.NORMALIZED: {"main.3", "main.6"},
            worth.CONVOLVED_WHOLE: {"main.0", "main.2", "main.5", "main.8"},
        },
    ),
    "residual generator": (
        Residual,
        lambda: torch.randn(4, 8),
        {
            worth.NORMALIZED_ALONE: {"out.0", *(f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2))},
            worth.CONVOLVED_WHOLE: {
                "out.2", *(f"blocks.{i}.{name}" for i in (0, 1) for name in ("conv1", "conv2", "shortcut")),
            },
        },
    ),
    "residual generator of classes": (
        lambda: Residual(3),
        lambda: torch.randn(4, 8),
        {
            worth.NORMALIZED_ALONE: {"out.0", *(f"blocks.{i}.norm{j}.bn" for i in (0, 1) for j in (1, 2))},
            worth.CONVOLVED_WHOLE: {
                "out.2", *(f"blocks.{i}.{name}" for i in (0, 1) for name in ("conv1", "conv2", "shortcut")),
            },
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_that_is_left_has_its_reason(name: str) -> None:
    make, inputs, reasons = MODELS[name]
    fused, plain, exact, report = twins(make())
    assert report.swapped == []
    told: dict[str, set[str]] = {}
    for each in report.left:
        told.setdefault(each.reason, set()).add(each.path)
    assert told == reasons
    assert all(reason in str(report) for reason in reasons)
    check_double_backward(fused, inputs())
    for training in (True, False):
        for model in (fused, plain, exact):
            model.train(training)
        assert_same_results(fused, plain, exact, inputs)


def test_where_something_is_swapped_the_rest_is_not_told() -> None:
    model = nn.ModuleDict({"generator": Generator(), "discriminator": Discriminator()})
    report = fastgen.fuse(copy.deepcopy(model))
    assert report.swapped
    assert {each.reason for each in report.left} == {worth.NORMALIZED}
