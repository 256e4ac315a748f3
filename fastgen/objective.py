"""What is minimised, and who minimises it: one player for most models, two for a game between networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor, nn

from ._alike import check_alike
from .data import Dataset
from .nn._batch_norms import settling

Losses = Callable[[Tensor, Any, float], dict[str, Tensor]]
"""(values int64 (N, C, H, W), their condition, progress in [0, 1]) → by name, (N,) numbers, one per example.

The condition is what the data set tells: labels int64 (N,), a vector, a map, a dict of these, or None. The first loss
is minimised, the others are recorded beside it. "nats" is a negative log-likelihood, or a bound on one, in nats per
example: summed over dimensions. ``progress`` is the fraction of training that is done."""


AnyRecipe = TypeVar("AnyRecipe")


@dataclass(frozen=True, eq=False)
class Player:
    """One optimiser: the parameters it moves, and the losses whose first it makes small.

    Attributes:
        name: of its optimiser in a checkpoint, and of its metrics where there are several players.
        parameters: those it moves; another player may move them, too, with an optimiser of its own.
        losses: computed with the objective's model only, which processes keep in step.
        steps: k; in every max(k) batches the player moves on the last k, after the players before it.
        lr: its own learning rate; None is the recipe's, as for the other four that recipes have.
        optimizer: "adam", "adamw", "sgd" or "rmsprop".
        betas: of that optimiser.
        weight_decay: its own pull of the weights to zero.
        clip: largest norm of its gradient; 0 turns clipping off.
        per_dimension: whether its loss is a sum over an image's dimensions; the gradient is then of the loss per
            dimension, so that ``clip`` and SGD's ``lr`` mean the same at every image size.
        differentiates_twice: whether a gradient is part of its loss, as with a penalty on one: it cannot be compiled.
    """

    name: str
    parameters: list[nn.Parameter]
    losses: Losses
    steps: int = 1
    lr: float | None = None
    per_dimension: bool = True
    optimizer: str | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    clip: float | None = None
    differentiates_twice: bool = False

    def recipe(self, recipe: AnyRecipe) -> AnyRecipe:
        """``recipe`` with what this player has of its own.

        Raises:
            ValueError: the player has what no recipe takes.
        """
        own = {name: getattr(self, name) for name in ("lr", "optimizer", "betas", "weight_decay", "clip")}
        try:
            mine = {name: value for name, value in own.items() if value is not None}
            return replace(recipe, **mine)  # type: ignore[type-var]
        except (TypeError, ValueError) as error:
            raise ValueError(f"player {self.name}: {error}") from error


@dataclass(eq=False)
class Objective:
    """``model.losses(values, condition, progress)``, minimised by one player over all parameters.

    A game overrides ``players``, and what is evaluated. A model whose loss is not a sum over dimensions, as the
    cross-entropy of one class, says so by an attribute ``per_dimension = False``.

    Attributes:
        model: holds every parameter of every player, and is what checkpoints keep.
        best: the name of the number that chooses the best epoch, less being better, among those of ``evaluate`` and
            ``measure_set``; None is the first of ``evaluate``.
    """

    model: Any
    best: str | None = None

    def players(self) -> list[Player]:
        """Who moves, in the order of their moves."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        per_dimension = getattr(self.model, "per_dimension", True)
        return [Player("model", parameters, self.model.losses, per_dimension=per_dimension)]

    def begin_training(self, values: Tensor, condition: Any) -> None:
        """Called before the first step of a run with its batch: all of it, the same in every process.

        What the model begins with may depend on data: by default, ``model.begin_training(values, condition)`` of a
        model that has one. Random numbers are the same in every process, and none of the run's own.
        """
        begin = getattr(self.model, "begin_training", None)
        if begin is not None:
            begin(values, condition)

    def evaluate(self, model: Any, values: Tensor, condition: Any) -> dict[str, Tensor]:
        """What held-out images are measured by: losses of ``model``, the average of the trained one, in eval mode.

        The first chooses the best epoch, where ``best`` names no other; less is better.
        """
        return model.losses(values, condition)

    def measure_set(self, model: Any, held_out: Dataset) -> dict[str, float]:
        """Numbers that are of a whole set of held-out images and not means over them, by name.

        The first of several processes computes them, with random numbers that are the same after every epoch.
        """
        return {}

    def settle(self, model: Any) -> None:
        """Called with the average before it is evaluated and kept, to make its buffers those of averaged weights, say.

        It draws no random numbers but from generators of its own, and leaves the mode of modules as it was.
        """

    def settle_on(self, model: Any, images: Dataset, batch_size: int) -> None:
        """``settle``, with some of the images that are trained on at hand.

        By default: ``settle``; and where no class has one of its own, batch norms of the average keep statistics of
        what its own layers make of these images in ``evaluate``, in training mode, as torch's ``update_bn`` does.
        Random numbers may be drawn: the run's own are set aside.
        """
        if type(self).settle is not Objective.settle:
            return self.settle(model)
        whole = len(images) // batch_size * batch_size or len(images)
        if whole < 2:  # which have no statistics
            return None
        with settling(model) as wanted:
            for values, condition in images.batches(batch_size, next(model.parameters()).device) if wanted else ():
                if whole > 0:
                    self.evaluate(model, values, condition)
                whole -= len(values)

    def remarks(self, record: Mapping[str, Any]) -> list[str]:
        """What a person should be told after an epoch, of which ``record`` has the numbers: a sentence each."""
        return []

    def observe(self, player: Player, means: Mapping[str, Tensor]) -> None:
        """Called before ``player`` moves, with the means of its losses over a step's images, of all processes.

        Args:
            player: whose losses they are.
            means: by name, one number each, without a gradient; the same in every process.
        """

    def after_move(self, player: Player, step: int) -> None:
        """Called when ``player`` has moved in step ``step`` (from 0): to clip its weights, say."""

    def end_of_round(self, step: int) -> None:
        """Called after step ``step`` (from 0) when it is a round's last: every player has had all of its moves."""

    def state_dict(self) -> dict[str, Any]:
        """What the objective remembers from step to step in this process: numbers, tensors, and containers of them."""
        return {}

    def check_state(self, state: dict[str, Any]) -> None:
        """``state`` is one that ``state_dict`` may have returned: by default, built as that of now.

        Raises:
            ValueError: it is not; the message names what differs.
        """
        check_alike("objective", state, self.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``check_state`` took."""
