"""From a model to what training minimises."""

from typing import Any

from ..objective import Losses, Objective, Player

__all__ = ["Losses", "Objective", "Player", "objective_of"]


def objective_of(model: Any) -> Objective:
    """What ``model`` offers by ``objective()``, or else its ``losses``."""
    return model.objective() if hasattr(model, "objective") else Objective(model)
