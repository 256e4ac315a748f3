"""How BEGAN is trained: an autoencoder against a generator, in a balance that is kept by one number, k."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..losses import began_balance, began_convergence, began_discriminator, began_generator
from ..objective import Player
from .adversarial_objective import COMPARED, AdversarialObjective
from .adversarial_words import ALIKE

STEP = 256
"""Images that are compared at once."""


class BEGANObjective(AdversarialObjective):
    """The autoencoder against the generator; M of held-out images and drawn ones chooses the best epoch.

    Numbers of an epoch: L(x) and L(G(z)) of both players' moves, and k.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.best = "convergence"
        self._errors: dict[str, Tensor] = {}

    def check(self) -> None:
        """The networks are BEGAN's own, and go with any balance."""

    def players(self) -> list[Player]:
        told, model = self.settings, self.model
        return [
            Player(
                "discriminator", [*model.discriminator.parameters()], self.discriminated, lr=told.discriminator_lr,
                per_dimension=False, betas=told.discriminator_betas,
            ),
            Player(
                "generator", [*model.generator.parameters()], self.generated, lr=told.generator_lr,
                per_dimension=False, betas=told.generator_betas,
            ),
        ]  # fmt: skip

    def discriminated(self, values: Tensor, condition: Any, progress: float) -> dict[str, Tensor]:
        model = self.model
        model.check_images(values)
        x = model.to_images(values)
        with torch.no_grad():
            drawn = model.generator(model.noise(len(values))).to(x.dtype)
        real, fake = model.discriminator.error(x), model.discriminator.error(drawn)
        told = {"error_of_real": real.detach(), "error_of_fake": fake.detach(), "k": model.k.expand(len(values))}
        return {"loss": began_discriminator(real, fake, model.k), **told}

    def generated(self, values: Tensor, condition: Any, progress: float) -> dict[str, Tensor]:
        z = self.model.noise(len(values))
        return {"loss": began_generator(self.model.discriminator.error(self.model.generator(z).to(z.dtype)))}

    def observe(self, player: Player, means: Mapping[str, Tensor]) -> None:
        self._errors[player.name] = means["error_of_real" if player.name == "discriminator" else "loss"]

    def after_move(self, player: Player, step: int) -> None:
        """No weights are clipped."""

    @torch.no_grad()
    def end_of_round(self, step: int) -> None:
        real, fake, told = self._errors["discriminator"], self._errors["generator"], self.settings
        self.model.k.copy_(began_balance(self.model.k, real, fake, told.gamma, told.gain))

    def evaluate(self, model: Any, values: Tensor, condition: Any) -> dict[str, Tensor]:
        """How well the autoencoder that judges reconstructs held-out images."""
        model.check_images(values)
        return {"error_of_real": self.model.discriminator.error(model.to_images(values))}

    def measure_set(self, model: Any, held_out: Dataset) -> dict[str, float]:
        """M of held-out images and as many that the average draws, and how these compare by their pixels."""
        by_pixels = super().measure_set(model, held_out)
        n, error, device = min(COMPARED, len(held_out)), self.model.discriminator.error, self.model.k.device
        real, fake = [], []
        for first in range(0, n, STEP):
            values = held_out.values[first : min(first + STEP, n)].to(device)
            real.append(error(model.to_images(values)))
            fake.append(error(model.generator(model.draw_codes(len(values), 0, first=first))))
        means = torch.cat(real).mean(), torch.cat(fake).mean()
        found = began_convergence(*means, self.settings.gamma)
        return {"convergence": found.item(), "error_of_fake": means[1].item(), **by_pixels}

    def remarks(self, record: Mapping[str, Any]) -> list[str]:
        """M, the errors beside what they are to be, k, and what has gone wrong."""
        names = ("train_discriminator_error_of_real", "train_generator_loss", "train_discriminator_k")
        real, fake, k = (record.get(name) for name in names)
        if real is None or fake is None or k is None:
            return []
        gamma = self.settings.gamma
        M = began_convergence(torch.tensor(real), torch.tensor(fake), gamma).item()
        said = [f"M {M:.3g}; L(x) {real:.3g}, L(G(z)) {fake:.3g}, their ratio {fake / real:.2f} (aimed at {gamma:g})"]
        said += [f"k {k:.3g}"]
        diversity = record.get("held_out_diversity")
        if diversity is not None:
            said.append(f"diversity {diversity:.2f} of real images'")
        found = ["; ".join(said)]
        if k > 0.99:
            found.append(
                "k is at its end, 1: drawn images are too easy to reconstruct; a smaller generator_lr may help"
            )
        if diversity is not None and diversity < ALIKE:
            alike = f"drawn images differ from each other by {diversity:.2f} of what real ones do"
            found.append(f"the generator has collapsed: {alike}; a larger gamma or a smaller lr may help")
        return found
