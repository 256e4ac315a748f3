"""From a name or a path to a Dataset.

Files lie under a root as torchvision lays them out: MNIST/raw, FashionMNIST/raw, cifar-10-batches-bin or
cifar-10-batches-py, and binarized_mnist/binarized_mnist_packed.npz. The root is an argument or FASTGEN_DATA.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._extras import require
from .arrays import read_array, split_arrays
from .dataset import Dataset
from .folder import Arrays, read_folder, split_folders
from .formats import read_cifar_binary, read_cifar_python, read_idx_pair, read_packed
from .picture import read_pictures
from .prepare import AS_IT_IS, Preparation

NAMES = ("digits", "mnist", "fashion-mnist", "binarized-mnist", "cifar10")
"""Data sets that have a name; all others are paths."""

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_MNIST = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def load(
    name: str | Path,
    *,
    root: str | Path | None = None,
    split: str = "train",
    levels: int | None = None,
    image_size: int | Sequence[int] | None = None,
    crop: str | int = "none",
    grey: bool = False,
) -> Dataset:
    """Load a split of a data set.

    Args:
        name: one of ``NAMES``, or a path. A folder of images: subfolders are classes, unless all of them are called
            train, valid and test, see ``folder``. An .npy of images, or an .npz of images and perhaps labels, of one
            set or of splits, see ``array_names``. Where a path has no splits of its own, a tenth of its images, always
            the same, is the test split, and ``description`` says so.
        root: folder of the named data sets' files; the environment's FASTGEN_DATA by default. ``digits`` needs none.
        split: "train", "test", or "valid" where the data set has a validation split of its own.
        levels: quantise to fewer levels, floor(v * levels / native levels).
        image_size: resize to it, a side or (H, W): antialiased, by Pillow's Lanczos filter.
        crop: before that: "none", "centre" (the largest part of the shape of ``image_size``, or else a square), or N,
            a square of N pixels.
        grey: one channel of ITU-R 601 luma in place of three.

    Returns:
        Dataset with values (N, C, H, W), uint8 up to 256 levels, in the files' own order: take a part of it with
        ``Dataset.subset``.

    Raises:
        FileNotFoundError: says which file was expected where, and how to set the root.
        ValueError: an unknown split, or a file that does not hold what it should.
    """
    if split not in splits(name):
        raise ValueError(f"split: expected {', '.join(splits(name))} for {name}, got {split!r}")
    prepare = Preparation(image_size, crop, grey)
    if str(name) in NAMES:
        dataset = _load_name(str(name), Path(root or os.environ.get("FASTGEN_DATA", "")), split, prepare)
    else:
        dataset = _load_path(Path(name), split, prepare)
    if prepare:
        dataset = replace(dataset, description=f"{dataset.description}; {prepare}")
    return dataset if levels is None or levels == dataset.levels else dataset.quantise(levels)


def load_for_training(
    name: str | Path,
    *,
    root: str | Path | None = None,
    levels: int | None = None,
    watch: str = "valid",
    image_size: int | Sequence[int] | None = None,
    crop: str | int = "none",
    grey: bool = False,
) -> tuple[Dataset, Dataset]:
    """Load (images to train on, held-out images to watch while training), as ``load`` does.

    Args:
        name: as in ``load``.
        root: as in ``load``.
        levels: as in ``load``.
        watch: "valid" watches the data set's own validation split, or else a tenth of the training images, which are
            then not trained on: the test split stays unseen. "test" trains on all training images and watches the
            test split.
        image_size: as in ``load``.
        crop: as in ``load``.
        grey: as in ``load``.
    """
    if watch not in ("valid", "test"):
        raise ValueError(f"watch: expected valid or test, got {watch!r}")
    read = partial(load, name, root=root, levels=levels, image_size=image_size, crop=crop, grey=grey)
    train = read()
    if watch == "test" or "valid" in splits(name):
        return train, read(split=watch)
    return train.hold_out()


def load_whole(
    path: str | Path,
    *,
    levels: int | None = None,
    image_size: int | Sequence[int] | None = None,
    crop: str | int = "none",
    grey: bool = False,
) -> Dataset:
    """All images of a picture, a folder of pictures, an .npy or an .npz that has no splits, in order.

    They are for a model that has been trained: not every class needs an image. The labels of NAME.npy are in
    NAME-labels.npy beside it, if there is one.

    Args:
        path: of the file or folder.
        levels: what integers of an array are of that are all below, where the file says nothing; 256 by default.
        image_size: as in ``load``.
        crop: as in ``load``.
        grey: as in ``load``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it does not hold images of one size.
    """
    path, prepare = Path(path), Preparation(image_size, crop, grey)
    if not path.exists():
        raise FileNotFoundError(f"given: expected a picture, a folder of pictures, an .npy or an .npz, got {path}")
    if path.is_dir():
        return _dataset(read_folder(path, None, prepare), str(path))
    if path.suffix.lower() in (".npy", ".npz"):
        return _dataset(read_array(path, whole=True, levels=levels), str(path), prepare)
    images, _, _ = read_pictures([path], None, prepare)
    return _dataset(Arrays(images.view(np.uint8), None, 2 if images.dtype == bool else 256, None), str(path))


def splits(name: str | Path) -> list[str]:
    """The splits that can be loaded: train, perhaps valid, and test.

    Raises:
        FileNotFoundError: neither a name nor the path of a folder, an .npy or an .npz.
    """
    if str(name) in NAMES:
        return ["train", "valid", "test"] if name == "binarized-mnist" else ["train", "test"]
    path = Path(name)
    if path.is_dir() or (path.is_file() and path.suffix.lower() in (".npy", ".npz")):
        return list(_own_splits(path)) or ["train", "test"]
    moved = "which is not there (if a run's images moved, --data says where to)"
    raise FileNotFoundError(
        f"data: expected {', '.join(NAMES)}, a folder of images, an .npy or an .npz; got {path},"
        f" {'which is none of these (docs/data.md makes an .npz of a table)' if path.exists() else moved}"
    )


def _load_name(name: str, root: Path, split: str, prepare: Preparation) -> Dataset:
    if name == "digits":  # 1,797 images: 1,500 to train on, 297 held out
        digits = require("sklearn.datasets").load_digits()
        whole = Arrays(digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64), 17, 10)
        return _own_tenth(_dataset(whole, name, prepare), split, 297 / 1797)
    if name == "binarized-mnist":
        images = read_packed(_find(name, root, "binarized_mnist/binarized_mnist_packed.npz"), split)
        return _of_split(_dataset(Arrays(images[:, None], None, 2, None), name, prepare), split)
    if name == "cifar10":
        return _load_cifar10(root, split, prepare)
    stem = f"{'MNIST' if name == 'mnist' else 'FashionMNIST'}/raw/{'train' if split == 'train' else 't10k'}"
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    images, labels = read_idx_pair(*(_find(name, root, f"{stem}-{kind}", f"{stem}-{kind}.gz") for kind in kinds))
    names = FASHION_MNIST if name == "fashion-mnist" else None
    found = Arrays(images[:, None], labels.astype(np.int64), 256, 10, names)
    return _of_split(_dataset(found, name, prepare), split)


def _load_cifar10(root: Path, split: str, prepare: Preparation) -> Dataset:
    stem, most = ("data_batch_[1-5]", 5) if split == "train" else ("test_batch", 1)
    patterns = f"cifar-10-batches-bin/{stem}.bin", f"cifar-10-batches-py/{stem}"
    _find("cifar10", root, *patterns)
    files = max((sorted(root.glob(pattern)) for pattern in patterns), key=len)  # some have a part of one of them
    read = read_cifar_binary if files[0].suffix == ".bin" else read_cifar_python
    images, labels = (np.concatenate(parts) for parts in zip(*map(read, files), strict=True))
    found = Arrays(images, labels.astype(np.int64), 256, 10, CIFAR10)
    dataset = _of_split(_dataset(found, "cifar10", prepare), split)
    if len(files) == most:
        return dataset
    part = f"{len(files)} of {most} batch files"
    return replace(dataset, name=f"cifar10 ({part})", description=f"{part} of {dataset.description}")


def _load_path(path: Path, split: str, prepare: Preparation) -> Dataset:
    own = split if _own_splits(path) else None
    if path.is_dir():
        dataset = _dataset(read_folder(path, own, prepare), str(path))
    else:
        dataset = _dataset(read_array(path, own), str(path), prepare)
    return _of_split(dataset, split) if own else _own_tenth(dataset, split)


def _own_splits(path: Path) -> dict[str, Any]:
    """What the splits that a folder or an array file has of its own are called in it, train first; perhaps none."""
    return split_folders(path) if path.is_dir() else split_arrays(path)


def _of_split(dataset: Dataset, split: str) -> Dataset:
    """The data's own split, which is all of ``dataset``."""
    return replace(dataset, description=f"the {split} split of {dataset.name}")


def _own_tenth(whole: Dataset, split: str, fraction: float = 0.1) -> Dataset:
    """The split of data that have none of their own: held out by us, which the description says."""
    part = whole.hold_out(fraction)[split == "test"]
    return replace(part, description=f"{part.description}, which has no test split of its own")


def _find(name: str, root: Path, *patterns: str) -> Path:
    """The first file under ``root`` that matches one of ``patterns``."""
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            return path
    where = "no root is set" if root == Path() else f"there is none in {root}"
    raise FileNotFoundError(
        f"{name}: expected the file {' or '.join(patterns)} under the data root, and {where}:"
        f" set FASTGEN_DATA, root=... or --data-root; fastgen download {name} gets it where there is a network"
    )


def _dataset(arrays: Arrays, name: str, prepare: Preparation = AS_IT_IS) -> Dataset:
    labels = None if arrays.labels is None else torch.from_numpy(arrays.labels)
    images = prepare.images(arrays.images, arrays.levels, name)
    stretched = prepare.stretches(*arrays.images.shape[-2:])
    note = f"{name}: {prepare}{'; stretched to that shape, which --crop centre would keep' if stretched else ''}"
    images = images if images.flags.writeable else np.array(images)  # read from bytes, it is not
    notes = (*arrays.notes, *([note] if prepare else []))
    about = (arrays.levels, arrays.classes, name, arrays.names)
    return Dataset(torch.from_numpy(images), labels, *about, notes=notes, condition=arrays.condition)
