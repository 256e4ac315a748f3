"""What all models share: what they read, how they are described, and what they minimise."""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..distributions import check_values


class Model(nn.Module):
    """Base of models of images.

    A model defines ``losses``. Every constructor argument is kept as an attribute of its name, so that ``config`` can
    list them.

    Attributes:
        in_channels: C, colours.
        levels: values are integers in [0, levels).
        classes: number of classes, or None for a model that reads no labels.
        image_size: (H, W), or None for any size.
    """

    def __init__(
        self, in_channels: int, levels: int, classes: int | None, image_size: int | tuple[int, int] | None
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels)
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
            raise ValueError(f"levels: expected an integer of at least 2, got {levels!r}")
        if classes is not None:
            check_positive(classes=classes)
        self.in_channels = in_channels
        self.levels = levels
        self.classes = classes
        self.image_size = None if image_size is None else as_pair("image_size", image_size)

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

    def losses(self, values: Tensor, labels: Tensor | None = None, progress: float = 1.0) -> dict[str, Tensor]:
        """What training minimises, and the terms to watch.

        Args:
            values: integers (N, C, H, W) in [0, levels).
            labels: int64 (N,); read by a model with classes only.
            progress: part of the training that is done, in [0, 1].

        Returns:
            (N,) each, one number per example, summed over dimensions. The first is what is minimised; it is called
            "nats" if it is a negative log-likelihood in nats or a bound on one.
        """
        raise NotImplementedError

    def preview(self, n: int, seed: int, values: Tensor, labels: Tensor | None) -> list[Tensor]:
        """Images to look at while training: rows that belong together by their index, or none.

        By default ``n`` samples, of all classes in turn, from a model that draws any.

        Args:
            n: how many.
            seed: of the samples.
            values: some held-out images, and their
            labels: if there are any.
        """
        sample = getattr(self, "sample", None)
        if sample is None:
            return []
        turns = None if self.classes is None else torch.arange(n, device=values.device) % self.classes
        return [sample(n, seed=seed, labels=turns)]

    def to_input(self, values: Tensor) -> Tensor:
        """Values as encoders read them: v / (levels − 1), in [0, 1], in the dtype of the parameters."""
        return values.to(next(self.parameters()).dtype) / (self.levels - 1)

    def check_images(self, values: Tensor) -> None:
        """Raise unless ``values`` are images that the model reads: integers (N, C, H, W) in [0, levels)."""
        size = ("H", "W") if self.image_size is None else self.image_size
        expected = ("N", self.in_channels, *size)
        shape = values.shape
        if len(shape) != 4 or any(isinstance(e, int) and e != got for e, got in zip(expected, shape, strict=True)):
            raise ValueError(f"values: expected shape ({', '.join(map(str, expected))}), got {tuple(shape)}")
        if values.is_floating_point() or values.is_complex():
            raise TypeError(f"values: expected an integer tensor, got {values.dtype}")
        if values.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere a look at them would wait
            check_values(values, self.levels)

    def check_labels(self, n: int, labels: Tensor | None) -> Tensor | None:
        """``labels`` as int64: n classes of a model that has them, None for one that has none; raise otherwise."""
        if self.classes is None:
            if labels is not None:
                raise ValueError(f"labels: expected None, since the model has no classes, got {tuple(labels.shape)}")
            return None
        if labels is None:
            raise ValueError(f"labels: expected {n} integers in [0, {self.classes}), one for each image, got None")
        if labels.shape != (n,):
            raise ValueError(f"labels: expected shape ({n},), one for each image, got {tuple(labels.shape)}")
        if labels.is_floating_point() or labels.is_complex():
            raise TypeError(f"labels: expected an integer tensor, got {labels.dtype}")
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere a look at them would wait
            check_values(labels, self.classes, "labels")
        return labels.to(torch.int64)


class LatentModel(Model):
    """Base of models with a latent space: every image has a code, and every code an image.

    Attributes:
        latent: dimensions of the latent space.
    """

    latent: int

    def encode(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """The code of each image, (N, latent); for a distribution over codes, its mean."""
        raise NotImplementedError

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Codes (N, latent) → expected images, floating point (N, C, H, W) in [0, levels − 1]."""
        raise NotImplementedError

    def reconstruct(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """``decode`` of ``encode``."""
        return self.decode(self.encode(values, labels), labels)

    def check_codes(self, z: Tensor) -> None:
        """Raise unless ``z`` is floating point, (N, latent)."""
        if z.dim() != 2 or z.shape[1] != self.latent:
            raise ValueError(f"z: expected shape (N, {self.latent}), got {tuple(z.shape)}")
        if not z.is_floating_point():
            raise TypeError(f"z: expected a floating-point tensor, got {z.dtype}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, without gradients, and each of its modules back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def check_positive(**sizes: int) -> None:
    """Raise unless every size is a positive integer."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: expected a positive integer, got {size!r}")


def check_number(name: str, number: float, low: float, high: float = math.inf) -> None:
    """Raise unless ``number`` is finite and in [low, high]."""
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not low <= number <= high:
        raise ValueError(f"{name}: expected a number from {low} to {high}, got {number!r}")
    if math.isinf(number):
        raise ValueError(f"{name}: expected a finite number, got {number!r}")


def check_divides(groups: int, **channels: int) -> None:
    """Raise unless the colours divide the channels evenly."""
    for name, size in channels.items():
        if size % groups:
            raise ValueError(f"{name}: expected a multiple of in_channels = {groups}, one part per colour, got {size}")


def as_pair(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """One size for both sides, or (H, W)."""
    if not isinstance(size, (int, tuple, list)):
        raise ValueError(f"{name}: expected one size or (H, W), got {size!r}")
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2:
        raise ValueError(f"{name}: expected one size or (H, W), got {size!r}")
    check_positive(**{name: pair[0]})
    check_positive(**{name: pair[1]})
    return pair
