"""``fastgen download``: the named data sets' files, for those who have a network."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..data.download import download
from . import parse

ABOUT = {
    "mnist": "MNIST, LeCun, Cortes and Burges 1998, 12 MB",
    "fashion-mnist": "Fashion-MNIST, Zalando Research 2017, MIT licence, 31 MB",
    "cifar10": "CIFAR-10, Krizhevsky, Nair and Hinton 2009, no licence stated, 170 MB",
    "binarized-mnist": "binarised MNIST, Larochelle and Murray 2011 after Salakhutdinov and Murray 2008, 110 MB",
}
"""Whose each data set is, under what licence, and how much is fetched."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """Get the files of named data sets, checked by their published checksums, into torchvision's folder layout.

    Files that are there and right are left as they are; a download that breaks leaves none behind.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME ...")]
    """mnist (12 MB), fashion-mnist (31 MB), cifar10 (170 MB), binarized-mnist (110 MB)."""
    data_root: str | None = None
    """Folder to put them in, made if it is not there; default: FASTGEN_DATA."""


def main(arguments: list[str]) -> str:
    """Get what the arguments say."""
    options = parse(Download, "download", arguments)
    root = options.data_root or os.environ.get("FASTGEN_DATA")
    for name in options.names:
        if name not in ABOUT:
            next(download(name, Path()))  # says what there is
    if not options.names:
        raise ValueError(f"names: expected one or more of {', '.join(ABOUT)}, got none")
    if not root:
        raise ValueError("data_root: expected a folder, from --data-root or FASTGEN_DATA, got none")
    for name in options.names:
        sys.stdout.write(f"{ABOUT[name]}\n")
        for path, written in download(name, Path(root)):
            sys.stdout.write(f"{path}{'' if written else ': there already'}\n")
            sys.stdout.flush()
    root_option = "" if root == os.environ.get("FASTGEN_DATA") else f" --data-root {shlex.quote(root)}"
    return f"to train on it: fastgen train vae --data {options.names[-1]}{root_option}"
