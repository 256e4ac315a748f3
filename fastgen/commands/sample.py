"""``fastgen sample``: draw images from a run, or complete half-hidden ones."""

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from .. import pictures, sampling
from .._checks import listed
from .._console import several
from .._extras import require
from .._files import check_can_write, write_atomic
from .._philox import uniforms
from ..conditions import Condition, apply, select, tensors_of
from ..data.identity import class_number
from ..models import AutoregressiveModel
from ..pictures import columns_for, columns_in_turn
from ..pictures.sheet import Names, class_words, of_classes, sheet
from ..sampling import Sampler
from ..training import Run, load_model
from . import check_seed, parse, pick_device
from .completion import DRAWN, HALVES, Partial, images_to_complete
from .condition_file import as_arrays, classes_of, condition_for, in_turn, is_told_more
from .image_folder import ImageFolder
from .images import class_names
from .run_words import called

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw images from a run: from autoregressive models with the compiled sampler."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    n: int | None = None
    """How many images; default: 64, or all there are to complete where they are fewer."""
    seed: int = 0
    """Image i depends on the seed and i alone."""
    temperature: float = 1.0
    """Below 1 gives likelier images: divides the logits, or scales the prior of a model with latent variables."""
    labels: tuple[str, ...] = ()
    """Classes to draw, in turn, from a conditional model, by name or number; default: all of them."""
    condition: Path | None = None
    """Conditions of the images, in turn, for a model that is told something other than a class: an .npy of one for each
    image; or an .npz of condition, or of condition_NAME for each part. Without --n there are as many images."""
    complete: str | None = None
    """Complete images: given the top-half, bottom-half, left-half or right-half of held-out ones, and their labels or
    condition where the model is told any; or FILE.npz with known, values (N, C, H, W) or (H, W), and known_mask, bool,
    true where they are given."""
    out: str = "samples.png"
    """Picture of all images to write; or a folder, one that is there or a name that ends in /, for each image as a PNG
    of its own: 000000.png and so on, of true size, in subfolders by class where the model has classes."""
    overwrite: bool = False
    """Replace images in that folder that were drawn before."""
    npz: Path | None = None
    """Also write the values, and the labels if any, as an .npz."""
    columns: int | None = None
    """Images in a row of the picture."""
    checkpoint: Literal["best", "last"] = "best"
    """Weights to draw from."""
    data: str | None = None
    """Where the run's data are now, for held-out images, if they were moved; it is checked that they are the same."""
    data_root: str | None = None
    """Folder of the data set's files, for held-out images; default: the run's, else FASTGEN_DATA."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is CUDA where there is one."""


def main(arguments: list[str]) -> str:
    """Draw as the arguments say."""
    options = parse(Sample, "sample", arguments)
    if options.n is not None and options.n < 1:
        raise ValueError(f"n: expected 1 or more, got {options.n}")
    if options.columns is not None and options.columns < 1:
        raise ValueError(f"columns: expected 1 or more, got {options.columns}")
    if options.data is not None and options.complete not in HALVES:
        raise ValueError(f"data: expected it with --complete {', '.join(HALVES)}, which show the run's images")
    check_seed(options.seed)
    out, folder = Path(options.out), None
    many = options.out.endswith(("/", os.sep)) or out.is_dir()
    if not many:
        check_can_write("out", out, (".png",))
    if many and options.columns is not None:
        raise ValueError(f"columns: expected none, since {out} is a folder of single images, got {options.columns}")
    if options.npz is not None:
        check_can_write("npz", options.npz, (".npz",))
    model = load_model(options.run, options.checkpoint, pick_device(options.device))
    shape: tuple[int, int, int] = tuple(Run(options.run).config()["data"]["shape"])
    if options.complete is not None and not isinstance(model, AutoregressiveModel):
        kind = type(model).__name__
        raise ValueError(f"complete: expected none, since {kind} draws whole images, got {options.complete}")
    given = None if options.complete is None else images_to_complete(options, model, shape)
    names = class_names(Run(options.run))
    n, labels, condition = _told(options, model, names, given)
    if many:
        folder = ImageFolder(out, n, model.levels, labels, names, classes_of(model))
        folder.check(options.overwrite)
    draw, how = _way(
        model, shape, options, {"labels": labels} if condition is None else {"condition": condition}, given
    )
    kept, seconds = [], 0.0
    with require("tqdm").tqdm(total=n, desc="images", leave=False, disable=None if n > BATCH else True) as bar:
        for first in range(0, n, BATCH):
            started = time.perf_counter()
            values = draw(first, n).cpu()
            seconds += time.perf_counter() - started
            if folder is not None:
                folder.write(first, values)
            if folder is None or options.npz is not None:
                kept.append(values.to(torch.uint8))
            bar.update(len(values))
    if folder is None:
        pictures.save(_picture(torch.cat(kept), model, options, labels, names, given), out)
    if options.npz is not None:
        _save_npz(options.npz, torch.cat(kept), model, labels, names, {} if condition is None else as_arrays(condition))
    where = out if folder is None else f"{out}{os.sep}, a PNG each"
    return f"{several(n, 'image')} in {seconds:.2f} s, {n / seconds:.1f} images/s, {how}: {where}"


def _picture(
    values: Tensor,
    model: Any,
    options: Sample,
    labels: Tensor | None,
    names: list[str] | None,
    given: Partial | None,
) -> np.ndarray:
    """All images, and where some were given, these above them."""
    n, of = len(values), called(Run(options.run), options.checkpoint)
    title = f"{several(n, 'sample')} of {of}"
    rows, said, note = [pictures.to_rgb(values, model.levels)], ["drawn"], ""
    if given is not None:
        known = pictures.to_rgb(given.values, model.levels)
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


def _save_npz(
    path: Path, values: Tensor, model: Any, labels: Tensor | None, names: list[str] | None, others: dict[str, Any]
) -> None:
    arrays: dict[str, Any] = {"x": values.numpy().astype(np.uint8), "levels": np.array(model.levels), **others}
    buffer = io.BytesIO()
    if labels is not None:
        arrays |= {"y": labels.numpy(), "classes": np.array(classes_of(model))}
        arrays |= {} if names is None else {"class_names": np.array(names)}
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def _told(
    options: Sample, model: Any, names: list[str] | None, given: Partial | None
) -> tuple[int, Tensor | None, Condition | None]:
    """How many images, and the labels or the condition of each, if any: those asked for, else of the images given."""
    own = None if given is None else given.told
    if not is_told_more(model):
        condition_for(model, options.condition)
        n = options.n or DRAWN if given is None else len(given.values)
        if own is not None and not options.labels:
            return n, own, None  # type: ignore[return-value]
        return n, _labels(options.labels, n, classes_of(model), names), None
    if options.labels:
        raise ValueError(f"labels: expected none, since the model is told a condition, got {listed(options.labels)}")
    condition = own if own is not None and options.condition is None else condition_for(model, options.condition)
    assert condition is not None  # one that is told more has one, or has raised
    n = options.n or len(tensors_of(condition)[0]) if given is None else len(given.values)
    return n, None, in_turn(condition, n)


def _labels(wanted: tuple[str, ...], n: int, classes: int | None, names: list[str] | None) -> Tensor | None:
    """``n`` labels: those wanted, or else all classes, in turn."""
    if classes is None:
        if wanted:
            raise ValueError("labels: expected none, since the model has no classes, got some")
        return None
    numbers = [class_number("labels", text, names, classes) for text in wanted] or range(classes)
    return torch.tensor(numbers).repeat(n)[:n]


def _way(
    model: Any, shape: tuple[int, int, int], options: Sample, told: dict[str, Any], given: Partial | None
) -> tuple[Callable[[int, int], Tensor], str]:
    """(first, n) → images ``first`` to ``first + BATCH`` of ``n``, and how they are drawn."""
    if isinstance(model, AutoregressiveModel):
        sampler = sampling.compile(model, shape)
        return lambda first, n: _draw(sampler, options, first, n, told, given), "with the compiled sampler"
    kind = type(model).__name__
    if not hasattr(model, "sample"):
        way = "explore" if hasattr(model, "encode") else "evaluate"
        raise ValueError(f"run: expected a model that draws images, got {kind}; fastgen {way} says what it has learned")
    device = next(model.parameters()).device
    told = {name: apply(lambda part: part.to(device), each) for name, each in told.items()}

    def draw(first: int, n: int) -> Tensor:
        part = slice(first, min(first + BATCH, n))
        return model.sample(
            part.stop - part.start, seed=options.seed, temperature=options.temperature, first=first, **_of(part, told)
        )

    return draw, "a forward of the decoder each"


def _of(part: slice, told: dict[str, Any]) -> dict[str, Any]:
    """The arguments that tell of the images in ``part``."""
    return {name: select(each, part) for name, each in told.items()}


def _draw(sampler: Sampler, options: Sample, first: int, n: int, told: dict[str, Any], given: Partial | None) -> Tensor:
    """Images ``first`` to ``first + BATCH`` of ``n``."""
    part = slice(first, min(first + BATCH, n))
    with require("tqdm").tqdm(total=sampler.shape[1], desc="rows", leave=False, disable=None) as bar:
        return sampler.sample(
            uniforms=uniforms(options.seed, part.stop - part.start, sampler.uniforms_shape, first=first),
            temperature=options.temperature,
            **_of(part, told),
            known=given if given is None else given.values[part],
            known_mask=given if given is None else given.mask[part],
            progress=lambda rows, _: bar.update(rows - bar.n),
        )
