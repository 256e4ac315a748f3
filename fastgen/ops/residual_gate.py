"""How a block of PixelCNN++ ends: what came in, and features times the gates beside them.

y = x + a·σ(b), h = [a, b]            Salimans et al. 2017, arXiv:1701.05517; openai/pixel-cnn, gated_resnet

One pass over memory each way; x goes on unread in backward, whose gradient of it is that of y.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._constants import is_exporting
from ._layouts import is_channels_last, is_vectorized
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/residual_gate_cpu.cpp"}


def residual_gate_reference(x: Tensor, h: Tensor) -> Tensor:
    a, b = h.chunk(2, dim=1)
    return (x + a * torch.sigmoid(b)).contiguous(memory_format=torch.channels_last)


def residual_gate_backward_reference(grad_y: Tensor, h: Tensor) -> Tensor:
    a, b = h.chunk(2, dim=1)
    s = torch.sigmoid(b)
    grad_h = torch.cat((grad_y * s, grad_y * a * s * (1 - s)), dim=1)
    return grad_h.contiguous(memory_format=torch.channels_last)


def pays(x: Tensor, h: Tensor) -> bool:
    """Whether ``residual_gate`` takes these, and is the fastest: in float32 or bfloat16, and channels_last, on a CPU.

    Not in an exported program, which others than fastgen may run, and not in transforms.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16) or x.dim() != 4:
        return False
    if is_exporting() or is_vectorized() or forward_ad._current_level >= 0:
        return False
    N, C, H, W = x.shape
    fits = h.shape == (N, 2 * C, H, W) and (h.dtype, h.device) == (x.dtype, x.device)
    return fits and is_channels_last(x) and is_channels_last(h)


def residual_gate(x: Tensor, h: Tensor) -> Tensor:
    """Of x (N, C, H, W) and h (N, 2C, H, W), features and then gates, (N, C, H, W), channels_last.

    Gradients: first and second order, from h.

    Args:
        x: floating.
        h: like x, with twice the channels.
    """
    y: Tensor = call(torch.ops.fastgen.residual_gate.default, x, h)
    return y


def _fake(x: Tensor, _h: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _fake_backward(_grad_y: Tensor, h: Tensor) -> Tensor:
    return torch.empty(h.shape, dtype=h.dtype, device=h.device, memory_format=torch.channels_last)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
    ctx.save_for_backward(inputs[1] if ctx.needs_input_grad[1] else None)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None]:
    of_x, of_h = ctx.needs_input_grad
    grad_h = call(torch.ops.fastgen.residual_gate_backward.default, grad_y, *ctx.saved_tensors) if of_h else None
    return grad_y if of_x else None, grad_h


define_op(
    "residual_gate(Tensor x, Tensor h) -> Tensor",
    kernels=KERNELS,
    reference=residual_gate_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "residual_gate_backward(Tensor grad_y, Tensor h) -> Tensor",
    kernels=KERNELS,
    reference=residual_gate_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
    composite=True,
)
