"""How InfoGAN is trained: a game of two in which both make Q read the codes better."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from .. import metrics
from ..data import Dataset
from ..losses import categorical_information, gaussian_information
from ..nn._batch_norms import BATCH_NORMS
from ..nn._records import process_group_of
from ..ops._batch_norm_sync import is_shared
from .adversarial_objective import COMPARED, AdversarialObjective, by_batch

LOG2 = math.log(2)
BATCH = 256
"""Held-out images whose codes are inferred at once."""


class InfoGANObjective(AdversarialObjective):
    """An ``AdversarialObjective`` with −λ·L_I in the losses of both players; "loss" is the game's without it.

    Batch norms of the discriminator keep the statistics of drawn images alone, of which Q learns; real images are
    normalised by their batch and leave no trace, so that in eval mode Q reads by the law it learned by.
    """

    def discriminated(self, values: Tensor, condition: Any, progress: float) -> dict[str, Tensor]:
        """What the discriminator and Q minimise, and what they tell right, (N,) each."""
        model, settings = self.model, self.settings
        self._check_batch(values)
        real, z = model.to_images(values), model.noise(len(values))
        with torch.no_grad():
            fake = model.generator(z)
        aside = {name: buffer.clone() for name, buffer in model.discriminator.named_buffers()}
        on_real = functional_call(model.discriminator, aside, (real,))
        judged, told = model.discriminator.read(fake)
        loss = settings.pair.discriminator(on_real, judged.scores, settings.label_smoothing)
        return self._with_information(loss, told, z) | self._told(on_real, judged.scores)

    def generated(self, values: Tensor, condition: Any, progress: float) -> dict[str, Tensor]:
        """What the generator minimises, (N,) each; of the values their number alone is read."""
        model = self.model
        self._check_batch(values)
        z = model.noise(len(values))
        judged, told = model.discriminator.read(model.generator(z))
        return self._with_information(self.settings.pair.generator(judged.scores), told, z)

    def evaluate(self, model: Any, values: Tensor, condition: Any) -> dict[str, Tensor]:
        """The discriminator that is trained, and Q, on held-out images beside those of the averaged generator."""
        model.check_images(values)
        judge, z = by_batch(self.model.discriminator, len(values)), model.noise(len(values))
        real, (fake, told) = judge(model.to_images(values)), judge.read(model.generator(z))
        losses = {"loss": self.settings.pair.discriminator(real, fake.scores, 0.0), **self._told(real, fake.scores)}
        return losses | self._information(told, z)

    def measure_set(self, model: Any, held_out: Dataset) -> dict[str, float]:
        """As for every game; the clustering error of held-out images, where they have labels.

        It is that of the categorical code that fits best, where there are several.
        """
        found = super().measure_set(model, held_out)
        if held_out.labels is None or not model.categories:
            return found
        some, device = held_out.subset(COMPARED), next(model.parameters()).device
        read = torch.cat([model.infer(values).categories.cpu() for values, _ in some.batches(BATCH, device)])
        assert some.labels is not None
        errors = [metrics.clustering_error(some.labels, column) for column in read.unbind(1)]
        return found | {"clustering_error": min(errors)}

    def remarks(self, record: Mapping[str, Any]) -> list[str]:
        told, most = [], sum(map(math.log, self.model.categories))
        category, error = record.get("held_out_category_information"), record.get("held_out_clustering_error")
        if category is not None:
            told.append(f"information of the categories {category:.2f} of {most:.2f} nats")
        if error is not None:
            told.append(f"clustering error {error:.1%}")
        return [*super().remarks(record), *(["; ".join(told)] if told else [])]

    def _check_batch(self, values: Tensor) -> None:
        self.model.check_images(values)
        if len(values) > 1 or not self.model.training:
            return
        if any(isinstance(layer, BATCH_NORMS) and is_shared(process_group_of(layer)) for layer in self.model.modules()):
            return  # other processes have more of it
        raise ValueError(
            "batch_size: expected 2 images or more in each part of a step, since batch norms behind linear layers have"
            " one number of each image, got 1; drop_last leaves a last batch out that has no more"
        )

    def _with_information(self, loss: Tensor, told: Tensor, z: Tensor) -> dict[str, Tensor]:
        information, total = self._information(told, z), loss
        for name, weight in (
            ("category_information", self.model.category_weight),
            ("continuous_information", self.model.continuous_weight),
        ):
            if name in information:
                total = total - weight * information[name]
        return {"objective": total, "loss": loss.detach()} | {name: each.detach() for name, each in information.items()}

    def _information(self, told: Tensor, z: Tensor) -> dict[str, Tensor]:
        """L_I of the codes of ``z``, (N,) nats, by kind of code."""
        q, (categories, continuous) = self.model.layout.posterior(told), self.model.layout.codes(z)
        found = {}
        if q.logits:
            of_each = [categorical_information(part, categories[:, at]) for at, part in enumerate(q.logits)]
            found["category_information"] = torch.stack(of_each).sum(0)
        if self.model.continuous:
            found["continuous_information"] = gaussian_information(q.mean, continuous.to(q.mean.dtype), q.logvar, LOG2)
        return found
