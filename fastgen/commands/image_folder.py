"""A folder of drawn images, one PNG each, as tools that measure images read it; with classes, a subfolder for each."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from .. import pictures
from ..data.folder import LEFT_BY_SYSTEMS, SPLITS

LONGEST = 255
"""Bytes in the name of a folder, at most, on most systems."""


TEMPORARY = re.compile(r"\.\d+\.png\.\d+\.tmp")
"""What is being written, or was when its process was killed."""


class ImageFolder:
    """Where image ``index`` of ``n`` is written: true size, grey or colour, values spread over 0 to 255.

    Args:
        folder: made where it is not there.
        n: how many images.
        levels: of their values.
        labels: the class of each, in turn, if any: 000000.png is then in a subfolder that is called as its class.
        names: of the classes, by number.
        classes: how many.
        shard: at most so many images in a folder: each of 000000/, 000001/ … is then as the one folder is else.
    """

    def __init__(
        self,
        folder: Path,
        n: int,
        levels: int,
        labels: Tensor | None,
        names: Sequence[str] | None,
        classes: int | None,
        shard: int | None = None,
    ) -> None:
        if levels > 256:
            raise ValueError(
                f"out: expected an .npy for values of {levels} levels, which no PNG here holds, got {folder}"
            )
        self.folder, self.n, self.levels, self.labels, self.shard = folder, n, levels, labels, shard
        self.folders = [] if labels is None or classes is None else _class_folders(names, classes)

    def path(self, index: int) -> Path:
        """Where image ``index`` is."""
        digits = max(6, len(str(self.n - 1)))
        within = self.folder if self.shard is None else self.folder / f"{index // self.shard:06}"
        if self.labels is not None:
            within /= self.folders[int(self.labels[index % len(self.labels)])]
        return within / f"{index:0{digits}}.png"

    def __str__(self) -> str:
        return f"{self.folder}{os.sep}, a PNG each"

    @property
    def hidden(self) -> tuple[Path, str]:
        """The folder for what is there while images are drawn, and how its name begins."""
        return self.folder, ""

    def check_place(self) -> None:
        """Raise ValueError unless the folder is one, or can be made."""
        if not self.folder.exists() and not self.folder.parent.is_dir():
            raise ValueError(f"out: expected a folder in one that exists, got {self.folder}")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"out: expected a folder, got the file {self.folder}")

    def check(self, overwrite: bool) -> None:
        """Nothing of another run is written over, nor left among the images.

        Raises:
            ValueError: the folder holds something, and not only what ``overwrite`` lets be replaced.
        """
        first = min(self._there(), default=None)
        if first is not None and not overwrite:
            raise ValueError(
                f"out: expected a new or empty folder, got {self.folder} with {first.relative_to(self.folder)}; "
                "--overwrite replaces images of the same names, where there are no others"
            )
        left = min((path for path in self._there() if not self._is_mine(path)), default=None)
        if left is not None:
            raise ValueError(f"out: expected a folder with nothing but images to replace, got {left}, which would stay")

    def _there(self) -> Iterator[Path]:
        """What is in the folder, but for folders and what a start that was killed left."""
        for path in self.folder.rglob("*"):
            left = path.parent == self.folder and path.name in (".lock", ".unfinished")
            if not left and not TEMPORARY.fullmatch(path.name) and (not path.is_dir() or path.is_symlink()):
                yield path

    def _is_mine(self, path: Path) -> bool:
        """Whether an image is written there."""
        index = path.stem if path.stem.isascii() and path.stem.isdecimal() else "-1"
        return 0 <= int(index) < self.n and path == self.path(int(index))

    def begin(self) -> None:
        """Remove what a start that was killed left half written."""
        for path in self.folder.rglob(".*.tmp"):
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def has(self, first: int, last: int) -> bool:
        """Whether images ``first`` to ``last`` are there; where the machine stopped, some of them may be empty."""
        paths = map(self.path, range(first, last))
        return all(path.is_file() and path.stat().st_size for path in paths)

    def finish(self) -> None:
        """Remove what is half written by a start that was killed."""
        self.begin()

    def write(self, first: int, values: Tensor) -> None:
        """Write images ``first``, ``first + 1`` … of values (N, C, H, W), each whole or not at all."""
        colors = pictures.to_rgb(values, self.levels)
        for index, image in enumerate(colors, start=first):
            path = self.path(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures.save(image if values.shape[1] == 3 else image[..., 0], path, sync=False)


def _class_folders(names: Sequence[str] | None, classes: int) -> list[str]:
    """A folder's name for each class, its own where that can be read back as a class."""
    width = len(str(classes - 1))
    folders: list[str] = []
    for number in range(classes):
        name = f"{number:0{width}}" if names is None else names[number]
        taken = {folder.casefold() for folder in folders} | set(SPLITS) | LEFT_BY_SYSTEMS
        odd = not name.strip() or name[0] == "." or set(name) & set("/\\\0") or len(os.fsencode(name)) > LONGEST
        if odd or name.casefold() in taken:
            name = f"class {number:0{width}}"
        folders.append(name)
    return folders
