"""What is found of a set of drawn images, as a record: its numbers, their floors, and what they were found by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._checks import listed
from .._console import several

FLOORS = {
    "train": ("training images", "as many images of the training split"),
    "noisy": ("noise", "the test images with noise of σ 0.1, of values in [0, 1]"),
    "blurred": ("blur", "the test images, each pixel the mean of 3x3"),
    "mean": ("mean image", "the mean of the training images, N times"),
}
"""What stands beside a number: what it is of images that nobody drew. By name: in a table, and in full."""
OF_SETS = ("feature_fid", "feature_kid", "feature_kid_error", "precision", "recall", "density", "coverage")
TABLED = tuple(name for name in OF_SETS if name != "feature_kid_error")


@dataclass(frozen=True)
class ClassCounts:
    """Of which classes the drawn images are, says the classifier.

    Attributes:
        drawn: how many of each class, by name.
        real: how many of as many real images, says the same classifier.
        missing: classes of which none was drawn, and some are real.
        rare: others, whose share is less than a fifth of what it is among the real ones.
        kl: nats of the drawn histogram from the real one; None where a class was drawn that is not among the real ones.
    """

    drawn: dict[str, int]
    real: dict[str, int]
    missing: tuple[str, ...]
    rare: tuple[str, ...]
    kl: float | None

    def __str__(self) -> str:
        said = f"classes {len(self.real) - len(self.missing)} of {len(self.real)}"
        said += "" if self.kl is None else f", KL {self.kl:.3f} nats from the real ones"
        said += f"; none of {listed(self.missing)}" if self.missing else ""
        return said + (f"; few of {listed(self.rare)}" if self.rare else "")


@dataclass(frozen=True)
class Copies:
    """How many drawn images are nearer to the nearest training image than the nearest 1% of test images are.

    Attributes:
        pixels: share, by Euclidean distance of pixels.
        features: share, by that of features.
        drawn: how many drawn images, and as many test images, were looked at.
        among: how many training images.
    """

    pixels: float
    features: float
    drawn: int
    among: int

    def __str__(self) -> str:
        return (
            f"copies {self.pixels:.1%} by pixels, {self.features:.1%} by features, of {several(self.drawn, 'image')}"
            f" among {self.among:,} trained on (1.0% of test images are as near)"
        )


@dataclass(frozen=True)
class Quality:
    """Numbers of a set of drawn images, beside as many real ones that were not trained on.

    Attributes:
        samples: N, of either side.
        seed: of what is drawn, and of which real images these are.
        features: which classifier the features are of, in words; ``identity`` for programs.
        real: what the real images are, in words.
        feature_fid: Fréchet distance of the features; it is not FID, whose features are another network's.
        feature_kid: kernel distance of the features.
        feature_kid_error: its standard deviation over subsets.
        precision: share of drawn images among the real ones.
        recall: share of real images among the drawn ones.
        density: in how many real images' neighbourhoods a drawn one lies, of as many as there would be of real ones.
        coverage: share of real images with a drawn one in their neighbourhood.
        classes: of which classes the drawn images are.
        copies: how many lie too near to an image that was trained on.
        floors: the same numbers of images that nobody drew: "train", as many training images; "noisy" and "blurred",
            the test images with noise of σ 0.1 and as means of 3×3 pixels; "mean", the mean image N times.
        identity: of the classifier.
        left_out: by name, why a number is not there.
    """

    samples: int
    seed: int
    features: str
    real: str
    feature_fid: float | None
    feature_kid: float | None
    feature_kid_error: float | None
    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None
    classes: ClassCounts | None
    copies: Copies | None
    floors: Mapping[str, Mapping[str, float | None]]
    identity: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """The numbers that there are, by name: what an objective's ``measure_set`` may return."""
        return {name: value for name in OF_SETS if (value := getattr(self, name)) is not None}

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; null where there is no number, and ``left_out`` says why."""
        plain = {name: getattr(self, name) for name in ("samples", "seed", *OF_SETS)}
        parts: dict[str, Any] = {}
        for name in ("classes", "copies"):
            part = {} if getattr(self, name) is None else vars(getattr(self, name))
            lists = {key: list(value) if isinstance(value, tuple) else value for key, value in part.items()}
            parts[name] = lists or None
        found = plain | parts | {"floors": {name: dict(floor) for name, floor in self.floors.items()}}
        found |= {"features": dict(self.identity), "real": self.real}
        return found | ({"left_out": dict(self.left_out)} if self.left_out else {})

    def __str__(self) -> str:
        """A few lines for people: every number beside its floors."""
        heads = ["", "drawn", *(FLOORS[name][0] for name in self.floors)]
        rows = [[name, *cells] for name in TABLED if (cells := self._cells(name))]
        said = [
            f"{several(self.samples, 'drawn image')}, seed {self.seed}, against as many of {self.real}",
            f"by {self.features}",
            *table([heads, *rows]),
            *(str(part) for part in (self.classes, self.copies) if part),
            *(f"{name}: none, {why}" for name, why in self.left_out.items()),
        ]
        return "\n".join(said)

    def _cells(self, name: str) -> list[str]:
        """A number beside its floors; nothing where it was left out."""
        if getattr(self, name) is None:
            return []
        error = f" ± {short(self.feature_kid_error)}" if name == "feature_kid" else ""
        floors = [short(floor[name]) if floor.get(name) is not None else "" for floor in self.floors.values()]
        return [short(getattr(self, name)) + error, *floors]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells, in columns as wide as they need to be: words to the left, numbers to the right."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    laid = (
        [row[0].ljust(wide[0]), *(cell.rjust(w) for cell, w in zip(row[1:], wide[1:], strict=True))] for row in rows
    )
    return ["  ".join(cells).rstrip() for cells in laid]


def short(value: float | None) -> str:
    """A number for people."""
    return "–" if value is None else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"
