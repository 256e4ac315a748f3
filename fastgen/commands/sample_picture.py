"""What ``fastgen sample`` draws, as one picture or as an .npz."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import pictures
from .._console import several
from .._files import write_atomic
from ..conditions import Condition
from ..data.storage import numpy_dtype_of
from ..pictures import columns_for, columns_in_turn
from ..pictures.sheet import Names, class_words, of_classes, sheet
from ..training import Run
from .completion import Partial
from .condition_file import as_arrays, classes_of
from .run_words import called

PIXELS = 2**25
"""Of one picture, at most."""
VALUES = 2**31
"""Of one .npz, at most: it is compressed as a whole."""


def check_fits(n: int, shape: tuple[int, int, int], *, picture: bool, npz: bool) -> None:
    """Raise ValueError if ``n`` images (C, H, W) are more than one picture shows, or one .npz holds."""
    C, H, W = shape
    elsewhere = "--out FOLDER/ and --out FILE.npy take any number"
    if picture and n > PIXELS // (H * W):
        raise ValueError(f"n: expected at most {PIXELS // (H * W):,} images in one picture, got {n:,}; {elsewhere}")
    if npz and n > VALUES // (C * H * W):
        raise ValueError(f"n: expected at most {VALUES // (C * H * W):,} images in one .npz, got {n:,}; {elsewhere}")


def picture_of(
    values: Tensor,
    model: Any,
    options: Any,
    labels: Tensor | None,
    names: list[str] | None,
    given: Partial | None,
    levels: int,
) -> np.ndarray:
    """All images, and where some were given, these above them; ``options``: of ``fastgen sample``."""
    n, of = len(values), called(Run(options.run), options.checkpoint)
    title = f"{several(n, 'sample')} of {of}"
    rows, said, note = [pictures.to_rgb(values, levels)], ["drawn"], ""
    if given is not None:
        known = pictures.to_rgb(given.values, levels)
        rows = [*([known] if given.whole else []), pictures.hide(known, given.mask[:, 0]), *rows]
        said = [*(["held out"] if given.whole else []), "given", "drawn"]
        title = f"{several(n, 'image')} completed by {of}"
        part = options.complete if given.whole else Path(str(options.complete)).name
        note = f"given: {str(part).replace('-', ' ') if given.whole else f'known of {part}'}"
    if options.temperature != 1:
        note = f"temperature {options.temperature:g}" + (f"; {note}" if note else "")
    turn = 0 if labels is None or given is not None else len(options.labels) or classes_of(model)
    columns = min(options.columns or (columns_in_turn(n, turn) if 1 < turn <= 16 else columns_for(n, len(rows))), n)
    above: Names | tuple[str, ...] = ()
    below: Names | tuple[str, ...] = ()
    if labels is not None and given is None:
        words = class_words(names, classes_of(model))
        if torch.equal(labels, labels[:columns].repeat(n)[:n]):
            above = of_classes(labels[:columns].tolist(), words)
        else:
            below = of_classes(labels.tolist(), words)
    return sheet(
        pictures.in_turn(rows, columns), title, columns=columns, note=note, above=above, below=below,
        rows=said if given is not None else (),
    )  # fmt: skip


def save_npz(
    path: Path,
    values: Tensor,
    model: Any,
    labels: Tensor | None,
    names: list[str] | None,
    condition: Condition | None,
    levels: int,
) -> None:
    """All images with what they were told, as data sets are read."""
    arrays: dict[str, Any] = {
        "x": values.numpy().astype(numpy_dtype_of(levels)),
        "levels": np.array(levels),
    }
    arrays |= {} if condition is None else as_arrays(condition)
    buffer = io.BytesIO()
    if labels is not None:
        arrays |= {"y": labels.numpy(), "classes": np.array(classes_of(model))}
        arrays |= {} if names is None else {"class_names": np.array(names)}
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())
