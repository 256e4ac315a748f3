"""Transposed convolution, computed in the form that suits its geometry."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from .._constants import is_exporting
from . import winograd
from ._activations import activate_
from ._conv_transpose2d_checks import check_convolution, check_dtypes, check_weight, result_shape
from ._conv_transpose2d_gradients import gradients
from ._conv_transpose2d_scattered import is_scattered, scattered
from ._dtypes import PLAIN, autocast_dtype, in_dtype, layer_dtype, multiplies, pairs_pay, without_autocast
from ._layouts import is_channels_last, is_vectorized
from ._records import NONE, Activation, Convolution
from ._registry import evaluates
from .conv_transpose2d_products import (
    conv_transpose2d_image,
    conv_transpose2d_products,
    in_channels_last,
    is_image,
    pays,
)

__all__ = [
    "ACTIVATED", "check_convolution", "check_dtypes", "check_weight", "conv_transpose2d", "conv_transpose2d_backward",
    "converted", "is_product", "outruns", "result_shape", "runs_in_float32", "swift",
]  # fmt: skip

Form = Literal["image", "product", "scattered", "winograd", "products", "torch"]
#: Of which an op takes the activation along.
ACTIVATED = ("image", "winograd")

#: Weights with more numbers are not converted for a forward of fewer: they come from memory, and a copy as well.
HEAVY = 2**22
#: What ``swift`` remembers; then it forgets all.
REMEMBERED = 1024


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


def conv_transpose2d(
    x: Tensor, convolution: Convolution, activation: Activation = NONE, form: Form | None = None
) -> Tensor:
    """``F.conv_transpose2d``, activated; laid out in any way, but no view: one may write over it. ``form``: or None.

    Weight and bias may be float32 where x is bfloat16, as autocast finds them.
    """
    form = form or form_of(x, convolution)
    if form != "image" and runs_in_float32(x):
        with without_autocast((x,)):
            return conv_transpose2d(x.float(), converted(convolution, torch.float32), activation).to(x.dtype)
    weight, bias = convolution[:2]
    if weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        reads = form == "products" and (bias is None or bias.dtype == weight.dtype)
        if not reads:
            convolution = converted(convolution, x.dtype)
    if form == "image":
        return conv_transpose2d_image(x, convolution, activation)
    if form == "winograd":
        return winograd.to_large(x, *convolution[:2], activation)
    return activate_(_convolved(x, convolution, form), activation)


def form_of(x: Tensor, convolution: Convolution) -> Form:
    """The fastest, of those that take it."""
    if is_image(x, convolution):
        return "image"
    if is_product(x, convolution):
        return "product"
    if is_scattered(x, convolution):
        return "scattered"
    whole = x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0  # tiles; else products leave out as much as these save
    if winograd.doubles(x, convolution) and (whole or not pays(x, convolution)):
        return "winograd"
    return "products" if pays(x, convolution) else "torch"


def outruns(x: Tensor, convolution: Convolution) -> bool:
    """Whether ``conv_transpose2d`` has a form that outruns torch's on a CPU, in training as well, in float32, or in
    bfloat16 where ``pairs_pay``.

    Not in an exported program, which fixes no number of images, and not in transforms.
    """
    weight, bias = convolution[:2]
    parameters = [weight] if bias is None else [weight, bias]
    if x.device.type != "cpu" or weight.device.type != "cpu" or layer_dtype(x, parameters) != x.dtype:
        return False
    if x.dtype == torch.bfloat16 and not pairs_pay():
        return False
    if is_exporting() or is_vectorized() or forward_ad._current_level >= 0:
        return False
    if x.dim() != 4 or x.shape[1] != weight.shape[0] or 0 in x.shape:
        return False
    if any(len(pair) != 2 for pair in convolution[2:6]):
        return False
    form = form_of(x, convolution)
    return form != "torch" and (form != "scattered" or evaluates())


def swift(x: Tensor, convolution: Convolution) -> tuple[Convolution, Form] | None:
    """``convolution``, checked, and its form, where that outruns torch's; None where it does not, or does not fit.

    Remembered for sizes, dtypes and what else decides: to ask costs as much as to convolve a few small images.
    """
    weight, bias, *sizes = convolution
    if torch.compiler.is_compiling() or is_exporting() or is_vectorized():
        return _swift(x, convolution)
    if forward_ad._current_level >= 0 or any(type(size) is not tuple or len(size) != 2 for size in sizes[:4]):
        return _swift(x, convolution)
    if type(x) not in PLAIN or type(weight) not in PLAIN:  # sizes may be symbols
        return _swift(x, convolution)
    numbers = (*sizes[0], *sizes[1], *sizes[2], *sizes[3], sizes[4])
    if {*map(type, numbers)} != {int}:
        return _swift(x, convolution)
    key = (
        _facts(x), _facts(weight), bias if bias is None else _facts(bias), weight.is_contiguous(), numbers,
        autocast_dtype(x), torch.is_grad_enabled(), x.dtype == torch.bfloat16 and pairs_pay(),
    )  # fmt: skip
    known = _REMEMBERED.get(key, _UNKNOWN)  # threads may ask at once
    if known is _UNKNOWN:
        found = _swift(x, convolution)
        known = found if found is None else (found[0].geometry, found[1])
        if len(_REMEMBERED) >= REMEMBERED:
            _REMEMBERED.clear()
        _REMEMBERED[key] = known
    return known if known is None else (Convolution(weight, bias, *known[0]), known[1])


_REMEMBERED: dict[Any, Any] = {}
_UNKNOWN = object()


def _facts(x: Tensor) -> tuple[Any, ...]:
    return type(x), x.shape, x.dtype, x.device, x.layout


def _swift(x: Tensor, convolution: Convolution) -> tuple[Convolution, Form] | None:
    if not outruns(x, convolution):
        return None
    convolution = check_convolution(x, convolution)
    return convolution, form_of(x, convolution)


def _convolved(x: Tensor, convolution: Convolution, form: Form) -> Tensor:
    weight, bias, stride, padding, output_padding, dilation, groups = convolution
    if form == "product":
        last, taps = is_channels_last(weight), weight.shape[2] * weight.shape[3]
        offset = None if bias is None else bias.repeat(taps) if last else bias.repeat_interleave(taps)
        return _unflat(F.linear(x.flatten(1), _flat(weight, last).t(), offset), weight, last)
    if form == "scattered":
        return scattered(x, convolution, result_shape(x, convolution)[2:])
    if form == "products":
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
    own = gradients(grad, x, convolution, output_mask)
    if own is not None:
        return *own, grad_bias
    cheaper = _cheaper_layout(x, convolution)
    grad, x = grad.contiguous(memory_format=cheaper), x.contiguous(memory_format=cheaper)
    taps = weight.contiguous() if groups > 1 else weight  # torch converts the others to the weight's layout
    wanted = [*output_mask[:2], False]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward.default(
        grad, x, taps, [convolution.channels], stride, padding, dilation, True, output_padding, groups, wanted
    )
    return grad_x, grad_weight, grad_bias
