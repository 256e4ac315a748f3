"""Gated PixelCNN: van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", 2016, arXiv:1606.05328.

    v: rows above      v ── ⌈k/2⌉×k ──┬── + V·class ── gate ─────────────── v
                                      1×1 link                                                       Figure 2
    h: this row, left  h ── 1×k ───── + ─── + V·class ── gate ── 1×1 ── + h ── h

The vertical stack sees the rows above the pixel, the horizontal stack the pixels left of it: together every earlier
pixel, with no blind spot (section 2.2). The gate is tanh(a)·σ(b), eq. 2; inside of it a class adds a learned vector,
eq. 4, and a map adds V ∗ s, a 1×1 convolution without a mask of its features s = m(h), section 2.3. The first layer has
k = 7, mask A and no residual. The horizontal stack makes the parameters: ReLU, 1×1, twice.

The vertical stack reads the image shifted down by one row, so that its row r knows the rows before r and the link needs
no shift of its own. With several colours channel c belongs to colour c mod C, which keeps both halves of a gate in one
colour; at the current pixel a colour sees only the colours before it.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_integer, check_number, check_whole
from ..conditions import Classes, FeatureMap
from ..nn import MaskedConv2d
from ..nn._as_made import are_masked, are_plain, drops_nothing, last_layers, nobody_looks
from ..ops import gated_activation
from ..ops._layouts import together
from ..ops.gated_layer import gated_layer, pays
from .autoregressive import AutoregressiveModel, Law
from .map_features import MapFeatures, check_map, check_subsampled
from .model import check_divides, check_positive


class GatedPixelCNN(AutoregressiveModel):
    """Gated PixelCNN, van den Oord et al. 2016, arXiv:1606.05328, section 2; optionally conditional on a class.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        channels: width p of each stack, a multiple of the colours; the gates read 2p.
        layers: gated layers after the first, 7-wide one.
        kernel_size: of the gated layers, odd.
        classes: number of classes, or None for an unconditional model.
        image_size: what ``sample`` draws by default: one size, (H, W) or None.
        distribution: of a value: categorical, a logit for each level, of two levels Bernoulli; or logistic-mixture, of
            discretised logistics that know the order of the levels, and couple the colours of a pixel.
        components: logistics of such a mixture.
        condition_shape: (C', H', W') of a map that the model is told, whose sides divide ``image_size``; or None. With
            classes as well, its condition is a dict of "labels" and "map".
        subsampled: K, where the map is every K-th pixel of every K-th row: these are not drawn, but taken from it, and
            are no part of the likelihood.
        map_layers: residual blocks of the network m that reads a map.
        embedding: width of a learned vector for each level, read in place of its number, for one colour whose numbers
            are names, as the codes of a VQ-VAE; 0 reads numbers in [−1, 1].
        dropout: part of a layer's gated features that training leaves out, each for itself, on their way to the
            residual stream; the paper has none, and PixelCNN++ has it at this place, before a block's last convolution.
        label_smoothing: part of a value's label that training spreads over all levels (Szegedy et al. 2016,
            arXiv:1512.00567); likelihoods know nothing of it. Not with a logistic-mixture, whose levels have an order.
    """

    recipes: ClassVar = {
        "paper": {"channels": 384, "layers": 20, "kernel_size": 5, "batch_size": 128},
        "small": {"channels": 16, "layers": 3, "epochs": 6, "batch_size": 16, "lr": 6e-3, "schedule": "cosine"},
    }
    """paper: of 32×32 ImageNet, section 3.1, whose 200,000 steps are 20 passes over its images. It says neither
    optimiser nor learning rate, and no sizes for other data: what it leaves open stays at its default."""
    by_color = ("channels",)
    needs: ClassVar = AutoregressiveModel.needs | {"map_layers": {"given": ()}}

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 2,
        channels: int = 128,
        layers: int = 15,
        kernel_size: int = 3,
        classes: int | None = None,
        image_size: int | tuple[int, int] | None = 28,
        distribution: Law = "categorical",
        components: int = 10,
        condition_shape: tuple[int, int, int] | None = None,
        subsampled: int | None = None,
        map_layers: int = 2,
        embedding: int = 0,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size, distribution, components, label_smoothing)
        check_positive(channels=channels, layers=layers, kernel_size=kernel_size)
        check_divides(self.color_groups, channels=channels)
        in_channels, channels, layers = self.in_channels, int(channels), int(layers)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, got {kernel_size}")
        self.channels = channels
        self.layers = layers
        self.kernel_size = int(kernel_size)
        self.dropout = float(check_number("dropout", dropout, 0, 1))
        self.embedding = check_integer("embedding", embedding, 0)
        if self.embedding and in_channels != 1:
            raise ValueError(f"embedding: expected 0 for images of {in_channels} colours, got {embedding}")
        if self.embedding:
            check_positive(embedding=embedding)
            self.vectors = nn.Embedding(self.levels, self.embedding)
        params, colors = self.distribution.param_channels(in_channels), self.color_groups
        masked = partial(MaskedConv2d, color_groups=colors, groups_order="interleaved")
        self._tell(condition_shape, subsampled, map_layers)
        told = classes, self.condition_shape is not None
        reads = self.embedding or in_channels
        self.stack = nn.ModuleList([GatedLayer(reads, channels, 7, "A", colors, *told)])
        more = (*told, self.dropout)
        self.stack.extend(GatedLayer(channels, channels, kernel_size, "B", colors, *more) for _ in range(layers))
        self.hidden = masked(channels, channels, 1, "B", activation="relu")
        self.output = masked(channels, params, 1, "B")

    def _tell(self, shape: tuple[int, int, int] | None, subsampled: int | None, layers: int) -> None:
        """Get ready for a map of ``shape``, if there is one."""
        check_positive(map_layers=layers)
        self.condition_shape = None if shape is None else check_map(shape, self.image_size)
        self.map_layers = int(layers)
        if self.condition_shape is not None:
            self.map = MapFeatures(self.condition_shape, self.sides, self.channels, self.map_layers)
            told = FeatureMap(*self.condition_shape)
            self.condition_kind = told if self.classes is None else {"labels": Classes(self.classes), "map": told}
        self.subsampled = None if subsampled is None else check_subsampled(subsampled, self)

    def to_input(self, values: Tensor) -> Tensor:
        """Values as ``forward`` reads them, in the dtype of the parameters: in [−1, 1]; as they are to be embedded."""
        if not self.embedding:
            return super().to_input(values)
        self.check_levels(values)
        return values.to(next(self.parameters()).dtype)

    def forward(self, x: Tensor, labels: Any = None) -> Tensor:
        """Inputs (N, C, H, W), see ``to_input`` → parameters (N, P, H, W).

        Args:
            x: the image.
            labels: (N,) for a model with classes; a map (N, C', H', W') for one with ``condition_shape``; a dict of
                "labels" and "map" for one with both.
        """
        self.check_input(x)
        told = self.check_condition(x.shape[0], labels)
        features = None
        if self.condition_shape is not None:
            if x.shape[2:] != self.sides:
                raise ValueError(f"x: expected images of {self.sides}, which the map is of, got {tuple(x.shape)}")
            features = self.map(told["map"] if isinstance(told, dict) else told)
            told = told["labels"] if isinstance(told, dict) else None
        if self.embedding:
            check_whole("x", x, self.levels)
            x = self.vectors(x[:, 0].long()).permute(0, 3, 1, 2)
        v, h = F.pad(x, (0, 0, 1, -1)), x
        in_one = features is None and not (self.training and self.dropout)
        for layer in self.stack:
            v, h = layer(v, h, told, features)
            if in_one:
                v, h = together(v), together(h)
        return self.in_parts(last_layers(self.hidden, self.output, h))


class GatedLayer(nn.Module):
    """One layer of both stacks (Figure 2): features of the rows above and of this row, v and h → v and h."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        k: int,
        mask: Literal["A", "B"],
        colors: int,
        classes: int | None,
        told_map: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        masked = partial(MaskedConv2d, color_groups=colors, groups_order="interleaved")
        self.vertical = nn.Conv2d(inputs, 2 * channels, (k // 2 + 1, k), padding=(0, k // 2))
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.horizontal = masked(inputs, 2 * channels, (1, k), mask)
        self.dropout = nn.Dropout(dropout)
        self.out = masked(channels, channels, 1, "B")
        self.residual = mask == "B"
        if classes is not None:
            self.class_vertical = nn.Embedding(classes, 2 * channels)
            self.class_horizontal = nn.Embedding(classes, 2 * channels)
            nn.init.zeros_(self.class_vertical.weight)  # a class adds nothing until something is learned about it
            nn.init.zeros_(self.class_horizontal.weight)
        if told_map:
            self.map_vertical = nn.Conv2d(channels, 2 * channels, 1, bias=False)
            self.map_horizontal = nn.Conv2d(channels, 2 * channels, 1, bias=False)
            nn.init.zeros_(self.map_vertical.weight)  # nor does a map
            nn.init.zeros_(self.map_horizontal.weight)

    def forward(
        self, v: Tensor, h: Tensor, labels: Tensor | None, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        class_above, class_here = self._classes(labels)
        if features is None and self._is_one_op(v, h, class_above, class_here):
            layers = (self.vertical, self.link, self.horizontal, self.out)
            weights = tuple(tensor for layer in layers for tensor in (layer.weight, layer.bias))
            colors = self.horizontal.color_groups, self.horizontal.groups_order
            return gated_layer(v, h, weights, (class_above, class_here), *colors)
        above = self.vertical(F.pad(v, (0, 0, self.vertical.kernel_size[0] - 1, 0)))
        if class_above is not None:
            above = above + class_above[:, :, None, None]
        if features is not None:
            above = above + self.map_vertical(features)
        here = self.horizontal(h, residual=self.link(above))
        if class_here is not None:
            here = here + class_here[:, :, None, None]
        if features is not None:
            here = here + self.map_horizontal(features)
        found = self.dropout(gated_activation(here))
        return gated_activation(above), self.out(found, residual=h if self.residual else None)

    def _is_one_op(self, v: Tensor, h: Tensor, *classes: Tensor | None) -> bool:
        """Whether its layers are what they were made as, nobody looks between them, and one op is the fastest."""
        if not self.residual or not drops_nothing(self.dropout):
            return False
        plain, masked = (self.vertical, self.link), (self.horizontal, self.out)
        if not are_plain(plain) or not are_masked(masked, ("none", "none")):
            return False
        padded = (self.vertical.padding, self.link.padding) == ((0, self.vertical.kernel_size[1] // 2), (0, 0))
        if not padded or not nobody_looks((*plain, *masked, self.dropout)):
            return False
        return pays(v, h, tuple(layer.weight for layer in (*plain, *masked)), classes)

    def _classes(self, labels: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What a class adds to the gates of the vertical and of the horizontal stack, (N, 2p) each."""
        return (None, None) if labels is None else (self.class_vertical(labels), self.class_horizontal(labels))
