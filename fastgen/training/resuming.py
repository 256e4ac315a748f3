"""From a checkpoint back to a trainer: everything is compared first, then loaded."""

import shlex
from typing import Any, Protocol

from .._alike import check_keys
from .._checks import check_instance, check_integer
from . import checkpoint, distributed, randomness
from .checkpoint import Checkpoint, CheckpointError
from .ema import EMA
from .loss_monitor import LossMonitor, Sums
from .objective import Objective
from .player_optimizer import PlayerOptimizer
from .run import Run
from .state import STATE, Position, check_position, check_random, check_sums


class Resumable(Protocol):
    """What of a trainer a checkpoint brings back."""

    model: Any
    average: EMA | None
    players: list[PlayerOptimizer]
    position: Position
    monitor: LossMonitor
    objective: Objective

    @property
    def ema(self) -> Any:
        """The model with averaged weights."""


def resume(trainer: Resumable, run: Run, name: str) -> None:
    """Continue from the checkpoint ``name`` of a run, and make good what a kill left undone.

    Raises:
        CheckpointError: see ``Trainer.resume``.
    """
    distributed.first_only(lambda: checkpoint.mend(run.checkpoints))
    loaded = checkpoint.load(run.checkpoints, name, with_state=True)
    if loaded.state.get("version") != STATE:
        raise CheckpointError(
            f"{loaded.path}: written by a version of fastgen that kept other state; its weights can be used as"
            f" they are, and be trained on in another run: fastgen train MODEL"
            f" --init-from {shlex.quote(str(run.folder))}"
        )
    try:
        players = _checked(trainer, loaded)
        process = loaded.state["processes"][distributed.rank()]
        randomness.set_state(process["random"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{loaded.path}: corrupted: {error}") from error
    loaded.restore(trainer.model, "model")
    if trainer.average is not None:
        loaded.restore(trainer.ema, "ema")
        trainer.average.updates = loaded.state["averaged"]
    for player in trainer.players:
        player.load_state_dict(players[player.name])
    trainer.position = Position(**loaded.state["position"])
    trainer.monitor.sums = Sums(**process["sums"])
    trainer.objective.load_state_dict(process["objective"])
    epoch = trainer.position.epoch
    if name != "last":  # before its metrics are forgotten, so that nothing later can be continued without them
        distributed.first_only(lambda: checkpoint.go_back(run.checkpoints, name))
    distributed.first_only(lambda: run.rewind(epoch))


def _checked(trainer: Resumable, loaded: Checkpoint) -> dict[str, Any]:
    """The players' states, once nothing in a checkpoint is other than what ``trainer`` would write."""
    state = loaded.state
    check_keys("state", state, ("version", "position", "averaged", "players", "processes"))
    processes = check_instance("processes", state["processes"], list, "a list")
    if len(processes) != distributed.size():
        got, expected = distributed.size(), len(processes)
        raise CheckpointError(f"{loaded.path}: expected {expected} processes, as it is of, got {got}")
    players = check_instance("players", state["players"], dict, "states by player")
    here, there = ", ".join(player.name for player in trainer.players), ", ".join(map(str, players))
    if here != there:
        raise CheckpointError(f"{loaded.path}: expected the players {here}, got {there}")
    if isinstance(state["position"], dict):  # saved before epochs since the best one were counted
        state["position"] = {"stale": 0, **state["position"]}
    check_position(state["position"])
    steps = state["position"]["step"]
    check_integer("averaged", state["averaged"], 0, steps)
    if isinstance(processes[distributed.rank()], dict):  # saved before objectives remembered anything
        processes[distributed.rank()] = {"objective": {}, **processes[distributed.rank()]}
    process = check_keys("process", processes[distributed.rank()], ("random", "sums", "objective"))
    check_random(process["random"], randomness.get_state())
    check_sums(process["sums"])
    check_instance("objective", process["objective"], dict, "what an objective remembers")
    trainer.objective.check_state(process["objective"])
    loaded.check(trainer.model, "model")
    if trainer.average is not None:
        loaded.check(trainer.ema, "ema")
    return {player.name: player.checked(players[player.name], steps) for player in trainer.players}
