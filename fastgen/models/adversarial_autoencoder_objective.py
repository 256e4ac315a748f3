"""How an adversarial autoencoder is trained: three players, two of whom move the encoder."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import metrics
from .._draws import uniforms_of_batch
from .._shadow import shadow
from ..data import Dataset
from ..losses import EQUILIBRIUM, log_loss_discriminator, non_saturating_generator
from ..objective import Objective, Player
from .likelihoods import normals_from

COMPARED = 2048
"""Held-out images whose codes are compared with the prior, at most."""
DRAWN = 16384
"""Codes of the prior that they are compared with."""
BATCH = 256


class AdversarialAutoencoderObjective(Objective):
    """The phases of arXiv:1511.05644, section 2: reconstruction, the discriminator, and the encoder against it.

    The best epoch is that of the least held-out squared error.
    """

    def players(self) -> list[Player]:
        model = self.model
        own = {"lr": model.adversarial_lr, "betas": model.adversarial_betas, "per_dimension": False}
        coders = [*model.encoder.parameters(), *model.decoder.parameters()]
        return [
            Player("reconstruction", coders, model.losses),
            Player("discriminator", [*model.discriminator.parameters()], self.discriminated, **own),
            Player("regularization", [*model.encoder.parameters()], self.regularized, **own),
        ]

    def discriminated(self, values: Tensor, condition: Any, progress: float) -> dict[str, Tensor]:
        """−log D(z of the prior) − log(1 − D(encoder(x))), and what the discriminator tells right, (N,) each."""
        model = self.model
        parts = model.parts(model.labels(values, condition))
        with torch.no_grad():
            codes = model.encoder(model.to_input(values))
        return self._judged(model.discriminator, codes, parts)

    def regularized(self, values: Tensor, condition: Any, progress: float) -> dict[str, Tensor]:
        """−log D(encoder(x)), (N,)."""
        model = self.model
        parts = model.parts(model.labels(values, condition))
        codes = model.encoder(model.to_input(values))
        return {"loss": non_saturating_generator(model.discriminator(self._noisy(codes), parts))}

    def evaluate(self, model: Any, values: Tensor, condition: Any) -> dict[str, Tensor]:
        """The error of the averaged autoencoder, and what the trained discriminator says of its codes."""
        parts = model.parts(model.labels(values, condition))
        judged = self._judged(shadow(self.model.discriminator), model.encode(values), parts, noisy=False)
        return {**model.losses(values, condition), "discriminator_loss": judged["loss"]}

    def measure_set(self, model: Any, held_out: Dataset) -> dict[str, float]:
        """How far codes of held-out images are from the prior; with labels, and a component for each, how many miss."""
        some, device = held_out.subset(COMPARED), next(model.parameters()).device
        codes = torch.cat([model.encode(values) for values, _ in some.batches(BATCH, device)])
        drawn = model.draw_codes(DRAWN, 0)
        found = {"prior_distance": float(metrics.kolmogorov_smirnov(codes, drawn).max())}
        told = None if some.labels is None else some.labels < model.p_z.components
        if model.regularized and told is not None and told.any():
            right = model.p_z.components_of(codes).cpu() == some.labels
            found["outside_component"] = 1 - float(right[told].double().mean())
        return found

    def remarks(self, record: Mapping[str, Any]) -> list[str]:
        loss, distance = record.get("train_discriminator_loss"), record.get("held_out_prior_distance")
        if loss is None or distance is None:
            return []
        said = f"D loss {loss:.3g} (where codes are of the prior {EQUILIBRIUM['minimax'][0]:.3g})"
        said += f"; codes are {distance:.2f} from the prior, the largest distance of a dimension's shares"
        outside = record.get("held_out_outside_component")
        return [said if outside is None else f"{said}; {outside:.1%} are not of the component of their class"]

    def _judged(self, discriminator: Any, codes: Tensor, parts: Tensor | None, noisy: bool = True) -> dict[str, Tensor]:
        u = uniforms_of_batch(len(codes), (self.model.p_z.uniforms,), codes)
        drawn = self.model.p_z.from_uniforms(u, parts).to(codes.dtype)
        drawn, codes = (self._noisy(z) if noisy else z for z in (drawn, codes))
        real, fake = discriminator(drawn, parts), discriminator(codes, parts)
        right = {"accuracy_on_prior": real.detach() > 0, "accuracy_on_codes": fake.detach() <= 0}
        return {
            "loss": log_loss_discriminator(real, fake),
            **{name: each.to(real.dtype) for name, each in right.items()},
        }

    def _noisy(self, z: Tensor) -> Tensor:
        model = self.model
        if not model.noise or not model.training:
            return z
        return z + model.noise * normals_from(uniforms_of_batch(len(z), tuple(z.shape[1:]), z)).to(z.dtype)
