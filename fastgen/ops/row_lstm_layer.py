"""A layer of a Row LSTM on a CPU: images go through its convolutions and its recurrence row by row, in one op.

[o, f, i, g] = K_is ∗ x(row) + K_ss ∗ h(row above) + added, c = f·c' + i·g, h = o·tanh(c);  y = up(h) + x
arXiv:1601.06759, section 3.1, figure 4
"""

from typing import Any

import torch
from torch import Tensor

from ._dtypes import autocast_dtype
from ._layouts import is_channels_last, is_vectorized
from ._masked_conv2d_checks import check_taps
from ._recomputed import gradients_by
from ._registry import call, define_op
from .image_lstm import grad_hidden

KERNELS = {"CPU": "csrc/row_lstm_layer_cpu.cpp"}

#: Up to so many weights in both kernels of the gates, products of a row's pixels outrun oneDNN.
MOST_WEIGHTS = 2**18


def row_lstm_layer_reference(
    x: Tensor,
    input_to_state: Tensor,
    bias: Tensor | None,
    state_to_state: Tensor,
    hidden: Tensor,
    cell: Tensor,
    up: Tensor,
    bias_up: Tensor | None,
    added: Tensor | None,
    color_groups: int,
    groups_order: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, channels_last; c (N, H, W, h) and the gates (N, H, W, 4h), as ``image_lstm`` keeps them.

    hidden and cell are (1, h), as a layer of one scan has them.
    """
    convolve, colors = torch.ops.fastgen.masked_conv2d.default, (color_groups, groups_order, False)
    gates, _ = convolve(x.contiguous(), input_to_state, bias, None, "B", "none", *colors)
    gates = gates if added is None else gates + added[:, :, None, None]
    args = (gates.permute(0, 2, 3, 1).contiguous(), state_to_state, hidden[0], cell[0], "row")
    h, *kept = torch.ops.fastgen.image_lstm.default(*args)
    y, _ = convolve(h.permute(0, 3, 1, 2), up, bias_up, x, "B", "none", *colors)
    c, activations = kept if save else (x.new_empty(0), x.new_empty(0))
    return y.contiguous(memory_format=torch.channels_last), c, activations


def row_lstm_layer_backward_reference(
    grad_y: Tensor,
    x: Tensor,
    c: Tensor,
    gates: Tensor,
    input_to_state: Tensor,
    state_to_state: Tensor,
    hidden: Tensor,
    cell: Tensor,
    up: Tensor,
    color_groups: int,
    groups_order: str,
) -> tuple[Tensor, ...]:
    backward, every = torch.ops.fastgen.masked_conv2d_backward.default, [True, True, True]
    nothing, options = x.new_empty(0), ("B", "none", color_groups, groups_order, every)
    h = gates[..., : c.shape[3]] * torch.tanh(c)
    grad, grad_up, grad_bias_up = backward(grad_y, nothing, h.permute(0, 3, 1, 2).contiguous(), up, *options)
    grad, weights = grad.permute(0, 2, 3, 1).contiguous(), (state_to_state, hidden[0], cell[0])
    run = torch.ops.fastgen.image_lstm_backward.default
    grads, grad_state, grad_cell = run(grad, None, None, h, c, gates, *weights, "row")
    by_pixel = grads.permute(0, 3, 1, 2).contiguous()
    grad_x, grad_input, grad_bias = backward(by_pixel, nothing, x.contiguous(), input_to_state, *options)
    return (
        (grad_x + grad_y).contiguous(memory_format=torch.channels_last), grad_input, grad_bias, grad_state,
        grad_hidden(grads, state_to_state, "row")[None], grad_cell.sum(dim=0, keepdim=True), grad_up, grad_bias_up,
        grads.sum(dim=(1, 2)),
    )  # fmt: skip


def pays(x: Tensor, weights: tuple[Tensor | None, ...], added: Tensor | None = None) -> bool:
    """Whether ``row_lstm_layer`` takes these, weights, biases and states as it lists them, and is the fastest."""
    if is_vectorized() or not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] % 2:
        return False
    given = [each for each in (x, *weights, added) if each is not None]
    if any(each.device.type != "cpu" or (each.dtype, each.layout) != (torch.float32, torch.strided) for each in given):
        return False
    N, h, K = x.shape[0], x.shape[1] // 2, weights[0].shape[-1]  # type: ignore[union-attr]
    shapes = (4 * h, 2 * h, 1, K), (4 * h,), (4 * h, h, 3), (1, h), (1, h), (2 * h, h, 1, 1), (2 * h,), (N, 4 * h)
    if K % 2 == 0 or any(
        each is not None and each.shape != shape for each, shape in zip((*weights, added), shapes, strict=True)
    ):  # what is added may be one for all images, say
        return False
    fits = (2 * K + 3) * h * 4 * h <= MOST_WEIGHTS
    return fits and is_channels_last(x) and autocast_dtype(x) is None


def row_lstm_layer(x: Tensor, weights: tuple[Tensor | None, ...], added: Tensor | None, *colors: Any) -> Tensor:
    """The image (N, 2h, H, W) after the layer, channels_last; weights, biases and states as the op lists them."""
    tensors = (x, *weights, added)
    differentiated = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)
    y: Tensor = call(torch.ops.fastgen.row_lstm_layer.default, *tensors, *colors, differentiated)[0]
    return y


def _fake(x, input_to_state, *rest):  # type: ignore[no-untyped-def]
    *_, color_groups, groups_order, save = rest
    check_taps(input_to_state, "B", "none", color_groups, groups_order)
    N, channels, H, W = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return y, *(x.new_empty((N, H, W, count * channels // 2) if save else 0) for count in (1, 4))


def _fake_backward(_grad_y, x, _c, _gates, *rest):  # type: ignore[no-untyped-def]
    read, state, hidden, cell, up, *_ = rest
    of = (read, read[:, 0, 0, 0], state, hidden, cell, up, up[:, 0, 0, 0])
    grads = (each.new_empty(each.shape) for each in of)
    return torch.empty_like(x, memory_format=torch.channels_last), *grads, x.new_empty((x.shape[0], 2 * x.shape[1]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, color_groups, groups_order, ctx.kept = inputs
    ctx.colors = color_groups, groups_order
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, grad_y: Tensor | None, *kept: Tensor | None) -> tuple[Any, ...]:
    *inputs, c, gates = ctx.saved_tensors
    needs = ctx.needs_input_grad[:9]
    grads: list[Tensor | None] = [None] * 9
    read = any(grad is not None for grad in kept)
    if not read and grad_y is not None and ctx.kept and not torch.is_grad_enabled():
        x, input_to_state, _, state_to_state, hidden, cell, up, *_ = inputs
        run = torch.ops.fastgen.row_lstm_layer_backward.default
        weights = (input_to_state, state_to_state, hidden, cell, up)
        grads = list(call(run, grad_y, x, c, gates, *weights, *ctx.colors))
    elif read or grad_y is not None:
        grads = gradients_by(row_lstm_layer_reference, inputs, (*ctx.colors, read), needs, (grad_y, *kept))
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None, None


define_op(
    "row_lstm_layer(Tensor x, Tensor input_to_state, Tensor? bias, Tensor state_to_state, Tensor hidden, Tensor cell, "
    "Tensor up, Tensor? bias_up, Tensor? added, int color_groups, str groups_order, bool save) -> "
    "(Tensor y, Tensor c, Tensor gates)",
    kernels=KERNELS,
    reference=row_lstm_layer_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "row_lstm_layer_backward(Tensor grad_y, Tensor x, Tensor c, Tensor gates, Tensor input_to_state, "
    "Tensor state_to_state, Tensor hidden, Tensor cell, Tensor up, int color_groups, str groups_order) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=row_lstm_layer_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
)
