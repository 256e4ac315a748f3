"""The PixelCNN gate: y = tanh(a) · σ(b), where x = [a, b] along channels (arXiv:1606.05328, eq. 2)."""

from typing import Any

import torch
from torch import Tensor

from ._dtypes import check_floating
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/gated_activation_cpu.cpp", "CUDA": "csrc/gated_activation_cuda.cu"}


def gated_activation_reference(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


def gated_activation_backward_reference(grad_y: Tensor, x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    t, s = torch.tanh(a), torch.sigmoid(b)
    return torch.cat((grad_y * s * (1 - t * t), grad_y * t * s * (1 - s)), dim=1)


def _fake(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1] // 2, *x.shape[2:]))


def _fake_backward(grad_y: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_y: Tensor) -> Tensor:
    return call(torch.ops.fastgen.gated_activation_backward.default, grad_y, *ctx.saved_tensors)


define_op(
    "gated_activation(Tensor x) -> Tensor",
    kernels=KERNELS,
    reference=gated_activation_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
define_op(
    "gated_activation_backward(Tensor grad_y, Tensor x) -> Tensor",
    kernels=KERNELS,
    reference=gated_activation_backward_reference,
    fake=_fake_backward,
    backward=None,
    composite=True,
)


def gated_activation(x: Tensor) -> Tensor:
    """Multiply the hyperbolic tangent of the first half of the channels by the sigmoid of the second.

    y[n, c] = tanh(x[n, c]) · σ(x[n, C + c])

    Equivalent to::

        a, b = x.chunk(2, dim=1)
        y = torch.tanh(a) * torch.sigmoid(b)

    Args:
        x: (N, 2C, \\*), float32, float64, float16 or bfloat16; any strides. Half types are computed in float32.

    Returns:
        (N, C, \\*), contiguous, dtype of ``x``.

    Raises:
        ValueError: ``x`` has fewer than two dimensions or an odd number of channels.
        TypeError: ``x`` has another dtype.

    Gradients: first and second order.

    Source: van den Oord et al. 2016, arXiv:1606.05328, eq. 2.
    """
    check_floating("x", x)
    if x.dim() < 2 or x.shape[1] % 2:
        raise ValueError(f"x: expected shape (N, 2C, *), got {tuple(x.shape)}")
    return call(torch.ops.fastgen.gated_activation.default, x)
