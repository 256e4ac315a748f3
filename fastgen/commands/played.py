"""What a run's players are told to do, resolved: a silent default is the commonest reason why a game is another's."""

from typing import Any

from .._console import several
from ..training import Trainer
from ..training.player_optimizer import PlayerOptimizer

PLAIN = {"loss", "discriminator_lr", "generator_lr", "discriminator_betas", "generator_betas", "discriminator_steps"}
"""Settings that are said elsewhere in the lines."""


def played(trainer: Trainer) -> dict[str, str]:
    """A line for the game, and one for each player; nothing for a model that is its only player."""
    if len(trainer.players) < 2:
        return {}
    game: dict[str, Any] = getattr(trainer.model, "game", None) or {}
    lines = {}
    if "loss" in game:
        others = [_setting(name, value) for name, value in game.items() if name not in PLAIN and value is not None]
        lines["game"] = ", ".join([str(game["loss"]), *others])
    turns = max(player.player.steps for player in trainer.players)
    return lines | {player.name: _player(player, turns) for player in trainer.players}


def _setting(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if value == 0:
        return f"no {words}"
    return f"{words} {value:g}" if isinstance(value, (int, float)) else f"{words} {value}"


def _player(player: PlayerOptimizer, turns: int) -> str:
    recipe, steps = player.recipe, player.player.steps
    betas = "momentum {:g}" if recipe.optimizer == "sgd" else "betas {:g} and {:g}"
    said = [
        "moves in each batch" if steps == turns else f"moves in {steps} of {several(turns, 'batch', 'batches')}",
        f"{recipe.optimizer}, lr {recipe.lr:g}, {betas.format(*recipe.betas)}",
        f"weight decay {recipe.weight_decay:g}" if recipe.weight_decay else "no weight decay",
        f"clip {recipe.clip:g}" if recipe.clip else "no clip",
    ]
    return ", ".join(said)
