"""What a model is told beside each image, as arrays: labels, vectors or maps, alone or as parts with names.

    condition                    one array of N
    condition_text, ...          parts, by name
    train_condition_text         of a split, as images are; or behind: condition_text_train

Integers (N,) are labels, floating point (N, D) vectors and (N, C', H', W') maps. They stay as they are: what is done to
the images is not done to them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import conditions
from .._checks import check_finite, listed
from ..conditions import Condition
from .array_levels import where
from .folder import SPLITS
from .formats import is_zip, npz_names, read_npz

CONDITION = "condition"


def role(name: str) -> tuple[str, str | None] | None:
    """(condition or condition_PART; split or None) that an array's name says, in capitals or not; or None.

    Parts are called as they are written.
    """
    split, words = None, name.split("_")
    for place in (0, -1):
        if len(words) > 1 and words[place].lower() in SPLITS:
            if split is not None:
                return None
            split = SPLITS[words.pop(place).lower()]
    if words[0].lower() != CONDITION or words[1:] == [""]:
        return None
    return "_".join([CONDITION, *words[1:]]), split


def parts(path: Path, found: Mapping[tuple[str, str | None], str], split: str | None) -> dict[str, str]:
    """The arrays of a split's condition by part, of all arrays by role; alone, it is the part "".

    Raises:
        ValueError: a condition beside parts of one.
    """
    named = {
        what.removeprefix(CONDITION).removeprefix("_"): name
        for (what, of), name in found.items()
        if of == split and what.startswith(CONDITION)
    }
    if "" in named and len(named) > 1:
        others = listed(name for part, name in named.items() if part)
        raise ValueError(f"{path}: expected {CONDITION}, or parts of one by name, got {named['']} beside {others}")
    return named


def as_told(arrays: Mapping[str, np.ndarray], named: Mapping[str, str], n: int, path: Path) -> Condition | None:
    """The condition of ``n`` images whose parts are the arrays called so in a file; None of no parts.

    Raises:
        ValueError: an array that is none, or not of ``n`` images, or with a number that is not finite.
    """
    if not named:
        return None
    found: dict[str, Any] = {}
    for part, name in named.items():
        place, array = where(path, name), arrays[name]
        if not array.ndim or len(array) != n:
            raise ValueError(f"{place}: expected one for each image ({n}), got {array.dtype} {array.shape}")
        try:
            read = conditions.as_condition(array.astype(array.dtype.newbyteorder("=")), n, name=place)
        except TypeError as error:
            raise ValueError(str(error)) from error
        for tensor in conditions.tensors_of(read):
            check_finite(place, tensor)
        found[part] = read
    return found.get("", found)


def check_same_kind(told: Mapping[str | None, Condition | None], path: Path) -> None:
    """Raise ValueError unless all splits that have a condition have one of the same kind, the first of them too."""
    kinds = {split: conditions.kind_of_batch(each) for split, each in told.items() if each is not None}
    first = next(iter(told))
    for split, kind in kinds.items():
        if kind != kinds.get(first):
            expected = "none" if first not in kinds else conditions.described(kinds[first])
            got = conditions.described(kind)
            raise ValueError(
                f"{path}: expected the condition of the {first} split, {expected}, in all, got {got} in {split}"
            )


def read_condition(path: Path) -> Condition:
    """The condition that a file holds: of an .npz the arrays called so, of an .npy its only one.

    Raises:
        ValueError: there is none, or it is none.
    """
    if not is_zip(path):
        arrays, named = read_npz(path), {"": "x"}
    else:
        roles: dict[tuple[str, str | None], str] = {}
        for name in sorted(npz_names(path)):
            said = role(name)
            if said in roles:
                raise ValueError(f"{path}: expected one array of {said[0]}, got {roles[said]} and {name}")
            roles |= {} if said is None else {said: name}
        named = parts(path, roles, None)
        if not named:
            got = listed(sorted(npz_names(path))) or "no arrays"
            raise ValueError(
                f"{path}: expected an array called {CONDITION}, or {CONDITION}_NAME for each part, got {got}"
            )
        arrays = read_npz(path, set(named.values()))
    n = next((len(arrays[name]) for name in named.values() if arrays[name].ndim), 0)
    told = as_told(arrays, named, n, path)
    if told is None or not n:
        raise ValueError(f"{path}: expected the condition of one image or more, got of none")
    return told
