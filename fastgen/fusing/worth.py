"""From which size on an op pays. Below it, on a CPU, a fused module runs as it did before it was fused.

A call of an op costs more around it than a call of torch, and torch's kernels are as fast on little. Where nothing is
run in Python each time, as in an exported program, and on a GPU, the op always runs; in a compiled one as well, but for
chains of transposed convolutions on a CPU, whose sizes decide there, too. In a program that is exported to ONNX, which
has no such ops, it never does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._constants import is_exporting
from ..ops._dtypes import autocast_dtype, multiplies

#: Weights of a layer that is swapped at all on a CPU: 16 channels into 16, masked by 3 × 3 taps, transposed by 4 × 4.
#: Smaller ones hardly reach the sizes below, and to look at the size of each call costs them a tenth and more.
#: A convolution that is cropped to the live taps of its mask: 32 channels into 32.
#: A transposed one with nothing behind it: 16 channels into 1.
MASKED_WEIGHTS, TRANSPOSED_WEIGHTS, CROPPED_WEIGHTS, ALONE_WEIGHTS = 2304, 4096, 9216, 256
#: Multiplications of a masked convolution; of one that is cropped, before that.
CONVOLVED, CROPPED = 2**27, 2**24
#: Values that the first layer of a chain of transposed convolutions gives: without gradients, with them. With gradients
#: none pays in what a CPU multiplies, float32 and perhaps bfloat16, beside torch's batch norm and the products of
#: ``fastgen.ops.conv_transpose2d.outruns``.
TRANSPOSED = 2**17, 2**18
#: Values of z, drawn without gradients. With them, z alone is not faster; z with its KL divergence is at every size.
DRAWN = 2**13

SMALL = "it is small (below {} weights), and on a CPU torch is faster at that; on a GPU, fuse the model that is there"
RULE = (
    "as before run on a CPU: masked convolutions below 2^27 products (2^24 cropped), Winograd's below 2^6 pixels, "
    "chains below 2^17 values or with gradients but slow halves, z below 2^13 or with gradients"
)
CROPPED_ON_CPU = (
    "its mask is not one of fastgen.ops.masked_conv2d_mask's, and a convolution of its live taps alone was only "
    "measured on a CPU"
)
_TORCHS_NORM = (
    "a BatchNorm2d of 16 channels or more in an nn.Sequential runs with its activation in one op on a CPU; on a GPU "
    "that was not measured"
)
NORMALIZED = f"it follows a Conv2d: {_TORCHS_NORM}"
NORMALIZED_ALONE = f"no ConvTranspose2d comes before it, whose op would take it along: {_TORCHS_NORM}"
CONVOLVED_WHOLE = (
    "it has no mask and is not transposed, nor does it halve an image by kernel 4, padding 1 and channels by 16 on a "
    "CPU: torch's own convolution has no faster form here"
)


def small(weight: Tensor, least: int) -> bool:
    return weight.device.type == "cpu" and weight.numel() < least


def _at_any_size(x: Tensor) -> bool | None:
    """Whether the op runs, where that is no matter of size; None where it is."""
    compiling = torch.compiler.is_compiling()
    if (compiling or torch._C._get_tracing_state()) and torch.onnx.is_in_onnx_export():
        return False
    return True if x.device.type != "cpu" or compiling else None


def pays_convolved(x: Tensor, weight: Tensor) -> bool:
    """``x`` (N, I, H, W), ``weight`` (O, I, KH, KW)."""
    return _convolves(x, weight, CONVOLVED)


def pays_to_crop(live: int, taps: int, dilated: bool) -> bool:
    """Whether to convolve ``live`` of ``taps`` taps gains more than padding a copy of the image costs.

    As measured: two thirds of 3 × 3 gained nothing that is sure, unless they are dilated.
    """
    few = 3 * live <= 2 * taps if dilated else 5 * live <= 3 * taps
    return few and taps - live >= 2


def pays_cropped(x: Tensor, weight: Tensor) -> bool:
    """``x`` (N, I, H, W), ``weight`` (O, I, KH, KW), all of it. On a GPU it was not measured."""
    return x.device.type == "cpu" and _convolves(x, weight, CROPPED)


def _convolves(x: Tensor, weight: Tensor, least: int) -> bool:
    anyway = _at_any_size(x)
    return x.shape[0] * x.shape[2] * x.shape[3] * weight.numel() >= least if anyway is None else anyway


def pays_transposed(x: Tensor, conv: nn.Module, alone: bool = True) -> bool:
    """``x`` (N, I, H, W), the input of a chain that starts with ``conv``, an nn.ConvTranspose2d.

    alone: its batch norm is torch's of one process, which no other on a CPU stands in for.
    """
    if _at_any_size(x) is False:
        return False
    if x.device.type != "cpu" or is_exporting():  # an export fixes no N
        return True
    dtype = autocast_dtype(x) or x.dtype
    if alone and torch.is_grad_enabled() and (dtype == torch.float32 or multiplies(dtype)):
        return False
    values = x.shape[0] * conv.out_channels  # type: ignore[operator]
    for i in range(2):
        stride, padding, output_padding, dilation, kernel = (
            getattr(conv, name)[i] for name in ("stride", "padding", "output_padding", "dilation", "kernel_size")
        )
        values *= (x.shape[2 + i] - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    evaluating, training = TRANSPOSED  # by the mode as an index torch 2.11's compiler would not find one
    return bool(values >= (training if torch.is_grad_enabled() else evaluating))


def pays_drawn(mu: Tensor, logvar: Tensor, kl: bool) -> bool:
    """``mu`` and ``logvar`` of one shape; ``kl``: the divergence is wanted, too."""
    anyway = _at_any_size(mu)
    if anyway is not None or kl:
        return anyway is not False
    differentiated = torch.is_grad_enabled() and (mu.requires_grad or logvar.requires_grad)
    return mu.numel() >= DRAWN and not differentiated
