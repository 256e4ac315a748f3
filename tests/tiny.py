"""A data set and models small enough for tests of the loop; the models are no one's but the tests'."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.conditions import Classes, FeatureMap, Vector, tensors_of
from fastgen.data import Dataset
from fastgen.training import Objective, Player


def full(x: Tensor) -> Tensor:
    """Half precision as float32; what is more stays as it is."""
    return x if x.dtype == torch.float64 else x.float()


class Tiny(nn.Module):
    """Independent pixels from a learned vector; dropout makes every step depend on the random numbers before it."""

    def __init__(self, hidden: int = 6, dropout: float = 0.5) -> None:
        super().__init__()
        self.dropout = dropout
        self.code = nn.Parameter(torch.ones(1, hidden))
        self.logits = nn.Linear(hidden, 4 * 4 * 3)

    def forward(self) -> Tensor:
        return self.logits(F.dropout(self.code, self.dropout, self.training)).view(1, 3, 1, 4, 4)

    def losses(self, values: Tensor, labels: Tensor | None = None, progress: float = 1.0) -> dict[str, Tensor]:
        """(N, 1, 4, 4) values of three levels → (N,) nats."""
        logits = full(self()).expand(len(values), -1, -1, -1, -1)
        return {"nats": F.cross_entropy(logits, values, reduction="none").sum(dim=(1, 2, 3))}


class Coder(nn.Module):
    """An autoencoder with a convolution, and two terms; nothing in it is random but its first weights."""

    levels, in_channels, classes = 3, 1, None

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv2d(1, 6, 3, padding=1)
        self.decode = nn.Conv2d(6, 3, 3, padding=1)

    def losses(self, values: Tensor, labels: Tensor | None = None, progress: float = 1.0) -> dict[str, Tensor]:
        """(N, 1, 4, 4) values of three levels → (N,) nats of the pixels, and a penalty that grows with progress."""
        code = F.relu(self.encode(values.to(self.encode.weight.dtype) - 1))
        penalty = progress * full(code).square().flatten(1).mean(dim=1)
        nats = F.cross_entropy(full(self.decode(code)), values[:, 0], reduction="none").sum(dim=(1, 2))
        return {"nats": nats + penalty, "penalty": penalty}


class Told(nn.Module):
    """Told what ``tell`` tells of its images, and it holds the one against the other; dropout as in ``Tiny``."""

    levels, in_channels = 3, 1

    def __init__(self, *names: str, dropout: float = 0.5) -> None:
        super().__init__()
        kinds = {"class": Classes(3), "text": Vector(2), "small": FeatureMap(2, 4, 4)}
        self.names, self.dropout = names, dropout
        self.condition_kind = {name: kinds[name] for name in names} if len(names) > 1 else kinds[names[0]]
        self.logits = nn.Linear(sum({"class": 3, "text": 2, "small": 32}[name] for name in names), 4 * 4 * 3)

    def losses(self, values: Tensor, condition: Any = None, progress: float = 1.0) -> dict[str, Tensor]:
        """(N, 1, 4, 4) values of three levels → (N,) nats."""
        read, wanted = tensors_of(condition), tensors_of(tell(values, *self.names))
        assert all(map(torch.equal, read, wanted)), "told of other images, or of their mirror images"
        parts = [part.flatten(1) if part.is_floating_point() else F.one_hot(part, 3) for part in read]
        code = torch.cat([part.to(self.logits.weight.dtype) for part in parts], dim=1)
        logits = full(self.logits(F.dropout(code, self.dropout, self.training))).view(-1, 3, 1, 4, 4)
        return {"nats": F.cross_entropy(logits, values, reduction="none").sum(dim=(1, 2, 3))}


def tell(values: Tensor, *names: str) -> Any:
    """A class and a vector that mirroring does not change, a map that shows the image itself; a dict of several."""
    total = values.long().sum(dim=(1, 2, 3))
    every = {"class": total % 3, "text": torch.stack([total, total**2], 1) / 32, "small": values.repeat(1, 2, 1, 1) / 2}
    return {name: every[name] for name in names} if len(names) > 1 else every[names[0]]


class Game(nn.Module):
    """A forger that makes images from noise, and a judge of them."""

    def __init__(self, noise: bool = True) -> None:
        super().__init__()
        self.noise = noise
        self.forger = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh())
        self.judge = nn.Sequential(nn.Linear(16, 12), nn.LeakyReLU(0.2), nn.Linear(12, 1))

    def losses(self, values: Tensor, labels: Tensor | None = None, progress: float = 1.0) -> dict[str, Tensor]:
        """How far forged images are from real ones, over all pixels, squared: what held-out images are measured by."""
        forged = full(self.forger(self.draw(values)))
        return {"squared_error": (values.flatten(1) - 1 - forged).square().sum(dim=1)}

    def draw(self, values: Tensor) -> Tensor:
        """Noise; from the images themselves where nothing is to be random."""
        dtype = self.forger[0].weight.dtype
        return torch.randn(len(values), 8, dtype=dtype) if self.noise else values.flatten(1)[:, :8].to(dtype) - 1


class GameObjective(Objective):
    """The judge moves in every batch, the forger in every other one."""

    def players(self) -> list[Player]:
        game = self.model
        return [
            Player("judge", [*game.judge.parameters()], self.judging, steps=2, per_dimension=False),
            Player("forger", [*game.forger.parameters()], self.forging, lr=0.005, per_dimension=False),
        ]

    def judging(self, values: Tensor, labels: Tensor | None, progress: float) -> dict[str, Tensor]:
        noise = self.model.draw(values)
        real, forged = values.flatten(1).to(noise.dtype) - 1, self.model.forger(noise).detach()
        scores = [full(self.model.judge(images)[:, 0]) for images in (real, forged)]
        return {"loss": F.softplus(-scores[0]) + F.softplus(scores[1]), "real": scores[0].sigmoid()}

    def forging(self, values: Tensor, labels: Tensor | None, progress: float) -> dict[str, Tensor]:
        return {"loss": F.softplus(-full(self.model.judge(self.model.forger(self.model.draw(values)))[:, 0]))}


def images(n: int = 40) -> Dataset:
    """Columns alternate between two levels, with noise."""
    generator = torch.Generator().manual_seed(1)
    stripes = torch.arange(4).remainder(2).expand(n, 1, 4, 4)
    noise = torch.rand(n, 1, 4, 4, generator=generator) < 0.2
    return Dataset(torch.where(noise, 2, stripes).to(torch.uint8), None, 3, None, "stripes")


def told(*names: str, n: int = 40) -> Dataset:
    """The same, and what ``tell`` tells of each."""
    data = images(n)
    return replace(data, condition=tell(data.values, *names))
