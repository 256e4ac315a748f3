"""PixelCNN: van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016, arXiv:1601.06759.

    x ── 7×7 mask A ── [ residual block ] × layers ── ReLU, 1×1 ── ReLU, 1×1 ── parameters           Table 1

    residual block:  h ── ReLU, 1×1, 2h→h ── ReLU, 3×3 mask B, h→h ── ReLU, 1×1, h→2h ── + h         Figure 5, left

Mask A hides the pixel itself from its parameters, mask B lets a feature of the pixel through. With several colours the
channels form one contiguous part for each, and at the current pixel a colour sees only the colours before it
(section 3.4).
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_number
from ..nn import MaskedConv2d
from ..nn._as_made import are_masked, drops_nothing, first_layer, last_layers, nobody_looks
from ..ops.residual_block import pays, residual_block
from .autoregressive import AutoregressiveModel, Law
from .model import check_divides, check_positive


class PixelCNN(AutoregressiveModel):
    """PixelCNN, van den Oord et al. 2016, arXiv:1601.06759, section 3.5.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        channels: width h of the residual blocks, a multiple of the colours; their stream has 2h.
        layers: residual blocks.
        image_size: what ``sample`` draws by default: one size, (H, W) or None.
        distribution: of a value: categorical, a logit for each level, of two levels Bernoulli; or logistic-mixture, of
            discretised logistics that know the order of the levels, and couple the colours of a pixel.
        components: logistics of such a mixture.
        dropout: part of a block's features that training leaves out, each for itself; the paper has none, and
            PixelCNN++ has it at this place, before a block's last convolution.
        label_smoothing: part of a value's label that training spreads over all levels (Szegedy et al. 2016,
            arXiv:1512.00567); likelihoods know nothing of it. Not with a logistic-mixture, whose levels have an order.
    """

    recipes: ClassVar = {
        "paper": {"channels": 128, "layers": 15, "batch_size": 16, "optimizer": "rmsprop"},
        "small": {"channels": 16, "layers": 3, "epochs": 6, "batch_size": 16, "lr": 6e-3, "schedule": "cosine"},
    }
    """paper: of CIFAR-10, Table 1 and section 5. It says neither its learning rates, which were set by hand for each
    data set, nor how long it trained: these stay at their defaults. Its last two layers have 1024 channels, here 2h."""
    by_color = ("channels",)

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 2,
        channels: int = 64,
        layers: int = 7,
        image_size: int | tuple[int, int] | None = 28,
        distribution: Law = "categorical",
        components: int = 10,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(in_channels, levels, None, image_size, distribution, components, label_smoothing)
        check_positive(channels=channels, layers=layers)
        check_divides(self.color_groups, channels=channels)
        in_channels, channels, layers = self.in_channels, int(channels), int(layers)
        self.channels = channels
        self.layers = layers
        self.dropout = float(check_number("dropout", dropout, 0, 1))
        params, groups = self.distribution.param_channels(in_channels), self.color_groups
        self.input = MaskedConv2d(in_channels, 2 * channels, 7, "A", color_groups=groups)
        self.blocks = nn.ModuleList(ResidualBlock(channels, groups, self.dropout) for _ in range(layers))
        self.hidden = MaskedConv2d(2 * channels, 2 * channels, 1, "B", activation="relu", color_groups=groups)
        self.output = MaskedConv2d(2 * channels, params, 1, "B", color_groups=groups)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Inputs (N, C, H, W) in [−1, 1] → parameters (N, P, H, W)."""
        self.check_input(x)
        self.check_labels(x.shape[0], labels)
        h = first_layer(self.input, x)
        for block in self.blocks:
            h = block(h)
        return last_layers(self.hidden, self.output, h)


class ResidualBlock(nn.Module):
    """Figure 5, left; each ReLU is fused into the convolution before it, except the one on the residual stream."""

    def __init__(self, channels: int, groups: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = MaskedConv2d(2 * channels, channels, 1, "B", activation="relu", color_groups=groups)
        self.context = MaskedConv2d(channels, channels, 3, "B", activation="relu", color_groups=groups)
        self.dropout = nn.Dropout(dropout)
        self.up = MaskedConv2d(channels, 2 * channels, 1, "B", color_groups=groups)

    def forward(self, h: Tensor) -> Tensor:
        if self._is_one_op(h):
            down, context, up = self.down, self.context, self.up
            weights = (down.weight, down.bias, context.weight, context.bias, up.weight, up.bias)
            return residual_block(h, weights, up.color_groups, up.groups_order)
        return self.up(self.dropout(self.context(self.down(F.relu(h)))), residual=h)

    def _is_one_op(self, h: Tensor) -> bool:
        """Whether its layers are what they were made as, nobody looks between them, and one op is the fastest."""
        if not drops_nothing(self.dropout):
            return False
        layers = (self.down, self.context, self.up)
        if not are_masked(layers, ("relu", "relu", "none")) or not nobody_looks((*layers, self.dropout)):
            return False
        return pays(h, *(layer.weight for layer in layers))
