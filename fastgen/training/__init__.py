"""Training: one plain loop for every model, checkpoints that are never half written, exact resume."""

from .checkpoint import Checkpoint, CheckpointError
from .diagnosis import NonFiniteError
from .distributed import ElsewhereError
from .epoch_words import describe
from .evaluation import Evaluation, Measures, evaluate
from .loop import Trainer
from .objective import Losses, Objective, Player
from .recipe import Recipe
from .run import Record, Run, as_json, load_model, load_weights

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ElsewhereError",
    "Evaluation",
    "Losses",
    "Measures",
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
    "load_weights",
]
