"""What a number about images is: the one place that says of which law, exact or a bound, with labels given or without.

A model says it by ``measures``, a dict from the name of a loss to its ``Measure``. The console, metrics.jsonl,
curves, the report and JSON repeat these words beside the number, and bits per dimension are told only of a law on the
discrete values of pixels, since only such laws can be compared.
"""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """What a mean over images is.

    Attributes:
        words: as "−log p(x | y), labels given, exact".
        unit: as "nats"; nothing for a share or a count.
        of_values: it is −log of a law on the discrete values of pixels, or a bound on that: nats / (dims · ln 2) are
            then bits/dim.
    """

    words: str
    unit: str = ""
    of_values: bool = False


UNDECLARED = Measure("−log p, or a bound on it, as the model defines it", "nats", of_values=True)
"""The "nats" of a model that does not say what they are: ``losses`` asks for a likelihood of its values."""


def of(model: Any) -> dict[str, Measure]:
    """What a model says of its losses, by name; its "nats" in any case."""
    return {"nats": UNDECLARED, **getattr(model, "measures", {})}


def law(given: bool, of_what: str = "x", what: str = "labels") -> str:
    """−log p(x), or −log p(x | y) of a model that is told the labels, and −log p(x | c) of one told other things."""
    return f"−log p({of_what} | {'y' if what == 'labels' else 'c'}), {what} given" if given else f"−log p({of_what})"


def words(measures: dict[str, Measure]) -> dict[str, str]:
    """Name → words and unit, for JSON."""
    return {name: ", ".join(filter(None, (one.words, one.unit))) for name, one in measures.items()}


def plus_minus(error: float, form: str) -> str:
    """A standard error behind its mean; of one image there is none."""
    return " (of one image)" if math.isnan(error) else f" ± {error:{form}}"
