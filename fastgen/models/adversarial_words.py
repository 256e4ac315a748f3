"""How a game stands, in words, from the numbers of its epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..losses import LOSSES, equilibrium, smallest_loss

WON = 0.05
"""Part of its loss at the equilibrium, both less the smallest there is, below which a discriminator has nothing more to
learn, nor to teach."""
ALIKE = 0.3
"""Diversity, real images' being 1, below which drawn ones are alike."""
VARIED = 0.5
"""Diversity from which drawn images have been varied: what falls from there has collapsed."""
EARLY = 500
"""Moves of the generator in which images that are alike mean no more than that nothing is learnt yet."""


def words(record: Mapping[str, Any], game: Mapping[str, Any], most: float | None = None) -> list[str]:
    """A line of how both players stand, and one for each thing that has gone wrong.

    Args:
        record: of an epoch, as metrics.jsonl has it.
        game: settings of the game, as a model's config has them.
        most: the largest diversity of an epoch so far.
    """
    pair = LOSSES[game["loss"]]
    at_d, at_g = equilibrium(game["loss"], game.get("label_smoothing", 0.0))
    d, g = (_of_the_game(record, player) for player in ("discriminator", "generator"))
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
    for name in ("gradient_penalty", "r1"):
        if (penalty := record.get(f"train_discriminator_{name}")) is not None:
            said.append(f"{name.replace('_', ' ')} {penalty:.3g}")
    norms = [record.get(f"train_{name}_gradient_norm") for name in ("discriminator", "generator")]
    if None not in norms:
        said.append(f"gradient norms {norms[0]:.3g} and {norms[1]:.3g}")
    diversity = record.get("held_out_diversity")
    if diversity is not None:
        said.append(f"diversity {diversity:.2f} of real images'")
    if "rounds" in record:
        said.append(f"{record['rounds']:,} rounds, D has seen {record['images_seen']:,} images")
    least = smallest_loss(game["loss"], game.get("label_smoothing", 0.0))
    won = pair.threshold is not None and d - least < WON * (at_d - least)
    return ["; ".join(said), *_troubles(record, f"{d:.2g} of {at_d:.3g}" if won else None, most)]


def history(metrics: Sequence[Mapping[str, Any]], game: Mapping[str, Any]) -> list[list[str]]:
    """``words`` of each epoch, knowing those before it."""
    found, most = [], 0.0
    for record in metrics:
        most = max(most, record.get("held_out_diversity") or 0.0)
        found.append(words(record, game, most))
    return found


def _of_the_game(record: Mapping[str, Any], player: str) -> float | None:
    """A player's loss without what is added to it: a penalty, or the classes."""
    return record.get(f"train_{player}_game", record.get(f"train_{player}_loss"))


def _troubles(record: Mapping[str, Any], won: str | None, most: float | None) -> list[str]:
    """``won``: the discriminator's loss, in words, where it has."""
    found = []
    real, fake = (record.get(f"train_discriminator_accuracy_on_{what}") for what in ("real", "fake"))
    if won is not None:
        found.append(
            f"the discriminator has won: its loss is {won}, and the generator learns little from it; a"
            " smaller discriminator_lr, label_smoothing, a penalty (r1) or another loss may help"
        )
    if real is not None and fake is not None and real < 0.55 and fake < 0.55 and real + fake < 0.95:
        found.append(
            "the discriminator is wrong more often than right: it does not keep up; more discriminator_steps may help"
        )
    diversity = record.get("held_out_diversity")
    if diversity is None or diversity >= ALIKE:
        return found
    advice = "begin again with another seed, a smaller lr, or the wasserstein loss and a gradient penalty"
    alike = f"drawn images differ from each other by {diversity:.2f} of what real ones do"
    rounds = record.get("rounds", record.get("step", 0))
    if most is not None and most >= VARIED:
        found.append(f"the generator has collapsed: {alike}, and did by {most:.2f} before; {advice}")
    elif rounds >= EARLY:
        found.append(f"the generator has collapsed: {alike}, after {rounds:,} rounds; {advice}")
    return found
