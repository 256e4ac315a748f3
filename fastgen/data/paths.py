"""A user's own images: a folder of pictures, an .npy or an .npz."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._extras import require
from .formats import npz_names, read_npz

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


class Arrays(NamedTuple):
    """What a reader found: images (N, C, H, W) uint8 in [0, levels), labels (N,) int64 in [0, classes), if any."""

    images: np.ndarray
    labels: np.ndarray | None
    levels: int
    classes: int | None


def own_splits(path: Path) -> list[str]:
    """The splits that a folder or an array file has of its own, train first; none where it is one set of images."""
    names = {child.name for child in path.iterdir()} if path.is_dir() else npz_names(path)
    return [split for split in ("train", "valid", "test") if split in names] if "train" in names else []


def read_folder(path: Path, split: str | None = None) -> Arrays:
    """Read the pictures in a folder, or those in its subfolders, which are then the classes, numbered by name.

    Args:
        path: the folder.
        split: its subfolder to read; the classes are those of the subfolder ``train``.

    Raises:
        ValueError: no picture; pictures both in the folder and below it; a class that ``train`` does not have; a
            picture that cannot be read, or whose size or mode differs from the first one's. The message names all of
            these.
    """
    folder = path / split if split else path
    classes = _subfolders(path / "train" if split else path)
    below, files = _subfolders(folder), _pictures(folder)
    if files and below:
        raise ValueError(f"{folder}: expected images in it or in subfolders, one per class; got both, see {below[0]}/")
    if not files and not below:
        raise ValueError(f"{folder}: expected images ({' '.join(SUFFIXES)}) in it or in subfolders, got none")
    if not set(below) <= set(classes):
        raise ValueError(f"{folder}: expected the classes {', '.join(classes) or '(none)'}, got {', '.join(below)}")
    labels = [classes.index(name) for name in below for _ in _pictures(folder / name)]
    files = files or [file for name in below for file in _pictures(folder / name)]
    images = _read_pictures(files)
    images = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    levels = 2 if images.dtype == bool else 256
    numbers = np.array(labels, np.int64) if below else None
    return Arrays(images.astype(np.uint8), numbers, levels, len(classes) if below else None)


def _read_pictures(files: list[Path]) -> np.ndarray:
    """All of ``files``, one array; the message of an error names every file that does not fit."""
    images: np.ndarray | None = None
    broken: dict[Path, ValueError] = {}
    for index, file in enumerate(files):
        try:
            image = read_picture(file)
            if images is None:
                first, images = file, np.empty((len(files), *image.shape), image.dtype)
            if image.shape != images.shape[1:] or image.dtype != images.dtype:
                raise ValueError(f"{file}: expected {_describe(images[0])} as {first.name} is, got {_describe(image)}")
            images[index] = image
        except ValueError as error:
            broken[file] = error
    if broken:
        (_, cause), *others = broken.items()
        names = ", ".join(str(file) for file, _ in others)
        more = f"; {len(broken)} of {len(files)} images do not fit, the others are {names}" if others else ""
        raise ValueError(f"{cause}{more}") from cause
    assert images is not None
    return images


def read_picture(file: Path) -> np.ndarray:
    """Read a picture as uint8 (H, W) or (H, W, 3), or bool (H, W) where it has one bit per pixel.

    Raises:
        ValueError: it cannot be read, or is not black and white, grey or RGB of 8 bits.
    """
    pillow = require("PIL.Image")
    try:
        with pillow.open(file) as image:
            mode, array = image.mode, np.asarray(image)
    except Exception as error:  # pillow's decoders raise whatever they meet in a broken file
        raise ValueError(f"{file}: cannot be read as an image: {error}") from error
    if mode not in ("1", "L", "RGB"):
        raise ValueError(f"{file}: expected a grey or RGB image of 8 bits (mode L or RGB), got mode {mode}; convert it")
    return array


def read_array(path: Path, split: str | None = None) -> Arrays:
    """Read the images of an .npy or .npz file.

    Args:
        path: an .npy of images; or an .npz with ``x`` and perhaps labels ``y``, or with ``train``, ``test`` and
            perhaps ``valid``, and perhaps ``train_labels`` and so on; and perhaps ``levels``, where the images have
            fewer than 256.
        split: "train", "valid" or "test"; None reads ``x``.

    Raises:
        ValueError: anything else, floating-point images, or images whose layout or levels can be read in two ways.
    """
    arrays = read_npz(path)
    x, y = (split, f"{split}_labels") if split else ("x", "y")
    if x not in arrays:
        raise ValueError(f"{path}: expected arrays named x (and y), or train and test, got {sorted(arrays)}")
    images, levels = _quantised(arrays[x], arrays.get("levels"), path)
    labels = {name: _labels(array, path) for name, array in arrays.items() if name == "y" or name.endswith("_labels")}
    classes = max((int(array.max(initial=0)) + 1 for array in labels.values()), default=None)
    return Arrays(_channels_first(images, path), labels.get(y), levels, classes)


def _subfolders(folder: Path) -> list[str]:
    """Names of the subfolders that hold pictures, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and _pictures(path))


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def _describe(image: np.ndarray) -> str:
    kind = "1-bit" if image.dtype == bool else "grey" if image.ndim == 2 else "RGB"
    return f"a {image.shape[1]}x{image.shape[0]} {kind} image"


def _labels(labels: np.ndarray, path: Path) -> np.ndarray:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise ValueError(f"{path}: expected labels as integers (N,) from 0, got {labels.dtype} {labels.shape}")
    return labels.astype(np.int64)


def _quantised(images: np.ndarray, levels: np.ndarray | None, path: Path) -> tuple[np.ndarray, int]:
    """(images as uint8, their levels). Levels are never guessed where the values leave a doubt."""
    if images.dtype == bool:
        return images.astype(np.uint8), 2
    if images.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected integer images, got {images.dtype}; quantise them first, images in [0, 1] by"
            " (x * 255).round().astype('uint8')"
        )
    if not images.size:
        raise ValueError(f"{path}: expected at least one image, got shape {images.shape}")
    if levels is not None and (levels.shape != () or levels.dtype.kind not in "iu"):
        raise ValueError(f"{path}: expected levels to be one integer, got {levels.tolist()}")
    low, high = int(images.min()), int(images.max())
    if low < 0 or high > 255:
        raise ValueError(f"{path}: expected values in [0, 255], got [{low}, {high}]")
    if levels is None and high < 32:
        raise ValueError(
            f"{path}: expected 8-bit images, got values up to {high}; say how many levels they have:"
            f" np.savez(..., levels={high + 1}), or save bool for two"
        )
    return images.astype(np.uint8), 256 if levels is None else int(levels)


def _channels_first(images: np.ndarray, path: Path) -> np.ndarray:
    """(N, H, W), (N, C, H, W) or (N, H, W, C), C of 1 or 3, as (N, C, H, W)."""
    shape = images.shape
    if images.ndim == 3 and shape[2] not in (1, 3):
        return images[:, None]
    if images.ndim == 4 and (shape[1] in (1, 3)) != (shape[3] in (1, 3)):
        return images if shape[1] in (1, 3) else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    verdict = "can be read in two ways" if images.ndim in (3, 4) and shape[-1] in (1, 3) else "is none of these"
    raise ValueError(f"{path}: expected (N, H, W), (N, C, H, W) or (N, H, W, C) with C 1 or 3; {shape} {verdict}")
