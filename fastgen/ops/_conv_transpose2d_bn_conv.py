"""Transposed convolution that normalises and activates what it loads, and takes statistics of what it stores."""

from typing import Any

import torch
from torch import Tensor

from ._conv_transpose2d_bn_checks import check_weight
from ._conv_transpose2d_bn_forms import convolve, convolve_backward, result_shape
from ._conv_transpose2d_bn_norm import (
    KERNELS,
    accumulator,
    activate_,
    activate_backward,
    apply_reference,
    layout,
    normalize_backward,
    per_channel,
    statistics,
)
from ._registry import define_op


def _normalized(
    x: Tensor, center: Tensor | None, scale: Tensor | None, shift: Tensor | None, activation: str, slope: float
) -> Tensor:
    if center is None or scale is None:
        return x
    return apply_reference(x, center, scale, shift, activation, slope, True)


def conv_transpose2d_bn_reference(
    x: Tensor,
    center: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    x_activation: str,
    x_slope: float,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    slope: float,
    take_statistics: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    z = _normalized(x, center, scale, shift, x_activation, x_slope)
    y = convolve(z, weight, bias, stride, padding, output_padding, dilation, groups)
    y = activate_(y, activation, slope).contiguous(memory_format=layout(channels_last))
    mean, m2 = statistics(y) if take_statistics else (y.new_empty(0), y.new_empty(0))
    return y, mean, m2


def total_gradient_reference(
    grad_y: Tensor,
    grad_mean: Tensor | None,
    grad_m2: Tensor | None,
    y: Tensor,
    mean: Tensor,
    activation: str,
    slope: float,
) -> Tensor:
    """Gradient to the convolution's result: through itself, its mean and its M2."""
    grad = activate_backward(grad_y, y, activation, slope)
    if grad_mean is None or grad_m2 is None:
        return grad
    count = y.shape[0] * y.shape[2] * y.shape[3]
    center, slant, constant = map(per_channel, (mean, 2 * grad_m2, grad_mean / max(count, 1)))
    total = y - center
    return torch.addcmul(constant, total, slant, out=total).add_(grad).to(y.dtype)


def conv_transpose2d_bn_backward_reference(
    grad_y: Tensor,
    grad_mean: Tensor | None,
    grad_m2: Tensor | None,
    y: Tensor,
    mean: Tensor,
    x: Tensor,
    center: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    x_activation: str,
    x_slope: float,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    slope: float,
    output_mask: list[bool],
) -> tuple[Tensor, ...]:
    """Gradients to x, center, scale, shift, weight, bias; ``output_mask``: of x (and its vectors), weight, bias."""
    z = _normalized(x, center, scale, shift, x_activation, x_slope)
    grad = total_gradient_reference(grad_y, grad_mean, grad_m2, y, mean, activation, slope)
    geometry = [stride, padding, output_padding, dilation, groups]
    grad_z, grad_weight, grad_bias = convolve_backward(grad, z, weight, geometry, output_mask)
    grads = [x.new_empty(0), mean.new_empty(0), mean.new_empty(0), mean.new_empty(0)]
    if grad_z is not None:
        grads[0] = grad_z
        if center is not None and scale is not None:
            grads[:] = normalize_backward(grad_z, z, x, center, scale, x_activation, x_slope)
        grads[0] = grads[0].contiguous(memory_format=layout(is_channels_last(x)))
    if grad_weight is not None:
        grad_weight = grad_weight.contiguous(memory_format=layout(is_channels_last(weight)))
    return *grads, *(x.new_empty(0) if grad is None else grad for grad in (grad_weight, grad_bias))


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout(is_channels_last(x)))


def is_channels_last(x: Tensor) -> bool:
    """The layout contract: channels_last is answered with channels_last, everything else with contiguous."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _fake(x, center, scale, shift, x_activation, x_slope, weight, bias, *options):  # type: ignore[no-untyped-def]
    check_weight(weight)
    *geometry, _activation, _slope, take_statistics, channels_last = options
    size = result_shape(x, weight, *geometry)
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout(channels_last))
    mean = x.new_empty(size[1] if take_statistics else 0, dtype=accumulator(x.dtype) if take_statistics else x.dtype)
    return y, mean, torch.empty_like(mean)


def _fake_backward(_g, _gm, _gq, y, mean, x, _center, scale, _shift, _x_act, _x_slope, weight, *options):  # type: ignore[no-untyped-def]
    output_mask = options[-1]
    vectors = output_mask[0] and scale is not None
    return (
        _empty_like(x) if output_mask[0] else x.new_empty(0),
        *(torch.empty_like(scale) if vectors else mean.new_empty(0) for _ in range(3)),
        _empty_like(weight) if output_mask[1] else x.new_empty(0),
        weight.new_empty(y.shape[1]) if output_mask[2] else x.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, center, scale, shift, *ctx.prologue, weight, _bias = inputs[:8]
    ctx.options = inputs[8:15]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, center, scale, shift, weight, *output[:2])


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_mean: Tensor | None, grad_m2: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, center, scale, shift, weight, y, mean = ctx.saved_tensors
    if grad_y is None:
        grad_y = torch.zeros_like(y)
    if grad_mean is not None or grad_m2 is not None:
        grad_mean = torch.zeros_like(mean) if grad_mean is None else grad_mean
        grad_m2 = torch.zeros_like(mean) if grad_m2 is None else grad_m2
    mask = [any(ctx.needs_input_grad[:4]), ctx.needs_input_grad[6], ctx.needs_input_grad[7]]
    grad_x, grad_center, grad_scale, grad_shift, grad_weight, grad_bias = (
        torch.ops.fastgen.conv_transpose2d_bn_backward.default(
            grad_y, grad_mean, grad_m2, y, mean, x, center, scale, shift, *ctx.prologue, weight, *ctx.options, mask
        )
    )
    vectors: tuple[Tensor | None, ...] = (None, None, None)
    if mask[0] and scale is not None:
        vectors = (grad_center, grad_scale, None if shift is None else grad_shift.to(shift.dtype))
    return (
        grad_x if mask[0] else None, *vectors, None, None,
        grad_weight if mask[1] else None, grad_bias if mask[2] else None, *([None] * 9),
    )  # fmt: skip


_GEOMETRY = "int[2] stride, int[2] padding, int[2] output_padding, int[2] dilation, int groups"
define_op(
    "conv_transpose2d_bn(Tensor x, Tensor? center, Tensor? scale, Tensor? shift, str x_activation, float x_slope, "
    f"Tensor weight, Tensor? bias, {_GEOMETRY}, str activation, float slope, bool take_statistics, "
    "bool channels_last) -> (Tensor y, Tensor mean, Tensor m2)",
    kernels=KERNELS,
    reference=conv_transpose2d_bn_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "conv_transpose2d_bn_backward(Tensor grad_y, Tensor? grad_mean, Tensor? grad_m2, Tensor y, Tensor mean, Tensor x, "
    "Tensor? center, Tensor? scale, Tensor? shift, str x_activation, float x_slope, Tensor weight, "
    f"{_GEOMETRY}, str activation, float slope, bool[3] output_mask) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=conv_transpose2d_bn_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
)
