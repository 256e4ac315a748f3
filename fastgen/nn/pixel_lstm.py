"""The layers of PixelRNN: an LSTM over the rows of an image, and one over its diagonals from both sides."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .._checks import check_flag, check_number
from ..ops.image_lstm import TAPS, image_lstm
from ..ops.masked_conv2d import masked_conv2d
from ..ops.row_lstm_layer import pays, row_lstm_layer
from ._as_made import are_masked, drops_nothing, nobody_looks
from ._checks import check_placed, check_size
from .masked_conv2d import MaskedConv2d


class _PixelLSTM(nn.Module):
    """What both layers share: the way from the input to the gates, and from the states back to the input's width."""

    scans: tuple[str, ...]
    kernel_size: tuple[int, int]

    def __init__(
        self,
        channels: int,
        color_groups: int = 1,
        residual: bool = True,
        dropout: float = 0.0,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_size("channels", channels)
        if self.channels % check_size("color_groups", color_groups):
            raise ValueError(f"channels: expected a multiple of color_groups = {color_groups}, got {channels}")
        self.residual = check_flag("residual", residual)
        self.dropout = nn.Dropout(check_number("dropout", dropout, 0, 1))
        placed = check_placed(device, dtype)
        colors: dict[str, Any] = {"color_groups": color_groups, "groups_order": "interleaved", **placed}
        h, count = self.channels, len(self.scans)
        self.input_to_state = MaskedConv2d(2 * h, 4 * h * count, self.kernel_size, "B", **colors)
        taps = [len(TAPS[scan]) for scan in self.scans]
        self.state_to_state = nn.ParameterList(torch.empty(4 * h, h, T, **placed) for T in taps)
        self.hidden = nn.Parameter(torch.empty(count, h, **placed))
        self.cell = nn.Parameter(torch.empty(count, h, **placed))
        self.up = MaskedConv2d(h, 2 * h, 1, "B", **colors)
        self.color_groups = self.up.color_groups
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """State-to-state weights as ``nn.LSTM``'s, uniform in ±1/√h; the initial state is zero until it is learned."""
        self.input_to_state.reset_parameters()
        self.up.reset_parameters()
        bound = self.channels**-0.5
        for weight in self.state_to_state:
            nn.init.uniform_(weight, -bound, bound)
        nn.init.zeros_(self.hidden)
        nn.init.zeros_(self.cell)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        gates = self._gates(x)
        if added is not None:
            gates = [one + more for one, more in zip(gates, added.chunk(len(self.scans), dim=-3), strict=True)]
        directions = zip(gates, self.state_to_state, self.hidden, self.cell, strict=True)
        states = [
            image_lstm(one, weight, hidden, cell, scan)  # type: ignore[arg-type]
            for scan, (one, weight, hidden, cell) in zip(self.scans, directions, strict=True)
        ]
        h = states[0]
        for other in states[1:]:
            h = h + F.pad(other, (0, 0, 1, -1))  # one row down: what it has seen of its own row lies in the future
        return self.up(self.dropout(h), residual=x if self.residual else None)

    def _gates(self, x: Tensor) -> list[Tensor]:
        """What the cells of each direction owe to the input, (N, 4·h, H, W)."""
        return [self.input_to_state(x)]

    def extra_repr(self) -> str:
        return f"{self.channels}" + (f", color_groups={self.color_groups}" if self.color_groups > 1 else "")


class RowLSTM(_PixelLSTM):
    """A Row LSTM layer with its residual connection (arXiv:1601.06759, sections 3.1 and 3.3, figure 4).

    [o, f, i, g] = K_ss ∗ h(row above) + K_is ∗ x(row),   c ← σ(f)·c + σ(i)·tanh(g),   h = σ(o)·tanh(c)
    y = up(h) + x

    K_is (``input_to_state``) is 1×3 along the row, mask B; K_ss (``state_to_state``) is 3 along the row above and has
    no mask: all of it is past. ``hidden`` and ``cell`` are the state above the first row, one learned number per
    channel. A feature reads its own row up to itself, and upwards a triangle one column wider on each side per row.

    Args:
        channels: h; the layer reads and writes 2·h.
        color_groups: how many colours the channels are divided into; channel c has colour c mod ``color_groups``.
        residual: whether the input is added to the result.
        dropout: part of the states that training leaves out before ``up``, each for itself; cells read all of them.

    Shapes: x (N, 2·h, H, W), and ``added``, which joins the gates (4·h channels, any shape that broadcasts to
    (N, 4·h, H, W)) or None → (N, 2·h, H, W).

    Raises:
        ValueError: a size is not positive, or ``channels`` is no multiple of ``color_groups``.
    """

    scans = ("row",)
    kernel_size = (1, 3)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        numbers = None if added is None else _by_image(added)
        if (added is None or numbers is not None) and self._is_as_made():
            read, write = self.input_to_state, self.up
            states = (self.state_to_state[0], self.hidden, self.cell)
            weights = (read.weight, read.bias, *states, write.weight, write.bias)
            if pays(x, weights, numbers):
                return row_lstm_layer(x, weights, numbers, write.color_groups, write.groups_order)
        return super().forward(x, added)

    def _is_as_made(self) -> bool:
        """Whether its parts are what they were made as, and nobody looks between them: then one op may be all of it."""
        masked = (self.input_to_state, self.up)
        if not self.residual or not drops_nothing(self.dropout) or not are_masked(masked, ("none", "none")):
            return False
        if not nobody_looks((*masked, self.dropout)):
            return False
        if parametrize.is_parametrized(self) or parametrize.is_parametrized(self.state_to_state):
            return False
        own = getattr(self._gates, "__func__", None) is _PixelLSTM._gates and self.scans == ("row",)
        return own and len(self.state_to_state) == len(self.hidden) == len(self.cell) == 1


def _by_image(added: Tensor) -> Tensor | None:
    """(N, 4·h, 1, 1) as (N, 4·h); None of any other shape."""
    return added[:, :, 0, 0] if isinstance(added, Tensor) and added.dim() == 4 and added.shape[2:] == (1, 1) else None


class DiagonalLSTM(_PixelLSTM):
    """A Diagonal BiLSTM layer with its residual connection (arXiv:1601.06759, sections 3.2 and 3.3, figure 4).

    [o, f, i, g] = K_ss ∗ [h(above), h(left)] + K_is ∗ x,   c ← σ(f)·c(left) + σ(i)·tanh(g),   h = σ(o)·tanh(c)
    y = up(h(from the left) + h(from the right, moved one row down)) + x

    K_is (``input_to_state``) is 1×1, mask B, and has 4·h channels for each direction; K_ss (``state_to_state``, from
    the left and from the right) is the paper's 2×1 kernel on the skewed map: the states above and beside. ``hidden``
    and ``cell`` (2, h) are the learned state outside of the image. The map of the direction from the right is moved
    one row down, so that what it has read right of a pixel lies above that pixel. A feature reads everything before it.

    Args:
        channels: h; the layer reads and writes 2·h.
        color_groups: how many colours the channels are divided into; channel c has colour c mod ``color_groups``.
        residual: whether the input is added to the result.
        dropout: part of the states that training leaves out before ``up``, each for itself; cells read all of them.

    Shapes: x (N, 2·h, H, W), and ``added``, which joins the gates (8·h channels, any shape that broadcasts to
    (N, 8·h, H, W)) or None → (N, 2·h, H, W).

    Raises:
        ValueError: a size is not positive, or ``channels`` is no multiple of ``color_groups``.
    """

    scans = ("diagonal", "mirrored")
    kernel_size = (1, 1)

    def _gates(self, x: Tensor) -> list[Tensor]:
        """A product for each direction: in one for both they would have to be copied apart."""
        read = self.input_to_state
        halves = zip(read.weight.chunk(2), read.bias.chunk(2), strict=True)  # type: ignore[union-attr]
        colors: dict[str, Any] = {"color_groups": self.color_groups, "groups_order": "interleaved"}
        return [masked_conv2d(x, *half, **colors) for half in halves]
