"""How a discriminator and a generator are trained: who minimises what, how it is measured, and how it stands.

discriminator, k times    real images and drawn ones, each batch by itself: batch norm of both together would tell
them apart by the share of each; drawn ones anew, without a gradient of the generator
generator, once           noise drawn anew, scored by the discriminator as it is after its moves
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import metrics
from .._draws import uniforms_of_batch
from .._shadow import shadow, uncast
from ..conditions import Classes
from ..data import Dataset
from ..losses import clip_weights, gradient_penalty, r1_penalty
from ..nn import check_double_backward
from ..nn._batch_norms import BATCH_NORMS, settling
from ..objective import Objective, Player
from .adversarial_words import words
from .discriminators import Judged

COMPARED = 2048
"""Images of each set that are compared after an epoch, at most."""
SETTLING = 16, 128
"""Batches, and images in each, whose statistics are those of a batch norm with averaged weights."""


class AdversarialObjective(Objective):
    """A game of two: ``model.discriminator`` against ``model.generator``, by ``model.settings``.

    Numbers of an epoch: the losses of both, what D tells right or the Wasserstein estimate, the penalty where there is
    one, norms of both gradients; on held-out images the same, and ``pixel_distance`` and ``diversity`` of drawn images,
    of which the first chooses the best epoch.

    Raises:
        ValueError: settings and networks are known not to go together.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model, best="pixel_distance")
        self.settings = model.settings
        self.most_diverse = 0.0
        self.check()

    def check(self) -> None:
        """Raise ValueError where settings and networks are known not to go together."""
        self.settings.check_discriminator(self.model.discriminator)
        if self.settings.differentiates_twice:
            check_double_backward(self.model.discriminator)

    def players(self) -> list[Player]:
        """Who moves, in the order of their moves.

        Raises:
            ValueError: the discriminator's gradient cannot be differentiated again, and is to be.
        """
        settings = self.settings
        if settings.differentiates_twice:
            check_double_backward(self.model.discriminator, *self._two_images())
        return [
            Player(
                "discriminator", _trained(self.model.discriminator), self.discriminated, settings.discriminator_steps,
                settings.discriminator_lr, per_dimension=False, betas=settings.discriminator_betas,
                differentiates_twice=settings.differentiates_twice,
            ),
            Player(
                "generator", _trained(self.model.generator), self.generated, 1, settings.generator_lr,
                per_dimension=False, betas=settings.generator_betas,
            ),
        ]  # fmt: skip

    def discriminated(self, values: Tensor, condition: Any, progress: float) -> dict[str, Tensor]:
        """What the discriminator minimises, and what it tells right, (N,) each."""
        model, settings, labels = self.model, self.settings, self.labels(values, condition)
        real = model.to_images(values)
        with torch.no_grad():
            fake = model.generator(model.noise(len(values)), labels)
        on_real, on_fake = self.judge(model.discriminator, real, labels), self.judge(model.discriminator, fake, labels)
        loss = settings.pair.discriminator(on_real.scores, on_fake.scores, settings.label_smoothing)
        told = self._told(on_real.scores, on_fake.scores)
        if settings.differentiates_twice or on_real.logits is not None:
            told["game"] = loss.detach()
        loss = loss + self._penalty(real, fake, labels, told)
        if on_real.logits is not None and labels is not None:
            classes = F.cross_entropy(on_real.logits, labels, reduction="none")
            of_drawn = F.cross_entropy(_logits(on_fake), labels, reduction="none")
            on_classes, on_fake_classes, _ = settings.class_weights
            loss = loss + on_classes * classes + on_fake_classes * of_drawn
            told |= {"classes": classes.detach(), "classes_of_fake": of_drawn.detach()}
        return {"loss": loss, **told}

    def generated(self, values: Tensor, condition: Any, progress: float) -> dict[str, Tensor]:
        """What the generator minimises, (N,) each; of the values their number alone is read."""
        model, labels = self.model, self.labels(values, condition)
        judged = self.judge(model.discriminator, model.generator(model.noise(len(values)), labels), labels)
        loss = self.settings.pair.generator(judged.scores)
        if judged.logits is None or labels is None:
            return {"loss": loss}
        classes = F.cross_entropy(judged.logits, labels, reduction="none")
        told = {"game": loss.detach(), "classes": classes.detach()}
        return {"loss": loss + self.settings.class_weights[2] * classes, **told}

    def labels(self, values: Tensor, condition: Any) -> Tensor | None:
        """The classes of a batch, which drawn images share, so that they are as frequent among these."""
        self.model.check_images(values)
        return self.model.check_labels(len(values), condition if self.model.condition_kind is not None else None)

    @staticmethod
    def judge(discriminator: Any, images: Tensor, labels: Tensor | None) -> Judged:
        """Scores, and logits of classes where the discriminator has any: float32 at least."""
        if hasattr(discriminator, "judge"):
            return discriminator.judge(images, labels)
        scores = discriminator(images, labels)
        return Judged(scores if scores.dtype == torch.float64 else scores.float(), None)

    def evaluate(self, model: Any, values: Tensor, condition: Any) -> dict[str, Tensor]:
        """The discriminator that is trained, on held-out images beside those that the averaged generator draws."""
        labels = self.labels(values, condition)
        judge = partial(self.judge, by_batch(self.model.discriminator, len(values)))
        real = judge(self.model.to_images(values), labels).scores
        fake = judge(model.generator(model.noise(len(values)), labels), labels).scores
        return {"loss": self.settings.pair.discriminator(real, fake, 0.0), **self._told(real, fake)}

    def measure_set(self, model: Any, held_out: Dataset) -> dict[str, float]:
        """How far drawn images are from held-out ones, and how varied, by their pixels."""
        n = min(COMPARED, len(held_out))
        if n < 2:
            raise ValueError(f"held_out: expected two images or more, since a set is measured, got {n}")
        some = held_out.subset(n)
        given = some.labels if isinstance(model.condition_kind, Classes) else None
        drawn = model.sample(n, seed=0, labels=given).cpu()
        diversity = metrics.diversity(some.values, drawn)
        self.most_diverse = max(self.most_diverse, diversity)
        return {
            "pixel_distance": metrics.pixel_distance(some.values, drawn, model.levels),
            "diversity": diversity,
        }

    def settle(self, model: Any) -> None:
        """Give the averaged generator's batch norms the statistics of what its own layers make of noise."""
        batches, size = SETTLING
        with settling(model.generator) as wanted:
            for first in range(0, batches * size if wanted else 0, size):
                z, labels = model.draw_codes(size, 0, first=first), None
                if model.classes is not None:
                    labels = torch.arange(first, first + size, device=z.device) % model.classes
                model.generator(z, labels)

    def after_move(self, player: Player, step: int) -> None:
        if self.settings.weight_clip and player.name == "discriminator":
            clip_weights(player.parameters, self.settings.weight_clip)

    def remarks(self, record: Mapping[str, Any]) -> list[str]:
        return words(record, self.settings.config, self.most_diverse)

    def state_dict(self) -> dict[str, Any]:
        return {"most_diverse": self.most_diverse}

    def check_state(self, state: dict[str, Any]) -> None:
        if state:  # there is none of before anything was remembered
            super().check_state(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.most_diverse = state.get("most_diverse", 0.0)

    def _two_images(self) -> tuple[Tensor, ...]:
        """What the discriminator reads: two images, and labels where the model has classes."""
        model, like = self.model, next(self.model.parameters())
        shape = (2, model.in_channels, *model.sides)
        images = torch.linspace(-1, 1, math.prod(shape), device=like.device, dtype=like.dtype).view(shape)
        return (images,) if model.classes is None else (images, torch.zeros(2, dtype=torch.int64, device=like.device))

    def _told(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        threshold = self.settings.pair.threshold
        real, fake = real.detach(), fake.detach()
        if threshold is None:
            return {"wasserstein": real - fake}
        right = {"accuracy_on_real": real > threshold, "accuracy_on_fake": fake <= threshold}
        return {name: each.to(real.dtype) for name, each in right.items()}

    def _penalty(self, real: Tensor, fake: Tensor, labels: Tensor | None, told: dict[str, Tensor]) -> Tensor | float:
        """What is added to each image's loss; its parts are put into ``told``."""
        settings = self.settings
        if not settings.differentiates_twice:
            return 0.0
        with uncast():  # a gradient of a gradient is lost in 16 bits
            score = lambda x: self.judge(self.model.discriminator, x, labels).scores  # noqa: E731
            total: Tensor | float = 0.0
            if settings.gradient_penalty:
                mix = uniforms_of_batch(len(real), (), real).to(real.dtype)
                found = gradient_penalty(score, real, fake.to(real.dtype), mix)
                told["gradient_penalty"] = found.detach()
                total = total + settings.gradient_penalty * found
            if settings.r1:
                found = r1_penalty(score, real)
                told["r1"] = found.detach()
                total = total + settings.r1 * found
        return total


def by_batch(discriminator: nn.Module, n: int) -> Any:
    """The discriminator in eval mode, but for its batch norms, which go by their batch of ``n`` images: what they keep
    is of real and drawn images mixed, and fits neither. It shares the weights, and changes nothing of the original.

    One image has no statistics of a batch: it is judged by those that were kept.
    """
    judge = shadow(discriminator)
    for layer in judge.modules():
        if isinstance(layer, BATCH_NORMS) and n > 1:
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return judge


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _logits(judged: Judged) -> Tensor:
    assert judged.logits is not None  # one network judges all images
    return judged.logits
