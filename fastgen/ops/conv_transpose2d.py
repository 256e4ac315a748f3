"""Transposed convolution: its checks, its shape, and its computation in the form that suits its geometry."""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from .._checks import check_integer, check_pair, check_same, describe
from . import conv2d_image, winograd
from ._activations import activate_
from ._conv_transpose2d_scattered import is_scattered, scattered
from ._dtypes import check_dense, check_floating, has_dot_product, in_dtype, layer_dtype, multiplies
from ._layouts import is_channels_last, is_vectorized
from ._records import NONE, Activation, Convolution
from ._registry import evaluates
from .conv_transpose2d_products import (
    conv_transpose2d_image,
    conv_transpose2d_products,
    in_channels_last,
    is_image,
    pays,
    result_size,
)

#: Weights with more numbers are not converted for a forward of fewer: they come from memory, and a copy as well.
HEAVY = 2**22


def check_convolution(x: Tensor, convolution: Convolution) -> Convolution:
    """``convolution`` with pairs for sizes, one that takes ``x``.

    Raises:
        ValueError: a size or a shape does not fit.
        TypeError: ``x``, weight or bias is no dense tensor, or x or the weight not of a floating dtype.
    """
    weight, bias, *geometry = convolution
    sizes = (one for size in geometry for one in (size if type(size) is tuple else (size,)))
    known = all(type(one) is int for one in sizes) and not torch.compiler.is_compiling()
    stride, padding, output_padding, dilation, groups = (_known_geometry if known else _geometry)(*geometry)
    check_floating("x", x)
    check_floating("weight", weight)
    check_weight(weight)
    I = weight.shape[0]
    if I % groups:
        raise ValueError(f"groups: expected a divisor of the {I} input channels, got {groups!r}")
    if x.dim() != 4 or x.shape[1] != I or 0 in x.shape[2:]:
        raise ValueError(f"x: expected shape (N, {I}, H, W) to fit the weight, got {tuple(x.shape)}")
    if bias is not None and check_dense("bias", bias).shape != (convolution.channels,):
        raise ValueError(f"bias: expected shape ({convolution.channels},), got {tuple(bias.shape)}")
    return Convolution(weight, bias, stride, padding, output_padding, dilation, groups)


def _geometry(stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: Any) -> tuple[Any, ...]:
    """Those of a ``Convolution``: four pairs, as lists, and a number."""
    steps, zeros = _pair("stride", stride, 1), _pair("padding", padding, 0)
    more, apart = _pair("output_padding", output_padding, 0), _pair("dilation", dilation, 1)
    for i in range(2):
        if more[i] >= max(steps[i], apart[i]):
            raise ValueError(
                f"output_padding: expected less than stride {tuple(steps)} or dilation {tuple(apart)}, "
                f"got {tuple(more)}"
            )
    return steps, zeros, more, apart, check_integer("groups", groups, 1)


#: The same for what was seen before; nobody writes into its lists.
_known_geometry = functools.lru_cache(256, typed=True)(_geometry)


def _pair(name: str, value: Any, least: int) -> list[int]:
    """``value`` or (value, value), as a list."""
    first, second = value if type(value) is tuple and len(value) == 2 else (value, value)
    if type(first) is int and type(second) is int and least <= min(first, second) and max(first, second) < 2**31:
        return [first, second]  # as modules have them: nothing more to ask, at each call
    try:
        both = check_pair(name, value, least)
        return [check_integer(name, one, least, 2**31 - 1) for one in both]
    except ValueError:
        raise ValueError(f"{name}: expected one or two integers of at least {least}, got {describe(value)}") from None


def check_weight(weight: Tensor) -> None:
    if weight.dim() != 4:
        raise ValueError(f"weight: expected shape (I, O / groups, KH, KW), got {tuple(weight.shape)}")
    if weight.shape[0] == 0 or 0 in weight.shape[2:]:
        raise ValueError(f"weight: expected at least one input channel and one tap, got {tuple(weight.shape)}")


def check_dtypes(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_floating("x", x)
    check_same("weight", weight, "x", x)
    check_same("bias", bias, "x", x)


def result_shape(x: Tensor, convolution: Convolution) -> tuple[int, int, int, int]:
    """As ``nn.ConvTranspose2d`` states it."""
    weight, _, stride, padding, output_padding, dilation, groups = convolution
    sides = zip(x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation, strict=True)
    H, W = (result_size(*side) for side in sides)
    return x.shape[0], weight.shape[1] * groups, H, W


def is_product(x: Tensor, convolution: Convolution) -> bool:
    """Whether a matrix product is all there is: one pixel, which every pixel of the result sees through its own tap."""
    _stride, padding, output_padding, dilation, groups = convolution.geometry
    return (
        x.shape[2:] == (1, 1)
        and (list(padding), list(output_padding), list(dilation)) == ([0, 0], [0, 0], [1, 1])
        and groups == 1
    )


def _flat(x: Tensor, channels_last: bool) -> Tensor:
    """(N, C, H, W) → (N, C·H·W), in the order of a layout: without a copy of what has it."""
    return (x.permute(0, 2, 3, 1) if channels_last else x).flatten(1)


def _unflat(flat: Tensor, weight: Tensor, channels_last: bool) -> Tensor:
    """(N, O·KH·KW) in the order of a layout → (N, O, KH, KW) that has it."""
    O, KH, KW = weight.shape[1:]
    sizes = [flat.shape[0], *((KH, KW, O) if channels_last else (O, KH, KW))]
    y = torch.ops.aten._unsafe_view.default(flat, sizes)
    return y.permute(0, 3, 1, 2) if channels_last else y


def conv_transpose2d(x: Tensor, convolution: Convolution, activation: Activation = NONE) -> Tensor:
    """``F.conv_transpose2d``, activated; laid out in any way, but no view: one may write over it."""
    if is_image(x, convolution):
        return conv_transpose2d_image(x, convolution, activation)
    if runs_in_float32(x):
        return conv_transpose2d(x.float(), converted(convolution, torch.float32), activation).to(x.dtype)
    return activate_(_convolved(x, convolution), activation)


def outruns(x: Tensor, convolution: Convolution) -> bool:
    """Whether ``conv_transpose2d`` has a form that outruns torch's on a CPU, in training as well, in float32, or in
    bfloat16 on a CPU that multiplies it.

    Not in an exported program, which fixes no number of images, and not in transforms.
    """
    weight, bias = convolution[:2]
    parameters = [weight] if bias is None else [weight, bias]
    if x.device.type != "cpu" or weight.device.type != "cpu" or layer_dtype(x, parameters) != x.dtype:
        return False
    if x.dtype == torch.bfloat16 and not has_dot_product():
        return False
    if torch.compiler.is_exporting() or is_vectorized() or forward_ad._current_level >= 0:
        return False
    if x.dim() != 4 or x.shape[1] != weight.shape[0] or 0 in x.shape:
        return False
    if any(len(pair) != 2 for pair in convolution[2:6]):
        return False
    if is_image(x, convolution) or is_product(x, convolution) or pays(x, convolution):
        return True
    return winograd.doubles(x, convolution) or (evaluates() and is_scattered(x, convolution))


def _convolved(x: Tensor, convolution: Convolution) -> Tensor:
    weight, bias, stride, padding, output_padding, dilation, groups = convolution
    if is_product(x, convolution):
        last, taps = is_channels_last(weight), weight.shape[2] * weight.shape[3]
        offset = None if bias is None else bias.repeat(taps) if last else bias.repeat_interleave(taps)
        return _unflat(F.linear(x.flatten(1), _flat(weight, last).t(), offset), weight, last)
    if is_scattered(x, convolution):
        return scattered(x, convolution, result_shape(x, convolution)[2:])
    whole = x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0  # tiles; else products leave out as much as these save
    if winograd.doubles(x, convolution) and (whole or not pays(x, convolution)):
        return winograd.to_large(x, weight, bias)
    if pays(x, convolution):
        return conv_transpose2d_products(x, convolution)
    cheaper = _cheaper_layout(x, convolution, HEAVY)
    x = x.contiguous(memory_format=cheaper)
    if cheaper == torch.channels_last:
        weight = in_channels_last(weight)
    return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)


def _cheaper_layout(x: Tensor, convolution: Convolution, heavy: int = 0) -> torch.memory_format:
    """Contiguous tensors are converted for oneDNN, which works in channels_last: images, unless the weight is more, and
    more than ``heavy``.

    Its grouped gradient to the weight loses digits in channels_last.
    """
    weight = convolution.weight
    pixels = x.numel() + math.prod(result_shape(x, convolution))
    stays = weight.is_contiguous() and weight.numel() > max(pixels, heavy)
    return torch.contiguous_format if stays or convolution.groups > 1 else torch.channels_last


def runs_in_float32(x: Tensor) -> bool:
    """Halves on a CPU without instructions for them, where torch's loops are slow, in channels_last forty times."""
    if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float16):
        return False
    return not multiplies(x.dtype)


def converted(convolution: Convolution, dtype: torch.dtype) -> Convolution:
    return Convolution(*in_dtype(dtype, *convolution[:2]), *convolution.geometry)


def conv_transpose2d_backward(
    grad: Tensor, x: Tensor, convolution: Convolution, output_mask: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients to x, weight and bias, where ``output_mask`` asks for them.

    ``sum`` adds the bias's in cascades; oneDNN adds it pixel by pixel where it has no AVX-512, and loses digits.
    """
    if runs_in_float32(x):
        grads = conv_transpose2d_backward(grad.float(), x.float(), converted(convolution, torch.float32), output_mask)
        return tuple(each if each is None else each.to(x.dtype) for each in grads)  # type: ignore[return-value]
    weight, _, stride, padding, output_padding, dilation, groups = convolution
    grad_bias = grad.sum((0, 2, 3)) if output_mask[2] else None
    if is_product(x, convolution):
        last = is_channels_last(weight)
        flat = _flat(grad, last)
        return (
            (flat @ _flat(weight, last).t()).view(x.shape) if output_mask[0] else None,
            _unflat(x.flatten(1).t() @ flat, weight, last) if output_mask[1] else None,
            grad_bias,
        )
    if conv2d_image.reads(grad, x, convolution):
        return *conv2d_image.gradients_of_transposed(grad, x, convolution, output_mask), grad_bias
    if winograd.doubles(x, convolution):
        return *winograd.gradients_of_large(grad, x, weight, [*output_mask[:2], False])[:2], grad_bias
    cheaper = _cheaper_layout(x, convolution)
    grad, x = grad.contiguous(memory_format=cheaper), x.contiguous(memory_format=cheaper)
    taps = weight.contiguous() if groups > 1 else weight  # torch converts the others to the weight's layout
    wanted = [*output_mask[:2], False]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward.default(
        grad, x, taps, [convolution.channels], stride, padding, dilation, True, output_padding, groups, wanted
    )
    return grad_x, grad_weight, grad_bias
