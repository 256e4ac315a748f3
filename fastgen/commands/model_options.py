"""Options of ``fastgen train`` for each model, a dataclass each. Their fields are the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import tyro

from .. import models
from .._checks import check_number
from ..data import Dataset
from ..models.autoencoder import AGES
from ..training import Run, load_model
from .train_options import Train


@dataclass(frozen=True, kw_only=True)
class TrainPixelCNN(Train):
    """PixelCNN, van den Oord et al. 2016, arXiv:1601.06759."""

    channels: int | None = None
    """Width h of the residual blocks, a multiple of the colours; their stream has 2h; default: 64 or a little above, in
    the small recipe 16."""
    layers: int = 7
    """Residual blocks."""

    widths: ClassVar[dict[str, int]] = {"paper": 64, "small": 16}
    small: ClassVar[dict[str, Any]] = {"layers": 3, "epochs": 6, "batch_size": 16, "lr": 6e-3, "schedule": "cosine"}


@dataclass(frozen=True, kw_only=True)
class TrainGatedPixelCNN(Train):
    """Gated PixelCNN, van den Oord et al. 2016, arXiv:1606.05328."""

    channels: int | None = None
    """Width of each stack, a multiple of the colours; default: 128 or a little above, in the small recipe 16."""
    layers: int = 15
    """Gated layers after the first."""
    kernel_size: int = 3
    """Of the gated layers."""
    conditional: bool = False
    """Condition on the images' labels."""

    widths: ClassVar[dict[str, int]] = {"paper": 128, "small": 16}
    small: ClassVar[dict[str, Any]] = {"layers": 3, "epochs": 6, "batch_size": 16, "lr": 6e-3, "schedule": "cosine"}


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoder(Train):
    """Autoencoder of one of three ages: linear and sigmoid; deep; convolutional with up-convolutions."""

    age: Literal["linear", "deep", "convolutional"] = "deep"
    """Sets the sizes that are not given."""
    latent: int = 32
    """Dimensions of the code."""
    hidden: tuple[int, ...] | None = None
    """Widths of the fully connected layers, from the image to the code."""
    channels: tuple[int, ...] | None = None
    """Of the convolutions, each of which halves the image."""
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    """Between layers."""
    sigmoid: bool = True
    """Sigmoids on the image and, in the linear age, on the code; without them the linear one is PCA's equal."""

    def model_config(self, data: Dataset) -> dict[str, Any]:
        config = super().model_config(data)
        sizes = AGES[config.pop("age")]
        given = {name: config.pop(name) for name in ("hidden", "channels")}
        config |= sizes | {name: widths for name, widths in given.items() if widths is not None}
        return config | {"squash": sizes["squash"] and self.sigmoid}

    small: ClassVar[dict[str, Any]] = {"latent": 16, "epochs": 10, "lr": 2e-3, "schedule": "cosine"}


@dataclass(frozen=True, kw_only=True)
class TrainVAE(Train):
    """Variational autoencoder, Kingma and Welling 2014, arXiv:1312.6114; fully connected, or convolutional."""

    latent: int = 50
    """Dimensions of z."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the encoder's fully connected layers; the decoder has them reversed."""
    channels: tuple[int, ...] = ()
    """Of the encoder's convolutions, each of which halves the image; none makes it fully connected."""
    activation: Literal["relu", "tanh", "sigmoid"] = "tanh"
    """Between layers."""
    likelihood: Literal["bernoulli", "gaussian", "categorical", "logistic"] = "bernoulli"
    """Of a value given z; bernoulli reads grey values as probabilities."""
    beta: float = 1.0
    """Weight of the KL."""
    kl_warmup: float = 0.0
    """Part of the training over which that weight rises from 0."""
    free_bits: float = 0.0
    """Nats in each latent dimension below which the KL is not reduced."""
    importance_samples: int = 1
    """k of the bound: 1 is the ELBO, more that of the importance-weighted autoencoder."""
    conditional: bool = False
    """Condition on the images' labels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("kl_warmup", self.kl_warmup, 0, 1)

    def model_config(self, data: Dataset) -> dict[str, Any]:
        config = super().model_config(data)
        return config | {"warmup": config.pop("kl_warmup")}

    small: ClassVar[dict[str, Any]] = {"latent": 20, "hidden": (128,), "epochs": 10, "lr": 2e-3, "schedule": "cosine"}


@dataclass(frozen=True, kw_only=True)
class TrainClassifier(Train):
    """Classifier that begins with the encoder of a run, to be trained with few labels."""

    data: str = "auto"
    """As for the other models; auto is the data of the run that the encoder is from."""
    crop: str = "auto"
    """As for the other models; auto is that of the run that the encoder is from, and so are image size and grey."""
    source: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Folder of the autoencoder's or VAE's run whose encoder it begins with; by default random weights."""
    labels: int | None = None
    """Train on so many labelled images, as many of each class as can be; default: all."""
    frozen: bool = False
    """Leave the encoder as it is, and train the last layer alone."""
    scratch: bool = False
    """Take the encoder's sizes only, and begin with random weights: what fine-tuning is compared with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source is not None:
            object.__setattr__(self, "source", str(Path(self.source).resolve()))
        if self.data == "auto":
            options = Run(self.source).config()["options"] if self.source is not None else {"data": "digits"}
            object.__setattr__(self, "data", options["data"])
            object.__setattr__(self, "data_root", self.data_root or options.get("data_root"))
            object.__setattr__(self, "levels", self.levels or options.get("levels"))
        if self.crop == "auto":
            options = Run(self.source).config()["options"] if self.source is not None else {}
            size = self.image_size or options.get("image_size")
            self._prepare(size, options.get("crop", "none"), self.grey or options.get("grey", False))

    def load_data(self) -> tuple[Dataset, Dataset]:
        train, held_out = super().load_data()
        if train.labels is None or train.classes is None:
            raise ValueError(f"data: expected data with labels, got {train.name}, which has none")
        return train if self.labels is None else balanced(train, self.labels, self.seed), held_out

    def build(self, name: str, data: Dataset) -> Any:
        if self.source is None:
            for option in ("frozen", "scratch"):
                if getattr(self, option):
                    raise ValueError(f"{option}: expected it with --from RUN, whose encoder it is about")
            return super().build(name, data)
        source = load_model(self.source)
        classifier = models.Classifier.from_encoder(source, data.classes or 0, self.frozen)
        return models.build(name, **classifier.config) if self.scratch else classifier

    def model_config(self, data: Dataset) -> dict[str, Any]:
        config = super().model_config(data)
        for name in ("source", "labels", "scratch"):
            del config[name]
        return config | {"classes": data.classes}

    small: ClassVar[dict[str, Any]] = {"epochs": 5, "lr": 2e-3, "schedule": "cosine"}


def balanced(data: Dataset, n: int, seed: int) -> Dataset:
    """``n`` images, as many of each class as can be, drawn without replacement; the same ones for the same seed.

    Raises:
        ValueError: there are fewer images, or fewer wanted than classes.
    """
    assert data.labels is not None
    classes = data.labels.unique()
    if not len(classes) <= n <= len(data):
        raise ValueError(f"labels: expected {len(classes)} to {len(data)}, the classes and images there are, got {n}")
    order = np.random.default_rng(seed).permutation(len(data))
    labels = data.labels.numpy()[order]
    turn = np.zeros(len(data), dtype=np.int64)  # how many of its class come before an image
    for label in classes.tolist():
        turn[labels == label] = np.arange((labels == label).sum())
    return data.pick(order[np.argsort(turn, kind="stable")[:n]])


#: The options of every model, by its name on the command line.
MODELS: dict[str, type[Train]] = {
    "pixelcnn": TrainPixelCNN,
    "gated-pixelcnn": TrainGatedPixelCNN,
    "autoencoder": TrainAutoencoder,
    "vae": TrainVAE,
    "classifier": TrainClassifier,
}


def options_of(run: Run) -> Train:
    """The options that a run was started with.

    Raises:
        ValueError: its config.json has others than its model takes.
    """
    config = run.config()
    listed = config["options"].items()  # JSON has lists only
    known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in listed}
    try:
        return MODELS[config["model"]["name"]](**known)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run.folder / 'config.json'}: {error}") from error
