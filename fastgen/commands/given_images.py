"""Images of which a part is given to a model that draws the rest: those of a run, or others; and their picture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import conditions, pictures
from .._console import several
from ..conditions import Condition
from ..data import Dataset, Downsampled, Given
from ..data.identity import class_number
from ..data.load import load_whole
from ..pictures import columns_for
from ..pictures.sheet import sheet
from ..training import Run
from ..training.checks import told_to
from .images import class_names, load_images, say_notes
from .model_options import options_of
from .run_words import called

SHOWN = 12
"""Images whose rest is drawn where nobody says how many."""
DRAWS = 3
"""Times that it is."""


def map_of(condition: Any) -> Tensor:
    """The map of a condition, which may tell a class as well."""
    return condition["map"] if isinstance(condition, dict) else condition


@dataclass(frozen=True)
class Source:
    """Images to draw from.

    Attributes:
        form: what of them is given.
        condition: of the N images, as the model is told it.
        shape: (C, H, W) of a whole image.
        levels: of a whole image.
        draws: how many images are drawn from each.
        originals: whole images (N, C, H, W), where they are known.
    """

    form: Given
    condition: Condition
    shape: tuple[int, int, int]
    levels: int
    draws: int
    originals: Tensor | None

    @property
    def n(self) -> int:
        """Images that are drawn, of all."""
        return self.draws * len(map_of(self.condition))

    def joined(self, draw: Callable[[int, int], Tensor], batch: int) -> Callable[[int, int], Tensor]:
        """``draw``, which draws images ``first`` to ``first + batch`` of ``n``, of whole images."""
        maps = map_of(self.condition)

        def whole(first: int, n: int) -> Tensor:
            index = torch.arange(first, min(first + batch, n)) % len(maps)
            return self.form.join(draw(first, n).cpu(), maps[index], self.levels).to(torch.int64)

        return whole

    def picture(self, values: Tensor, options: Any) -> np.ndarray:
        """What was given, and below it what was drawn; ``options``: of ``fastgen sample``."""
        note = self.form.words + (f"; temperature {options.temperature:g}" if options.temperature != 1 else "")
        title = f"{several(len(values), 'image')} drawn by {called(Run(options.run), options.checkpoint)}"
        parts = values.unflatten(0, (self.draws, -1))
        return _sheet(self, list(parts), title, note, options.columns)


def source_of(options: Any, model: Any, shape: tuple[int, int, int]) -> Source | None:
    """What ``fastgen sample`` draws from, of a run that is given images; None of others.

    Raises:
        ValueError: there is nothing to draw from; the run is given nothing, and the options say images.
    """
    run = Run(options.run)
    trained = options_of(run)
    form = trained.form
    if form is None or options.condition is not None:
        for name in ("given", "draws"):
            if getattr(options, name) is not None:
                raise ValueError(
                    f"{name}: expected none, since the run is given no images, got {getattr(options, name)}"
                )
        return None
    if options.complete is not None:
        raise ValueError(f"complete: expected none, since the run is given {form.words}, got {options.complete}")
    if options.decoder is not None:
        raise ValueError(f"decoder: expected none, since the run is given {form.words}, got {options.decoder}")
    draws = DRAWS if options.draws is None else options.draws
    levels, whole = form.image_levels(model.levels), form.image_shape(shape)
    if options.given is None:
        images = load_images(run, data=options.data, root=options.data_root, own=True)
        say_notes(images)
        images = images.subset(options.n or SHOWN, options.seed)
        assert images.condition is not None
        return Source(form, images.condition, whole, levels, draws, form.restore(images).values)
    maps, originals, labels = _read(Path(options.given), form, whole, levels, trained.preparation())
    n = min(options.n or len(maps), len(maps))
    maps, originals = maps[:n], None if originals is None else originals[:n]
    if model.classes is None:
        return Source(form, maps, whole, levels, draws, originals)
    names = class_names(run)
    if options.labels:
        labels = torch.tensor([class_number("labels", text, names, model.classes) for text in options.labels])
    if labels is None:
        raise ValueError("labels: expected the class of each image, which the model is told, got none")
    labels = labels[torch.arange(n) % len(labels)]
    return Source(form, {"labels": labels, "map": maps}, whole, levels, draws, originals)


def _read(
    path: Path, form: Given, shape: tuple[int, int, int], levels: int, preparation: dict[str, Any]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What is given of the images at ``path``; the images, where they are whole; their labels, if any."""
    small, as_they_are = form.given_shape(shape), None
    try:
        as_they_are = load_whole(path)
    except ValueError:  # of several sizes, which the run's preparation makes one
        if not any(value not in (None, False, "none") for value in preparation.values()):
            raise
    if as_they_are is not None and as_they_are.shape == small:
        given = as_they_are if isinstance(form, Downsampled) else as_they_are.quantise(levels)
        return form.tell(given.values, given.levels), None, given.labels
    images = load_whole(path, **preparation)
    if images.shape != shape:
        expected, small_said, got = ("x".join(map(str, each)) for each in (shape, small, images.shape))
        raise ValueError(
            f"given: expected images {expected}, or {small_said}, what is given of them, got {got} in {path}"
        )
    images = images.quantise(levels)
    _, maps = form.split(images.values, levels)
    return maps, images.values, images.labels


def draw_given(model: Any, held_out: Dataset, form: Given, n: int, seed: int, of: str) -> np.ndarray:
    """What a model draws from held-out images, two of each, ``n`` in all; ``of``: model, data and epoch, in words."""
    device = next(model.parameters()).device
    some = told_to(model, held_out).subset(max(1, n // 2))
    condition = conditions.apply(lambda part: part.to(device), some.told)
    drawn = [model.sample(len(some), seed=seed + i, condition=condition).cpu() for i in range(2)]
    whole = form.restore(some)
    assert some.condition is not None
    source = Source(form, some.condition, whole.shape, whole.levels, 2, whole.values)
    parts = [form.join(each, map_of(some.condition).cpu(), whole.levels) for each in drawn]
    return _sheet(source, parts, f"{several(len(some), 'held-out image')}, {form.words}: {of}", "", None)


def _sheet(source: Source, drawn: list[Tensor], title: str, note: str, columns: int | None) -> np.ndarray:
    """Rows of what is given, of what was drawn from it, and of the images themselves."""
    maps = map_of(source.condition).cpu()
    rows = [pictures.to_rgb(source.form.shown(maps, source.shape[1:]), 256)]
    rows += [pictures.to_rgb(each, source.levels) for each in drawn]
    names = ["given", *["drawn"] * len(drawn)]
    if source.originals is not None:
        rows.append(pictures.to_rgb(source.originals, source.levels))
        names.append("original")
    columns = min(columns or columns_for(len(maps), len(rows)), len(maps))
    return sheet(pictures.in_turn(rows, columns), title, columns=columns, note=note, rows=names)
