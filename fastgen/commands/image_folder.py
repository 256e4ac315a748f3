"""A folder of drawn images, one PNG each, as tools that measure images read it; with classes, a subfolder for each."""

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .. import pictures
from ..data.folder import LEFT_BY_SYSTEMS, SPLITS

LONGEST = 255
"""Bytes in the name of a folder, at most, on most systems."""


class ImageFolder:
    """Where image ``index`` of ``n`` is written: true size, grey or colour, values spread over 0 to 255.

    Args:
        folder: made where it is not there.
        n: how many images.
        levels: of their values.
        labels: the class of each, if any: 000000.png is then in a subfolder that is called as its class.
        names: of the classes, by number.
        classes: how many.
    """

    def __init__(
        self, folder: Path, n: int, levels: int, labels: Tensor | None, names: Sequence[str] | None, classes: int | None
    ) -> None:
        self.folder, self.n, self.levels, self.labels = folder, n, levels, labels
        self.folders = [] if labels is None or classes is None else _class_folders(names, classes)

    def path(self, index: int) -> Path:
        """Where image ``index`` is."""
        digits = max(6, len(str(self.n - 1)))
        within = self.folder if self.labels is None else self.folder / self.folders[int(self.labels[index])]
        return within / f"{index:0{digits}}.png"

    def check(self, overwrite: bool) -> None:
        """Nothing of another run is written over, nor left among the images.

        Raises:
            ValueError: the folder holds something, and not only what ``overwrite`` lets be replaced.
        """
        if not self.folder.exists():
            if not self.folder.parent.is_dir():
                raise ValueError(f"out: expected a folder in one that exists, got {self.folder}")
            return
        if not self.folder.is_dir():
            raise ValueError(f"out: expected a folder, got the file {self.folder}")
        there = sorted(path for path in self.folder.rglob("*") if not path.is_dir() or path.is_symlink())
        if there and not overwrite:
            raise ValueError(
                f"out: expected a new or empty folder, got {self.folder} with {there[0].relative_to(self.folder)}; "
                "--overwrite replaces images of the same names, where there are no others"
            )
        mine = {self.path(index) for index in range(self.n)} if there else set()
        left = next((path for path in there if path not in mine), None)
        if left is not None:
            raise ValueError(f"out: expected a folder with nothing but images to replace, got {left}, which would stay")

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
