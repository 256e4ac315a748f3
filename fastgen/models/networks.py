"""Encoders and decoders: fully connected, or convolutional with up-convolutions, and each the mirror of the other.

    encoder   x ── [ 4×4 convolution, stride 2 ] × channels ── [ linear ] × hidden ── linear ── code
    decoder   z ── [ linear ] × hidden reversed ── [ 4×4 up-convolution, stride 2 ] × channels reversed ── parameters

Without ``channels`` they are fully connected, without ``hidden`` too they are linear. Each layer but the last is
followed by the activation; the up-convolutions by batch norm and ReLU. A class enters as a one-hot vector beside the
first linear layer's input, in both.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_levels, check_option, check_tensor, describe
from ..nn import Conv2dChain, ConvTranspose2dBatchNorm, ConvTranspose2dChain, LinearChain
from ..ops.mlp import WEIGHTS
from .model import check_positive

Activation = Literal["relu", "tanh", "sigmoid"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class Encoder(nn.Module):
    """Images → code, or the parameters of a distribution over codes.

    Args:
        in_channels: colours of an image.
        image_size: (H, W).
        code: dimensions of the code.
        hidden: widths of the fully connected layers.
        channels: of the convolutions, each of which halves height and width.
        activation: relu, tanh or sigmoid.
        parts: 1; or 2 for a mean and a log-variance, side by side.
        squash: end in a sigmoid.
        classes: number of classes, or None.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        code: int,
        hidden: tuple[int, ...] = (),
        channels: tuple[int, ...] = (),
        activation: str = "relu",
        parts: int = 1,
        squash: bool = False,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        hidden, channels = as_widths("hidden", hidden), as_widths("channels", channels)
        check_positive(code=code)
        self.config: dict[str, Any] = {
            "code": code, "hidden": list(hidden), "channels": list(channels), "activation": activation,
            "parts": parts, "squash": squash,
        }  # fmt: skip
        self.code = code
        self.classes = classes
        make = activation_named(activation)
        sizes = halved(image_size, len(channels))
        stages: list[nn.Module] = []
        for inputs, outputs in zip((in_channels, *channels), channels, strict=False):
            stages += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), make()]
        self.convolutions = Conv2dChain(*stages)
        flat = (in_channels, *channels)[-1] * sizes[-1][0] * sizes[-1][1]
        self.linear = mlp((flat + (classes or 0), *hidden, code * parts), make)
        self.squash = nn.Sigmoid() if squash else nn.Identity()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Inputs (N, C, H, W) in [0, 1] → (N, code · parts)."""
        check_class(labels, x.shape[0], self.classes)
        return self.squash(self.linear(with_class(self.convolutions(x).flatten(1), labels, self.classes)))

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the encoder makes of images, to build on: the code, or the mean of its distribution, (N, code)."""
        return self(x, labels)[:, : self.code]


class Decoder(nn.Module):
    """Codes → parameters of pixels (N, P, H, W); the arguments are those of the ``Encoder`` that it mirrors.

    Args:
        outputs: P, channels of the result.
    """

    def __init__(
        self,
        outputs: int,
        image_size: tuple[int, int],
        code: int,
        hidden: tuple[int, ...] = (),
        channels: tuple[int, ...] = (),
        activation: str = "relu",
        classes: int | None = None,
    ) -> None:
        super().__init__()
        hidden, channels = as_widths("hidden", hidden), as_widths("channels", channels)
        self.classes = classes
        make = activation_named(activation)
        sizes = halved(image_size, len(channels))
        self.start = (channels[-1] if channels else outputs, *sizes[-1])
        flat = self.start[0] * self.start[1] * self.start[2]
        self.linear = mlp((code + (classes or 0), *hidden[::-1], flat), make)
        stages: list[nn.Module] = [make()] * bool(channels)
        widths = (outputs, *channels)
        for stage in range(len(channels), 0, -1):
            (tall, wide), (H, W) = sizes[stage - 1], sizes[stage]
            odd = (tall - 2 * H, wide - 2 * W)  # an odd side lost its last row on the way down
            if stage > 1:
                layer = ConvTranspose2dBatchNorm(widths[stage], widths[stage - 1], 4, 2, 1, odd, activation="relu")
                stages.append(layer)
            else:
                stages.append(nn.ConvTranspose2d(widths[stage], widths[stage - 1], 4, 2, 1, odd))
        self.convolutions = ConvTranspose2dChain(*stages)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N, code) → (N, P, H, W)"""
        check_class(labels, z.shape[0], self.classes)
        return self.convolutions(self.linear(with_class(z, labels, self.classes)).unflatten(1, self.start))


def mlp(widths: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers from ``widths[0]`` to ``widths[-1]`` with an activation between each two."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    weights = [inputs * outputs for inputs, outputs in pairwise(widths)]
    pays = any(inner + outer >= WEIGHTS for inner, outer in pairwise(weights))
    return (LinearChain if pays else nn.Sequential)(*layers[:-1])


def check_class(labels: Tensor | None, n: int, classes: int | None, name: str = "labels") -> None:
    """Raise unless ``labels`` are what a network with so many classes is told of n inputs: int64 (n,), or None."""
    if not classes:
        if labels is not None:
            raise ValueError(f"{name}: expected None, since the network is told no classes, got {describe(labels)}")
        return
    if labels is None:
        raise ValueError(f"{name}: expected {n} integers in [0, {classes}), one for each image, got None")
    check_tensor(name, labels, (n,), (torch.int64, torch.int32))
    check_levels(labels, classes, name)


def with_class(x: Tensor, labels: Tensor | None, classes: int | None) -> Tensor:
    """``x`` (N, D) beside the one-hot vectors of ``labels``, if there are classes."""
    if classes is None or labels is None:
        return x
    return torch.cat([x, F.one_hot(labels.long(), classes).to(x.dtype)], dim=1)


def halved(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """The sizes on the way through ``times`` 4×4 convolutions of stride 2: each half of the one before, rounded down.

    Raises:
        ValueError: nothing would be left.
    """
    sizes = [size]
    for _ in range(times):
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    if min(sizes[-1]) < 1:
        raise ValueError(f"channels: expected at most as many as images of {size} can be halved, got {times}")
    return sizes


def as_widths(name: str, widths: Sequence[int]) -> tuple[int, ...]:
    """``widths`` as a tuple; raise ValueError unless each is a positive integer."""
    if not isinstance(widths, (tuple, list)):
        raise ValueError(f"{name}: expected a sequence of widths, got {describe(widths)}")
    for width in widths:
        check_positive(**{name: width})
    return tuple(int(width) for width in widths)


def activation_named(name: str) -> type[nn.Module]:
    """The activation called ``name``; raise ValueError if there is none."""
    return ACTIVATIONS[check_option("activation", name, list(ACTIVATIONS))]
