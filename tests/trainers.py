"""Trainers of the tiny models, and what tests compare of them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tiny
from fastgen.training import Recipe, Run, Trainer

CONFIG: dict[str, Any] = {
    "model": {"name": "m", "config": {}},
    "data": {"shape": [1, 4, 4], "levels": 3},
    "options": {"data": "x", "held_out": "test"},
}

RECIPE = Recipe(epochs=4, batch_size=12, lr=0.1, warmup=3, schedule="cosine", ema=0.8, clip=0.5, seed=3, save_every=2)

GAME = Recipe(
    epochs=4, batch_size=12, accumulate=2, optimizer="rmsprop", lr=0.01, betas=(0.5, 0.9), ema=0.8,
    precision="bfloat16", channels_last=True, deterministic=True, seed=3, save_every=1,
)  # fmt: skip
"""Two players, a step in two parts, an average, half precision: everything that a checkpoint must hold."""


def trainer(run: Run | None = None, recipe: Recipe = RECIPE, kind: Any = tiny.Tiny) -> Trainer:
    """The same each time, but for ``run``."""
    torch.manual_seed(recipe.seed)
    return Trainer(kind(), recipe, run)


def game(run: Run | None = None, recipe: Recipe = GAME) -> Trainer:
    """The same each time, but for ``run``."""
    torch.manual_seed(recipe.seed)
    model = tiny.Game()
    return Trainer(model, recipe, run, tiny.GameObjective(model))


def state(trained: Trainer) -> dict[str, Any]:
    """Weights, their average, and what the optimisers remember."""
    parts = {"model": trained.model.state_dict(), "ema": trained.ema.state_dict()}
    found = {f"{role}.{key}": tensor for role, part in parts.items() for key, tensor in part.items()}
    for player in trained.players:
        for index, slots in player.optimizer.state_dict()["state"].items():
            found |= {f"{player.name}.{index}.{key}": torch.as_tensor(slot) for key, slot in slots.items()}
    return found


def assert_same(one: Trainer, other: Trainer) -> None:
    """Every number is the same, bit for bit."""
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def lines(run: Run) -> list[dict]:
    """metrics.jsonl without what differs from run to run: the clock."""
    kept = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in kept]


def new_run(folder: Path) -> Run:
    return Run(folder).create(CONFIG)


def gradients(trained: Trainer, values: Tensor) -> list[Tensor]:
    """The gradient of the only player for one batch."""
    (player,) = trained.players
    player.gradient(values, None, len(values), len(values), 0.5)
    return [parameter.grad.clone() for parameter in player.player.parameters]
