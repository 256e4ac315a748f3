"""How a game stands, in words, from the numbers of an epoch."""

from collections.abc import Mapping
from typing import Any

from ..losses import LOSSES

WON = 0.05
"""Part of its loss at the equilibrium below which a discriminator has nothing more to learn, nor to teach."""
ALIKE = 0.3
"""Diversity, real images' being 1, below which drawn ones are alike."""


def words(record: Mapping[str, Any], loss: str) -> list[str]:
    """A line of how both players stand, and one for each thing that has gone wrong.

    Args:
        record: of an epoch, as metrics.jsonl has it.
        loss: the name of the game's losses.
    """
    pair = LOSSES[loss]
    at_d, at_g = pair.equilibrium
    d, g = record.get("train_discriminator_loss"), record.get("train_generator_loss")
    if d is None or g is None:
        return []
    real, fake = (record.get(f"train_discriminator_accuracy_on_{what}") for what in ("real", "fake"))
    said = [f"D loss {d:.3g} (at equilibrium {at_d:.3g}), G loss {g:.3g} ({at_g:.3g})"]
    if pair.threshold is None:
        estimate = record.get("train_discriminator_wasserstein")
        said = [
            f"critic's estimate of the distance {estimate:.3g}" if estimate is not None else f"critic's loss {d:.3g}"
        ]
        said += [f"G loss {g:.3g}"]
    elif real is not None and fake is not None:
        said.append(f"D is right about {real:.0%} of real and {fake:.0%} of drawn images")
    norms = [record.get(f"train_{name}_gradient_norm") for name in ("discriminator", "generator")]
    if None not in norms:
        said.append(f"gradient norms {norms[0]:.3g} and {norms[1]:.3g}")
    diversity = record.get("held_out_diversity")
    if diversity is not None:
        said.append(f"diversity {diversity:.2f} of real images'")
    return ["; ".join(said), *_troubles(d, at_d, real, fake, diversity, pair.threshold is not None)]


def _troubles(
    d: float, at_d: float, real: float | None, fake: float | None, diversity: float | None, decides: bool
) -> list[str]:
    found = []
    if decides and d < WON * at_d:
        found.append(
            f"the discriminator has won: its loss is {d:.2g} of {at_d:.3g}, and the generator learns little from it; a"
            " smaller discriminator_lr, label_smoothing, a penalty (r1) or another loss may help"
        )
    if real is not None and fake is not None and real < 0.55 and fake < 0.55 and real + fake < 0.95:
        found.append(
            "the discriminator is wrong more often than right: it does not keep up; more discriminator_steps may help"
        )
    if diversity is not None and diversity < ALIKE:
        found.append(
            f"the generator has collapsed: drawn images differ from each other by {diversity:.2f} of what real ones do;"
            " begin again with another seed, a smaller lr, or the wasserstein loss and a gradient penalty"
        )
    return found
