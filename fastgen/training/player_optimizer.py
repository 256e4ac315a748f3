"""A player's optimiser and gradient scaler, and its losses as a module for hooks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .._alike import check_keys
from .._draws import batch_of
from . import batch, distributed
from .checks import check_losses
from .objective import Losses, Objective, Player
from .recipe import Recipe
from .state import check_scaler, optimizer_state


class Terms(nn.Module):
    """The losses of a player as a module over the whole model, whose ``forward`` gradient hooks surround."""

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.model = model
        self.losses = losses

    def forward(self, values: Tensor, condition: Any, progress: float) -> dict[str, Tensor]:
        return self.losses(values, condition, progress)


@dataclass(slots=True)
class StepLosses:
    """What a step computed, not yet looked at: sums of the losses over ``images`` images, and the gradient's norm."""

    player: PlayerOptimizer
    names: list[str]
    sums: Tensor
    norm: Tensor | None
    images: int
    step: int = 0


class PlayerOptimizer:
    """What moves a player."""

    def __init__(self, player: Player, objective: Objective, recipe: Recipe, device: torch.device) -> None:
        self.player = player
        self.recipe = recipe = player.recipe(recipe)
        self.device = device
        self.optimizer = recipe.make_optimizer(player.parameters)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16")
        self.others: list[nn.Parameter] = []
        self._checked = False
        terms: Any = Terms(objective.model, player.losses)
        terms = torch.compile(terms) if recipe.compile else terms
        self.terms = DistributedDataParallel(terms) if distributed.size() > 1 else terms

    @classmethod
    def all(cls, objective: Objective, recipe: Recipe, device: torch.device) -> list[PlayerOptimizer]:
        """One for every player.

        Raises:
            ValueError: players share a name, or one has nothing to move, a parameter twice, no steps, or what no
                recipe takes; one differentiates twice, and is to be compiled.
        """
        players = objective.players()
        moved = [parameter for player in players for parameter in player.parameters]
        if len({player.name for player in players}) < len(players) or not players:
            raise ValueError(f"players: expected one or more, of different names, got {[p.name for p in players]}")
        for player in players:
            if len({id(parameter) for parameter in player.parameters}) < len(player.parameters):
                raise ValueError(f"player {player.name}: expected no parameter twice, got one that is")
            if not player.parameters or player.steps < 1:
                got = f"{len(player.parameters)} parameters and {player.steps} steps"
                raise ValueError(f"player {player.name}: expected parameters to move, and 1 step or more, got {got}")
            if recipe.compile and player.differentiates_twice:
                raise ValueError(
                    f"compile: expected False with a penalty on the gradient of the {player.name}, of which compiled"
                    " code has no derivative, got True"
                )
        optimizers = []
        for player in players:  # whose parameters alone need a gradient while its hooks are placed
            mine = {id(parameter) for parameter in player.parameters}
            for parameter in moved:
                parameter.requires_grad_(id(parameter) in mine)
            optimizers.append(cls(player, objective, recipe, device))
            optimizers[-1].others = [parameter for parameter in moved if id(parameter) not in mine]
        for parameter in moved:
            parameter.requires_grad_(True)
        return optimizers

    @staticmethod
    @contextlib.contextmanager
    def in_turn(players: list[PlayerOptimizer]) -> Iterator[None]:
        """Inside, players may be toggled; afterwards the parameters of all need a gradient again."""
        try:
            yield
        finally:
            for player in players:
                for parameter in player.player.parameters:
                    parameter.requires_grad_(True)

    @property
    def name(self) -> str:
        """The player's."""
        return self.player.name

    def toggle(self) -> None:
        """Make this player's parameters the only ones that need a gradient."""
        for parameter in self.others:
            parameter.requires_grad_(False)
        for parameter in self.player.parameters:
            parameter.requires_grad_(True)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The recipe's precision."""
        return self.recipe.autocast(self.device)

    def gradient(
        self, values: Tensor, condition: Any, mine: int, images: int, progress: float, step: int = 0
    ) -> StepLosses:
        """Compute the gradient of the mean loss over the ``images`` images of a step, of which ``mine`` are here.

        Where there are none here, one image that counts nothing keeps this process in step with the others. ``step``
        (from 0) is what random numbers of images depend on.
        """
        player, recipe = self.player, self.recipe
        self.optimizer.zero_grad()
        scale = min(mine, 1) * distributed.size() / images  # the processes' gradients will be averaged
        scale /= values[0].numel() if player.per_dimension else 1
        parts = min(recipe.accumulate, len(values))
        sums: Tensor | None = None
        places = distributed.places(images)[: len(values)].tensor_split(parts)
        for part, (x, y) in enumerate(batch.parts(values, condition, parts)):
            with self._hooks_wait() if part < parts - 1 else contextlib.nullcontext():
                with self.autocast(), batch_of(recipe.seed, step, player.name, places[part]):
                    losses = self.terms(x, y, progress)
                if not self._checked:
                    check_losses(losses, len(x), player.name)
                    self._checked = True
                self.scaler.scale(next(iter(losses.values())).sum() * scale).backward()
            found = torch.stack([loss.detach().sum() for loss in losses.values()])
            sums = found if sums is None else sums + found
        assert sums is not None
        self.scaler.unscale_(self.optimizer)
        watched = recipe.clip or self.others or distributed.size() > 1  # all see what is not finite in any
        norm = self._clip() if watched else None
        return StepLosses(self, list(losses), sums, norm, mine)

    def _clip(self) -> Tensor:
        """The gradient's norm; the gradient is scaled down to the recipe's largest."""
        gradients = [parameter.grad for parameter in self.player.parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        most = self.recipe.clip or math.inf
        if norm.device.type != "cpu" or norm > most:  # where the norm is at hand, what fits is not touched
            nn.utils.clip_grads_with_norm_(self.player.parameters, most, norm)
        return norm

    def move(self, factor: float) -> None:
        """Take the optimiser's step, at the player's learning rate times ``factor``."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * factor
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's and the scaler's."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def checked(self, state: Any, most_steps: int) -> dict[str, Any]:
        """What ``state_dict`` returned after at most ``most_steps`` steps, for ``load_state_dict``.

        Raises:
            ValueError: it is another player's, another recipe's, or no such state; the message names what differs.
        """
        name = self.name
        check_keys(name, state, ("optimizer", "scaler"))
        check_scaler(f"{name}.scaler", state["scaler"], self.scaler)
        optimizer = optimizer_state(f"{name}.optimizer", state["optimizer"], self.optimizer, self.recipe, most_steps)
        return {"optimizer": optimizer, "scaler": state["scaler"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``checked`` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def _hooks_wait(self) -> contextlib.AbstractContextManager[Any]:
        """Until the last part of a step, processes keep their gradients to themselves."""
        if isinstance(self.terms, DistributedDataParallel):
            return self.terms.no_sync()
        return contextlib.nullcontext()
