"""The last layers of PixelCNN and PixelRNN on a CPU: two convolutions of single pixels in one op.

y = output(relu(hidden(relu(x)))), both masked, mask B                                  arXiv:1601.06759, table 1

Images are float32 or bfloat16, weights and their gradients float32: sums are, and results are rounded once.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dtypes import in_dtype, layer_dtype, lowered, widened
from ._layouts import is_channels_last, is_vectorized
from ._masked_conv2d_checks import check_taps
from ._recomputed import gradients_by
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/pixel_head_cpu.cpp"}

#: Up to so many weights in a convolution, and from so few channels on, products of pixels outrun oneDNN. One thread of
#: an AMD EPYC with AVX-512, 8 images of 28×28: two convolutions of 512 channels train in 0.8 of what they take apart.
MOST_WEIGHTS, FEWEST = 2**18, 8


def pixel_head_reference(
    x: Tensor,
    hidden: Tensor,
    bias_hidden: Tensor | None,
    output: Tensor,
    bias_output: Tensor | None,
    color_groups: int,
    groups_order: str,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """Two masked convolutions; y (N, P, H, W) and what lies between, after its ReLU, (N, M, H, W); channels_last."""
    hidden, bias_hidden, output, bias_output = in_dtype(x.dtype, hidden, bias_hidden, output, bias_output)
    convolve, colors = torch.ops.fastgen.masked_conv2d.default, (color_groups, groups_order, False)
    x = x.contiguous(memory_format=torch.channels_last)
    between = F.relu(convolve(F.relu(x), hidden, bias_hidden, None, "B", "none", *colors)[0])
    y, _ = convolve(between, output, bias_output, None, "B", "none", *colors)
    between = between.contiguous(memory_format=torch.channels_last) if save else x.new_empty(0)
    return y.contiguous(memory_format=torch.channels_last), between


def pixel_head_backward_reference(
    grad_y: Tensor,
    x: Tensor,
    between: Tensor,
    hidden: Tensor,
    output: Tensor,
    color_groups: int,
    groups_order: str,
) -> tuple[Tensor, ...]:
    backward, every = torch.ops.fastgen.masked_conv2d_backward.default, [True, True, True]
    nothing, options = x.new_empty(0), ("B", "none", color_groups, groups_order, every)
    dtype, (hidden, output) = hidden.dtype, in_dtype(x.dtype, hidden, output)
    grad, grad_output, grad_bias_output = backward(grad_y, nothing, between, output, *options)
    grad, grad_hidden, grad_bias_hidden = backward(grad * (between > 0), nothing, F.relu(x), hidden, *options)
    grad_x = (grad * (x > 0)).contiguous(memory_format=torch.channels_last)
    return grad_x, *in_dtype(dtype, grad_hidden, grad_bias_hidden, grad_output, grad_bias_output)


def pays(x: Tensor, hidden: Tensor, output: Tensor) -> bool:
    """Whether ``pixel_head`` takes these, and is the fastest that a CPU has."""
    if is_vectorized() or x.device.type != "cpu" or x.dim() != 4 or not is_channels_last(x):
        return False
    if any(each.layout != torch.strided for each in (x, hidden, output)):
        return False
    M, P = hidden.shape[0], output.shape[0]
    if hidden.shape != (M, x.shape[1], 1, 1) or output.shape != (P, M, 1, 1):
        return False
    fits = min(hidden.shape[:2]) >= FEWEST and max(hidden.numel(), output.numel()) <= MOST_WEIGHTS
    return fits and layer_dtype(x, (hidden, output)) is not None


def pixel_head(x: Tensor, weights: tuple[Tensor | None, ...], color_groups: int, groups_order: str) -> Tensor:
    """Of x (N, C, H, W), and hidden, bias_hidden, output, bias_output; (N, P, H, W), channels_last."""
    tensors = (lowered(x), *widened(weights))
    differentiated = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)
    op = torch.ops.fastgen.pixel_head.default
    y: Tensor = call(op, *tensors, color_groups, groups_order, differentiated)[0]
    return y


def _fake(x, hidden, _bias_hidden, output, _bias_output, color_groups, groups_order, save):  # type: ignore[no-untyped-def]
    check_taps(output, "B", "none", color_groups, groups_order)
    like = {"dtype": x.dtype, "device": x.device, "memory_format": torch.channels_last}
    y, between = (torch.empty((x.shape[0], each.shape[0], *x.shape[2:]), **like) for each in (output, hidden))
    return y, between if save else x.new_empty(0)


def _fake_backward(_grad_y, x, _between, hidden, output, *_colors):  # type: ignore[no-untyped-def]
    weights = [each.new_empty(shape) for each in (hidden, output) for shape in (each.shape, each.shape[:1])]
    return torch.empty_like(x, memory_format=torch.channels_last), *weights


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, color_groups, groups_order, ctx.kept = inputs
    ctx.colors = color_groups, groups_order
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[1])


def _backward(ctx: Any, grad_y: Tensor | None, grad_between: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, between = ctx.saved_tensors
    needs, read = ctx.needs_input_grad[:5], grad_between is not None
    grads: list[Tensor | None] = [None] * 5
    if grad_y is not None and not read and ctx.kept and not torch.is_grad_enabled():
        x, hidden, _, output, _ = inputs
        run = torch.ops.fastgen.pixel_head_backward.default
        grads = list(call(run, grad_y, x, between, hidden, output, *ctx.colors))
    elif grad_y is not None or read:
        grads = gradients_by(pixel_head_reference, inputs, (*ctx.colors, read), needs, (grad_y, grad_between))
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None, None


define_op(
    "pixel_head(Tensor x, Tensor hidden, Tensor? bias_hidden, Tensor output, Tensor? bias_output, int color_groups, "
    "str groups_order, bool save) -> (Tensor y, Tensor between)",
    kernels=KERNELS,
    reference=pixel_head_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "pixel_head_backward(Tensor grad_y, Tensor x, Tensor between, Tensor hidden, Tensor output, int color_groups, "
    "str groups_order) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=pixel_head_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
)
