"""PixelSNAIL: Chen, Mishra, Rohaninejad and Abbeel 2017, arXiv:1712.09763, and its code, neocxi/pixelsnail-public.

    [x, 1] ── 1×3, down + 2×1, right ── [ residual blocks ── attention block ] × blocks ── elu, 1×1 ── parameters
                                                                                                           Figure 4
    residual block:   h ── elu, 2×2 ── elu, dropout, 2×2 ── + class ── a·σ(b) ── + h                       Figure 3a

    attention block:  [x, h, place] ── residual block, 1×1 ── keys k, values v ┐
                      [h, place] ───── residual block, 1×1 ── queries q ────── softmax(q·kᵀ / √d) v        Figure 3b
                      h ── residual block, 1×1, that reads what was attended to

Causal convolutions of PixelCNN++'s kind, down-right-shifted, see what is near; attention sees every earlier pixel,
however far, in one step. A query reads strictly earlier pixels alone, so that keys and values may hold the pixel
itself; the first pixel reads none, and what it finds is zeros. Where a pixel is, two coordinates say: the background.

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
    ShiftedConv2d,
    added,
    begin_from_data,
    down_shift,
    gated,
    pointwise,
    right_shift,
    tell_unless_begun,
)


class PixelSNAIL(AutoregressiveModel):
    """PixelSNAIL, Chen et al. 2017, arXiv:1712.09763; optionally conditional on a class.

    Images of any size; what attention takes grows with the square of their pixels.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        channels: width of the residual blocks; the gates read twice as much.
        blocks: times that residual blocks and an attention block follow each other.
        layers: residual blocks before each attention block.
        keys: channels of a key and of a query.
        values: channels of a value.
        dropout: part of a block's features that training leaves out, each for itself.
        classes: number of classes, or None for an unconditional model; in the paper there are none, and here a class
            adds to the gate of every residual block, as in PixelCNN++.
        image_size: what ``sample`` draws by default: one size, (H, W) or None.
        distribution: of a value: categorical, a logit for each level, of two levels Bernoulli; or logistic-mixture, of
            discretised logistics that know the order of the levels, and couple the colours of a pixel, which by
            categorical are independent given the pixels before. None is logistic-mixture for three colours, as in the
            paper, else categorical.
        components: logistics of such a mixture.
        label_smoothing: part of a value's label that training spreads over all levels (Szegedy et al. 2016,
            arXiv:1512.00567); likelihoods know nothing of it. Not with a logistic-mixture, whose levels have an order.

    Attributes:
        initialised: 1 once the weights have begun from data, or were loaded from what had.
    """

    recipes: ClassVar = {
        "paper": {
            "batch_size": 64, "optimizer": "adam", "betas": (0.95, 0.9995), "lr_decay": 0.999998, "ema": 0.9995,
            "clip": 0.0,
        },
        "small": {
            "channels": 24, "blocks": 2, "layers": 1, "keys": 8, "values": 12, "dropout": 0.0, "epochs": 2,
            "batch_size": 16, "lr": 4e-3, "schedule": "cosine",
        },
    }  # fmt: skip
    """paper: of CIFAR-10, section 3; batch and optimiser of its code, 8 images on each of several GPUs, here 8 of them.
    How many epochs these were is not said: they stay at the default."""

    initialised: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        levels: int = 256,
        channels: int = 256,
        blocks: int = 12,
        layers: int = 4,
        keys: int = 16,
        values: int = 128,
        dropout: float = 0.5,
        classes: int | None = None,
        image_size: int | tuple[int, int] | None = 32,
        distribution: Law | None = None,
        components: int = 10,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size, distribution, components, label_smoothing)
        check_positive(channels=channels, blocks=blocks, layers=layers, keys=keys, values=values)
        self.channels, self.blocks, self.layers = int(channels), int(blocks), int(layers)
        self.keys, self.values = int(keys), int(values)
        self.dropout = float(check_number("dropout", dropout, 0, 1))
        C, D = self.in_channels, self.channels
        self.above = ShiftedConv2d(C + 1, D, (1, 3), right=False)  # a channel of ones says where the image is
        self.left = ShiftedConv2d(C + 1, D, (2, 1), right=True)
        more = self.dropout, self.classes
        self.residual = nn.ModuleList(
            nn.ModuleList(ResidualBlock(D, 2, 0, *more) for _ in range(self.layers)) for _ in range(self.blocks)
        )
        self.attention = nn.ModuleList(AttentionBlock(C, D, self.keys, self.values, *more) for _ in range(self.blocks))
        self.output = pointwise(D, self.distribution.param_channels(C))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.int64))
        self.asked = False  # whether that was looked at

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Inputs (N, C, H, W) in [−1, 1], labels (N,) for a model with classes → parameters (N, P, H, W)."""
        self.check_input(x)
        labels = self.check_labels(x.shape[0], labels)
        if self.training:
            tell_unless_begun(self)
        T, place = x.shape[2] * x.shape[3], background(x)
        earlier = torch.ones(T, T, dtype=torch.bool, device=x.device).tril(-1)
        seen = together(torch.cat((x, torch.ones_like(x[:, :1])), dim=1))
        h = together(down_shift(self.above(seen)) + right_shift(self.left(seen)))
        for blocks, attention in zip(self.residual, self.attention, strict=True):
            for block in blocks.children():
                h = block(h, None, labels)
            h = attention(h, x, place, earlier, labels)
        return added(self.output, F.elu(h))

    def begin_training(self, values: Tensor, condition: Any = None) -> None:
        """Begin from the first batch, as ``fastgen.models.PixelCNNPP`` does.

        Weights that have begun already, as those of another run, are left as they are.

        Args:
            values: integers (N, C, H, W) in [0, levels), of more than one value in all.
            condition: labels int64 (N,), for a model with classes.
        """
        begin_from_data(self, values, condition)


class ResidualBlock(nn.Module):
    """Figure 3a: h + a·σ(b), where [a, b] are convolutions of h, and of what else it reads.

    Args:
        channels: of h.
        kernel: rows and columns of its convolutions, which see those up to their own.
        others: channels of the other input, or 0.
        dropout: part of the features that training leaves out, each for itself.
        classes: number of classes, or None.
    """

    def __init__(self, channels: int, kernel: int, others: int, dropout: float, classes: int | None) -> None:
        super().__init__()
        self.input = ShiftedConv2d(channels, channels, (kernel, kernel), right=True)
        self.other = pointwise(others, channels) if others else None
        self.dropout = nn.Dropout(dropout)
        self.output = ShiftedConv2d(channels, 2 * channels, (kernel, kernel), right=True, init_scale=0.1)
        self.class_bias = None if classes is None else nn.Embedding(classes, 2 * channels)
        if self.class_bias is not None:
            nn.init.normal_(self.class_bias.weight, std=0.05)

    def forward(self, h: Tensor, other: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        found = self.input(F.elu(h))
        if self.other is not None and other is not None:
            found = added(self.other, F.elu(other), found)
        found = self.output(F.elu(found), self.dropout)
        if self.class_bias is not None:
            found = found + self.class_bias(labels)[:, :, None, None]
        return gated(h, found)


class AttentionBlock(nn.Module):
    """Figure 3b: one look at every earlier pixel, by one head.

    Args:
        colors: of the image.
        channels: of h.
        keys: channels of a key and of a query.
        values: channels of a value.
        dropout: part of its blocks' features that training leaves out, each for itself.
        classes: number of classes, or None.
    """

    def __init__(self, colors: int, channels: int, keys: int, values: int, dropout: float, classes: int | None) -> None:
        super().__init__()
        reads, asks, self.sizes = colors + channels + 2, channels + 2, (keys, values)
        self.read, self.ask = (ResidualBlock(width, 1, 0, dropout, classes) for width in (reads, asks))
        self.key_value, self.query = pointwise(reads, keys + values), pointwise(asks, keys)
        self.merge = ResidualBlock(channels, 1, values, dropout, classes)

    def forward(self, h: Tensor, x: Tensor, place: Tensor, earlier: Tensor, labels: Tensor | None) -> Tensor:
        """Features h, the image x and its coordinates, (N, ·, H, W); which pixels (T, T) are read → features."""
        read = self.read(together(torch.cat((x, h, place), dim=1)), None, labels)
        asked = self.ask(together(torch.cat((h, place), dim=1)), None, labels)
        key, value = added(self.key_value, F.elu(read)).flatten(2).transpose(1, 2).split(self.sizes, dim=2)
        query = added(self.query, F.elu(asked)).flatten(2).transpose(1, 2)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=earlier)  # zeros for the first pixel
        return self.merge(h, y.transpose(1, 2).unflatten(2, h.shape[2:]), labels)


def background(x: Tensor) -> Tensor:
    """Of images (N, C, H, W), where each pixel is: rows and columns in [−½, ½), (N, 2, H, W)."""
    N, _, H, W = x.shape
    rows = torch.arange(H, dtype=x.dtype, device=x.device)[:, None].expand(N, 1, H, W) / H
    columns = torch.arange(W, dtype=x.dtype, device=x.device).expand(N, 1, H, W) / W
    return torch.cat((rows, columns), dim=1) - 0.5
