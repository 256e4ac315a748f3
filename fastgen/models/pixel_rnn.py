"""PixelRNN: van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016, arXiv:1601.06759.

    x ── 7×7 mask A, 2h ── [ LSTM layer ] × layers ── ReLU, 1×1 ── ReLU, 1×1 ── parameters                     Table 1

    LSTM layer:  x ── K_is, 4h ── + class ── cells: K_ss from pixel to pixel, h ── 1×1, h→2h ── + x          Figure 4

The Row LSTM's cells read the three states above them, the Diagonal BiLSTM's the state above and the one beside, from
the left and from the right (sections 3.1 and 3.2; ``fastgen.nn.RowLSTM``, ``fastgen.nn.DiagonalLSTM``). With skip
connections the parameters are made of what every layer has found, and not of the last alone (section 3.3).

With several colours channel c belongs to colour c mod C, which keeps the four gates of a cell in one colour. At the
current pixel a colour sees only the colours before it; states of other pixels are read whole (section 3.4).
"""

from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from .._checks import check_flag, check_number
from ..nn import DiagonalLSTM, MaskedConv2d
from ..nn import RowLSTM as RowLSTMLayer
from ..nn._as_made import first_layer, last_layers
from ..ops._layouts import in_channels_last
from .autoregressive import AutoregressiveModel, Law
from .model import check_divides, check_positive


class _PixelRNN(AutoregressiveModel):
    """What both models share: Table 1, with another layer in its middle."""

    layer: ClassVar[type[RowLSTMLayer] | type[DiagonalLSTM]]
    by_color = ("channels",)

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 2,
        channels: int = 16,
        layers: int = 7,
        residual: bool = True,
        skip: bool = False,
        classes: int | None = None,
        image_size: int | tuple[int, int] | None = 28,
        distribution: Law = "categorical",
        components: int = 10,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size, distribution, components, label_smoothing)
        check_positive(channels=channels, layers=layers)
        check_divides(self.color_groups, channels=channels)
        colors, h, self.layers = self.color_groups, int(channels), int(layers)
        self.channels = h
        self.dropout = float(check_number("dropout", dropout, 0, 1))
        masked = partial(MaskedConv2d, color_groups=colors, groups_order="interleaved")
        self.input = masked(self.in_channels, 2 * h, 7, "A")
        stack = [self.layer(h, colors, residual, self.dropout) for _ in range(self.layers)]
        self.stack = nn.ModuleList(stack)
        self.residual = stack[0].residual
        self.skip = check_flag("skip", skip)
        if self.skip:
            self.skips = nn.ModuleList(masked(2 * h, 2 * h, 1, "B") for _ in range(self.layers))
        if classes is not None:
            told = [nn.Embedding(classes, layer.input_to_state.out_channels) for layer in stack]
            for embedding in told:
                nn.init.zeros_(embedding.weight)  # a class adds nothing until something is learned about it
            self.classes_to_gates = nn.ModuleList(told)
        self.hidden = masked(2 * h, 2 * h, 1, "B", activation="relu")
        self.output = masked(2 * h, self.distribution.param_channels(self.in_channels), 1, "B")

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Inputs (N, C, H, W) in [−1, 1], labels (N,) for a model with classes → parameters (N, P, H, W)."""
        self.check_input(x)
        labels = self.check_labels(x.shape[0], labels)
        h, found = in_channels_last(first_layer(self.input, x)), None  # as cells lie
        for index, layer in enumerate(self.stack):
            h = layer(h, None if labels is None else self.classes_to_gates[index](labels)[:, :, None, None])
            if self.skip:
                found = self.skips[index](h, residual=found)
        return self.in_parts(last_layers(self.hidden, self.output, h if found is None else found))


class RowLSTM(_PixelRNN):
    """PixelRNN of Row LSTM layers, van den Oord et al. 2016, arXiv:1601.06759, section 3.1.

    It sees all of a triangle above the pixel, one column wider on each side per row; of the pixel's own row what is at
    most ``layers`` + 3 pixels to the left.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        channels: width h of the cells, a multiple of the colours; the stream between layers has 2h.
        layers: LSTM layers.
        residual: add each layer's input to its result.
        skip: make the parameters of what every layer has found, through a 1×1 convolution each.
        classes: number of classes, or None for an unconditional model.
        image_size: what ``sample`` draws by default: one size, (H, W) or None.
        distribution: of a value: categorical, a logit for each level, of two levels Bernoulli; or logistic-mixture, of
            discretised logistics that know the order of the levels, and couple the colours of a pixel.
        components: logistics of such a mixture.
        dropout: part of the states that training leaves out, each for itself, on their way to the next layer and not to
            the next pixel, as in Zaremba et al. 2014, arXiv:1409.2329; the paper has none.
        label_smoothing: part of a value's label that training spreads over all levels (Szegedy et al. 2016,
            arXiv:1512.00567); likelihoods know nothing of it. Not with a logistic-mixture, whose levels have an order.
    """

    layer = RowLSTMLayer
    recipes: ClassVar = {
        "paper": {"channels": 128, "layers": 12, "batch_size": 16, "optimizer": "rmsprop"},
        "small": {"channels": 16, "layers": 3, "epochs": 6, "batch_size": 16, "lr": 4e-3, "schedule": "cosine"},
    }
    """paper: of CIFAR-10, Table 1 and section 5, whose last two layers have 1024 channels, here 2h; h = 128 becomes the
    next multiple of the colours. It says neither its learning rates, which were set by hand for each data set, nor how
    long it trained: these stay at their defaults."""


class DiagonalBiLSTM(_PixelRNN):
    """PixelRNN of Diagonal BiLSTM layers, van den Oord et al. 2016, arXiv:1601.06759, section 3.2.

    It sees every pixel before its own, from its first layer on, but for one: the last of the row above, wherever that
    is more than three columns to the right. There the first layer's mask A leaves it out.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        channels: width h of the cells, a multiple of the colours; the stream between layers has 2h.
        layers: LSTM layers.
        residual: add each layer's input to its result.
        skip: make the parameters of what every layer has found, through a 1×1 convolution each.
        classes: number of classes, or None for an unconditional model.
        image_size: what ``sample`` draws by default: one size, (H, W) or None.
        distribution: of a value: categorical, a logit for each level, of two levels Bernoulli; or logistic-mixture, of
            discretised logistics that know the order of the levels, and couple the colours of a pixel.
        components: logistics of such a mixture.
        dropout: part of the states that training leaves out, each for itself, on their way to the next layer and not to
            the next pixel, as in Zaremba et al. 2014, arXiv:1409.2329; the paper has none.
        label_smoothing: part of a value's label that training spreads over all levels (Szegedy et al. 2016,
            arXiv:1512.00567); likelihoods know nothing of it. Not with a logistic-mixture, whose levels have an order.
    """

    layer = DiagonalLSTM
    recipes: ClassVar = {
        "paper": {"channels": 16, "layers": 7, "batch_size": 16, "optimizer": "rmsprop"},
        "small": {"channels": 16, "layers": 2, "epochs": 6, "batch_size": 16, "lr": 4e-3, "schedule": "cosine"},
    }
    """paper: of binarised MNIST, Table 1 and section 5. It says neither its learning rate, which was set by hand, nor
    how long it trained: these stay at their defaults."""
