"""How long training takes, told before it has begun: by the time that a few images take."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..nn._records import alone
from . import distributed
from .checks import told_to
from .objective import Objective
from .randomness import set_aside
from .recipe import Recipe

ENOUGH = 0.25
"""Seconds of work that tell how long more of it takes."""

FEW = 4
"""Images to begin with."""


@dataclass(frozen=True)
class Pace:
    """Seconds for an image, with all processes at work: of training, and of a held-out image's evaluation."""

    training: float
    evaluating: float

    def epoch(self, train: int, held_out: int) -> tuple[float, float]:
        """Seconds that an epoch trains, and that it evaluates."""
        return self.training * train, self.evaluating * held_out


def measure(objective: Objective, recipe: Recipe, device: torch.device, train: Dataset) -> Pace:
    """Time forward and backward, and an evaluation, of a few images; the objective's model stays as it is.

    A copy of the model works, on so many images that the time means something, a batch at most. Pictures are left out.
    Of several processes each can do it, or one alone: nobody is waited for.
    """
    train = told_to(objective.model, train)
    objective = copy.deepcopy(objective)
    players = objective.players()
    most = max(1, recipe.batch_size // distributed.size() // recipe.accumulate)
    turns = max(player.steps for player in players)
    optimizers = [recipe.make_optimizer(player.parameters, 0.0) for player in players]

    def work(values: Tensor, condition: Any) -> None:
        for player, optimizer in zip(players, optimizers, strict=True):
            optimizer.zero_grad()
            with recipe.autocast(device):
                loss = next(iter(player.losses(values, condition, 0.0).values())).sum()
            loss.backward()
            optimizer.step()

    def look(values: Tensor, condition: Any) -> None:
        with torch.no_grad():
            objective.evaluate(objective.model, values, condition)

    with set_aside(recipe.seed, device), alone():
        objective.begin_training(*_some(train, min(most, len(train)), device))
        objective.model.train()
        training = _seconds(work, train, most, device) * sum(player.steps for player in players)
        training /= turns * len(players)
        objective.model.eval()
        evaluating = _seconds(look, train, recipe.batch_size, device)
    return Pace(training / distributed.size(), evaluating / distributed.size())


def _seconds(run: Callable[[Tensor, Any], None], images: Dataset, most: int, device: torch.device) -> float:
    """Seconds for an image, of the first count of images, doubled from FEW, that takes ENOUGH or is ``most``."""
    most, count = min(most, len(images)), min(FEW, most, len(images))
    while True:
        values, condition = _some(images, count, device)
        for _ in range(2):  # the first one allocates
            _wait(device)
            started = time.perf_counter()
            run(values, condition)
            _wait(device)
            seconds = time.perf_counter() - started
        if seconds >= ENOUGH or count == most:
            return seconds / count
        count = min(most, 2 * count)


def _some(images: Dataset, count: int, device: torch.device) -> tuple[Tensor, Any]:
    return next(iter(images.pick(torch.arange(count)).batches(count, device)))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
