"""What PixelCNN++ reads all of its convolutions through: elu of x and of −x, with the border that they are padded by.

y = [elu(x), elu(−x)], within zeros              openai/pixel-cnn, concat_elu, after Shang et al. 2016, arXiv:1603.05201

One of both is linear, so that one exponential gives two numbers; the convolution pads nothing afterwards; and backward
needs the result alone, which the convolution keeps.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from .._constants import is_exporting
from ._layouts import is_vectorized, layout_of
from ._registry import call, define_op

DTYPES = (torch.float32, torch.float64, torch.bfloat16)

KERNELS = {"CPU": "csrc/concat_elu_cpu.cpp"}


def concat_elu_reference(x: Tensor, padding: list[int]) -> Tensor:
    y = F.pad(F.elu(torch.cat((x, -x), dim=1)), padding)
    return y.contiguous(memory_format=layout_of(x))


def concat_elu_backward_reference(grad_y: Tensor, y: Tensor, padding: list[int]) -> Tensor:
    left, right, top, bottom = padding
    inside = (slice(None), slice(None), slice(top, y.shape[2] - bottom), slice(left, y.shape[3] - right))
    grad = grad_y[inside] * torch.where(y[inside] > 0, 1, _slope(y[inside]))
    plus, minus = grad.chunk(2, dim=1)
    return (plus - minus).contiguous(memory_format=layout_of(y))


def _slope(y: Tensor) -> Tensor:
    """Of elu below zero, where elu is slope − 1; in bfloat16, too few digits for that, from the half that is −x."""
    if y.dtype != torch.bfloat16:
        return y + 1
    plus, minus = y.chunk(2, dim=1)
    return torch.exp(-torch.cat((minus, plus), dim=1))


def pays(x: Tensor) -> bool:
    """Whether ``concat_elu`` takes this, and is the fastest: on a CPU, outside of exported programs and transforms."""
    if x.device.type != "cpu" or x.dim() != 4 or x.dtype not in DTYPES or is_exporting():
        return False
    return not is_vectorized() and forward_ad._current_level < 0


def concat_elu(x: Tensor, padding: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Tensor:
    """Of x (N, C, H, W), (N, 2C, top + H + bottom, left + W + right), channels_last if x is, else contiguous.

    Gradients: first and second order, from the result, which nobody may write to meanwhile.

    Args:
        x: float32, float64 or bfloat16.
        padding: left, right, top, bottom, in the order of ``F.pad``; not negative.
    """
    y: Tensor = call(torch.ops.fastgen.concat_elu.default, x, list(padding))
    return y


def _fake(x: Tensor, padding: list[int]) -> Tensor:
    N, C, H, W = x.shape
    left, right, top, bottom = padding
    shape = (N, 2 * C, top + H + bottom, left + W + right)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))


def _fake_backward(grad_y: Tensor, y: Tensor, padding: list[int]) -> Tensor:
    N, C, H, W = y.shape
    left, right, top, bottom = padding
    shape = (N, C // 2, H - top - bottom, W - left - right)
    return torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=layout_of(y))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.padding = inputs[1]
    ctx.save_for_backward(output)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:
    (y,) = ctx.saved_tensors
    return call(torch.ops.fastgen.concat_elu_backward.default, grad_y, y, ctx.padding), None


define_op(
    "concat_elu(Tensor x, int[] padding) -> Tensor",
    kernels=KERNELS,
    reference=concat_elu_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "concat_elu_backward(Tensor grad_y, Tensor y, int[] padding) -> Tensor",
    kernels=KERNELS,
    reference=concat_elu_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
    composite=True,
)
