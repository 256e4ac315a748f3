"""``fastgen compress`` and ``fastgen decompress``: images to as many bits as a run's likelihood says, and back."""

import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import tyro
from torch import Tensor

from .. import pictures
from .._console import several
from .._extras import MissingExtraError, require
from .._files import check_can_write, write_atomic
from ..codec import Codec, Container
from ..codec.coder import Progress
from ..codec.container import MAGIC
from ..data import Dataset
from ..data.folder import OTHER_PICTURES
from ..data.identity import class_number, in_classes_of
from ..data.load import load_whole
from ..data.picture import SUFFIXES
from ..models import AutoregressiveModel
from ..training import Run, distributed, load_model
from . import parse
from .array_file import ArrayFile, is_array
from .condition_file import classes_of, in_turn, is_told_more
from .drawing import PATIENCE
from .image_folder import ImageFolder
from .images import class_names, say_notes

T = TypeVar("T")

FOLDERS = 65536
"""Of classes, at most."""


@dataclass(frozen=True, kw_only=True)
class Compress:
    """Compress images without loss, by the likelihood of an autoregressive run; fastgen decompress has the same run."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    images: tyro.conf.Positional[Path]
    """A picture, a folder of pictures, an .npy or an .npz, of the run's size and levels. Of an array that does not say
    how many, values below the run's are of these; labels of NAME.npy are in NAME-labels.npy, if it is there."""
    out: Path
    """File to write, as images.fastgen; it replaces none but such files."""
    labels: tuple[str, ...] = ()
    """Classes of the images, in turn, by name or number, of a run that is told classes; default: the images' own."""
    quantise: bool = False
    """Quantise images of more levels to the run's, as its own were: what that rounds away is lost."""
    checkpoint: Literal["best", "last"] = "best"
    """Weights to compress by."""


@dataclass(frozen=True, kw_only=True)
class Decompress:
    """Decompress a file of fastgen compress, by the same run on the same kind of machine; nothing else is decoded."""

    run: tyro.conf.Positional[Path]
    """Folder of the run that compressed the file."""
    file: tyro.conf.Positional[Path]
    """What fastgen compress wrote."""
    out: str
    """A folder for each image as a PNG, 000000.png and so on, in subfolders by class where there are labels; or
    FILE.npy for one array (N, C, H, W) of values, and FILE-labels.npy for labels."""
    overwrite: bool = False
    """Replace images in that folder, or that array."""
    checkpoint: Literal["best", "last"] = "best"
    """Weights that the file was compressed by."""


def main(arguments: list[str]) -> str:
    """Compress as the arguments say."""
    options = parse(Compress, "compress", arguments)
    _check_out(options.out, options.images)
    with distributed.processes(torch.device("cpu"), PATIENCE):
        return _compress(options)


def _check_out(out: Path, images: Path) -> None:
    """Raise ValueError unless the file can be written, and what it replaces, if anything, is another such file."""
    check_can_write("out", out, (out.suffix.lower(),))
    if out.resolve() == images.resolve() or (images.is_dir() and images.resolve() in out.resolve().parents):
        raise ValueError(f"out: expected a file that is not among the images to compress, got {out}")
    if out.suffix.lower() in {*SUFFIXES, *OTHER_PICTURES}:
        raise ValueError(f"out: expected a name that is no picture's or array's, as images.fastgen, got {out}")
    if not out.is_file() or not out.stat().st_size:
        return
    with out.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"out: expected a new file, or one of fastgen compress to replace, got {out}")


def _compress(options: Compress) -> str:
    """Processes share the streams; the first writes and speaks."""
    run, (model, codec) = Run(options.run), _codec(options)
    images = _images(options, run, model)
    if distributed.speaks():
        say_notes(images)
    labels = _labels(options, run, model, images)
    with _bar(len(images)) as progress:
        data = codec.encode(images.values, labels, progress=progress, each=_shared)
    if len(set(distributed.gather(zlib.crc32(data)))) > 1:
        raise ValueError("run: expected the same bits in all processes, got others: they compute by other arithmetic")
    distributed.first_only(lambda: write_atomic(options.out, data))
    if distributed.rank():
        return ""
    bits = 8 * len(data) / images.values.numel()
    png = png_bytes(images.values, images.levels)
    beside = "" if png is None else f"; as PNG {png:,} bytes, {8 * png / images.values.numel():.4f} bits/dim"
    by = f", by {distributed.size()} processes" if distributed.size() > 1 else ""
    return f"{options.out}: {several(len(images), 'image')} in {len(data):,} bytes, {bits:.4f} bits/dim{beside}{by}"


def _shared(encode: Callable[[slice], T], parts: list[slice]) -> list[T]:
    """What ``encode`` makes of all parts, in order: of each in one of the processes."""
    found = distributed.gather([encode(part) for part in parts[distributed.rank() :: distributed.size()]])
    return [found[index % len(found)][index // len(found)] for index in range(len(parts))]


def decompress(arguments: list[str]) -> str:
    """Decompress as the arguments say; of several processes the first one does."""
    options = parse(Decompress, "decompress", arguments)
    said: list[str] = []
    with distributed.processes(torch.device("cpu"), PATIENCE):
        distributed.first_only(lambda: said.append(_decompress(options)))
    return "".join(said)


def _decompress(options: Decompress) -> str:
    path = Path(options.out)
    many = not is_array(options.out)
    if many and not options.out.endswith(("/", os.sep)) and not path.is_dir() and path.suffix:
        raise ValueError(f"out: expected a folder or a name that ends in .npy, got {path}")
    if not many:
        check_can_write("out", path, (".npy",))
    with _errors_name(options.file):
        file = Container.from_bytes(options.file.read_bytes())
    model, codec = _codec(options)
    out = _folder(options, model, file) if many else _array(options, file)
    with _errors_name(options.file), _bar(file.about.images) as progress:
        values, _ = codec.decode(file, progress=progress)
    out.begin()
    out.write(0, values)
    out.finish()
    return f"{several(len(values), 'image')}: {out}"


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Inside, what is wrong with a file is said with its name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix('file: ')}") from error


def _codec(options: Any) -> tuple[Any, Codec]:
    """The run's model, on the CPU, and the codec of its images."""
    model = load_model(options.run, options.checkpoint, torch.device("cpu"))
    if not isinstance(model, AutoregressiveModel):
        raise ValueError(f"run: expected one of a model of pixels, one after the other, got {type(model).__name__}")
    if is_told_more(model):
        raise ValueError(
            "run: expected one that is told nothing but classes, since a file keeps nothing else, got one that is told"
            " more; fastgen.codec.Codec takes a condition"
        )
    return model, Codec(model, tuple(Run(options.run).config()["data"]["shape"]))


def _images(options: Compress, run: Run, model: Any) -> Dataset:
    """The images at the run's levels, unchanged but where ``options`` say so."""
    if not options.images.exists():
        raise FileNotFoundError(
            f"images: expected a picture, a folder of pictures, an .npy or an .npz, got {options.images}"
        )
    shape, levels = tuple(run.config()["data"]["shape"]), model.levels
    images = load_whole(options.images, levels=levels)
    if images.shape != shape:
        expected, got = ("x".join(map(str, each)) for each in (shape, images.shape))
        raise ValueError(f"images: expected {expected}, as the run's, got {got} in {options.images}")
    if images.levels > levels:
        fewer = images.quantise(levels)
        spread = (fewer.values.double() * ((images.levels - 1) / (levels - 1))).round()
        if not (options.quantise or torch.equal(spread.long(), images.values.long())):
            raise ValueError(
                f"images: expected {levels} levels, as the run's, got {images.levels} in {options.images}; --quantise"
                " makes them so, and keeps no more"
            )
        images = fewer
    if images.levels != levels:
        raise ValueError(f"images: expected {levels} levels, as the run's, got {images.levels} in {options.images}")
    return in_classes_of(images, run.config(), f"the run in {run.folder}")


def _labels(options: Compress, run: Run, model: Any, images: Dataset) -> Tensor | None:
    classes = classes_of(model)
    if not options.labels:
        if classes is not None and images.labels is None:
            raise ValueError("labels: expected the class of each image, which the model is told, got none")
        if classes is None and images.class_names is not None:
            if distributed.speaks():
                sys.stderr.write("the folders' names are not kept, since the run knows no classes\n")
            return None
        return images.labels
    if classes is None:
        raise ValueError("labels: expected none, since the model has no classes, got some")
    numbers = [class_number("labels", text, class_names(run), classes) for text in options.labels]
    return in_turn(torch.tensor(numbers), slice(0, len(images)))


def _array(options: Decompress, file: Container) -> ArrayFile:
    """The array to write, which replaces none unasked."""
    out = ArrayFile(Path(options.out), file.about.images, file.about.shape, file.about.levels, file.labels)
    out.check_place()
    out.check(options.overwrite)
    return out


def _folder(options: Decompress, model: Any, file: Container) -> ImageFolder:
    """The folder to write to, which has place for the images."""
    classes, names = classes_of(model), class_names(Run(options.run))
    if classes is None and file.labels is not None:
        classes, names = int(file.labels.max()) + 1, None
        if classes > FOLDERS:
            raise ValueError(
                f"out: expected a name that ends in .npy, for labels up to {classes - 1:,}, got {options.out}"
            )
    place = (Path(options.out), file.about.images, file.about.levels)
    out = ImageFolder(*place, file.labels, names, classes)
    out.check_place()
    out.check(options.overwrite)
    return out


def png_bytes(values: Tensor, levels: int) -> int | None:
    """Of all images as PNGs, each as small as Pillow makes it; None without Pillow, or where PNG has no such images."""
    try:
        image = require("PIL.Image")
    except MissingExtraError:
        return None
    if levels > 256 or values.shape[1] not in (1, 3):
        return None
    size = 0
    for colors in pictures.to_rgb(values, levels):
        picture = image.fromarray(colors if values.shape[1] == 3 else colors[..., 0])
        buffer = io.BytesIO()
        (picture.convert("1") if levels == 2 and values.shape[1] == 1 else picture).save(buffer, "PNG", optimize=True)
        size += buffer.tell()
    return size


@contextmanager
def _bar(n: int) -> Iterator[Progress]:
    """Inside, what shows in the first process how many images are done."""
    hidden = True if distributed.rank() else None
    with require("tqdm").tqdm(total=n, desc="images", leave=False, disable=hidden, file=sys.stderr) as bar:
        yield lambda done, _: bar.update(done - bar.n)
