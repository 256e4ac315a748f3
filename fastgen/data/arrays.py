"""A user's own images as arrays: an .npy or an .npz. One check for all of its arrays, whichever of them is read."""

from pathlib import Path

import numpy as np

from .._checks import listed
from .array_conditions import as_told, check_same_kind
from .array_levels import quantised, where
from .array_names import Names, names_by_split
from .folder import Arrays
from .formats import is_zip, npz_names, read_npz

MAX_CLASSES = 100_000


def split_arrays(path: Path) -> dict[str, str]:
    """The arrays that are splits: name in the file by split, train first; none where the file is one set of images.

    Raises:
        ValueError: the names of the arrays can be read in two ways, or say nothing.
    """
    return {split: names.images for split, names in _names_by_split(path).items() if split is not None}


def read_array(path: Path, split: str | None = None, *, whole: bool = False, levels: int | None = None) -> Arrays:
    """Read the images of an .npy or .npz file.

    Args:
        path: an .npy of images; or an .npz with images and perhaps labels, named as ``array_names`` says; perhaps what
            else a model is told beside each, see ``array_conditions``; and perhaps
            ``levels``, where the images have fewer than 256, ``classes``, where not all of them have a training image,
            and their ``class_names``.
        split: "train", "valid" or "test"; None reads what has no splits.
        whole: the images are for a model that has been trained: not every class needs one, and the labels of an .npy
            are in NAME-labels.npy beside it, as ``fastgen sample`` writes them, if there is one.
        levels: of integers that are all below, where the file says nothing.

    Raises:
        ValueError: anything else, floating-point images that are on no grid, images whose layout or levels can be read
            in two ways, labels that are neither words nor the numbers of classes from 0.
    """
    read = _names_by_split(path)
    if split not in read:
        there = listed(part.images for part in read.values())
        if split is None:
            raise ValueError(f"{path}: expected one set of images, got splits: {there}")
        raise ValueError(f"{path}: expected images of the {split} split, got {there}")
    about = {"levels", "classes", "class_names"}
    wanted = about.union(*(names.every for names in read.values()))
    arrays = read_npz(path, wanted)
    stated = {name: arrays.get(name) for name in about}
    images, levels, notes = quantised(
        {names.images: arrays[names.images] for names in read.values()}, stated["levels"], path, levels
    )
    labels = {
        part: _labels(arrays[names.labels], names.labels, path)
        for part, names in read.items()
        if names.labels is not None
    }
    places = {part: where(path, str(names.labels)) for part, names in read.items()}
    if whole and (beside := _labels_beside(path)) is not None:
        labels[split], places[split] = _labels(_only_array(beside), "labels", beside), str(beside)
    for part, numbers in labels.items():
        if len(numbers) != len(images[read[part].images]):
            n = len(images[read[part].images])
            raise ValueError(f"{places[part]}: expected one label per image ({n}), got {len(numbers)}")
    told = {part: as_told(arrays, names.condition, len(images[names.images]), path) for part, names in read.items()}
    check_same_kind(told, path)
    names = _class_names(stated["class_names"], path)
    if any(part.dtype.kind == "U" for part in labels.values()):
        labels, names = _numbered(labels, names, path)
        notes += (f"{path}: {len(names)} classes: {listed(names, 20)}",)
    classes = _classes(labels, stated["classes"], names, path, gaps=whole)
    left = sorted(npz_names(path) - wanted)
    notes += (f"{path}: {len(left):,} arrays skipped: {listed(left)}",) if left else ()
    name = read[split].images
    chosen = _channels_first(images[name], where(path, name))
    return Arrays(chosen, labels.get(split), levels, classes, names if labels else None, notes, told[split])


def _names_by_split(path: Path) -> dict[str | None, Names]:
    return names_by_split(path, npz_names(path)) if is_zip(path) else {None: Names("x", None, {})}


def _labels_beside(path: Path) -> Path | None:
    """Where the labels of an .npy's images are, if there are any."""
    found = path.with_name(f"{path.stem}-labels.npy")
    return found if not is_zip(path) and found.is_file() else None


def _only_array(path: Path) -> np.ndarray:
    if is_zip(path):
        raise ValueError(f"{path}: expected an .npy of labels, got an .npz")
    return read_npz(path)["x"]


def _labels(labels: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Labels (N,): int64, or words."""
    place, shape = where(path, name), labels.shape
    if labels.ndim == 2 and shape[1] == 1:  # a column, as some collections keep them
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuUS":
        if name.lower() == "arr_1":
            raise ValueError(
                f"{path}: expected labels (N,) as arr_1, got {labels.dtype} {shape}: arr_0 and arr_1 could both be the"
                " images; say which is which: np.savez(path, x=..., y=...)"
            )
        hint = "; if they are one-hot, labels.argmax(1) numbers them" if labels.ndim == 2 else ""
        raise ValueError(
            f"{place}: expected labels as integers (N,) from 0, or as words, got {labels.dtype} {shape}{hint}"
        )
    if labels.dtype.kind in "US":
        return _words(labels, place)
    if labels.min(initial=0) < 0:
        raise ValueError(f"{place}: expected labels as integers (N,) from 0, got {int(labels.min())} among them")
    if int(labels.max(initial=0)) >= MAX_CLASSES:
        high = int(labels.max())
        raise ValueError(f"{path}: expected the numbers of classes in {name}, from 0 to {MAX_CLASSES - 1}, got {high}")
    return labels.astype(np.int64)


def _words(words: np.ndarray, place: str) -> np.ndarray:
    if words.dtype.kind == "S":
        try:
            words = np.char.decode(words, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{place}: expected words in UTF-8, got {error}") from error
    if words.dtype.itemsize:
        codes = np.ascontiguousarray(words).view(np.dtype("u4").newbyteorder(words.dtype.byteorder))
        if ((codes > 0x10FFFF) | (codes >> 11 == 0xD800 >> 11)).any():  # Python would fail in reading them
            raise ValueError(f"{place}: expected words, got numbers that no character has")
    if not words.dtype.itemsize or "" in words.tolist():
        raise ValueError(f"{place}: expected words, got an empty one among them")
    return words


def _class_names(names: np.ndarray | None, path: Path) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise ValueError(f"{path}: expected class_names to be different words (K,), got {names.dtype} {names.shape}")
    words = _words(names, where(path, "class_names")).tolist()
    if len(set(words)) < len(words):
        raise ValueError(f"{path}: expected class_names to be different words (K,), got {names.dtype} {names.shape}")
    return tuple(words)


def _numbered(
    labels: dict[str | None, np.ndarray], names: tuple[str, ...] | None, path: Path
) -> tuple[dict[str | None, np.ndarray], tuple[str, ...]]:
    """Labels that are words as numbers of classes, and the classes' names: those stated, else the training labels'
    words in their order as text.
    """
    if any(part.dtype.kind != "U" for part in labels.values()):
        raise ValueError(f"{path}: expected labels as words in all splits, or as integers in all, got both")
    first = next(iter(labels))
    stated = names is not None
    names = names or tuple(np.unique(labels[first]).tolist())
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{path}: expected at most {MAX_CLASSES} classes, got {len(names)} different labels")
    numbers = {name: number for number, name in enumerate(names)}
    for part in labels.values():
        unknown = sorted(set(np.unique(part).tolist()) - set(names))
        if unknown:
            whose = "class_names" if stated else "those of the training labels"
            raise ValueError(f"{path}: expected labels among {whose}, {listed(names, 20)}, got {listed(unknown)} too")
    return {
        split: np.array([numbers[word] for word in part.tolist()], np.int64) for split, part in labels.items()
    }, names


def _classes(
    labels: dict[str | None, np.ndarray],
    stated: np.ndarray | None,
    names: tuple[str, ...] | None,
    path: Path,
    gaps: bool,
) -> int | None:
    """How many classes there are: those of the training images, unless the file says it.

    ``gaps``: a class may have no image.
    """
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
    if said is None and len(train) <= highest and not gaps:
        missing = sorted(set(range(min(highest + 1, len(train) + 5))) - set(train.tolist()))
        raise ValueError(
            f"{path}: expected a training image of each class from 0 to {highest}, the highest label, got none of"
            f" {listed(missing)}; number the classes from 0, or say how many there are: np.savez(..., classes="
            f"{highest + 1})"
        )
    return highest + 1 if said is None else said


def _channels_first(images: np.ndarray, place: str) -> np.ndarray:
    """(N, H, W), (N, C, H, W) or (N, H, W, C), C of 1 or 3, as (N, C, H, W)."""
    shape = images.shape
    if images.ndim == 3 and shape[2] not in (1, 3):
        return images[:, None]
    if images.ndim == 4 and (shape[1] in (1, 3)) != (shape[3] in (1, 3)):
        return images if shape[1] in (1, 3) else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    verdict = "can be read in two ways" if images.ndim in (3, 4) and shape[-1] in (1, 3) else "is none of these"
    hint = "; give flat images their height and width: x.reshape(-1, H, W)" if images.ndim == 2 else ""
    raise ValueError(
        f"{place}: expected (N, H, W), (N, C, H, W) or (N, H, W, C) with C 1 or 3; {shape} {verdict}{hint}"
    )
