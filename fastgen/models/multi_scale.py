"""Multi-scale PixelRNN: van den Oord, Kalchbrenner and Kavukcuoglu 2016, arXiv:1601.06759, section 3.6.

    x₀ = every K-th pixel of every K-th row of x₁, which is every K'-th of x₂ = x

    p(x) = p(x₀) · p(x₁ without x₀ | x₀) · p(x₂ without x₁ | x₁)

The smallest image is of a model like any; each larger one is drawn by a Gated PixelCNN that is told all of the image
before it, as a map. Pixels that are there already are copied, and are no part of the likelihood of what follows: so the
nats of all scales add up to those of the image, exactly.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .._checks import check_integer, check_number, check_option
from .._philox import uniforms as philox_uniforms
from ..conditions import AnyCondition, Labels, as_labels, told
from ..measures import Measure, law
from .autoregressive import SMOOTHED, AutoregressiveModel, smoothed_by
from .gated_pixelcnn import GatedPixelCNN
from .model import Model, check_positive
from .pixel_rnn import DiagonalBiLSTM, RowLSTM
from .pixelcnn import PixelCNN

BASES: dict[str, Callable[..., AutoregressiveModel]] = {
    "gated-pixelcnn": GatedPixelCNN,
    "pixelcnn": lambda *, classes, **more: PixelCNN(**more),
    "row-lstm": RowLSTM,
    "diagonal-bilstm": DiagonalBiLSTM,
}
"""What the smallest image may be drawn by."""


class MultiScale(Model):
    """A small image, then larger ones given it: multi-scale PixelCNN, van den Oord et al. 2016, section 3.6.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel; 2 gives a Bernoulli, more a Categorical distribution.
        scales: heights of the smaller images, the smallest first, each a divisor of the next and the last one of the
            image's; None is one scale, half of the image's where that can be, and none for images that have no such.
        base: model of the smallest image; all others are drawn by Gated PixelCNNs.
        channels: width of every model, a multiple of the colours.
        layers: of every model.
        kernel_size: of the gated layers, odd.
        map_layers: residual blocks of the networks that read the smaller image.
        classes: number of classes, or None for an unconditional model.
        image_size: of the largest image: one size or (H, W).
        dropout: part of a layer's features that training leaves out in every model, each for itself, where that has it.
        label_smoothing: part of a value's label that training spreads over all levels (Szegedy et al. 2016,
            arXiv:1512.00567); likelihoods know nothing of it.

    Attributes:
        sizes: (H, W) of every image, the smallest first.
        stages: the models, in this order.
    """

    recipes: ClassVar = {
        "paper": {"base": "row-lstm", "optimizer": "rmsprop"},
        "small": {"channels": 16, "layers": 3, "epochs": 6, "batch_size": 16, "lr": 6e-3, "schedule": "cosine"},
    }
    """paper: section 5, whose models all are trained by RMSProp. It says no sizes for several scales, and these stay at
    their defaults; larger images are drawn by Gated PixelCNNs."""
    by_color = ("channels",)
    drawn_how: ClassVar = "with the compiled sampler of each scale"

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 2,
        scales: tuple[int, ...] | None = None,
        base: Literal["gated-pixelcnn", "pixelcnn", "row-lstm", "diagonal-bilstm"] = "gated-pixelcnn",
        channels: int = 64,
        layers: int = 7,
        kernel_size: int = 3,
        map_layers: int = 2,
        classes: int | None = None,
        image_size: int | tuple[int, int] = 28,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size)
        check_positive(channels=channels, layers=layers, kernel_size=kernel_size, map_layers=map_layers)
        self.sizes = _sizes(scales, self.sides)
        self.scales = tuple(height for height, _ in self.sizes[:-1])
        self.base = check_option("base", base, list(BASES))
        if base == "pixelcnn" and classes is not None:
            raise ValueError("base: expected one that is told a class, with classes, got pixelcnn")
        self.channels, self.layers = int(channels), int(layers)
        self.kernel_size, self.map_layers = int(kernel_size), int(map_layers)
        shared: dict[str, Any] = {"in_channels": self.in_channels, "levels": self.levels, "classes": self.classes}
        self.dropout = float(check_number("dropout", dropout, 0, 1))
        self.label_smoothing = float(check_number("label_smoothing", label_smoothing, 0, 1))
        shared |= {"channels": self.channels, "layers": self.layers, "dropout": self.dropout}
        shared["label_smoothing"] = self.label_smoothing
        gated = shared | {"kernel_size": self.kernel_size, "map_layers": self.map_layers}
        first = gated if base == "gated-pixelcnn" else shared
        self.stages = nn.ModuleList([BASES[base](image_size=self.sizes[0], **first)])
        for (height, width), size in pairwise(self.sizes):
            small, factor = (self.in_channels, height, width), size[0] // height
            self.stages.append(GatedPixelCNN(image_size=size, condition_shape=small, subsampled=factor, **gated))

    def at_scales(self, values: Tensor) -> list[Tensor]:
        """The image (N, C, H, W) at every size, the smallest first: every K-th pixel of every K-th row of it."""
        steps = [self.sides[0] // height for height, _ in self.sizes]
        return [values[:, :, ::step, ::step] for step in steps]

    def log_prob(
        self, values: Tensor, labels: Labels | None = None, *, condition: AnyCondition | None = None
    ) -> Tensor:
        """Exact log-likelihood of images: the sum over scales.

        Args:
            values: integers (N, C, H, W) in [0, levels).
            labels: int64 (N,), for a model with classes.
            condition: the same, by the name that all models have for it.

        Returns:
            (N,) nats, differentiable in the model's parameters.

        Raises:
            ValueError: a shape, value or label does not fit.
            TypeError: a dtype does not fit.
        """
        each = self._each(values, labels, condition)
        return torch.stack([stage.log_prob(image, condition=given) for stage, image, given in each]).sum(dim=0)

    def _each(self, values: Tensor, labels: Any, condition: Any) -> list[tuple[Any, Tensor, Any]]:
        """Every model, its image, and what it is told of that before it."""
        self.check_images(values)
        _, given = told(labels, condition, self.condition_kind)
        of_class, images = self.check_labels(len(values), given), self.at_scales(values)
        smaller = [None, *images[:-1]]
        return [(*pair, self._told(of_class, one)) for *pair, one in zip(self.stages, images, smaller, strict=True)]

    def _told(self, labels: Tensor | None, smaller: Tensor | None) -> Any:
        """What a stage is told: the class, the image before it, both or nothing."""
        if smaller is None:
            return labels
        read = self.stages[0].to_input(smaller)  # type: ignore[operator]
        return read if labels is None else {"labels": labels, "map": read}

    def losses(self, values: Tensor, condition: Any = None, progress: float = 1.0) -> dict[str, Tensor]:
        """What training minimises: "nats" of the whole image, and those of each scale, (N,) each.

        In training mode with label smoothing, "smoothed_cross_entropy" comes first, the sum of all scales.
        """
        check_number("progress", progress, 0, 1)
        each = self._each(values, None, None if self.classes is None else condition)
        parts = [stage.losses(image, condition=given) for stage, image, given in each]
        summed = [name for name in (SMOOTHED, "nats") if name in parts[0]]
        sums = {name: torch.stack([part[name] for part in parts]).sum(dim=0) for name in summed}
        return sums | {name: part["nats"] for name, part in zip(self._names, parts, strict=True)}

    @property
    def _names(self) -> list[str]:
        return [f"nats_{height}x{width}" for height, width in self.sizes]

    @property
    def measures(self) -> dict[str, Measure]:
        given = self.classes is not None
        found = {SMOOTHED: smoothed_by(self.label_smoothing)} if self.label_smoothing else {}
        found["nats"] = Measure(f"{law(given)}, exact, the sum of all scales", "nats", of_values=True)
        for index, name in enumerate(self._names):
            smaller = "" if index == 0 else f", given the {self._names[index - 1].removeprefix('nats_')} ones"
            found[name] = Measure(f"of {name.removeprefix('nats_')} pixels{smaller}", "nats")
        return found

    def bits_per_dim(self, values: Tensor, labels: Labels | None = None) -> Tensor:
        """Exact negative log-likelihood, (N,) bits per value: −log_prob / (C·H·W·ln 2)."""
        return -self.log_prob(values, labels) / (math.prod(values.shape[1:]) * math.log(2))

    def sample(
        self,
        n: int | None = None,
        *,
        labels: Labels | None = None,
        seed: int | None = None,
        uniforms: Sequence[Tensor] | None = None,
        temperature: float = 1.0,
        first: int = 0,
    ) -> Tensor:
        """Draw images, coarse to fine, each scale with its compiled sampler.

        Args:
            n: how many; by default as many as ``labels`` or ``uniforms`` hold, else 1.
            labels: integers (N,), or one for all; for a model with classes.
            seed: image i depends on (seed, first + i) alone. With neither seed nor uniforms, torch's generator is used.
            uniforms: of each scale, (N, C·m, H, W) in [0, 1), the smallest first: see ``fastgen.sampling.Sampler``.
            temperature: divides the logits.
            first: number of the first image.

        Returns:
            int64 (N, C, H, W).

        Raises:
            ValueError: a shape or value does not fit; a seed as well as uniforms.
            TypeError: a dtype does not fit.
        """
        n = self._how_many(n, labels, uniforms)
        of_class = self.check_labels(n, labels)
        if uniforms is None:
            uniforms = self._uniforms(n, seed, check_integer("first", first, 0))
        elif seed is not None:
            raise ValueError("seed: expected None together with uniforms, which it would replace, got both")
        image: Tensor | None = None
        for stage, of_stage in zip(self.stages, uniforms, strict=True):
            given = self._told(of_class, image)
            image = stage.sample(n, uniforms=of_stage, condition=given, temperature=temperature)  # type: ignore[operator]
        assert image is not None
        return image

    def _how_many(self, n: int | None, labels: Any, uniforms: Sequence[Tensor] | None) -> int:
        if uniforms is not None and len(uniforms) != len(self.sizes):
            raise ValueError(f"uniforms: expected one tensor for each of {len(self.sizes)} scales, got {len(uniforms)}")
        if n is not None:
            return check_integer("n", n, 1)
        if uniforms is not None:
            return len(uniforms[0])
        read = None if labels is None else as_labels(labels, None)
        return 1 if read is None or read.dim() == 0 else len(read)

    def _uniforms(self, n: int, seed: int | None, first: int) -> list[Tensor]:
        """Those of every scale, no two of them the same numbers."""
        shapes = [
            (self.in_channels * getattr(stage.distribution, "uniforms_per_value", 1), *size)
            for stage, size in zip(self.stages, self.sizes, strict=True)
        ]
        counts = [math.prod(shape) for shape in shapes]
        device = next(self.parameters()).device
        if seed is None:
            drawn = torch.rand((n, sum(counts)), device=device)
        else:
            drawn = philox_uniforms(seed, n, (1, 1, sum(counts)), first=first, device=device).flatten(1)
        return [part.view(n, *shape) for part, shape in zip(drawn.split(counts, dim=1), shapes, strict=True)]


def _sizes(scales: Sequence[int] | None, sides: tuple[int, int]) -> list[tuple[int, int]]:
    """(H, W) of every image, the smallest first."""
    height, width = sides
    if scales is None:
        step = next((each for each in range(2, height + 1) if height % each == 0 and width % each == 0), None)
        if step is None:  # no smaller image is every K-th pixel of both sides
            return [sides]
        scales = (height // step,)
    heights = [check_integer("scales", scale, 1) for scale in scales] + [height]
    steps = [height // each for each in heights]
    whole = all(height % each == 0 and width % step == 0 for each, step in zip(heights, steps, strict=True))
    rising = all(a < b and b % a == 0 for a, b in pairwise(heights))
    if not scales or not whole or not rising:
        expected = f"heights below the image's {height}x{width}, each a divisor of the next, the last of {height}"
        raise ValueError(f"scales: expected {expected}, got {tuple(scales)}")
    return [(each, width // step) for each, step in zip(heights, steps, strict=True)]
