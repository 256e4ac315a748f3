"""The pictures that training leaves in a run's folder: held-out images once, what the model does after each epoch."""

from typing import Any

import numpy as np
import torch

from .. import conditions, pictures
from .._console import several
from ..conditions import Classes, kind_said
from ..data import Dataset
from ..pictures import chart, columns_in_turn
from ..pictures.sheet import class_words, of_classes, sheet
from ..training import Run
from ..training.checks import told_to
from .run_words import data_of, name_of


def draw_epoch(model: Any, held_out: Dataset, n: int, seed: int, of: str) -> np.ndarray | None:
    """What a model has to show after an epoch, if anything; with few classes each has a column, and all rows are full.

    Args:
        model: with ``preview``.
        held_out: images that it may be given.
        n: images to draw, at least.
        seed: of the samples.
        of: the model, its data and the epoch, in words.
    """
    kind, parameter = kind_said(model), next(model.parameters())
    classes = kind.count if isinstance(kind, Classes) else None
    columns = columns_in_turn(n, classes) if classes is not None and classes <= 16 else None
    n = n if columns is None else -(-n // columns) * columns
    some = told_to(model, held_out).subset(n)
    condition = conditions.apply(lambda part: part.to(parameter.device), some.told)
    rows = model.preview(n, seed, some.values.to(parameter.device, torch.int64), condition)
    if not rows:
        return None
    images, names = [pictures.to_rgb(row, held_out.levels) for row in rows], getattr(model, "preview_rows", ())
    shown = len(images[0])
    if len(images) > 1:
        columns = pictures.columns_for(shown, len(images))
        title = f"{several(shown, 'held-out image')}, {' and '.join(names)}: {of}"
        return sheet(pictures.in_turn(images, columns), title, columns=columns, rows=names)
    title = f"{several(shown, 'sample')} of {of}"
    if classes is None:
        return sheet(images[0], title)
    words = class_words(held_out.class_names, classes)
    if columns is None:
        return sheet(images[0], title, below=of_classes([index % classes for index in range(shown)], words))
    return sheet(images[0], title, columns=columns, above=of_classes(_turns(columns, classes), words))


def keep_held_out(run: Run, held_out: Dataset, n: int, classes: int | None) -> None:
    """Keep a picture of ``n`` held-out images in the run's folder, for its report; none for 0, and once only.

    For a model with few ``classes`` each has a column, as in the model's own pictures.
    """
    path = run.folder / "held_out.png"
    if n < 1 or path.exists():
        return
    words = [] if held_out.classes is None else class_words(held_out.class_names, held_out.classes)
    some, columns = None, None
    if classes is not None and classes <= 16:
        columns = columns_in_turn(n, classes)
        some = _in_columns(held_out, n, columns, classes)
    if some is None:
        some, columns = held_out.subset(n), None
    below = of_classes(some.labels.tolist(), words) if some.labels is not None and words and not columns else ()
    title = f"{several(len(some), 'held-out image')} of {data_of(run.config())}"
    above = of_classes(_turns(columns, classes), words) if columns and classes else ()
    images = pictures.to_rgb(some.values, held_out.levels)
    pictures.save(sheet(images, title, columns=columns, above=above, below=below), path)


def _turns(columns: int, classes: int) -> list[int]:
    """The class of each column."""
    return [column % classes for column in range(columns)]


def _in_columns(images: Dataset, n: int, columns: int, classes: int) -> Dataset | None:
    """``n`` images or as many more as fill the last row, the classes in turn; None where there are too few of one."""
    if images.labels is None:
        return None
    count = -(-n // columns) * columns // classes
    each = [torch.nonzero(images.labels == label).flatten()[:count] for label in range(classes)]
    return images.pick(torch.stack(each, dim=1).flatten()) if min(map(len, each)) == count else None


def draw_curves(run: Run) -> None:
    """Write the run's curves.png, if there is anything to draw."""
    metrics, config = run.metrics(), run.config()
    drawn = chart.charts(metrics, config.get("about"))
    if drawn:
        epochs = several(len(metrics), "epoch")
        pictures.save(chart.pixels(drawn, title=f"{name_of(config)}, {epochs}"), run.folder / "curves.png")
