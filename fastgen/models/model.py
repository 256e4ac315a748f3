"""What all models share: what they read, how they are described, and what they minimise."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import conditions
from .._checks import check_dense, check_device, check_floating, check_integer, check_levels, check_pair, describe
from ..conditions import AnyCondition, Classes, Condition, Kinds, Labels, as_labels
from ..measures import Measure

LARGEST = 2**20
"""No layer is wider, no side of an image longer: what is larger is a slip, and would end in an allocator's words."""


class Model(nn.Module):
    """Base of models of images.

    A model defines ``losses``. Every constructor argument is kept as an attribute of its name, so that ``config`` can
    list them. One that is told more than a class, or something else, says so by ``condition_kind``.

    Attributes:
        in_channels: C, colours.
        levels: values are integers in [0, levels).
        classes: number of classes, or None for a model that reads no labels.
        image_size: (H, W), or None for any size.
    """

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By name, options of ``fastgen train`` with other values to begin with: "paper", the settings of the paper, and
    "small", for an hour or less on a CPU."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Options of ``fastgen train`` that begin with other values than for other models, where nothing sets them."""
    unaveraged: ClassVar[tuple[str, ...]] = ()
    """Names of submodules that no average of weights is kept of, as of what only training needs."""
    by_color: ClassVar[tuple[str, ...]] = ()
    """Arguments that are multiples of the colours; ``fastgen train`` makes those so that nobody gave."""
    needs: ClassVar[Mapping[str, Mapping[str, tuple[Any, ...]]]] = {}
    """Options of ``fastgen train`` that count only where others have one of these values, () being any but none, 0 and
    off; given elsewhere they are refused."""

    @classmethod
    def arguments(cls, *_: Any, **__: Any) -> dict[str, Any]:
        """Constructor arguments that ``fastgen train`` takes from options of other names, types or defaults.

        A model overrides it: what it takes are options, each with type and default, and in ``Args`` its help text;
        ``in_channels``, ``levels``, ``image_size`` and ``classes`` among them are the data's.

        Returns:
            The constructor's by name, the same names at every call: none of them is an option, unless it is taken here.

        Raises:
            ValueError: an option's value does not fit.
        """
        return {}

    def __init__(
        self, in_channels: int, levels: int, classes: int | None, image_size: int | tuple[int, int] | None
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels)
        self.in_channels = int(in_channels)
        self.levels = check_integer("levels", levels, 2)
        check_positive(levels=levels)
        if classes is not None:
            check_positive(classes=classes)
        self.classes = None if classes is None else int(classes)
        if isinstance(image_size, (tuple, list)) and len(image_size) != 2:
            raise ValueError(f"image_size: expected one size or (H, W), got {image_size}")
        self.image_size = None if image_size is None else check_pair("image_size", image_size)
        if self.image_size is not None:
            check_positive(image_size=max(self.image_size))

    @property
    def sides(self) -> tuple[int, int]:
        """(H, W) of a model of images of one size.

        Raises:
            ValueError: the model was built without.
        """
        if self.image_size is None:
            raise ValueError("image_size: expected one size or (H, W), got None")
        return self.image_size

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON: ``type(model)(**model.config)`` builds the same model."""
        names = inspect.signature(type(self)).parameters
        config = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}

    @property
    def condition_kind(self) -> Kinds | None:
        """What the model is told beside the image, ``fastgen.conditions``: a class where it has classes, else nothing.

        A model that reads a vector, a map or several things by name overrides it, or sets it in its constructor.
        """
        own = self.__dict__.get("_condition_kind")
        return own if own is not None or self.classes is None else Classes(self.classes)

    @condition_kind.setter
    def condition_kind(self, kind: Kinds | None) -> None:
        self._condition_kind = None if kind is None else conditions.check_kind(kind)

    def losses(self, values: Tensor, condition: Any = None, progress: float = 1.0) -> dict[str, Tensor]:
        """What training minimises, and the terms to watch.

        Args:
            values: integers (N, C, H, W) in [0, levels).
            condition: of the N images: labels int64 (N,), or what ``condition_kind`` says. A model that is told nothing
                does not read it.
            progress: part of the training that is done, in [0, 1].

        Returns:
            (N,) each, one number per example, summed over dimensions. The first is what is minimised; it is called
            "nats" if it is a negative log-likelihood in nats or a bound on one.
        """
        raise NotImplementedError

    @property
    def measures(self) -> dict[str, Measure]:
        """What each of ``losses`` is, by name: see ``fastgen.measures``."""
        return {}

    preview_rows: tuple[str, ...] = ("drawn",)
    """What each of the rows that ``preview`` gives is, in a word."""

    def preview(self, n: int, seed: int, values: Tensor, condition: Any) -> list[Tensor]:
        """Images to look at while training: rows that belong together by their index, or none.

        By default ``n`` samples, of all classes in turn, from a model that draws any; with another condition than one
        of so many classes, those of the held-out images, as many as there are.

        Args:
            n: how many.
            seed: of the samples.
            values: some held-out images, and their
            condition: if there is any.
        """
        sample = getattr(self, "sample", None)
        if sample is None:
            return []
        kind = self.condition_kind
        if kind is None:
            return [sample(n, seed=seed, labels=None)]
        if isinstance(kind, Classes) and kind.count is not None:
            return [sample(n, seed=seed, labels=torch.arange(n, device=values.device) % kind.count)]
        n, name = min(n, len(values)), "labels" if isinstance(kind, Classes) else "condition"
        return [sample(n, seed=seed, **{name: conditions.select(condition, slice(n))})]

    def to_input(self, values: Tensor) -> Tensor:
        """Values as encoders read them: v / (levels − 1), in [0, 1], in the dtype of the parameters."""
        self.check_levels(values)
        return values.to(next(self.parameters()).dtype) / (self.levels - 1)

    def check_images(self, values: Tensor) -> None:
        """Raise unless ``values`` are images that the model reads: integers (N, C, H, W) in [0, levels)."""
        size = ("H", "W") if self.image_size is None else self.image_size
        expected = ("N", self.in_channels, *size)
        check_device("values", check_dense("values", values), "the model", next(self.parameters()))
        shape = values.shape
        if len(shape) != 4 or any(isinstance(e, int) and e != got for e, got in zip(expected, shape, strict=True)):
            raise ValueError(f"values: expected shape ({', '.join(map(str, expected))}), got {tuple(shape)}")
        self.check_levels(values)

    def check_levels(self, values: Tensor) -> None:
        """Raise unless ``values`` are integers, in [0, levels) where looking at them would wait for no device."""
        check_levels(values, self.levels)

    def check_dtype(self, name: str, x: Tensor) -> None:
        """Raise unless ``x`` is on the model's device and, outside of autocast, in the dtype of its parameters."""
        parameter = next(self.parameters())
        check_device(name, x, "the model", parameter)
        if x.dtype != parameter.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"{name}: expected the dtype of the model, {parameter.dtype}, got {x.dtype}")

    def check_condition(self, n: int, condition: AnyCondition | None) -> Condition | None:
        """A condition of ``n`` images as the model reads it: labels int64, numbers in the dtype of its parameters.

        Args:
            n: how many images.
            condition: of the ``condition_kind``: N of them, or one for all.

        Returns:
            None for a model that is told nothing.

        Raises:
            TypeError: a part is of another dtype than it should be.
            ValueError: there is none; a shape or a label does not fit; there is one and the model is told nothing. The
                argument is called ``labels`` where classes are what the model is told, or would be.
        """
        kind, parameter = self.condition_kind, next(self.parameters())
        if kind is None:
            if condition is not None:
                raise ValueError(f"labels: expected None, since the model has no classes, got {describe(condition)}")
            return None
        if isinstance(kind, Classes):
            if condition is None:
                raise ValueError(f"labels: expected {n} integers{kind.range}, one for each image, got None")
            labels = as_labels(condition, n, _looked_at(kind, condition).count)  # type: ignore[arg-type]
            if labels.is_meta:
                check_device("labels", labels, "the model", parameter)
            return labels.to(parameter.device)
        if condition is None:
            raise ValueError(f"condition: expected {conditions.described(kind)}, for {n} images, got None")
        found = conditions.as_condition(condition, n, _looked_at(kind, condition), dtype=parameter.dtype)
        conditions.check_same_device(found, "the model", parameter)
        return found

    def check_labels(self, n: int, labels: Labels | None) -> Tensor | None:
        """``labels`` as int64: n classes of a model that has them, None for one that has none; raise otherwise."""
        if self.condition_kind is None or isinstance(self.condition_kind, Classes):
            return self.check_condition(n, labels)  # type: ignore[return-value]
        if labels is not None:
            raise ValueError(f"labels: expected None, since the model reads a condition, got {describe(labels)}")
        return None


class DecodingModel(Model):
    """Base of models with a latent space every code of which is an image.

    Attributes:
        latent: dimensions of the latent space.
    """

    latent: int

    def decode(self, z: Tensor, labels: Any = None) -> Tensor:
        """Codes (N, latent) → expected images, floating point (N, C, H, W) in [0, levels − 1]."""
        raise NotImplementedError

    def check_codes(self, z: Tensor) -> None:
        """Raise unless ``z`` is floating point, (N, latent)."""
        check_floating("z", z, ("N", self.latent))
        self.check_dtype("z", z)


class LatentModel(DecodingModel):
    """Base of models whose images have codes, too: what is decoded is encoded."""

    def encode(self, values: Tensor, labels: Any = None) -> Tensor:
        """The code of each image, (N, latent); for a distribution over codes, its mean."""
        raise NotImplementedError

    def reconstruct(self, values: Tensor, labels: Any = None) -> Tensor:
        """``decode`` of ``encode``."""
        return self.decode(self.encode(values, labels), labels)


def check_positive(**sizes: Any) -> None:
    """Raise unless every size is a positive integer, and none beyond what a layer can have."""
    for name, size in sizes.items():
        check_integer(name, size, 1)
        check_integer(name, size, 1, LARGEST)


def _looked_at(kind: Any, given: Any) -> Any:
    """``kind`` without a number of classes where looking at the labels would wait for a device."""
    if isinstance(kind, dict):
        parts = given if isinstance(given, Mapping) else {}
        return {name: _looked_at(part, parts.get(name)) for name, part in kind.items()}
    return Classes() if isinstance(kind, Classes) and not _seen(given) else kind


def _seen(given: object) -> bool:
    """Whether numbers may be looked at: on another device than the CPU a look would wait for it."""
    return not isinstance(given, Tensor) or given.device.type == "cpu"


def check_divides(groups: int, **channels: int) -> None:
    """Raise unless the colours divide the channels evenly."""
    for name, size in channels.items():
        if size % groups:
            raise ValueError(f"{name}: expected a multiple of in_channels = {groups}, one part per colour, got {size}")
