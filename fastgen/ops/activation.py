"""Activations whose gradient is taken from their result, and what it says of a bias before them.

activation           of rows (N, C) or an image, as torch's own layers of a compiled training step have it behind them
activation_backward  grad, result (N, C, H, W) → grad_x (N, C, H, W), channels_last, and its sums (C,)

float32, float64 and halves. Torch lays a gradient out as the result, takes the activation's and adds for the bias in a
pass each, the last of them twice in halves. Its compiler keeps a mask in bytes, which is slow to write and to read.
Sums are float32, or float64 of float64, and do not depend on the number of threads.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._constants import is_exporting
from ._activations import activate, activate_backward
from ._layouts import in_channels_last, is_batched, is_channels_last, is_vectorized, layout_of
from ._records import Activation
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/activation_cpu.cpp"}


def activation_reference(x: Tensor, activation: str, slope: float) -> Tensor:
    y = activate(x, Activation(activation, slope))
    return y.contiguous(memory_format=layout_of(x))


def activation_backward_reference(grad: Tensor, result: Tensor, activation: str, slope: float) -> tuple[Tensor, Tensor]:
    grad_x = in_channels_last(activate_backward(grad, result, Activation(activation, slope)))
    return grad_x, grad_x.sum((0, 2, 3), dtype=torch.promote_types(grad.dtype, torch.float32))


def pays(x: Tensor) -> bool:
    """Whether ``activation`` outruns what torch's compiler makes of one: on a CPU, where there will be a backward.

    ReLU of 128 rows of 3,136: 1.7 ms with a mask in bytes, 0.04 without.
    """
    if not torch.compiler.is_compiling() or is_exporting() or not torch.is_grad_enabled():
        return False
    return x.is_cpu and not is_vectorized() and forward_ad._current_level < 0


def activated(x: Tensor, activation: Activation) -> Tensor:
    """An activation of rows (N, C) or an image, in its layout: the op, where it pays."""
    if activation.name == "none" or x.dim() not in (2, 4) or not pays(x):
        return activate(x, activation)
    y: Tensor = call(torch.ops.fastgen.activation.default, x, *activation)
    return y


def before(grad: Tensor, result: Tensor | None, activation: Activation) -> tuple[Tensor, Tensor | None]:
    """The gradient before the activation, laid out as its result, and what it sums to, if that is known already.

    result: None where there is no activation.
    """
    if result is None:
        return grad, None
    known = activation.name != "none" and result.is_cpu and not (is_batched(grad) or is_batched(result))
    if not known or not is_channels_last(result):
        return activate_backward(grad, result, activation), None
    found: tuple[Tensor, Tensor] = call(torch.ops.fastgen.activation_backward.default, grad, result, *activation)
    return found


def to_bias(grad: Tensor, sums: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Of what ``before`` answers, the gradient to a bias of a dtype, (C,)."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    return (grad.sum((0, 2, 3), dtype=wide) if sums is None else sums).to(dtype)


def _fake(x: Tensor, _activation: str, _slope: float) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))


def _fake_backward(grad: Tensor, result: Tensor, _activation: str, _slope: float) -> tuple[Tensor, Tensor]:
    grad_x = torch.empty(result.shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
    return grad_x, grad.new_empty(result.shape[1], dtype=torch.promote_types(grad.dtype, torch.float32))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.activation = Activation(*inputs[1:])
    ctx.save_for_backward(output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (result,) = ctx.saved_tensors
    if result.dim() == 4:
        return before(grad, result, ctx.activation)[0], None, None
    op = torch.ops.fastgen.activation_backward.default
    grad_x, _ = call(op, grad[:, :, None, None], result[:, :, None, None], *ctx.activation)
    return grad_x.flatten(1), None, None


define_op(
    "activation(Tensor x, str activation, float slope) -> Tensor",
    kernels=KERNELS,
    reference=activation_reference,
    fake=_fake,
    setup_context=_setup,
    backward=_backward,
    contiguous=False,
)
define_op(
    "activation_backward(Tensor grad, Tensor result, str activation, float slope) -> (Tensor, Tensor)",
    kernels=KERNELS,
    reference=activation_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
    composite=True,
)
