"""Before the first step: what the objective begins with may depend on the data."""

from typing import Any

import torch

from ..data import Dataset
from . import distributed, randomness
from .checks import check_batch
from .objective import Objective


def begin(objective: Objective, train: Dataset, first: Any, seed: int, device: torch.device) -> None:
    """Let ``objective`` begin from the first batch, all of it, in every process alike.

    Args:
        objective: see ``Objective.begin_training``.
        train: images to train on.
        first: indices of those of the first batch.
        seed: of its random numbers; the run's own are left as they are.
        device: where the model is.

    Raises:
        ValueError: the batch is not what the model reads.
    """
    ((values, condition),) = train.batches(len(first), device, first)
    check_batch(objective.model, values, condition)
    with randomness.set_aside(seed, device):
        objective.begin_training(values, condition)
    distributed.share_state(objective.model)
