"""Which arrays of an .npz are images, which labels, and of which split: by their names, in capitals or not.

    x                            y                          one set of images, and its labels
    images                       labels
    arr_0                        arr_1                      np.savez(path, images), np.savez(path, images, labels)
    train                        train_labels               splits: train or training; valid, val or validation;
    x_train, images_train        y_train, labels_train      test or testing
    train_x, train_images        train_y, train_labels

A condition beside them is called as ``array_conditions`` says. What could be read in two ways is refused: two arrays
that could both be the images, splits beside one set.
"""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from .._checks import listed
from . import array_conditions
from .folder import SPLITS

IMAGES, LABELS = ("x", "images"), ("y", "labels")
LAYOUTS = "x, images or arr_0; or splits: train, x_train or train_images, and so on"


class Names(NamedTuple):
    """What the images of a split are called in the file, and their labels and condition by part, if it has any."""

    images: str
    labels: str | None
    condition: dict[str, str]

    @property
    def every(self) -> set[str]:
        """All arrays of the split."""
        return {self.images, *([] if self.labels is None else [self.labels]), *self.condition.values()}


def names_by_split(path: Path, names: Collection[str]) -> dict[str | None, Names]:
    """The arrays to read, by split, train first; one set of images is under None.

    Args:
        path: of the file, for messages.
        names: of all of its arrays.

    Raises:
        ValueError: no images, or two arrays that could be; splits beside one set, or without train; labels or a
            condition of no images; arrays without a name beside images and labels.
    """
    found: dict[tuple[str, str | None], str] = {}
    for name in sorted(names):
        role = _role(name)
        if role is None:
            continue
        if role in found:
            what, split = role
            of = what if split is None else f"{'array' if what == 'images' else what} of the {split} split"
            one = f"one {of}" if what == "images" and split is not None else f"one array of {of}"
            raise ValueError(f"{path}: expected {one}, got {found[role]} and {name}")
        found[role] = name
    parts = [split for split in (None, "train", "valid", "test") if ("images", split) in found]
    if not parts:
        raise ValueError(f"{path}: expected images under {LAYOUTS}; got {listed(sorted(names)) or 'no arrays'}")
    first = found["images", parts[0]]
    if parts[0] is None and len(parts) > 1:
        others = listed(found["images", split] for split in parts[1:])
        raise ValueError(f"{path}: expected one set of images, or splits; got {others} beside {first}")
    if parts[0] in ("valid", "test"):
        got = listed(found["images", split] for split in parts)
        raise ValueError(f"{path}: expected images of a train split beside {got}, got none")
    for (what, split), name in found.items():
        if what != "images" and split not in parts:
            of = f"labels {name} are of" if what == "labels" else f"condition {name} is of"
            raise ValueError(f"{path}: expected images that the {of}, got {first} and no others")
    unnamed = sorted(name for name in names if name.startswith("arr_"))
    if unnamed and unnamed not in (["arr_0"], ["arr_0", "arr_1"]):
        raise ValueError(
            f"{path}: expected images as arr_0, and labels as arr_1 if any, got {listed(unnamed)}; say which is which:"
            " np.savez(path, x_train=..., y_train=...)"
        )
    return {
        split: Names(found["images", split], found.get(("labels", split)), array_conditions.parts(path, found, split))
        for split in parts
    }


def _role(name: str) -> tuple[str, str | None] | None:
    """("images", "labels" or a condition's part; split or None) that an array's name says; None where it says none."""
    whole, name = name, name.lower()
    if name in SPLITS:
        return "images", SPLITS[name]
    if name in (*IMAGES, "arr_0"):
        return "images", None
    if name in (*LABELS, "arr_1"):
        return "labels", None
    before, _, after = name.partition("_")
    for split, word in ((before, after), (after, before)):
        if split in SPLITS and word in IMAGES + LABELS:
            return "images" if word in IMAGES else "labels", SPLITS[split]
    return array_conditions.role(whole)
