"""``fastgen sample``: draw images from a run, or complete half-hidden ones."""

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor

from .. import pictures, sampling
from .._extras import require
from .._files import check_can_write, write_atomic
from .._philox import uniforms
from ..data.formats import read_npz
from ..data.identity import class_number
from ..models import AutoregressiveModel
from ..sampling import Sampler
from ..training import Run, load_model
from . import check_seed, parse, pick_device
from .images import class_names, load_images, say_notes

HALVES = ("top-half", "bottom-half", "left-half", "right-half")
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw images from a run: from autoregressive models with the compiled sampler."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    n: int = 64
    """How many images."""
    seed: int = 0
    """Image i depends on the seed and i alone."""
    temperature: float = 1.0
    """Below 1 gives likelier images: divides the logits, or scales the prior of a model with latent variables."""
    labels: tuple[str, ...] = ()
    """Classes to draw, in turn, from a conditional model, by name or number; default: all of them."""
    complete: str | None = None
    """Complete images: given the top-half, bottom-half, left-half or right-half of held-out ones, and their labels
    where the model has classes; or FILE.npz with known, values (N, C, H, W) or (H, W), and known_mask, bool, true where
    they are given."""
    out: Path = Path("samples.png")
    """Picture to write."""
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
    if options.n < 1:
        raise ValueError(f"n: expected 1 or more, got {options.n}")
    if options.columns is not None and options.columns < 1:
        raise ValueError(f"columns: expected 1 or more, got {options.columns}")
    if options.data is not None and options.complete not in HALVES:
        raise ValueError(f"data: expected it with --complete {', '.join(HALVES)}, which show the run's images")
    check_seed(options.seed)
    check_can_write("out", options.out, (".png",))
    if options.npz is not None:
        check_can_write("npz", options.npz, (".npz",))
    model = load_model(options.run, options.checkpoint, pick_device(options.device))
    shape: tuple[int, int, int] = tuple(Run(options.run).config()["data"]["shape"])
    given = None if options.complete is None else _given(options, model, shape)
    n = options.n if given is None else len(given.values)
    labels = given.labels if given is not None and not options.labels else None
    names = class_names(Run(options.run))
    labels = _labels(options.labels, n, model.classes, names) if labels is None else labels
    draw, how = _way(model, shape, options, labels, given)
    started = time.perf_counter()
    values = torch.cat([draw(first, n) for first in range(0, n, BATCH)]).cpu()
    seconds = time.perf_counter() - started

    rows = [pictures.to_rgb(values, model.levels)]
    if given is not None:
        known = pictures.to_rgb(given.values, model.levels)
        rows = [*([known] if given.whole else []), pictures.hide(known, given.mask[:, 0]), *rows]
    columns = options.columns or (model.classes if labels is not None and not options.labels else None)
    columns = min(columns or math.ceil(n**0.5), n)
    picture = pictures.grid(pictures.in_turn(rows, columns), columns)
    if names is not None and labels is not None and torch.equal(labels, labels[:columns].repeat(n)[:n]):
        picture = pictures.head(picture, [names[label] for label in labels[:columns].tolist()])
    pictures.save(picture, options.out)
    if options.npz is not None:
        arrays: dict[str, Any] = {"x": values.numpy().astype(np.uint8), "levels": np.array(model.levels)}
        buffer = io.BytesIO()
        if labels is not None:
            arrays |= {"y": labels.numpy(), "classes": np.array(model.classes)}
            arrays |= {} if names is None else {"class_names": np.array(names)}
        np.savez_compressed(buffer, **arrays)
        write_atomic(options.npz, buffer.getvalue())
    return f"{n} images in {seconds:.2f} s, {n / seconds:.1f} images/s, {how}: {options.out}"


class Given(NamedTuple):
    """Images to complete: values (N, C, H, W); mask, true where they are given; whole if the rest is known too."""

    values: Tensor
    mask: Tensor
    labels: Tensor | None
    whole: bool


def _given(options: Sample, model: AutoregressiveModel, shape: tuple[int, int, int]) -> Given:
    if options.complete in HALVES:
        images = load_images(Run(options.run), data=options.data, root=options.data_root, own=True)
        say_notes(images)
        if options.n > len(images):
            raise ValueError(f"n: expected at most {len(images)}, the images of {images.name}, got {options.n}")
        images = images.subset(options.n, options.seed)
        _, height, width = shape
        parts = {
            "top-half": (slice(height // 2), slice(None)),
            "bottom-half": (slice(height // 2, None), slice(None)),
            "left-half": (slice(None), slice(width // 2)),
            "right-half": (slice(None), slice(width // 2, None)),
        }
        mask = torch.zeros(images.values.shape, dtype=torch.bool)
        rows, columns = parts[options.complete]
        mask[..., rows, columns] = True
        return Given(images.values, mask, images.labels if model.classes is not None else None, whole=True)
    path = Path(str(options.complete))
    if path.suffix != ".npz":
        raise ValueError(f"complete: expected {', '.join(HALVES)} or an .npz, got {path}")
    arrays = read_npz(path)
    if not {"known", "known_mask"} <= arrays.keys() or arrays["known_mask"].dtype != bool:
        raise ValueError(f"{path}: expected known, and known_mask of bool, got {', '.join(arrays)}")
    if arrays["known"].dtype.kind not in "biu" or not arrays["known"].size:
        got = f"{arrays['known'].dtype} {arrays['known'].shape}"
        raise ValueError(f"{path}: expected known to be integers, of one image or more, got {got}")
    known, mask = torch.from_numpy(arrays["known"].astype(np.int64)), torch.from_numpy(arrays["known_mask"])
    size = (len(known) if known.dim() == 4 else options.n, *shape)
    try:
        return Given(known.expand(size), mask.expand(size), None, whole=False)
    except RuntimeError as error:
        got = f"{tuple(known.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"{path}: expected known and known_mask that fit images {size}, got {got}") from error


def _labels(wanted: tuple[str, ...], n: int, classes: int | None, names: list[str] | None) -> Tensor | None:
    """``n`` labels: those wanted, or else all classes, in turn."""
    if classes is None:
        if wanted:
            raise ValueError("labels: expected none, since the model has no classes, got some")
        return None
    numbers = [class_number("labels", text, names, classes) for text in wanted] or range(classes)
    return torch.tensor(numbers).repeat(n)[:n]


def _way(
    model: Any, shape: tuple[int, int, int], options: Sample, labels: Tensor | None, given: Given | None
) -> tuple[Callable[[int, int], Tensor], str]:
    """(first, n) → images ``first`` to ``first + BATCH`` of ``n``, and how they are drawn."""
    if isinstance(model, AutoregressiveModel):
        sampler = sampling.compile(model, shape)
        return lambda first, n: _draw(sampler, options, first, n, labels, given), "with the compiled sampler"
    kind = type(model).__name__
    if not hasattr(model, "sample"):
        raise ValueError(
            f"run: expected a model that draws images, got {kind}; fastgen explore shows what it has learned"
        )
    if given is not None:
        raise ValueError(f"complete: expected none, since {kind} draws whole images, got {options.complete}")
    device = next(model.parameters()).device
    labels = labels if labels is None else labels.to(device)

    def draw(first: int, n: int) -> Tensor:
        part = slice(first, min(first + BATCH, n))
        return model.sample(
            part.stop - part.start, seed=options.seed, labels=labels if labels is None else labels[part],
            temperature=options.temperature, first=first,
        )  # fmt: skip

    return draw, "a forward of the decoder each"


def _draw(sampler: Sampler, options: Sample, first: int, n: int, labels: Tensor | None, given: Given | None) -> Tensor:
    """Images ``first`` to ``first + BATCH`` of ``n``."""
    part = slice(first, min(first + BATCH, n))
    with require("tqdm").tqdm(total=sampler.shape[1], desc="rows", leave=False, disable=None) as bar:
        return sampler.sample(
            uniforms=uniforms(options.seed, part.stop - part.start, sampler.shape, first=first),
            temperature=options.temperature,
            labels=labels if labels is None else labels[part],
            known=given if given is None else given.values[part],
            known_mask=given if given is None else given.mask[part],
            progress=lambda rows, _: bar.update(rows - bar.n),
        )
