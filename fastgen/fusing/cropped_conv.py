"""Masked convolutions that are none of the op's, run with the live part of their kernel only.

A vertical stack's mask leaves the rows above, a dilated raster mask these and the centre's: torch multiplies by the
other taps, too. The box around the live taps, and padding on the sides where it lies, give the same sums without them,
in torch's own ops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from . import worth
from .masked_conv import TapsSpec, get, holds, write_mask
from .op_recorder import NotProvenError
from .swap import Fused

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class CropSpec(TapsSpec):
    """Which taps are convolved: ``box``, first row, row after the last, first column, column after the last.

    ``kernel``: KH, KW of the whole weight. ``dense``: the mask is all ones within the box.
    """

    kernel: tuple[int, int]
    box: Box
    dense: bool
    dilation: tuple[int, int]

    def __str__(self) -> str:
        top, bottom, left, right = self.box
        taps = " × ".join(map(str, self.kernel))
        return f"conv2d of {bottom - top} × {right - left} of {taps} taps" + ("" if self.dense else ", masked")

    @property
    def extent(self) -> tuple[int, int]:
        """How many pixels beyond one the kernel spans."""
        (KH, KW), (down, across) = self.kernel, self.dilation
        return (KH - 1) * down, (KW - 1) * across

    @property
    def padding(self) -> Box:
        """Left, right, top, bottom, as F.pad takes them; below 0, pixels that no live tap ever meets are cut off."""
        (KH, KW), (down, across), (top, bottom, left, right) = self.kernel, self.dilation, self.box
        columns = across * (KW // 2 - left), across * (right - 1 - KW // 2)
        return *columns, down * (KH // 2 - top), down * (bottom - 1 - KH // 2)

    def pays(self, x: Tensor, weight: Tensor) -> bool:
        left, right, top, bottom = self.padding
        cut = min(left, right) < 0 or min(top, bottom) < 0
        if cut and (x.shape[2] < -min(top, bottom) or x.shape[3] < -min(left, right)):
            return False  # F.pad cannot cut off more than there is
        return worth.pays_cropped(x, weight)

    def is_mask(self, mask: Tensor, weight: Tensor) -> bool:
        """Zeros outside the box; within it ones if it is dense, else anything: what is there then is multiplied."""
        outside = mask.detach().expand_as(weight).clone()
        inside = outside[_index(self.box)]
        ones = not self.dense or bool((inside == 1).all())
        inside.zero_()
        return ones and not bool(outside.any())


class CroppedConv(Fused):
    """Convolves the live taps, and runs as its own forward where that is not what was proven."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != 1 or not holds(self, args[0]):
            return super().forward(*args, **kwargs)
        return run(self, self._fastgen_spec, args[0])


def run(module: nn.Module, spec: CropSpec, x: Tensor) -> Tensor:
    write_mask(module, spec)
    weight = get(module, spec.weight)
    live = weight[_index(spec.box)]
    if not spec.dense:
        live = live * get(module, spec.mask).expand_as(weight)[_index(spec.box)].to(weight.dtype)
    bias = None if spec.bias is None else get(module, spec.bias)
    return F.conv2d(F.pad(x, spec.padding), live, bias, dilation=spec.dilation)


def live_taps(mask: Tensor, weight: Tensor, dilation: tuple[int, int]) -> tuple[tuple[int, int], Box, bool]:
    """Size of the kernel, the box around the taps that live for some pair of channels, and whether all in it live.

    Raises:
        NotProvenError: it is nearly all of the kernel, or nothing.
    """
    KH, KW = weight.shape[2:]
    live = (mask != 0).expand_as(weight)
    taps = live.flatten(0, 1).any(0)
    why = "its mask is not one of fastgen.ops.masked_conv2d_mask's"
    if dilation != (1, 1):
        why = f"its convolution has dilation {list(dilation)}, and the op has [1, 1]"
    if not taps.any():
        raise NotProvenError(f"{why}; no tap of it lives")
    rows, columns = taps.any(1).nonzero()[:, 0].tolist(), taps.any(0).nonzero()[:, 0].tolist()
    box = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    height, width = box[1] - box[0], box[3] - box[2]
    if not worth.pays_to_crop(height * width, KH * KW, dilation != (1, 1)):
        raise NotProvenError(
            f"{why}; its live taps span {height} × {width} of {KH} × {KW}, too many to gain by convolving them alone"
        )
    return (KH, KW), box, bool(live[_index(box)].all())


def _index(box: Box) -> tuple[Any, ...]:
    top, bottom, left, right = box
    return slice(None), slice(None), slice(top, bottom), slice(left, right)
