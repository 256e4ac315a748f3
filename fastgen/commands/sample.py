"""``fastgen sample``: draw images from a run, or complete half-hidden ones."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from .. import pictures, sampling
from .._checks import listed
from .._console import several
from .._extras import require
from .._files import check_can_write
from .._philox import uniforms
from .._version import __version__
from ..conditions import Condition, apply, tensors_of
from ..data.identity import class_number
from ..models import VQVAE, AutoregressiveModel
from ..models.drawing import draws_images
from ..sampling import Sampler
from ..training import Run, distributed, load_model
from ..training.checkpoint import digest
from . import check_seed, parse, pick_device
from .array_file import ArrayFile, is_array
from .completion import DRAWN, HALVES, Partial, images_to_complete
from .condition_file import classes_of, condition_for, in_turn, is_told_more
from .drawing import PATIENCE, draw_all
from .given_images import source_of
from .image_folder import ImageFolder
from .images import class_names
from .model_options import options_of
from .run_words import by_prior
from .sample_picture import check_fits, picture_of, save_npz

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw images from a run: from autoregressive models with the compiled sampler."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    n: int | None = None
    """How many images; default: 64, or all there are to complete where they are fewer, or where they are a FILE.npz's;
    from how many given ones, default: 12 held-out ones, or all of --given."""
    seed: int = 0
    """Image i depends on the seed and i alone."""
    temperature: float = 1.0
    """Below 1 gives likelier images: divides the logits, or scales the prior of a model with latent variables."""
    labels: tuple[str, ...] = ()
    """Classes to draw, in turn, from a conditional model, by name or number; default: all of them."""
    condition: Path | None = None
    """Conditions of the images, in turn, for a model that is told something other than a class: an .npy of one for each
    image; or an .npz of condition, or of condition_NAME for each part. Without --n there are as many images."""
    given: str | None = None
    """Of a run that was trained with --given: images to draw from, a picture, a folder of pictures, an .npy or an .npz,
    whole ones or what is given of such; default: held-out ones of the run."""
    draws: int | None = None
    """Images to draw from each of those; default: 3."""
    complete: str | None = None
    """Complete images: given the top-half, bottom-half, left-half or right-half of held-out ones, and their labels or
    condition where the model is told any; or FILE.npz with known, values (N, C, H, W) or (H, W), and known_mask, bool,
    true where they are given."""
    out: str = "samples.png"
    """Picture of all images to write; or a folder, one that is there or a name that ends in /, for each image as a PNG
    of its own: 000000.png and so on, of true size, in subfolders by class where the model has classes; or FILE.npy for
    one array (N, C, H, W), and FILE-labels.npy where the model has classes. Folder and array take any number of images,
    and the same command goes on where it was killed."""
    shard: int | None = None
    """Images in a folder, at most: 000000/, 000001/ and so on in that folder, each as it would be without."""
    overwrite: bool = False
    """Replace that array, or images in that folder, that were drawn before, and begin anew where a start was killed."""
    npz: Path | None = None
    """Also write the values, and the labels if any, as an .npz."""
    columns: int | None = None
    """Images in a row of the picture."""
    decoder: Path | None = None
    """Run of the VQ-VAE that decodes what is drawn, where the run is of a prior over its codes."""
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
    if options.draws is not None and options.draws < 1:
        raise ValueError(f"draws: expected 1 or more, got {options.draws}")
    if options.columns is not None and options.columns < 1:
        raise ValueError(f"columns: expected 1 or more, got {options.columns}")
    if options.data is not None and options.complete not in HALVES and options_of(Run(options.run)).form is None:
        raise ValueError(f"data: expected it with --complete {', '.join(HALVES)}, which show the run's images")
    check_seed(options.seed)
    many = options.out.endswith(("/", os.sep)) or Path(options.out).is_dir()
    what = "a folder of single images" if many else "an array" if is_array(options.out) else ""
    if not many:
        check_can_write("out", Path(options.out), (".png", ".npy"))
    if what and options.columns is not None:
        raise ValueError(f"columns: expected none, since {Path(options.out)} is {what}, got {options.columns}")
    if options.shard is not None and not (many and options.shard > 0):
        raise ValueError(f"shard: expected 1 or more, with a folder of single images, got {options.shard}")
    if options.npz is not None:
        check_can_write("npz", options.npz, (".npz",), named=True)
    _check_keeps_what_it_reads(options)
    device = distributed.local_device(pick_device(options.device))
    with distributed.processes(device, PATIENCE):
        said = _sample(options, device, what)
        return said if distributed.rank() == 0 else ""


def _check_keeps_what_it_reads(options: Sample) -> None:
    """Raise ValueError if a file that the images depend on would be written over."""
    given = (options.complete, options.condition, options.given)
    read = {Path(each).resolve() for each in given if each is not None and each not in HALVES}
    for name, path in {"out": Path(options.out), "npz": options.npz}.items():
        if path is not None and path.resolve() in read:
            raise ValueError(f"{name}: expected another file than those that are read, got {path}")


def _sample(options: Sample, device: torch.device, what: str) -> str:
    """``what``: is written, if no picture."""
    run, path = Run(options.run), Path(options.out)
    model = load_model(options.run, options.checkpoint, device)
    _check_draws(model, options.run)
    shape: tuple[int, int, int] = tuple(run.config()["data"]["shape"])
    if options.complete is not None and not isinstance(model, AutoregressiveModel):
        kind = type(model).__name__
        raise ValueError(f"complete: expected none, since {kind} draws whole images, got {options.complete}")
    source = source_of(options, model, shape)
    given = None if options.complete is None else images_to_complete(options, model, shape)
    names = class_names(run)
    n, labels, condition = _told(options, model, names, given) if source is None else (source.n, None, source.condition)
    told = {"labels": labels} if condition is None else {"condition": condition}
    draw, how = _way(model, shape, options, told, given)
    levels = model.levels
    if source is not None:
        draw, shape, levels = source.joined(draw, BATCH), source.shape, source.levels
    if options.decoder is not None:
        coder = _coder(options, model, shape, device)
        codes, how = draw, f"{how}, and a decoder"

        def draw(first: int, n: int) -> Tensor:
            return coder.images(codes(first, n))

        levels, shape = coder.levels, (coder.in_channels, *coder.sides)
    check_fits(n, shape, picture=not what, npz=options.npz is not None)
    out: ImageFolder | ArrayFile | None = None
    if what == "an array":
        out = ArrayFile(path, n, shape, levels, labels)
    elif what:
        out = ImageFolder(path, n, levels, labels, names, classes_of(model), options.shard)
    weights = {name: each.cpu() for name, each in model.state_dict().items()}
    if options.decoder is not None:
        weights |= {f"decoder.{name}": each.cpu() for name, each in coder.state_dict().items()}
    request = {
        "n": n, "seed": options.seed, "temperature": options.temperature, "shard": options.shard, "batch": BATCH,
        "weights": digest(weights), "known": _digest([] if given is None else [given.values, given.mask]),
        "labels or condition": _digest(tensors_of(labels if condition is None else condition)),
        "device": device.type, "fastgen": __version__,
    }  # fmt: skip
    keep = out is None or options.npz is not None
    drawn = draw_all(draw, n, BATCH, out, keep, request, options.overwrite)

    def save() -> None:
        assert drawn.values is not None
        if out is None and source is not None:
            pictures.save(source.picture(drawn.values, options), path)
        elif out is None:
            picture = picture_of(drawn.values, model, options, in_turn(labels, slice(0, n)), names, given, levels)
            pictures.save(picture, path)
        if options.npz is not None:
            first = [in_turn(each, slice(0, n)) for each in (labels, condition)]
            save_npz(options.npz, drawn.values, model, first[0], names, first[1], levels)

    if keep:
        distributed.first_only(save)
    pace = f" in {drawn.seconds:.2f} s, {drawn.new / drawn.seconds:.1f} images/s" if drawn.new else ""
    before = "" if drawn.new == n else f", {n - drawn.new:,} of them before"
    by = f", by {distributed.size()} processes" if distributed.size() > 1 else ""
    return f"{several(n, 'image')}{before}{pace}, {how}{by}: {out or path}"


def _digest(parts: Sequence[Tensor]) -> str:
    return digest({str(index): part for index, part in enumerate(parts)})


def _check_draws(model: Any, folder: Path) -> None:
    """Raise ValueError, with what can be done instead, if the model of the run in ``folder`` draws no images."""
    if draws_images(model):
        return
    got = f"got {type(model).__name__}"
    if isinstance(model, VQVAE):
        raise ValueError(f"run: expected a model that draws images by itself, {got}: {by_prior(folder)}")
    way = "explore" if hasattr(model, "encode") else "evaluate"
    raise ValueError(f"run: expected a model that draws images, {got}; fastgen {way} says what it has learned")


def _coder(options: Sample, prior: Any, shape: tuple[int, int, int], device: torch.device) -> VQVAE:
    """The VQ-VAE whose codes ``prior`` draws."""
    if options.complete is not None:
        raise ValueError(f"decoder: expected none with --complete, which shows codes, got {options.decoder}")
    assert options.decoder is not None
    coder = load_model(options.decoder, "best", device)
    if not isinstance(coder, VQVAE):
        raise ValueError(f"decoder: expected the run of a vqvae, got {options.decoder}, of {type(coder).__name__}")
    of, drawn = ((1, *coder.code_size), coder.codes), (shape, prior.levels)
    if of != drawn:
        words = [f"{height}x{width} maps of {codes} codes" for (_, height, width), codes in (drawn, of)]
        raise ValueError(f"decoder: expected one of {words[0]}, as the run draws, got one of {words[1]}")
    return coder


def _told(
    options: Sample, model: Any, names: list[str] | None, given: Partial | None
) -> tuple[int, Tensor | None, Condition | None]:
    """How many images, and the labels or the condition that they have in turn, if any: those asked for, else of the
    images given.
    """
    own = None if given is None else given.told
    if not is_told_more(model):
        condition_for(model, options.condition)
        n = options.n or DRAWN if given is None else len(given.values)
        if own is not None and not options.labels:
            return n, own, None  # type: ignore[return-value]
        return n, _labels(options.labels, classes_of(model), names), None
    if options.labels:
        raise ValueError(f"labels: expected none, since the model is told a condition, got {listed(options.labels)}")
    condition = own if own is not None and options.condition is None else condition_for(model, options.condition)
    assert condition is not None  # one that is told more has one, or has raised
    n = options.n or len(tensors_of(condition)[0]) if given is None else len(given.values)
    return n, None, condition


def _labels(wanted: tuple[str, ...], classes: int | None, names: list[str] | None) -> Tensor | None:
    """The labels that images have in turn: those wanted, or else all classes."""
    if classes is None:
        if wanted:
            raise ValueError("labels: expected none, since the model has no classes, got some")
        return None
    numbers = [class_number("labels", text, names, classes) for text in wanted] or range(classes)
    return torch.tensor(numbers)


def _way(
    model: Any, shape: tuple[int, int, int], options: Sample, told: dict[str, Any], given: Partial | None
) -> tuple[Callable[[int, int], Tensor], str]:
    """(first, n) → images ``first`` to ``first + BATCH`` of ``n``, and how they are drawn."""
    if isinstance(model, AutoregressiveModel):
        sampler = sampling.compile(model, shape)
        return lambda first, n: _draw(sampler, options, first, n, told, given), "with the compiled sampler"
    device = next(model.parameters()).device
    told = {name: apply(lambda part: part.to(device), each) for name, each in told.items()}

    def draw(first: int, n: int) -> Tensor:
        part = slice(first, min(first + BATCH, n))
        return model.sample(
            part.stop - part.start, seed=options.seed, temperature=options.temperature, first=first, **_of(part, told)
        )

    how = f"a forward of the {'generator' if hasattr(model, 'generator') else 'decoder'} each"
    return draw, getattr(model, "drawn_how", how)


def _of(part: slice, told: dict[str, Any]) -> dict[str, Any]:
    """The arguments that tell of the images in ``part``."""
    return {name: in_turn(each, part) for name, each in told.items()}


def _draw(sampler: Sampler, options: Sample, first: int, n: int, told: dict[str, Any], given: Partial | None) -> Tensor:
    """Images ``first`` to ``first + BATCH`` of ``n``."""
    part = slice(first, min(first + BATCH, n))
    about = _of(part, told)
    known, mask = (None, None) if given is None else (given.values[part], given.mask[part])
    if isinstance(sampler.model, AutoregressiveModel) and given is None:
        known, mask = sampler.model.known_by(about.get("condition")) or (None, None)
    with require("tqdm").tqdm(total=sampler.shape[1], desc="rows", leave=False, disable=None) as bar:
        return sampler.sample(
            uniforms=uniforms(options.seed, part.stop - part.start, sampler.uniforms_shape, first=first),
            temperature=options.temperature,
            **about,
            known=known,
            known_mask=mask,
            progress=lambda rows, _: bar.update(rows - bar.n),
        )
