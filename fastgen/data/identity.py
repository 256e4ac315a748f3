"""What a run keeps of its data, to know them again: a digest of the images, and the classes by name."""

import hashlib
from dataclasses import replace
from typing import Any

import torch

from .._checks import describe, listed
from .dataset import Dataset


def content(train: Dataset, held_out: Dataset) -> dict[str, Any]:
    """What tells these images from others, for a run's config: their digest, their classes, the classes' names, and the
    digest of their condition where there is one.
    """
    digest = hashlib.sha256()
    for part in (train, held_out):
        digest.update(f"{tuple(part.values.shape)} {part.levels} {part.labels is not None}".encode())
        digest.update(part.values.contiguous().numpy().data)
        if part.labels is not None:
            digest.update(part.labels.to(torch.int64).contiguous().numpy().data)
    names = None if train.class_names is None else list(train.class_names)
    found: dict[str, Any] = {"sha256": digest.hexdigest(), "classes": train.classes, "class_names": names}
    return found if train.condition is None else {**found, "condition_sha256": _condition(train, held_out)}


def _condition(*sets: Dataset) -> str:
    digest = hashlib.sha256()
    for part in sets:
        named = part.condition if isinstance(part.condition, dict) else {"": part.condition}
        for name, tensor in sorted(named.items()):
            if tensor is not None:
                digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_content(train: Dataset, held_out: Dataset, config: dict[str, Any], where: str) -> tuple[str, ...]:
    """Check that images are those that a run began with.

    Args:
        train: images to train on.
        held_out: images it watched.
        config: the run's.
        where: the run, for messages.

    Returns:
        What could not be checked, for people: an older version's run keeps no digest.

    Raises:
        ValueError: they are others, or their classes have other names.
    """
    about = config["data"]
    got = {"shape": list(train.shape), "levels": train.levels, "train": len(train), "held_out": len(held_out)}
    expected = {key: about.get(key, got[key]) for key in got}
    if got != expected:
        raise ValueError(f"data: expected {expected}, as when the run began, got {got}")
    kept = config.get("content")
    if kept is None:
        return (
            f"{where} keeps no digest of its images, as an older version's: size, levels and number are checked only",
        )
    now: dict[str, Any] = content(train, held_out)
    if now["class_names"] != kept["class_names"]:
        words = [_classes(part["class_names"], part["classes"]) for part in (kept, now)]
        raise ValueError(f"data: expected {words[0]}, as when {where} began, got {words[1]}")
    if now["sha256"] != kept["sha256"]:
        raise ValueError(
            f"data: expected the images that {where} began with, got others, though as many and of the same size"
            f" (sha256 {now['sha256'][:12]}…, not {kept['sha256'][:12]}…), in {train.name}"
        )
    if "condition_sha256" in kept and now.get("condition_sha256") != kept["condition_sha256"]:
        other = "none" if train.condition is None else "another"
        raise ValueError(
            f"data: expected the condition of each image that {where} began with, got {other}, in {train.name}"
        )
    return ()


def in_classes_of(images: Dataset, config: dict[str, Any], where: str) -> Dataset:
    """The same images with their labels in the numbering of a run's classes: by name where both have names.

    Args:
        images: whose labels are numbered by their own classes.
        config: the run's. Where its model has no classes the labels stay.
        where: the run, for messages.

    Raises:
        ValueError: a class that the run does not know; names where the run has numbers.
    """
    classes, kept = config["model"]["config"].get("classes"), config.get("content")
    if images.labels is None or classes is None:
        return images
    known, names = None if kept is None else kept["class_names"], images.class_names
    if (known is None and names is None) or (known is not None and tuple(known) == names):
        return _numbered(images, classes, known, where)
    if names is None:
        assert known is not None
        note = f"{images.name}: its labels are numbers, taken as the classes of {where}: {_numbers(known)}"
        return _numbered(replace(images, notes=(*images.notes, note)), classes, known, where)
    if known is not None:
        by_name = {name: number for number, name in enumerate(known)}
    elif all(name.isdecimal() and int(name) < classes for name in names):
        by_name = {name: int(name) for name in names}
    elif kept is None:
        note = f"{where} keeps no names of classes, as an older version's: numbered as in the data, {_numbers(names)}"
        if len(names) == classes:
            return replace(images, notes=(*images.notes, note))
        raise ValueError(f"data: expected {classes} classes, as in {where}, got {_classes(names, None)}")
    else:
        raise ValueError(
            f"data: expected classes numbered 0 to {classes - 1}, as in {where}, got {_classes(names, None)}"
        )
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ValueError(f"data: expected {_classes(known, classes)}, as in {where}, got {_classes(unknown, None)} too")
    numbers = torch.tensor([by_name[name] for name in names])
    return replace(
        images, labels=numbers[images.labels], classes=classes, class_names=None if known is None else tuple(known)
    )


def class_number(option: str, text: str, names: list[str] | tuple[str, ...] | None, classes: int) -> int:
    """The number of the class that is called ``text``, or has that number where none is called so.

    Raises:
        ValueError: there is none.
    """
    if names is not None and text in names:
        return list(names).index(text)
    if text.isdecimal() and int(text) < classes:
        return int(text)
    raise ValueError(f"{option}: expected {_classes(names, classes)}, got {describe(text)}")


def _numbered(images: Dataset, classes: int, known: list[str] | None, where: str) -> Dataset:
    assert images.labels is not None
    highest = int(images.labels.max())
    if highest >= classes:
        raise ValueError(f"data: expected classes 0 to {classes - 1}, as in {where}, got labels up to {highest}")
    return replace(images, classes=classes, class_names=None if known is None else tuple(known))


def _classes(names: list[str] | tuple[str, ...] | None, classes: int | None) -> str:
    if names is None:
        return "data without classes" if classes is None else f"classes by number, 0 to {classes - 1}"
    numbers = "" if classes is None else f" (or 0 to {classes - 1})"
    return f"the {'class' if len(names) == 1 else 'classes'} {listed(names, 20)}{numbers}"


def _numbers(names: list[str] | tuple[str, ...]) -> str:
    return listed((f"{number} is {name}" for number, name in enumerate(names)), 3)
