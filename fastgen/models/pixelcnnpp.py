"""PixelCNN++: Salimans, Karpathy, Chen and Kingma 2017, arXiv:1701.05517, and its published code, openai/pixel-cnn.

    u:  rows above        [x, 1] ── 2×3, down ─────────────────────── blocks ─ shrink ─ blocks ─ shrink ─ blocks ┐
    ul: and to the left   [x, 1] ── 1×3, down + 2×1, right ────────── blocks ─ shrink ─ blocks ─ shrink ─ blocks ┤
                                                                        ┆                 ┆                 ┆    │
        parameters ── 1×1, elu ── ul ─ blocks ─ grow ─ blocks ─ grow ─ blocks ─────────────────────────── u, ul ─┘

Convolutions are shifted instead of masked: down-shifted ones see the rows up to their own, down-right-shifted ones the
columns up to their own as well, and the first layers move the result on, so that no pixel sees itself (Figure 2). Every
block of the way back reads one of the way down by a short-cut, dotted (section 2.4). A mixture of discretised logistics
gives a whole pixel's likelihood at once: its colours are coupled there, not by masks (section 2.1-2.2).

Every convolution is weight-normed, and begins where the first batch's features have mean 0 and variance 1.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_number
from ..ops._layouts import together
from .autoregressive import AutoregressiveModel, Law
from .model import check_positive
from .pixelcnnpp_layers import (
    GatedLayer,
    Grow,
    ShiftedConv2d,
    Shrink,
    added,
    begin_from_data,
    down_shift,
    pointwise,
    right_shift,
    tell_unless_begun,
)


class PixelCNNPP(AutoregressiveModel):
    """PixelCNN++, Salimans et al. 2017, arXiv:1701.05517; optionally conditional on a class.

    Images of any size: where a side is odd, half of it is rounded up, and what that adds is cut off again.

    Args:
        in_channels: colours of an image; 1 or 3 with a mixture of logistics.
        levels: values of a pixel.
        channels: width of both streams; the gates read twice as much.
        blocks: gated layers of each resolution on the way down; all but the lowest have one more on the way back.
        resolutions: how many; each after the first halves the sides.
        dropout: part of a block's features that training leaves out, each for itself.
        classes: number of classes, or None for an unconditional model.
        image_size: what ``sample`` draws by default: one size, (H, W) or None.
        distribution: of a value: logistic-mixture, of discretised logistics that know the order of the levels, and
            couple the colours of a pixel; or categorical, a logit for each level, of two levels Bernoulli, of which
            those of the colours of one pixel know nothing of each other.
        components: logistics of such a mixture.
        label_smoothing: part of a value's label that training spreads over all levels (Szegedy et al. 2016,
            arXiv:1512.00567); likelihoods know nothing of it. Not with a logistic-mixture, whose levels have an order.

    Attributes:
        initialised: 1 once the weights have begun from data, or were loaded from what had.
    """

    recipes: ClassVar = {
        "paper": {
            "channels": 192, "batch_size": 128, "optimizer": "adam", "betas": (0.95, 0.9995), "lr_decay": 0.999995,
            "ema": 0.9995, "clip": 0.0,
        },
        "small": {
            "channels": 24, "blocks": 1, "resolutions": 2, "dropout": 0.0, "components": 5, "epochs": 2,
            "batch_size": 16, "lr": 4e-3, "schedule": "cosine",
        },
    }  # fmt: skip
    """paper: of CIFAR-10, section 3; batch and optimiser of its code, which trained on 8 GPUs for 5 days, and has 160
    channels. How many epochs these were is not said: they stay at the default."""

    initialised: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        levels: int = 256,
        channels: int = 160,
        blocks: int = 5,
        resolutions: int = 3,
        dropout: float = 0.5,
        classes: int | None = None,
        image_size: int | tuple[int, int] | None = 32,
        distribution: Law = "logistic-mixture",
        components: int = 10,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size, distribution, components, label_smoothing)
        check_positive(channels=channels, blocks=blocks, resolutions=resolutions)
        self.channels, self.blocks, self.resolutions = int(channels), int(blocks), int(resolutions)
        self.dropout = float(check_number("dropout", dropout, 0, 1))
        C, D = self.in_channels + 1, self.channels  # a channel of ones says where the image is
        self.above = ShiftedConv2d(C, D, (2, 3), right=False)
        self.above_left = ShiftedConv2d(C, D, (1, 3), right=False)
        self.left = ShiftedConv2d(C, D, (2, 1), right=True)

        def layers(count: int, shortcut: bool) -> nn.ModuleList:
            return nn.ModuleList(GatedLayer(D, shortcut, self.dropout, self.classes) for _ in range(count))

        lower = self.resolutions - 1
        self.down = nn.ModuleList(layers(self.blocks, False) for _ in range(self.resolutions))
        self.shrink = nn.ModuleList(Shrink(D) for _ in range(lower))
        self.back = nn.ModuleList(layers(self.blocks + (level > 0), True) for level in range(self.resolutions))
        self.grow = nn.ModuleList(Grow(D) for _ in range(lower))
        self.output = pointwise(D, self.distribution.param_channels(self.in_channels))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.int64))
        self.asked = False  # whether that was looked at

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Inputs (N, C, H, W) in [−1, 1], labels (N,) for a model with classes → parameters (N, P, H, W).

        On a CPU, but for float64, they are channels_last.
        """
        self.check_input(x)
        labels = self.check_labels(x.shape[0], labels)
        if self.training:
            tell_unless_begun(self)
        x = together(torch.cat((x, torch.ones_like(x[:, :1])), dim=1))
        u, ul = down_shift(self.above(x)), down_shift(self.above_left(x)) + right_shift(self.left(x))
        seen = [(together(u), together(ul))]
        for level, layers in enumerate(self.down):
            if level:
                seen.append(self.shrink[level - 1](*seen[-1]))
            for layer in layers.children():
                seen.append(layer(*seen[-1], None, labels))
        u, ul = seen.pop()
        for level, layers in enumerate(self.back):
            if level:
                u, ul = self.grow[level - 1](u, ul, *seen[-1][0].shape[2:])
            for layer in layers.children():
                u, ul = layer(u, ul, seen.pop(), labels)
        return added(self.output, F.elu(ul))

    def begin_training(self, values: Tensor, condition: Any = None) -> None:
        """Begin from the first batch: ``fastgen.nn.data_dependent_init``, with dropout as its mode says.

        The last layer begins at ``distribution.marginal``, the law of the batch's values whatever their place, where
        the published code begins with logistics of means and log-scales around 0: a departure, see docs/pixelcnnpp.md.
        A last layer of one's own, without weight norm or bias, and one for a law without a marginal stay there.

        Weights that have begun already, as those of another run, are left as they are.

        Args:
            values: integers (N, C, H, W) in [0, levels), of more than one value in all.
            condition: labels int64 (N,), for a model with classes.
        """
        begin_from_data(self, values, condition)
