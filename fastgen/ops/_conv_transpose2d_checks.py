"""What a transposed convolution takes, and its result's shape."""

import functools
from typing import Any

import torch
from torch import Tensor

from .._checks import check_integer, check_pair, check_same, describe
from ._conv_transpose2d_left import result_size
from ._dtypes import check_dense, check_floating
from ._records import Convolution


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
