"""Causal models that are told something beside the image, as other people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.conditions import Condition
from foreign import CausalConv2d

SHAPE = (1, 6, 8)
"""Of the images that these models draw."""


class FilmLayer(nn.Module):
    """A masked convolution whose channels a vector scales and shifts (arXiv:1709.07871)."""

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.conv = CausalConv2d(False, channels, channels, 3, padding=1)
        self.film = nn.Sequential(nn.Linear(told, 7), nn.ReLU(), nn.Linear(7, 2 * channels))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        gamma, beta = self.film(z).unsqueeze(2).unsqueeze(3).chunk(2, 1)
        return x + F.elu(gamma * self.conv(x) + beta)


class VectorModel(nn.Module):
    """Draws what an embedding says: FiLM in every layer, and its cross products as a bias in the first."""

    example = torch.zeros(5)

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.input = CausalConv2d(True, 1, channels, 5, padding=2)
        self.bias = nn.Linear(5 * 5, channels)
        self.layers = nn.ModuleList(FilmLayer(channels, 5) for _ in range(2))
        self.output = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        h = self.input(x) + self.bias(torch.einsum("ni,nj->nij", text, text).flatten(1))[:, :, None, None]
        for layer in self.layers:
            h = layer(h, text)
        return self.output(h)


class UpsampledModel(nn.Module):
    """Draws the large image of a small one: enlarged in three ways, convolved, and added in every layer."""

    example = torch.zeros(2, 3, 4)

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(2, channels, 2, stride=2)
        self.around = nn.Sequential(
            nn.Conv2d(channels + 4, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.whole = nn.Linear(2 * 3 * 4, channels)
        self.input = CausalConv2d(True, 1, channels, 5, padding=2)
        self.layers = nn.ModuleList(CausalConv2d(False, channels, 2 * channels, 3, padding=1) for _ in range(2))
        self.told = nn.ModuleList(nn.Conv2d(channels, 2 * channels, 3, padding=1) for _ in range(2))
        self.output = nn.Conv2d(channels + 1, 1, 1)

    def forward(self, x: Tensor, small: Tensor) -> Tensor:
        nearest = F.interpolate(small, scale_factor=2, mode="nearest")
        smooth = F.interpolate(small, size=x.shape[2:], mode="bilinear", align_corners=False)
        told = self.around(torch.cat((self.enlarge(small), nearest, smooth), dim=1))
        told = told + F.adaptive_avg_pool2d(told, 1) + self.whole(small.flatten(1)).view(-1, told.shape[1], 1, 1)
        h = self.input(x)
        for layer, conv in zip(self.layers, self.told, strict=True):
            a, b = (layer(h) + conv(told)).chunk(2, dim=1)
            h = h + torch.tanh(a) * torch.sigmoid(b)
        return self.output(torch.cat((h, nearest.mean(dim=1, keepdim=True)), dim=1))


class MixedModel(nn.Module):
    """A class, a vector and an image of the size that is drawn, by name."""

    example = {"class": 0, "text": torch.zeros(5), "image": torch.zeros(1, 6, 8)}  # noqa: RUF012

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.of_class = nn.Embedding(3, channels)
        self.input = CausalConv2d(True, 1, channels, 5, padding=2)
        self.image = nn.Conv2d(1, channels, 3, padding=1)
        self.film = FilmLayer(channels, 5 + 3)
        self.output = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor, condition: dict[str, Tensor]) -> Tensor:
        labels, image = condition.pop("class"), condition["image"]
        z = torch.cat((condition["text"], F.one_hot(labels, 3).to(x.dtype)), dim=1)
        h = self.film(self.input(x) + self.image(image) + self.of_class(labels)[:, :, None, None], z)
        return self.output(h * torch.sigmoid(image))


MODELS = (VectorModel, UpsampledModel, MixedModel)


def conditions(model: type[nn.Module], n: int, seed: int = 1) -> Condition:
    """``n`` of them, no two alike."""
    generator = torch.Generator().manual_seed(seed)

    def of(example: object) -> Tensor:
        if isinstance(example, Tensor):
            return torch.randn((n, *example.shape), generator=generator)
        return torch.arange(n) % 3

    example = model.example
    return {name: of(part) for name, part in example.items()} if isinstance(example, dict) else of(example)
