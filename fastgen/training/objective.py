"""What is minimised, and who minimises it: one player for most models, two for a game between networks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Losses = Callable[[Tensor, Tensor | None, float], dict[str, Tensor]]
"""(values int64 (N, C, H, W), labels (N,) or None, progress in [0, 1]) → by name, (N,) numbers, one per example.

The first is minimised, the others are recorded beside it. "nats" is a negative log-likelihood, or a bound on one, in
nats per example: summed over dimensions. ``progress`` is the fraction of training that is done."""


@dataclass(frozen=True, eq=False)
class Player:
    """One optimiser: the parameters it moves, and the losses whose first it makes small.

    Attributes:
        name: of its optimiser in a checkpoint, and of its metrics where there are several players.
        parameters: no other player's.
        losses: computed with the objective's model only, which processes keep in step.
        steps: k; in every max(k) batches the player moves on the last k, after the players before it.
        lr: its own learning rate; None is the recipe's.
        per_dimension: whether its loss is a sum over an image's dimensions; the gradient is then of the loss per
            dimension, so that ``clip`` and SGD's ``lr`` mean the same at every image size.
    """

    name: str
    parameters: list[nn.Parameter]
    losses: Losses
    steps: int = 1
    lr: float | None = None
    per_dimension: bool = True


@dataclass(eq=False)
class Objective:
    """``model.losses(values, labels, progress)``, minimised by one player over all parameters.

    A game overrides ``players``, and what is evaluated. A model whose loss is not a sum over dimensions, as the
    cross-entropy of one class, says so by an attribute ``per_dimension = False``.

    Attributes:
        model: holds every parameter of every player, and is what checkpoints keep.
    """

    model: Any

    def players(self) -> list[Player]:
        """Who moves, in the order of their moves."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        per_dimension = getattr(self.model, "per_dimension", True)
        return [Player("model", parameters, self.model.losses, per_dimension=per_dimension)]

    def evaluate(self, model: Any, values: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """What held-out images are measured by: losses of ``model``, the average of the trained one, in eval mode.

        The first chooses the best epoch; less is better.
        """
        return model.losses(values, labels)
