"""Training: one plain loop for every model, checkpoints that are never half written, exact resume."""

from .checkpoint import Checkpoint, CheckpointError
from .likelihood import Likelihood, evaluate, nats_per_image
from .loop import NonFiniteError, Recipe, Trainer
from .objective import Losses, Objective, Player
from .run import Record, Run, as_json, describe, load_model

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Likelihood",
    "Losses",
    "NonFiniteError",
    "Objective",
    "Player",
    "Recipe",
    "Record",
    "Run",
    "Trainer",
    "as_json",
    "describe",
    "evaluate",
    "load_model",
    "nats_per_image",
]
