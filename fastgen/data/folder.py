"""A folder of pictures: what in it is a split, a class, a picture, and what is left out; by one rule.

* Hidden entries and what systems leave behind (``.ipynb_checkpoints``, ``@eaDir``, ``__MACOSX``, ``lost+found``,
  ``Thumbs.db``, …), files that are no pictures and subfolders without any are left out, and counted.
* Subfolders are splits if all of them have the name of one: train or training; valid, val or validation; test or
  testing. There must be a train then.
* Else subfolders are classes, numbered by name. One of them may be called train, as its siblings are bus and tram, if
  it holds pictures as they do.
* All else can be read in more than one way, and is refused: pictures beside subfolders, pictures below a class, two
  names of one split, splits beside other folders, a class of whose files none is read.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._checks import listed
from ..conditions import Condition
from .picture import SUFFIXES, read_pictures
from .prepare import AS_IT_IS, Preparation

SPLITS = {
    **{"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid"},
    **{"test": "test", "testing": "test"},
}
LIKE_SPLITS = {
    "dev",
    "devel",
    "eval",
    "evaluation",
    "holdout",
    "held_out",
    "held-out",
    "unlabeled",
    "unlabelled",
    "extra",
}
"""Names of folders that are neither splits we know nor likely to be classes beside one."""

LEFT_BY_SYSTEMS = {
    *("@eadir", "__macosx", "lost+found", "__pycache__", "thumbs.db", "desktop.ini", "#recycle", "@recycle"),
    *("$recycle.bin", "system volume information"),
}
OTHER_PICTURES = {
    *(
        ".avif",
        ".heic",
        ".heif",
        ".jp2",
        ".j2k",
        ".jxl",
        ".tga",
        ".ico",
        ".svg",
        ".psd",
        ".dng",
        ".exr",
        ".hdr",
        ".pfm",
    ),
    *(".eps", ".pdf", ".dcm", ".pcx", ".sgi", ".xpm", ".xbm", ".npy", ".npz", ".mat"),
}
"""What may be meant as pictures, but is not read."""


class Arrays(NamedTuple):
    """What a reader found.

    Attributes:
        images: (N, C, H, W) in [0, levels), of the dtype that is kept of so many.
        labels: (N,) int64 in [0, classes), if any.
        levels: of the images.
        classes: how many, where there are labels.
        names: of the classes, where they have any.
        notes: what was found, for people.
        condition: of each image, if there is one.
    """

    images: np.ndarray
    labels: np.ndarray | None
    levels: int
    classes: int | None
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    condition: Condition | None = None


@dataclass(frozen=True)
class Entries:
    """What a folder holds, by name: pictures, subfolders, and the names of what is left out."""

    pictures: list[Path]
    folders: list[Path]
    skipped: list[str]


def entries(folder: Path) -> Entries:
    """Sort out what is in a folder.

    Raises:
        ValueError: something has the name of a picture, but is no file that can be read: a pipe, a broken link.
    """
    found = Entries([], [], [])
    with os.scandir(folder) as scanned:  # knows kinds without asking for each file
        inside = sorted(scanned, key=lambda entry: entry.name)
    for entry in inside:
        path = folder / entry.name
        if path.name[0] == "." or path.name.lower() in LEFT_BY_SYSTEMS:
            found.skipped.append(path.name + "/" * entry.is_dir())
        elif entry.is_dir():
            found.folders.append(path)
        elif path.suffix.lower() not in SUFFIXES:
            found.skipped.append(path.name)
        elif entry.is_file():
            found.pictures.append(path)
        else:
            raise ValueError(f"{path}: expected a picture, got {'no file' if path.exists() else 'a broken link'}")
    return found


def split_folders(path: Path) -> dict[str, Path]:
    """The subfolders that are splits, by the split's name (train, valid, test); none where ``path`` has no splits.

    Raises:
        ValueError: the subfolders can be read in more than one way.
    """
    found = entries(path)
    splits = [folder for folder in found.folders if folder.name.lower() in SPLITS]
    others = [folder for folder in found.folders if folder not in splits and any(folder.iterdir())]
    if not splits:
        return {}
    if others:
        alike = all(entries(folder).pictures for folder in [*splits, *others])
        if len(splits) == 1 and alike and not any(folder.name.lower() in LIKE_SPLITS for folder in others):
            return {}
        names, more = listed(folder.name + "/" for folder in splits), listed(folder.name + "/" for folder in others)
        raise ValueError(
            f"{path}: expected subfolders that are all splits (train, valid, test), or all classes; got {names} beside"
            f" {more}; move one kind out of it"
        )
    if found.pictures:
        first, names = found.pictures[0].name, listed(folder.name + "/" for folder in splits)
        raise ValueError(f"{path}: expected images in its splits, {names}; got some beside them, see {first}")
    by_split: dict[str, Path] = {}
    for folder in splits:
        split = SPLITS[folder.name.lower()]
        if split in by_split:
            raise ValueError(f"{path}: expected one {split} split, got {by_split[split].name}/ and {folder.name}/")
        by_split[split] = folder
    if "train" not in by_split:
        raise ValueError(f"{path}: expected a folder train/ beside {listed(folder.name + '/' for folder in splits)}")
    return {split: by_split[split] for split in ("train", "valid", "test") if split in by_split}


def read_folder(path: Path, split: str | None = None, prepare: Preparation = AS_IT_IS) -> Arrays:
    """Read the pictures in a folder, or those in its subfolders, which are then the classes, numbered by name.

    Args:
        path: the folder.
        split: the one of ``split_folders`` to read; classes, size and kind of the pictures are those of train.
        prepare: what is done to each picture as it is read, upright: large ones are never in memory together.

    Raises:
        ValueError: no picture; what can be read in more than one way; a class that train does not have; a picture that
            cannot be read, or whose size or mode differs from the first one's. The message names these.
    """
    splits = split_folders(path)
    folder = splits[split] if split else path
    files, skipped = _files(folder)
    train = files if split in (None, "train") else _files(splits["train"])[0]
    names = [name for name in train if name is not None]
    here = [name for name in files if name is not None]
    if not set(here) <= set(names):
        raise ValueError(f"{folder}: expected the classes {listed(names) or '(none)'}, got {listed(here)}")
    if names and not here:
        raise ValueError(f"{folder}: expected subfolders, one per class, as in {splits['train'].name}/; got none")
    first = None if train is files else next(iter(train.values()))[0]
    images, turned, stretched = read_pictures([file for part in files.values() for file in part], first, prepare)
    labels = [names.index(name) for name, part in files.items() if name is not None for _ in part]
    note = f"{folder}: {f'{len(names)} classes: {listed(names, 20)}; ' if names else ''}{len(images):,} images"
    note += f"; {turned:,} turned upright, as their EXIF says" if turned else ""
    note += f"; {prepare}" if prepare else ""
    note += f"; {stretched:,} stretched to that shape, which --crop centre would keep" if stretched else ""
    note += f"; {len(skipped):,} skipped: {listed(skipped)}" if skipped else ""
    return Arrays(
        images.view(np.uint8),
        np.array(labels, np.int64) if names else None,
        2 if images.dtype == bool else 256,
        len(names) if names else None,
        tuple(names) if names else None,
        (note,),
    )


def _files(folder: Path) -> tuple[dict[str | None, list[Path]], list[str]]:
    """The pictures of each class, or under None where there are no classes; and what is left out."""
    found = entries(folder)
    files: dict[str | None, list[Path]] = {}
    skipped = found.skipped
    for below in found.folders:
        inside = entries(below)
        deeper = [deep.name for deep in inside.folders if any(p.suffix.lower() in SUFFIXES for p in deep.rglob("*"))]
        if deeper:
            raise ValueError(f"{below}: expected images in a class, not in folders below it, got {deeper[0]}/")
        if inside.pictures:
            files[below.name] = inside.pictures
            skipped += [
                f"{below.name}/{name}" for name in inside.skipped + [deep.name + "/" for deep in inside.folders]
            ]
        elif any(Path(name).suffix.lower() in OTHER_PICTURES for name in inside.skipped):
            got = f"{len(inside.skipped)} files of which none is: {listed(inside.skipped)}"
            raise ValueError(f"{below}: expected images that are read ({' '.join(SUFFIXES)}), got {got}")
        else:
            skipped.append(below.name + "/")
    if found.pictures and files:
        below_it = next(iter(files))
        raise ValueError(f"{folder}: expected images in it or in subfolders, one per class; got both, see {below_it}/")
    if not found.pictures and not files:
        left = f"; {len(skipped):,} skipped: {listed(skipped)}" if skipped else ""
        raise ValueError(f"{folder}: expected images ({' '.join(SUFFIXES)}) in it or in subfolders, got none{left}")
    return files or {None: found.pictures}, skipped
