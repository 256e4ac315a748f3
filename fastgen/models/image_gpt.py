"""ImageGPT: Chen, Radford, Child, Wu, Jun, Luan and Sutskever, "Generative Pretraining from Pixels", ICML 2020.

    start, pixel 1, …, pixel T − 1 ── + positions ── [ block ] × layers ── norm, linear ── parameters of pixel 1, …, T

    block:  h ── norm, attention to this position and earlier ones ── + h ── norm, linear, GELU, linear ── + h
                                                                                                      section 2.2

Pixels in raster order are a sequence, of which position t holds the pixel before t: what it reads of itself and of
earlier positions is of earlier pixels. Nothing but the learned positions knows that the image has rows and columns. A
pixel is one token, as in the paper, where it is a colour of a palette: the sum of a learned vector for the level of
each of its colours.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_number, check_pair, check_whole
from .autoregressive import AutoregressiveModel, Law
from .model import check_positive


class ImageGPT(AutoregressiveModel):
    """ImageGPT, Chen et al., ICML 2020, of iGPT-S's sizes; optionally conditional on a class.

    p(x) = Π_t p(x_t | x_1 … x_{t−1}), over pixels: all colours of one have their parameters from the pixels before.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        channels: width of the stream, a multiple of the heads.
        layers: transformer blocks.
        heads: of each attention.
        classes: number of classes, or None for an unconditional model; in the paper there are none, and here each has
            a start token of its own.
        image_size: of all images, one size or (H, W): there are so many positions.
        distribution: of a value: categorical, a logit for each level, of two levels Bernoulli, by which the colours of
            a pixel are independent given the pixels before; or logistic-mixture, of discretised logistics that know the
            order of the levels, and couple the colours of a pixel. None is logistic-mixture for three colours, else
            categorical, as in the paper, whose pixels are one of 512 colours of a palette.
        components: logistics of such a mixture.
        dropout: part of what each half of a block adds that training leaves out, each feature for itself; the paper has
            none.
        label_smoothing: part of a value's label that training spreads over all levels (Szegedy et al. 2016,
            arXiv:1512.00567); likelihoods know nothing of it. Not with a logistic-mixture, whose levels have an order.
    """

    recipes: ClassVar = {
        "paper": {"batch_size": 128, "optimizer": "adam", "betas": (0.9, 0.95), "schedule": "cosine"},
        "small": {
            "channels": 32, "layers": 3, "heads": 4, "epochs": 4, "batch_size": 16, "lr": 3e-3, "warmup": 100,
            "schedule": "cosine",
        },
    }  # fmt: skip
    """paper: of ImageNet, section 3.4, a million steps. Its learning rate, which rises for one epoch, was found by
    trying and stays at its default, and so do the epochs and the warmup, which depend on the data."""

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 512,
        channels: int = 512,
        layers: int = 24,
        heads: int = 8,
        classes: int | None = None,
        image_size: int | tuple[int, int] = 32,
        distribution: Law | None = None,
        components: int = 10,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size, distribution, components, label_smoothing)
        check_positive(channels=channels, layers=layers, heads=heads)
        if channels % heads:
            raise ValueError(f"channels: expected a multiple of heads = {heads}, got {channels}")
        self.channels, self.layers, self.heads = int(channels), int(layers), int(heads)
        self.dropout = float(check_number("dropout", dropout, 0, 1))
        (H, W), D = self.sides, self.channels
        self.tokens = nn.ModuleList(nn.Embedding(self.levels, D) for _ in range(self.in_channels))
        self.start = nn.Embedding(self.classes or 1, D)
        self.positions = nn.Parameter(torch.empty(H * W, D))
        self.blocks = nn.ModuleList(Block(D, self.heads, self.dropout) for _ in range(self.layers))
        self.norm = nn.LayerNorm(D)
        self.output = nn.Linear(D, self.distribution.param_channels(self.in_channels), bias=False)
        self._begin()

    def _begin(self) -> None:
        """As in the paper's code, where what is added to the stream begins the smaller the more there is of it."""
        D = self.channels
        nn.init.normal_(self.positions, std=0.01)
        for embedding in (*self.tokens, self.start):
            nn.init.normal_(embedding.weight, std=0.02)
        for block in self.blocks.children():
            assert isinstance(block, Block)
            nn.init.normal_(block.attention.qkv.weight, std=D**-0.5)
            nn.init.normal_(block.attention.out.weight, std=(D * self.layers) ** -0.5)
            nn.init.normal_(block.up.weight, std=0.02)
            nn.init.normal_(block.down.weight, std=0.02)
        # logistics that begin alike would stay alike
        nn.init.normal_(self.output.weight, std=D**-0.5 if self.distribution.couples_colors else 0)

    def to_input(self, values: Tensor) -> Tensor:
        """Values as ``forward`` reads them: as they are, in the dtype of the parameters."""
        self.check_levels(values)
        return values.to(next(self.parameters()).dtype)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Levels (N, C, H, W), floating point, labels (N,) for a model with classes → parameters (N, P, H, W)."""
        self.check_input(x)
        check_whole("x", x, self.levels)
        labels = self.check_labels(x.shape[0], labels)
        start = self.start.weight.expand(len(x), -1) if labels is None else self.start(labels)
        pixels = sum(embed(x[:, k].long()) for k, embed in enumerate(self.tokens))  # (N, H, W, D)
        h = torch.cat((start[:, None], pixels.flatten(1, 2)[:, :-1]), dim=1) + self.positions
        for block in self.blocks:
            h = block(h)
        return self.output(self.norm(h)).transpose(1, 2).unflatten(2, self.sides)

    def sample(self, n: int | None = None, *, size: int | tuple[int, int] | None = None, **given: Any) -> Tensor:
        """As ``AutoregressiveModel.sample``, of images of ``image_size``."""
        if size is not None and check_pair("size", size) != self.sides:
            raise ValueError(f"size: expected None or {self.sides}, the image_size of the positions, got {size}")
        return super().sample(n, **given)

    def _check_pixels(self, name: str, images: Tensor) -> None:
        if tuple(images.shape[2:]) != self.sides:
            raise ValueError(
                f"{name}: expected images of {self.sides}, the image_size of the positions, got {tuple(images.shape)}"
            )


class Block(nn.Module):
    """h + attention(norm(h)), and to that its perceptron of four times the width, section 2.2."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(channels), CausalAttention(channels, heads)
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, 4 * channels, bias=False)
        self.down = nn.Linear(4 * channels, channels, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.dropout(self.attention(self.attention_norm(h)))
        return h + self.dropout(self.down(F.gelu(self.up(self.norm(h)))))


class CausalAttention(nn.Module):
    """Each head's softmax(q·kᵀ / √d) v, over a position and those before it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, T, d) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))
