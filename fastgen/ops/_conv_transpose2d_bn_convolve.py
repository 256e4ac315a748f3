"""The op of a layer: a transposed convolution that normalises what it loads and takes statistics of what it stores."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._activations import activate_backward
from ._layouts import layout, layout_of
from ._records import Activation, Convolution
from ._registry import define_op
from .batch_norm import Deferred, accumulator, per_channel
from .conv_transpose2d import check_weight, conv_transpose2d, conv_transpose2d_backward, result_shape

KERNELS = {"CUDA": "fastgen/ops/conv_transpose2d_bn_triton.py"}


class Stored(NamedTuple):
    """What the forward stored, and the gradients to it: those to mean and M2 are None where nobody asked for them."""

    grad_y: Tensor
    grad_mean: Tensor | None
    grad_m2: Tensor | None
    y: Tensor
    mean: Tensor


class Forward(NamedTuple):
    """The arguments of ``conv_transpose2d_bn``."""

    x: Deferred
    convolution: Convolution
    activation: Activation
    take_statistics: bool
    channels_last: bool

    @classmethod
    def of(cls, args: tuple[Any, ...]) -> "Forward":
        """From those of the schema, in its order."""
        return cls(Deferred(*args[:6]), Convolution(*args[6:13]), Activation(*args[13:15]), *args[15:])


class Backward(NamedTuple):
    """The arguments of ``conv_transpose2d_bn_backward``; ``output_mask``: whether x, weight and bias want gradients."""

    stored: Stored
    x: Deferred
    convolution: Convolution
    activation: Activation
    output_mask: list[bool]

    @classmethod
    def of(cls, args: tuple[Any, ...]) -> "Backward":
        """From those of the schema, in its order: it has no bias."""
        convolution = Convolution(args[11], None, *args[12:17])
        return cls(Stored(*args[:5]), Deferred(*args[5:11]), convolution, Activation(*args[17:19]), args[19])


def _loaded(x: Deferred) -> Tensor:
    return x.raw if x.scale is None else x.materialize(True)


def conv_transpose2d_bn_reference(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, convolution, activation, take_statistics, channels_last = Forward.of(args)
    y = conv_transpose2d(_loaded(x), convolution, activation)
    y = y.contiguous(memory_format=layout(channels_last))
    statistics = torch.ops.fastgen.batch_norm_statistics.default
    mean, m2 = statistics(y) if take_statistics else (y.new_empty(0), y.new_empty(0))
    return y, mean, m2


def total_gradient(stored: Stored, activation: Activation) -> Tensor:
    """Gradient to the convolution's result: through itself, its mean and its M2."""
    grad_y, grad_mean, grad_m2, y, mean = stored
    grad = activate_backward(grad_y, y, activation)
    if grad_mean is None or grad_m2 is None:
        return grad
    count = y.shape[0] * y.shape[2] * y.shape[3]
    center, slant, constant = map(per_channel, (mean, 2 * grad_m2, grad_mean / max(count, 1)))
    total = y - center
    if torch.is_grad_enabled():  # out= has no gradient
        return torch.addcmul(constant, total, slant).add(grad).to(y.dtype)
    return torch.addcmul(constant, total, slant, out=total).add_(grad).to(y.dtype)


def conv_transpose2d_bn_backward_reference(*args: Any) -> tuple[Tensor, ...]:
    stored, x, convolution, activation, output_mask = Backward.of(args)
    weight, z = convolution.weight, _loaded(x)
    grad = total_gradient(stored, activation)
    grad_z, grad_weight, grad_bias = conv_transpose2d_backward(grad, z, convolution, output_mask)
    empty = stored.mean.new_empty
    grads = [x.raw.new_empty(0), empty(0), empty(0), empty(0)]
    if grad_z is not None:
        grads[0] = grad_z
        if x.scale is not None:
            grads[:] = torch.ops.fastgen.batch_norm_apply_backward.default(grad_z, *x)
        grads[0] = grads[0].contiguous(memory_format=layout_of(x.raw))
    if grad_weight is not None:
        grad_weight = grad_weight.contiguous(memory_format=layout_of(weight))
    return *grads, *(x.raw.new_empty(0) if grad is None else grad for grad in (grad_weight, grad_bias))


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))


def _fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    (x, *_), convolution, _, take_statistics, channels_last = Forward.of(args)
    check_weight(convolution.weight)
    size = result_shape(x, convolution)
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout(channels_last))
    mean = x.new_empty(size[1] if take_statistics else 0, dtype=accumulator(x.dtype) if take_statistics else x.dtype)
    return y, mean, torch.empty_like(mean)


def _fake_backward(*args: Any) -> tuple[Tensor, ...]:
    stored, (x, _, scale, *_), convolution, _, output_mask = Backward.of(args)
    weight, empty = convolution.weight, stored.mean.new_empty
    return (
        _empty_like(x) if output_mask[0] else x.new_empty(0),
        *(torch.empty_like(scale) if output_mask[0] and scale is not None else empty(0) for _ in range(3)),
        _empty_like(weight) if output_mask[1] else x.new_empty(0),
        weight.new_empty(stored.y.shape[1]) if output_mask[2] else x.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, center, scale, shift, *ctx.prologue, weight, _bias = inputs[:8]
    ctx.options = inputs[8:15]
    ctx.set_materialize_grads(False)
    y = output[0] if inputs[13] != "none" or inputs[15] else None  # else whoever comes next may write over it
    ctx.save_for_backward(x, center, scale, shift, weight, y, output[1])


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_mean: Tensor | None, grad_m2: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, center, scale, shift, weight, y, mean = ctx.saved_tensors
    if grad_y is None and (y is None or (grad_mean is None and grad_m2 is None)):
        return (None,) * 17
    if y is None:  # its gradient is the only one, and the backward asks for its shape alone
        y = grad_y
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
    composite=True,
)
