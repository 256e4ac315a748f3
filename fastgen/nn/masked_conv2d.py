"""MaskedConv2d: nn.Conv2d whose output at a pixel depends on earlier pixels only."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._checks import check_flag
from ..ops._masked_conv2d_checks import check_channels, check_options
from ..ops.masked_conv2d import masked_conv2d, masked_conv2d_mask
from ._checks import check_odd, check_placed, check_size


class MaskedConv2d(nn.Conv2d):
    """Masked convolution with bias, activation and residual in one op (arXiv:1601.06759, section 3.4).

    Parameters, initialisation and state_dict are those of ``nn.Conv2d(in_channels, out_channels, kernel_size)``, so a
    checkpoint of a masked ``nn.Conv2d`` loads. Stride is 1 and the padding keeps the image size.

    Args:
        in_channels, out_channels: channels of input and weight. The result has 2·out_channels for "concat_elu" and
            out_channels / 2 for "gated".
        kernel_size: odd, one number or (KH, KW).
        mask: "A" leaves the centre tap out, "B" keeps it.
        bias: whether to add one.
        activation: "none", "relu", "elu", "concat_elu" or "gated".
        color_groups, groups_order: see ``fastgen.ops.masked_conv2d``.

    Shapes: (N, in_channels, H, W) → (N, channels of the result, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        mask: Literal["A", "B"] = "B",
        bias: bool = True,
        activation: Literal["none", "relu", "elu", "concat_elu", "gated"] = "none",
        *,
        color_groups: int = 1,
        groups_order: Literal["contiguous", "interleaved"] = "contiguous",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        in_channels, out_channels = check_size("in_channels", in_channels), check_size("out_channels", out_channels)
        KH, KW = check_odd("kernel_size", kernel_size)
        check_options(mask, activation, color_groups, groups_order)
        if activation == "gated" and out_channels % 2:
            raise ValueError(f"out_channels: expected an even number for 'gated', got {out_channels}")
        check_channels(in_channels, out_channels, activation, color_groups)
        placed, bias = check_placed(device, dtype), check_flag("bias", bias)
        super().__init__(in_channels, out_channels, (KH, KW), padding=(KH // 2, KW // 2), bias=bias, **placed)
        self.mask = mask
        self.activation = activation
        self.color_groups = int(color_groups)
        self.groups_order = groups_order

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return masked_conv2d(
            x, self.weight, self.bias, self.mask, self.activation, residual,
            color_groups=self.color_groups, groups_order=self.groups_order,
        )  # fmt: skip

    def live_weight(self) -> Tensor:
        """The weight with its dead taps set to zero; shape (out_channels, in_channels, KH, KW)."""
        taps = masked_conv2d_mask(self.weight, self.mask, self.activation, self.color_groups, self.groups_order)
        return self.weight.masked_fill(taps == 0, 0)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, mask={self.mask!r}"
        if self.bias is None:
            text += ", bias=False"
        if self.activation != "none":
            text += f", activation={self.activation!r}"
        if self.color_groups > 1:
            text += f", color_groups={self.color_groups}, groups_order={self.groups_order!r}"
        return text
