"""A user's own images as arrays: an .npy or an .npz. One check for all of its arrays, whichever of them is read."""

from pathlib import Path

import numpy as np

from .._checks import describe, listed
from .folder import SPLITS, Arrays
from .formats import npz_names, read_npz

MAX_CLASSES = 100_000


def split_arrays(path: Path) -> dict[str, str]:
    """The arrays that are splits: name in the file by split, train first; none where the file is one set of images.

    Raises:
        ValueError: two arrays of one split, splits without train, or splits beside x.
    """
    found: dict[str, str] = {}
    names = npz_names(path)
    for name in sorted(names):
        split = SPLITS.get(name)
        if split in found:
            raise ValueError(f"{path}: expected one array of the {split} split, got {found[split]} and {name}")
        if split is not None:
            found[split] = name
    if found and ("train" not in found or "x" in names):
        raise ValueError(f"{path}: expected arrays named x (and y), or train and test, got {listed(sorted(names))}")
    return {split: found[split] for split in ("train", "valid", "test") if split in found}


def read_array(path: Path, split: str | None = None) -> Arrays:
    """Read the images of an .npy or .npz file.

    Args:
        path: an .npy of images; or an .npz with ``x`` and perhaps labels ``y``, or with ``train``, ``test`` and
            perhaps ``valid``, and perhaps ``train_labels`` and so on; and perhaps ``levels``, where the images have
            fewer than 256, ``classes``, where not all of them have a training image, and their ``class_names``.
        split: "train", "valid" or "test"; None reads ``x``.

    Raises:
        ValueError: anything else, floating-point images, images whose layout or levels can be read in two ways, labels
            that are not the numbers of classes from 0.
    """
    read: dict[str | None, tuple[str, str]] = {}
    for part, name in split_arrays(path).items():
        read[part] = name, f"{name}_labels"
    read = read or {None: ("x", "y")}
    wanted = {"levels", "classes", "class_names", *(name for pair in read.values() for name in pair)}
    arrays = read_npz(path, wanted)
    if split not in read or read[split][0] not in arrays:
        raise ValueError(f"{path}: expected arrays named x (and y), or train and test, got {listed(npz_names(path))}")
    images = {part: arrays[x] for part, (x, _) in read.items()}
    levels = _levels(images, arrays.get("levels"), path)
    labels = {part: _labels(arrays[y], y, path) for part, (_, y) in read.items() if y in arrays}
    names = _names(arrays.get("class_names"), path)
    classes = _classes(labels, arrays.get("classes"), names, path)
    left = sorted(npz_names(path) - wanted)
    notes = (f"{path}: {len(left):,} arrays skipped: {listed(left)}",) if left else ()
    chosen = _channels_first(images[split].astype(np.uint8, copy=False), path)
    return Arrays(chosen, labels.get(split), levels, classes, names if labels else None, notes)


def _levels(images: dict[str | None, np.ndarray], stated: np.ndarray | None, path: Path) -> int:
    """Levels of the images of all splits. They are never guessed where the values leave a doubt."""
    kinds = {array.dtype == bool for array in images.values()}
    if len(kinds) > 1:
        raise ValueError(f"{path}: expected bool images in all splits, or in none, got both")
    shapes = {array.shape[1:] for array in images.values()}
    if len(shapes) > 1:
        raise ValueError(f"{path}: expected images of one size in all splits, got {listed(sorted(shapes))}")
    if stated is not None and (stated.shape != () or stated.dtype.kind not in "iu"):
        raise ValueError(f"{path}: expected levels to be one integer, got {describe(stated.tolist())}")
    if kinds == {True}:
        if stated is not None and int(stated) != 2:
            raise ValueError(f"{path}: expected 2 levels of bool images, got {int(stated)}")
        return 2
    high = 0
    for array in images.values():
        if array.dtype.kind not in "iu":
            raise ValueError(
                f"{path}: expected integer images, got {array.dtype}; quantise them first, images in [0, 1] by"
                " (x * 255).round().astype('uint8')"
            )
        if not array.size:
            raise ValueError(f"{path}: expected at least one image, got shape {array.shape}")
        low, top = int(array.min()), int(array.max())
        if low < 0 or top > 255:
            raise ValueError(f"{path}: expected values in [0, 255], got [{low}, {top}]")
        high = max(high, top)
    if stated is None and high < 32:
        raise ValueError(
            f"{path}: expected 8-bit images, got values up to {high}; say how many levels they have:"
            f" np.savez(..., levels={high + 1}), or save bool for two"
        )
    return 256 if stated is None else int(stated)


def _labels(labels: np.ndarray, name: str, path: Path) -> np.ndarray:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: expected labels as integers (N,) from 0, got {labels.dtype} {labels.shape}")
    if labels.min(initial=0) < 0:
        raise ValueError(f"{path}: expected labels as integers (N,) from 0, got {int(labels.min())} among them")
    if int(labels.max(initial=0)) >= MAX_CLASSES:
        high = int(labels.max())
        raise ValueError(f"{path}: expected the numbers of classes in {name}, from 0 to {MAX_CLASSES - 1}, got {high}")
    return labels.astype(np.int64)


def _names(names: np.ndarray | None, path: Path) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) < len(names):
        raise ValueError(f"{path}: expected class_names to be different words (K,), got {names.dtype} {names.shape}")
    return tuple(names.tolist())


def _classes(
    labels: dict[str | None, np.ndarray], stated: np.ndarray | None, names: tuple[str, ...] | None, path: Path
) -> int | None:
    """How many classes there are: those of the training images, unless the file says it."""
    if stated is not None and (stated.shape != () or stated.dtype.kind not in "iu" or not 1 <= stated <= MAX_CLASSES):
        raise ValueError(f"{path}: expected classes to be one integer from 1 to {MAX_CLASSES}, got {stated.dtype}")
    if not labels:
        return None
    first = next(iter(labels))
    if first not in (None, "train"):
        raise ValueError(f"{path}: expected train_labels beside {first}_labels, got none")
    train = np.unique(labels[first])
    highest = max(int(part.max(initial=0)) for part in labels.values())
    said = int(stated) if stated is not None else None if names is None else len(names)
    if names is not None and said != len(names):
        raise ValueError(f"{path}: expected {said} class_names, one for each of its classes, got {len(names)}")
    if said is not None and highest >= said:
        raise ValueError(f"{path}: expected labels below {said}, its classes, got {highest}")
    if said is None and len(train) <= highest:
        missing = sorted(set(range(min(highest + 1, len(train) + 5))) - set(train.tolist()))
        raise ValueError(
            f"{path}: expected a training image of each class from 0 to {highest}, the highest label, got none of"
            f" {listed(missing)}; number the classes from 0, or say how many there are: np.savez(..., classes="
            f"{highest + 1})"
        )
    return highest + 1 if said is None else said


def _channels_first(images: np.ndarray, path: Path) -> np.ndarray:
    """(N, H, W), (N, C, H, W) or (N, H, W, C), C of 1 or 3, as (N, C, H, W)."""
    shape = images.shape
    if images.ndim == 3 and shape[2] not in (1, 3):
        return images[:, None]
    if images.ndim == 4 and (shape[1] in (1, 3)) != (shape[3] in (1, 3)):
        return images if shape[1] in (1, 3) else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    verdict = "can be read in two ways" if images.ndim in (3, 4) and shape[-1] in (1, 3) else "is none of these"
    raise ValueError(f"{path}: expected (N, H, W), (N, C, H, W) or (N, H, W, C) with C 1 or 3; {shape} {verdict}")
