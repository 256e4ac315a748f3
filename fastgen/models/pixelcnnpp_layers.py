"""The layers of PixelCNN++: convolutions that see no row below, blocks that they gate, and how their weights begin."""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .._checks import check_values
from ..conditions import arguments
from ..nn import data_dependent_init
from ..nn._as_made import is_normed_conv2d
from ..nn.weight_norm import is_normed, scale_and_shift
from ..ops._dtypes import autocast_dtype
from ..ops._layouts import is_vectorized
from ..ops.concat_elu import concat_elu as padded_concat_elu
from ..ops.concat_elu import pays as concat_elu_pays
from ..ops.residual_gate import pays as residual_gate_pays
from ..ops.residual_gate import residual_gate
from ..ops.shifted_conv2d import padding as around
from ..ops.shifted_conv2d import pays, shifted_conv2d


def concat_elu(x: Tensor, padding: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Tensor:
    """Elu of [x, −x]: twice the channels, padded by zeros as ``F.pad`` does."""
    if concat_elu_pays(x):
        return padded_concat_elu(x, padding)
    y = F.elu(torch.cat((x, -x), dim=1))
    return F.pad(y, padding) if any(padding) else y


def is_one_op(conv: nn.Module, x: Tensor, channels: int) -> bool:
    """Whether ``shifted_conv2d`` is the fastest for what ``conv`` makes of an image like x, of so many channels."""
    found: Any = conv
    if not is_normed_conv2d(conv) or found.in_channels != channels:
        return False
    return pays(x, (found.out_channels, channels, *found.kernel_size), tuple(found.parameters()))


def added(conv: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """``conv(x) + residual``, of a 1×1 convolution."""
    if is_one_op(conv, x, x.shape[1]) and conv.kernel_size == (1, 1) and _is_like(residual, conv, x):
        return shifted_conv2d(x, conv.weight, conv.bias, residual, 0)  # type: ignore[arg-type]
    y: Tensor = conv(x)
    return y if residual is None else residual + y


def _is_like(residual: Tensor | None, conv: Any, x: Tensor) -> bool:
    """Whether there is no residual, or one like ``conv(x)``."""
    if residual is None:
        return True
    like = (residual.dtype, residual.device) == (autocast_dtype(x) or x.dtype, x.device)
    return like and residual.shape == (x.shape[0], conv.out_channels, *x.shape[2:])


def gated(x: Tensor, h: Tensor) -> Tensor:
    """``x + a·σ(b)``, of h = [a, b]."""
    if residual_gate_pays(x, h):
        return residual_gate(x, h)
    a, b = h.chunk(2, dim=1)
    return x + a * torch.sigmoid(b)


def down_shift(x: Tensor) -> Tensor:
    """Row r becomes row r + 1; the first is zeros."""
    return F.pad(x, (0, 0, 1, -1))


def right_shift(x: Tensor) -> Tensor:
    """Column c becomes column c + 1; the first is zeros."""
    return F.pad(x, (1, -1))


def pointwise(inputs: int, outputs: int) -> nn.Module:
    """A 1×1 convolution, weight-normed."""
    return _normed(nn.Conv2d(inputs, outputs, 1))


class ShiftedConv2d(nn.Module):
    """A weight-normed convolution over this row and those above.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: (rows, columns).
        right: whether it sees this column and those to its left, instead of as many on both sides.
        stride: of rows and columns; position i of the result is position i·stride of the input, and what it sees.
        init_scale: standard deviation of its outputs on the first batch, see ``fastgen.nn.data_dependent_init``.
        activated: whether it reads ``concat_elu`` of its inputs, and not these.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        right: bool,
        stride: int = 1,
        init_scale: float = 1.0,
        activated: bool = False,
    ) -> None:
        super().__init__()
        self.activated = activated
        inputs *= 1 + activated
        rows, columns = kernel
        self.padding = (columns - 1, 0, rows - 1, 0) if right else (columns // 2, columns // 2, rows - 1, 0)
        self.conv = _normed(nn.Conv2d(inputs, outputs, kernel, stride))
        self.conv.init_scale = init_scale  # type: ignore[assignment]

    def forward(self, x: Tensor, dropout: nn.Module | None = None) -> Tensor:
        conv: Any = self.conv
        one = is_one_op(conv, x, x.shape[1] * (1 + self.activated)) and self._is_as_made(dropout)
        padding = (0, 0, 0, 0) if one else self.padding  # the op needs no zeros around its input
        x = concat_elu(x, padding) if self.activated else F.pad(x, padding)
        if dropout is not None:
            x = dropout(x.clone() if getattr(dropout, "inplace", False) else x)  # its gradient is from what it answered
        y: Tensor = shifted_conv2d(x, conv.weight, conv.bias, None, self.padding[0]) if one else conv(x)
        return y

    def _is_as_made(self, dropout: nn.Module | None) -> bool:
        """Whether it is padded as its kernel asks for, with zeros that a dropout leaves as they are."""
        conv: Any = self.conv
        keeps_zeros = dropout is None or type(dropout) in (nn.Dropout, nn.Dropout2d)
        return keeps_zeros and self.padding == around(conv.kernel_size, self.padding[0])


class ShiftedConvTranspose2d(nn.Module):
    """Back to twice the resolution, of which it keeps the first H rows and W columns: positions 2i and 2i + 1 see i."""

    def __init__(self, channels: int, kernel: tuple[int, int], right: bool) -> None:
        super().__init__()
        self.first = 0 if right else kernel[1] // 2
        self.conv = _normed(nn.ConvTranspose2d(channels, channels, kernel, stride=2), dim=1)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return self.conv(x)[:, :, :H, self.first : self.first + W]


class GatedBlock(nn.Module):
    """x + a·σ(b), where [a, b] are convolutions of x, and of what another stream or a short-cut brings.

        x ── concat_elu, conv ── + 1×1(concat_elu(other)) ── concat_elu, dropout, conv ── + class ── gate ── + x

    Args:
        channels: of x.
        right: of its convolutions: 2×2 if so, else 2×3.
        others: channels of the other input, or 0.
        dropout: part of the features that training leaves out, each for itself.
        classes: number of classes, or None.
    """

    def __init__(self, channels: int, right: bool, others: int, dropout: float, classes: int | None) -> None:
        super().__init__()
        kernel = (2, 2) if right else (2, 3)
        self.input = ShiftedConv2d(channels, channels, kernel, right, activated=True)
        self.other = pointwise(2 * others, channels) if others else None
        self.dropout = nn.Dropout(dropout)
        self.output = ShiftedConv2d(channels, 2 * channels, kernel, right, init_scale=0.1, activated=True)
        self.class_bias = None if classes is None else nn.Embedding(classes, 2 * channels)
        if self.class_bias is not None:
            nn.init.normal_(self.class_bias.weight, std=0.05)

    def forward(self, x: Tensor, other: Tensor | None, labels: Tensor | None) -> Tensor:
        h = self.input(x)
        if self.other is not None and other is not None:
            h = added(self.other, concat_elu(other), h)
        h = self.output(h, self.dropout)
        if self.class_bias is not None:
            h = h + self.class_bias(labels)[:, :, None, None]
        return gated(x, h)


class GatedLayer(nn.Module):
    """A block of each stream: u of the rows above, and ul of the pixels to the left, which reads u. With short-cuts,
    both read those of another layer, too.
    """

    def __init__(self, channels: int, shortcut: bool, dropout: float, classes: int | None) -> None:
        super().__init__()
        self.down = GatedBlock(channels, False, channels * shortcut, dropout, classes)
        self.down_right = GatedBlock(channels, True, channels * (1 + shortcut), dropout, classes)

    def forward(
        self, u: Tensor, ul: Tensor, shortcut: tuple[Tensor, Tensor] | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        u = self.down(u, None if shortcut is None else shortcut[0], labels)
        return u, self.down_right(ul, u if shortcut is None else torch.cat((u, shortcut[1]), dim=1), labels)


class Shrink(nn.Module):
    """Both streams at half the resolution: position i sees 2i and what it saw."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = ShiftedConv2d(channels, channels, (2, 3), False, stride=2)
        self.down_right = ShiftedConv2d(channels, channels, (2, 2), True, stride=2)

    def forward(self, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        return self.down(u), self.down_right(ul)


class Grow(nn.Module):
    """Both streams at twice the resolution, (H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = ShiftedConvTranspose2d(channels, (2, 3), False)
        self.down_right = ShiftedConvTranspose2d(channels, (2, 2), True)

    def forward(self, u: Tensor, ul: Tensor, H: int, W: int) -> tuple[Tensor, Tensor]:
        return self.down(u, H, W), self.down_right(ul, H, W)


def _normed(layer: nn.Conv2d | nn.ConvTranspose2d, dim: int = 0) -> nn.Module:
    nn.init.normal_(layer.weight, std=0.05)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return weight_norm(layer, dim=dim)


def begin_from_data(model: Any, values: Tensor, condition: Any = None) -> None:
    """Begin from the first batch: ``fastgen.nn.data_dependent_init``, then ``model.output`` at its values' law.

    Args:
        model: an autoregressive one with ``initialised``; weights that have begun already are left as they are.
        values: integers (N, C, H, W) in [0, levels), of more than one value in all.
        condition: labels int64 (N,), for a model with classes.
    """
    model.asked = True
    if model.initialised:
        return
    check_values(values, model.levels)
    if values.dim() == 4 and (values.numel() <= values.shape[1] or (values == values[0, 0, 0, 0]).all()):
        of = tuple(values.shape)
        raise ValueError(f"values: expected images of more than one value, from which weights can begin, got one, {of}")
    given = model.check_condition(len(values), None if model.condition_kind is None else condition)
    law = model.distribution
    marginal = law.marginal(values) if getattr(law, "has_marginal", False) else None
    data_dependent_init(model, lambda: model(model.to_input(values), *arguments(given)))
    if marginal is not None and is_normed(model.output):
        scale_and_shift(model.output, *marginal)
    model.initialised.fill_(1)


def tell_unless_begun(model: Any) -> None:
    """A loop of one's own that forgot ``begin_training`` begins at millions of nats: say so, once.

    Not where the answer is not known: in a compiler or a transform, and of tensors without data.
    """
    begun = model.initialised
    if model.asked or torch.compiler.is_compiling() or is_vectorized() or type(begun) is not Tensor or begun.is_meta:
        return
    model.asked = True  # once: a GPU would be waited for
    if not begun:
        name = type(model).__name__
        warnings.warn(
            f"{name}: its weights begin from data, and {name}.begin_training(values) was not called, which scales them:"
            " training starts at millions of nats",
            stacklevel=2,
        )
