"""The losses of a run: adds them up, and stops it with a diagnosis when a number stops being finite."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from ..nn._records import alone
from . import diagnosis, distributed, randomness
from .diagnosis import NonFiniteError
from .player_optimizer import PlayerOptimizer, StepLosses
from .recipe import Recipe

SMALLEST_SCALE = 2.0**-10
"""A gradient that overflows float16 even at this scale of the loss is broken, not scaled badly."""


@dataclass
class Sums:
    """What the epoch under way adds up to in this process: by metric, the loss of its images, and their number."""

    losses: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)


class Last(NamedTuple):
    """The last finite loss."""

    name: str
    loss: float
    step: int
    norm: float | None


class LossMonitor:
    """Losses of a model in training, some not yet looked at.

    Args:
        model: what a diagnosis looks into.
        recipe: what its advice is about.
        several: whether metrics carry the name of their player.
        good: says which checkpoints are whole.
    """

    def __init__(self, model: Any, recipe: Recipe, several: bool, good: Callable[[], str]) -> None:
        self.model = model
        self.recipe = recipe
        self.several = several
        self.good = good
        self.sums = Sums()
        self.last: Last | None = None
        self.pending: list[StepLosses] = []

    def look(
        self, epoch: int, player: PlayerOptimizer | None = None, values: Tensor | None = None, condition: Any = None
    ) -> None:
        """Check and add up what is pending.

        A look before a player moves says whose gradient it is and of which images: the diagnosis knows more then.

        Raises:
            NonFiniteError: in which step, which loss, what was largest, what is good, and what to try.
        """
        pending, self.pending = self.pending, []
        for one in pending:
            sums, norm = one.sums.tolist(), None if one.norm is None else one.norm.item()
            means = {name: total / max(one.images, 1) for name, total in zip(one.names, sums, strict=True)}
            broken = not all(map(math.isfinite, sums))
            if not broken and norm is not None and not math.isfinite(norm):
                broken = not one.player.scaler.is_enabled() or one.player.scaler.get_scale() < SMALLEST_SCALE
            if broken:
                raise NonFiniteError(self._diagnose(epoch, one, means, norm, player, values, condition))
            self.last = Last(one.names[0], means[one.names[0]], one.step, norm)
            if one.images:
                found = dict(zip(one.names, sums, strict=True))
                if self.several and norm is not None and math.isfinite(norm):
                    found["gradient_norm"] = norm * one.images
                for name, total in found.items():
                    key = f"{one.player.name}_{name}" if self.several else name
                    self.sums.losses[key] = self.sums.losses.get(key, 0.0) + total
                    self.sums.images[key] = self.sums.images.get(key, 0) + one.images

    def add_up(self) -> tuple[dict[str, float], int]:
        """Means over the epoch's images in all processes, and the number of images; then begin again from nothing."""
        every = distributed.gather(self.sums)
        self.sums = Sums()
        images = {name: sum(one.images.get(name, 0) for one in every) for one in every for name in one.images}
        losses = {name: sum(one.losses.get(name, 0.0) for one in every) for name in images}
        return {name: losses[name] / images[name] for name in images}, max(images.values())

    def stop(self, step: int, what: str) -> None:
        """Raise NonFiniteError about ``what``, found after step ``step``."""
        advice = diagnosis.advice(self.recipe.precision, step, True)
        raise NonFiniteError(f"step {step}: {what}; {self.before()}; {self.good()}; {advice}")

    def check_weights(self, step: int) -> None:
        """Raise NonFiniteError if a weight is not finite: it must not replace one that is."""
        for name, weight in self.model.named_parameters():
            if not weight.isfinite().all():
                self.stop(step, f"the weight {name} is not finite")

    def before(self) -> str:
        """What came last, in words."""
        if self.last is None:
            return "there was no finite loss before it"
        name, loss, step, norm = self.last
        said = f"the last finite loss was {loss:.4g} {name} in step {step}"
        return said if norm is None else f"{said}, gradient norm {norm:.3g}"

    def _diagnose(
        self,
        epoch: int,
        one: StepLosses,
        means: dict[str, float],
        norm: float | None,
        player: PlayerOptimizer | None,
        values: Any,
        condition: Any,
    ) -> str:
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        said = [
            f"step {one.step} (epoch {epoch + 1}): {diagnosis.terms(means)}"
            + (f" for the player {one.player.name}" if self.several else ""),
            "no gradient norm, since clip is 0" if norm is None else f"gradient norm {norm:.3g}",
            self.before(),
        ]
        if player is not None:  # before the move: weights are as they were, gradients and images are at hand
            with randomness.set_aside(self.recipe.seed, values.device), player.autocast(), alone():
                found = diagnosis.activations(self.model, partial(player.player.losses, values, condition, 1.0))
            said.append(f"largest activations: {found}")
            said.append(f"largest gradients: {diagnosis.largest((name, p.grad) for name, p in named)}")
        said.append(f"largest weights: {diagnosis.largest(named)}")
        said.append(self.good())
        said.append(diagnosis.advice(self.recipe.precision, one.step, all(map(math.isfinite, means.values()))))
        return "; ".join(said)
