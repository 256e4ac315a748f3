"""Options of ``fastgen train`` that every model has. Their fields are the command line."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from .. import models
from .._checks import check_integer
from ..data import Dataset, Given, load_for_training
from ..data.prepare import Preparation
from ..training import Recipe, load_weights
from .constructor_options import arguments_of, record_of


@dataclass(frozen=True, kw_only=True)
class Train(Recipe):
    """Options of every model."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, binarized-mnist, cifar10; or a path:
    a folder of pictures, in it, or in one subfolder for each class, or so in each of train, valid (or val) and test;
    an .npy of images, (N, H, W), (N, C, H, W) or (N, H, W, C);
    an .npz of such images and perhaps labels (N,), numbers or words: x and y, images and labels, or arr_0 and arr_1;
    or of splits, likewise valid (or val) and test: train and train_labels, x_train and y_train, or train_images.
    Values are uint8, bool, or floats k/255; of fewer levels with levels=L in the .npz. See docs/data.md."""
    data_root: str | None = None
    """Folder of the named data sets' files, as torchvision lays them out and fastgen download does; by default
    FASTGEN_DATA."""
    image_size: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="S|H W")] = None
    """Resize the images to S, or to H W, by Pillow's Lanczos filter, which is antialiased."""
    crop: str = "none"
    """Of each image, before that: none; centre, the largest part of the shape of --image-size, or else a square; or N,
    the square of N pixels in the middle."""
    grey: bool = False
    """One channel of ITU-R 601 luma in place of three colours."""
    levels: int | None = None
    """Quantise the images to fewer levels."""
    limit: int | None = None
    """Train on so many images, drawn from all."""
    held_out_limit: int | None = None
    """Evaluate after each epoch on so many held-out images, drawn from all."""
    held_out: Literal["valid", "test"] = "valid"
    """Images to evaluate on after each epoch: the data's validation split, or else a tenth of the training images, so
    that the test split stays unseen; or the test split itself."""
    recipe: Literal["paper", "small"] | None = None
    """Options to begin with: paper, those of the paper, which may take days on a CPU; small, for an hour there or less.
    Those that are given beside it count."""
    config: str | None = None
    """File of options to begin with: config.json of a run, or .json or .toml of your own. Options that are given beside
    it count."""
    run: str | None = None
    """Folder of the run; default: runs/MODEL-DATA."""
    overwrite: bool = False
    """Replace the run that is in the folder."""
    init_from: str | None = None
    """Begin with the best weights of another run, of the same model and sizes, instead of random ones."""
    resume: bool = False
    """Continue the run in its folder, from its last checkpoint; from the beginning where it has none yet."""
    checkpoint: Literal["last", "best"] = "last"
    """Checkpoint to resume from."""
    samples: int = 36
    """Images to draw after each epoch, and as many more as fill the last row; 0 draws none."""
    tensorboard: bool = False
    """Also write the metrics and pictures for TensorBoard, into RUN/tensorboard."""
    dry_run: bool = False
    """Say what would happen, compute the first losses, and write nothing."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is CUDA where there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in fields(self):
            if isinstance(getattr(self, field.name), list):  # as JSON keeps tuples
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        for name, least in (("limit", 1), ("held_out_limit", 1), ("levels", 2), ("samples", 0)):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), least)
        for name in ("config", "init_from"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(Path(getattr(self, name)).resolve()))
        if self.overwrite and self.resume:
            raise ValueError("overwrite: expected it without --resume, which continues the run")
        self._hook({name: getattr(self, name) for name in self.own})  # which checks them, as records do
        self._records()
        if self.crop != "auto":  # of a classifier, which asks its source
            self._prepare(self.image_size, self.crop, self.grey)

    boxes: ClassVar[dict[str, tuple[str, ...]]] = {
        "optimisation": (
            *("epochs", "batch_size", "lr", "schedule", "warmup", "lr_decay", "optimizer", "betas", "weight_decay"),
            *("clip", "ema", "average", "average_from", "precision", "channels_last", "compile", "accumulate"),
            *("drop_last", "patience", "deterministic"),
            "sync_batch_norm",
        ),
        "data": (
            *("data", "image_size", "crop", "grey", "levels", "flip", "limit", "held_out", "held_out_limit"),
            *("data_root",),
        ),
        "run": (
            *("run", "resume", "overwrite", "dry_run", "device", "seed", "samples", "config", "init_from"),
            *("max_minutes", "save_every", "checkpoint", "tensorboard"),
        ),
    }
    """The boxes of ``--help``, the most used first in each."""
    model: ClassVar[type[models.Model]]
    """What is trained."""
    own: ClassVar[tuple[str, ...]] = ()
    """Names of the model's own options."""

    def preparation(self) -> dict[str, Any]:
        """What is done to each image, as ``load`` takes it."""
        return {"image_size": self.image_size, "crop": self.crop, "grey": self.grey}

    def _prepare(self, image_size: Any, crop: Any, grey: Any) -> None:
        """Keep what is done to each image, in the words that a run keeps.

        Raises:
            ValueError: it cannot be done.
        """
        what = Preparation(image_size, crop, grey)
        for name, value in (("image_size", what.size), ("crop", str(what.crop)), ("grey", what.grey)):
            object.__setattr__(self, name, value)

    @property
    def form(self) -> Given | None:
        """What of each image is given to a model that draws the rest."""
        return None

    def as_told(self, images: Dataset) -> Dataset:
        """Images as the model has them: what is given as their condition, the rest as their values."""
        return images

    def load_data(self) -> tuple[Dataset, Dataset]:
        """Images to train on, and held-out ones."""
        train, held_out = load_for_training(
            self.data, root=self.data_root, levels=self.levels, watch=self.held_out, **self.preparation()
        )
        train = train if self.limit is None else train.subset(self.limit)
        if self.flip:
            note = f"{train.name}: training mirrors images left to right at random; held-out ones stay as they are"
            train = replace(train, notes=(*train.notes, note))
        return train, held_out if self.held_out_limit is None else held_out.subset(self.held_out_limit)

    def build(self, name: str, data: Dataset) -> Any:
        """The model called ``name``, as it is before training."""
        return models.build(name, **self.model_config(data))

    def initialise(self, model: Any) -> None:
        """Give a new model the weights of the run that ``init_from`` names, if it does.

        Raises:
            CheckpointError: they are another model's; the message names a weight that differs.
        """
        if self.init_from is not None:
            load_weights(self.init_from, model)

    def model_config(self, data: Dataset) -> dict[str, Any]:
        """Arguments of the model's constructor."""
        channels, height, width = data.shape
        known: dict[str, Any] = {"in_channels": channels, "levels": data.levels, "image_size": [height, width]}
        own = {name: getattr(self, name) for name in self.own}
        conditional = own.pop("conditional", None)
        if conditional and data.classes is None:
            raise ValueError(f"conditional: expected data with labels, got {data.name}, which has none")
        known["classes"] = None if conditional is False else data.classes
        for name in self.model.by_color:
            own[name] = self._by_color(name, own[name], channels)
        taken, hook = arguments_of(self.model), self._hook(known | own)
        arguments = {**known, **own, **self._records(), **hook}
        return {name: value for name, value in arguments.items() if name in taken}

    def _records(self) -> dict[str, Any]:
        """Arguments that are dataclasses, made of the options that are their fields."""
        found = {}
        for name, (kind, _) in arguments_of(self.model).items():
            if (record := record_of(kind)) is not None:
                found[name] = record(**{each.name: getattr(self, each.name) for each in fields(record)})
        return found

    def _hook(self, known: dict[str, Any]) -> dict[str, Any]:
        """What the model makes of the options, and of what the data say."""
        return self.model.arguments(
            **{name: known[name] for name in arguments_of(self.model.arguments) if name in known}
        )

    def _by_color(self, name: str, width: int | None, colors: int) -> int:
        """A width that nobody chose, of the constructor or of a recipe, is made a multiple of the colours."""
        recipe = self.model.recipes.get(self.recipe or "", {})
        if width is None:
            chosen = recipe if self.recipe == "small" else {}  # of a run that kept no more of its recipe than the name
            width = chosen.get(name, arguments_of(self.model)[name][1])
        elif width != recipe.get(name):
            return width
        return -(-width // colors) * colors
