"""GatedResidualBlock: the residual layer of a gated PixelCNN, in one op."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..ops.gated_residual_block import gated_residual_block
from ._checks import check_size
from .masked_conv2d import MaskedConv2d


class GatedResidualBlock(nn.Module):
    """x + out(tanh(a) · σ(b)) with [a, b] = conv(x), masked (arXiv:1606.05328, figure 2, without the vertical stack).

    ``conv`` and ``out`` are ``MaskedConv2d``: parameters, initialisation and state_dict (``conv.weight``,
    ``conv.bias``, ``out.weight``, ``out.bias``) are those of ``nn.Conv2d(channels, 2 * channels, kernel_size)`` and
    ``nn.Conv2d(channels, channels, 1)``.

    Args:
        channels: of input and result.
        kernel_size: of ``conv``, odd, one number or (KH, KW).
        mask: of ``conv``: "A" leaves the centre tap out, "B" keeps it. The input is added either way.
        bias: whether both convolutions add one.
        color_groups, groups_order: see ``fastgen.ops.masked_conv2d``.

    Shapes: (N, channels, H, W) → (N, channels, H, W).
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int, int],
        mask: Literal["A", "B"] = "B",
        bias: bool = True,
        *,
        color_groups: int = 1,
        groups_order: Literal["contiguous", "interleaved"] = "contiguous",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        channels = check_size("channels", channels)
        common: dict[str, Any] = {
            "color_groups": color_groups, "groups_order": groups_order, "device": device, "dtype": dtype,
        }  # fmt: skip
        self.conv = MaskedConv2d(channels, 2 * channels, kernel_size, mask, bias, "gated", **common)
        self.out = MaskedConv2d(channels, channels, 1, "B", bias, **common)

    def forward(self, x: Tensor) -> Tensor:
        conv, out = self.conv, self.out
        return gated_residual_block(
            x, conv.weight, conv.bias, out.weight, out.bias, conv.mask,
            color_groups=conv.color_groups, groups_order=conv.groups_order,
        )  # fmt: skip
