"""``fastgen explore``: what a model's latent space holds, as pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from .. import exploring, pictures
from .._console import several
from .._extras import require
from ..baselines import PCA
from ..data import Dataset
from ..data.identity import class_number
from ..models import VQVAE, Autoencoder
from ..models.drawing import draws_images
from ..training import Run, load_model
from . import check_seed, parse, pick_device
from .beside import fitted_pca
from .condition_file import is_told_more
from .explore_groups import FROM_PRIOR, classes_of, draw_from_prior, drawn_groups, draws_codes, groups_of
from .images import class_names, load_images, say_notes
from .run_words import called

Kind = Literal[
    "reconstructions", "samples", "grid", "manifold", "traversals", "interpolations", "arithmetic", "nearest", "scatter"
]
NEEDS: dict[str, tuple[str, ...]] = {
    "reconstructions": ("encode", "decode"),
    "samples": ("sample",),
    "grid": ("draw_codes", "decode"),
    "manifold": ("decode", "sample"),
    "traversals": ("encode", "decode"),
    "interpolations": ("encode", "decode"),
    "arithmetic": ("encode", "decode"),
    "nearest": ("sample",),
    "scatter": ("encode",),
}
"""What a model must have for each kind of picture; what has no ``sample`` has no prior to draw codes from."""

FEWEST = {"interpolations": 2, "scatter": 2, "traversals": 2}
"""Held-out images that a kind of picture needs, where one is not enough."""

SEEN = 2000
"""Held-out images that order dimensions, that the scatter shows, and that errors are means of."""


@dataclass(frozen=True, kw_only=True)
class Explore:
    """Draw what a model's latent space holds, each kind of picture as a PNG."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    what: tyro.conf.Positional[tuple[Kind, ...]] = ()
    """Pictures to draw; default: all that the model can."""
    out: Path | None = None
    """Folder to write them to; default: RUN/explore."""
    n: int = 10
    """Images in a row; samples have as many rows."""
    seed: int = 0
    """Of the images drawn, and of the held-out images shown."""
    side: int = 20
    """Codes along each side of the manifold."""
    dims: tuple[int, int] | None = None
    """Latent dimensions of manifold and scatter; default: the two that tell most of an image."""
    label: str | None = None
    """Class of the manifold's images, for a conditional model, by name or number; default: the first."""
    groups: tuple[str, str, str] | None = None
    """Of the arithmetic a - b + c: each class=NAME, class=K, or the numbers of held-out images, as 3,14,15;
    default: the first three classes of which there are held-out images. Of a model without an encoder the numbers are
    those of drawn images, as the grid shows them."""
    checkpoint: Literal["best", "last"] = "best"
    """Weights to explore."""
    data: str | None = None
    """Where the run's data are now, if they were moved; it is checked that they are the same."""
    data_root: str | None = None
    """Folder of the data set's files; default: the run's, else FASTGEN_DATA."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is CUDA where there is one."""


def main(arguments: list[str]) -> str:
    """Draw as the arguments say."""
    options = parse(Explore, "explore", arguments)
    check_seed(options.seed)
    for name in ("n", "side"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name}: expected 1 or more, got {getattr(options, name)}")
    model = load_model(options.run, options.checkpoint, pick_device(options.device))
    if is_told_more(model):
        got = f"{type(model).__name__}, which is told more: fastgen sample --condition draws from it"
        raise ValueError(f"run: expected a model that is told nothing, or a class, got {got}")
    if isinstance(model, VQVAE):
        got = f"{type(model).__name__}, whose codes are maps of integers: fastgen encode writes them"
        raise ValueError(f"run: expected a model whose codes are vectors, got {got}")
    able = [kind for kind in NEEDS if _can(model, kind)]
    for kind in options.what:
        if kind not in able:
            raise ValueError(f"what: expected {', '.join(able) or 'none'}, which this model can show, got {kind}")
    images = load_images(Run(options.run), data=options.data, root=options.data_root, own=True)
    say_notes(images)
    kinds = [kind for kind in (options.what or able) if kind in options.what or _applies(kind, model, images, options)]
    if not kinds:
        raise ValueError(f"run: expected a model that can be drawn from or has codes, got {type(model).__name__}")
    _check_read(kinds, model, images, options)
    folder = options.out or options.run / "explore"
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: expected a folder to write to, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    of = called(Run(options.run), options.checkpoint)
    with require("tqdm").tqdm(kinds, desc="pictures", leave=False, disable=None) as bar:
        for kind in bar:
            bar.set_postfix_str(kind)
            bar.write(_draw(kind, model, images, options, of, folder / f"{kind}.png"))
    return f"{several(len(kinds), 'picture')} in {folder}"


READERS: dict[str, tuple[str, ...]] = {
    "label": ("manifold",),
    "dims": ("manifold", "scatter"),
    "groups": ("arithmetic",),
}
"""Pictures that read an option which says what they show."""


def _check_read(kinds: Sequence[str], model: Any, images: Dataset, options: Explore) -> None:
    """Raise ValueError if an option was given that no picture reads, or groups of images that are not there."""
    if options.label is not None and model.classes is None:
        raise ValueError(f"label: expected none, since the model has no classes, got {options.label}")
    if options.label is not None:
        class_number("label", options.label, class_names(Run(options.run)), model.classes)
    for name, readers in READERS.items():
        value = getattr(options, name)
        walks = hasattr(model, "walk") and model.walk(1) is not None  # along the parts of a prior: it has its own ways
        read = [kind for kind in readers if kind in kinds and not (kind == "manifold" and walks)]
        if value is not None and not read:
            said = " ".join(map(str, value)) if isinstance(value, tuple) else value
            got = f"got {said} with {', '.join(kinds)}"
            raise ValueError(f"{name}: expected it with {' or '.join(readers)} only, {got}")
    if "arithmetic" in kinds and model.classes is None:
        if draws_codes(model):
            drawn_groups(options.groups, options.n)
        else:
            groups_of(options.groups, images, torch.device("cpu"))


def _can(model: Any, kind: str) -> bool:
    """Whether a model has what a picture needs; a model that has names for its codes can take these through values."""
    if hasattr(model, "code_traversals") and kind in ("traversals", "manifold"):
        return kind == "traversals"  # a manifold would be of codes without a category
    if kind == "grid" or (kind in FROM_PRIOR and draws_codes(model)):
        return draws_codes(model)
    return all(draws_images(model) if need == "sample" else hasattr(model, need) for need in NEEDS[kind])


def _applies(kind: str, model: Any, images: Dataset, options: Explore) -> bool:
    """Whether a picture that was not asked for by name has what it needs in model and data."""
    if kind in FROM_PRIOR and draws_codes(model):
        return kind != "arithmetic" or (options.groups is not None and model.classes is None)
    if kind == "arithmetic":
        return model.classes is None and (options.groups is not None or len(classes_of(images)) >= 3)
    if len(images) < FEWEST.get(kind, 1):
        return False
    return kind not in ("manifold", "scatter") or model.latent >= 2


def _draw(kind: str, model: Any, images: Dataset, options: Explore, of: str, path: Path) -> str:
    """Write a picture, and say where, and what numbers are in it."""
    n, device = options.n, next(model.parameters()).device
    if kind in FROM_PRIOR and draws_codes(model):
        pictures.save(draw_from_prior(kind, model, n, options.seed, options.groups, of), path)
        return str(path)
    if len(images) < FEWEST.get(kind, 1):
        raise ValueError(f"what: expected {FEWEST[kind]} held-out images at least for {kind}, got {len(images)}")
    some = images.subset(2 * n, options.seed)
    values, labels = some.values.to(device, torch.int64), _to(some.labels, device)
    seen = images.subset(SEEN, options.seed)
    seen_values, seen_labels = seen.values.to(device, torch.int64), _to(seen.labels, device)
    run = Run(options.run)
    names = class_names(run) if model.classes is not None else None
    if kind == "scatter":
        exploring.draw_scatter(model, seen_values, seen_labels, path, options.dims, images.class_names, of=of)
        return str(path)
    dims = options.dims
    if kind == "manifold" and dims is None and hasattr(model, "encode"):
        order = exploring.importance(model, seen_values, seen_labels).argsort(descending=True).tolist()
        dims = (order[0], order[1])
    label = None
    if model.classes is not None:
        wanted = options.label
        label = 0 if wanted is None else class_number("label", wanted, class_names(run), model.classes)
    half = min(len(values) // 2, max(1, n // 2))
    ends = None if labels is None else (labels[:half], labels[half : 2 * half])
    draw: dict[str, Callable[[], Any]] = {
        "samples": lambda: exploring.draw_samples(
            model, n * min(model.classes or n, 16), n, options.seed, of=of, names=names
        ),
        "manifold": lambda: exploring.draw_manifold(model, options.side, dims or (0, 1), label, of=of, names=names),
        "traversals": lambda: (
            exploring.draw_code_traversals(model, steps=n, seed=options.seed, of=of)
            if hasattr(model, "code_traversals")
            else exploring.draw_traversals(model, seen_values, seen_labels, rows=n, of=of)
        ),
        "interpolations": lambda: exploring.draw_interpolations(
            model, values[:half], values[half : 2 * half], max(2, n), ends, of=of
        ),
        "arithmetic": lambda: _draw_arithmetic(model, options, images, of),
        "nearest": lambda: _draw_nearest(model, options, of, names),
    }
    said = str(path)
    if kind == "reconstructions":
        pca = _pca(model, options)
        picture = exploring.draw_reconstructions(model, seen_values, seen_labels, n, shown=2 * n, pca=pca, of=of)
        error = exploring.reconstruction_error(model, seen_values, seen_labels)
        said += f": squared error {error:.4g}"
        if pca is not None:
            error = pca.squared_error(seen.values.double() / (model.levels - 1)).mean().item()
            said += f", PCA's of {pca.components} dimensions {error:.4g}"
        said += f", mean of {several(len(seen), 'held-out image')}"
    else:
        picture = draw[kind]()
    pictures.save(picture, path)
    return said


def _pca(model: Any, options: Explore) -> PCA | None:
    """Where the model is an autoencoder, PCA of as many dimensions."""
    if not isinstance(model, Autoencoder):
        return None
    found = fitted_pca(model, load_images(Run(options.run), "train", options.data, options.data_root, own=True))
    return None if found is None else found[0]


def _draw_nearest(model: Any, options: Explore, of: str, names: list[str] | None) -> Any:
    train = load_images(Run(options.run), "train", options.data, options.data_root, own=True).values
    k = min(4, len(train))
    return exploring.draw_nearest(model, train, options.n, k, options.seed, of=of, names=names)


def _draw_arithmetic(model: Any, options: Explore, images: Dataset, of: str) -> Any:
    (a, first), (b, second), (c, third) = groups_of(options.groups, images, next(model.parameters()).device)
    said = None if first is None or second is None or third is None else (first, second, third)
    return exploring.draw_arithmetic(model, a, b, c, of=of, called=said)


def _to(labels: Tensor | None, device: torch.device) -> Tensor | None:
    return labels if labels is None else labels.to(device)
