"""Masked convolution, fused with bias, activation or gate, and residual (arXiv:1601.06759, section 3.4)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dtypes import autocast_dtype, check_dense
from ._layouts import layout_of
from ._masked_conv2d_activations import activate, activate_backward
from ._masked_conv2d_checks import check_masked_conv2d, check_options, check_taps, check_weight
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/masked_conv2d_cpu.cpp", "CUDA": "fastgen/ops/masked_conv2d_triton.py"}


def masked_conv2d_mask(
    weight: Tensor,
    mask: str,
    activation: str = "none",
    color_groups: int = 1,
    groups_order: str = "contiguous",
) -> Tensor:
    """Ones at the live taps of ``weight`` (O, I, KH, KW), zeros at the dead; shape, dtype and device of ``weight``.

    Raises ValueError where an option or the shape does not fit.
    """
    check_options(mask, activation, color_groups, groups_order, doubled=False)
    check_weight(weight)
    O, I, KH, KW = weight.shape
    position = torch.arange(KH * KW, device=weight.device)
    center = (KH // 2) * KW + KW // 2
    live = (position < center).expand(O, I, -1).clone()
    if color_groups == 1:
        live[:, :, center] = mask == "B"
    else:
        half = O // 2 if activation == "gated" else O  # both halves of a gate are divided into colours alike
        group_out = _color_group(torch.arange(O, device=weight.device) % max(half, 1), half, color_groups, groups_order)
        group_in = _color_group(torch.arange(I, device=weight.device), I, color_groups, groups_order)
        sees = torch.lt if mask == "A" else torch.le
        live[:, :, center] = sees(group_in[None, :], group_out[:, None])
    return live.view(weight.shape).to(weight.dtype)


def _color_group(channel: Tensor, channels: int, groups: int, order: str) -> Tensor:
    return channel % groups if order == "interleaved" else channel * groups // max(channels, 1)


def _live(weight: Tensor, mask: Tensor) -> Tensor:
    """``weight`` with zeros in its dead taps, whatever stood there: a dead NaN has no influence."""
    return weight.masked_fill(mask == 0, 0)


def masked_conv2d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: str,
    activation: str,
    color_groups: int,
    groups_order: str,
    save_preactivation: bool,
) -> tuple[Tensor, Tensor]:
    live = _live(weight, masked_conv2d_mask(weight, mask, activation, color_groups, groups_order))
    pre = F.conv2d(x, live, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2))
    y = activate(pre, activation)
    if residual is not None:
        y = y + residual
    layout = layout_of(x)
    saved = save_preactivation and activation != "none"
    return y.contiguous(memory_format=layout), pre.contiguous(memory_format=layout) if saved else pre.new_empty(0)


def masked_conv2d_backward_reference(
    grad_y: Tensor,
    preactivation: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: str,
    activation: str,
    color_groups: int,
    groups_order: str,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    grad = activate_backward(grad_y, preactivation, activation)
    return convolution_backward(grad, x, weight, mask, activation, color_groups, groups_order, output_mask)


def convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient to the preactivation; ``options``: those of ``masked_conv2d_backward``, as it lists them."""
    *taps, output_mask = options
    live_taps = masked_conv2d_mask(weight, *taps)
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    grads = torch.ops.aten.convolution_backward.default(
        grad, x, _live(weight, live_taps), [weight.shape[0]], [1, 1], padding, [1, 1], False, [0, 0], 1, output_mask,
    )  # fmt: skip
    grad_x, grad_weight, grad_bias = (x.new_empty(0) if grad is None else grad for grad in grads)
    if output_mask[0]:
        grad_x = grad_x.contiguous(memory_format=layout_of(x))
    if output_mask[1]:
        grad_weight = _live(grad_weight, live_taps).contiguous()
    return grad_x, grad_weight, grad_bias


def _fake(x, weight, _bias, _residual, mask, activation, *options):  # type: ignore[no-untyped-def]
    *colors, save_preactivation = options
    check_taps(weight, mask, activation, *colors)
    (N, _, H, W), O = x.shape, weight.shape[0]
    channels = {"concat_elu": 2 * O, "gated": O // 2}.get(activation, O)
    like = {"dtype": x.dtype, "device": x.device, "memory_format": layout_of(x)}
    saved = save_preactivation and activation != "none"
    return torch.empty((N, channels, H, W), **like), torch.empty((N, O, H, W), **like) if saved else x.new_empty(0)


def _fake_backward(_grad_y, _preactivation, x, weight, *options):  # type: ignore[no-untyped-def]
    *taps, output_mask = options
    check_taps(weight, *taps)
    return (
        torch.empty_like(x, memory_format=layout_of(x)) if output_mask[0] else x.new_empty(0),
        weight.new_empty(weight.shape if output_mask[1] else 0),
        weight.new_empty(weight.shape[:1] if output_mask[2] else 0),
    )


def _tells_by_result(activation: str, residual: Tensor | None) -> bool:
    """Whether the result says all that the activation's gradient reads: a ReLU has given what it passes on."""
    return activation == "relu" and residual is None


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _bias, residual, *ctx.options = inputs[:8]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, output[0 if _tells_by_result(ctx.options[1], residual) else 1])


def _backward(ctx: Any, grad_y: Tensor | None, grad_pre: Tensor | None) -> tuple[Tensor | None, ...]:
    """``grad_pre``: where a gradient that was taken before is differentiated, which read the preactivation."""
    x, weight, preactivation = ctx.saved_tensors
    grad_pre = grad_pre if preactivation.numel() else None  # without an activation it is empty
    if grad_y is None and grad_pre is None:
        return (None,) * 9
    needs = list(ctx.needs_input_grad[:3])
    grad_residual = grad_y if ctx.needs_input_grad[3] else None
    if not any(needs):  # nothing was kept for them either
        return None, None, None, grad_residual, None, None, None, None, None
    if grad_pre is None:
        backward = torch.ops.fastgen.masked_conv2d_backward.default
        grads = call(backward, grad_y, preactivation, x, weight, *ctx.options, needs)
    else:
        if grad_y is not None:
            grad_pre = grad_pre + activate_backward(grad_y, preactivation, ctx.options[1])
        grads = convolution_backward(grad_pre, x, weight, *ctx.options, needs)
    grad_x, grad_weight, grad_bias = (grad if need else None for grad, need in zip(grads, needs, strict=True))
    return grad_x, grad_weight, grad_bias, grad_residual, None, None, None, None, None


define_op(
    "masked_conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str mask, str activation, "
    "int color_groups, str groups_order, bool save_preactivation) -> (Tensor y, Tensor preactivation)",
    kernels=KERNELS,
    reference=masked_conv2d_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "masked_conv2d_backward(Tensor grad_y, Tensor preactivation, Tensor x, Tensor weight, str mask, str activation, "
    "int color_groups, str groups_order, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=masked_conv2d_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
    composite=True,
)


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Literal["A", "B"] = "B",
    activation: Literal["none", "relu", "elu", "concat_elu", "gated"] = "none",
    residual: Tensor | None = None,
    *,
    color_groups: int = 1,
    groups_order: Literal["contiguous", "interleaved"] = "contiguous",
) -> Tensor:
    """Convolve each pixel with those before it in raster order, then activate and add a residual.

    y = activation(Σ_live taps x · weight + bias) + residual

    Only rows with live taps are computed: those before the centre in raster order, and the centre itself for mask "B".
    Dead taps of the centre's row count as zeros, whatever stands in the weight; their gradient is exactly zero.

    Equivalent to::

        y = F.conv2d(x, weight * masked_conv2d_mask(weight, mask), bias, padding=(KH // 2, KW // 2))
        y = activation(y) + residual

    Args:
        x: (N, I, H, W), float32, float64, float16 or bfloat16.
        weight: (O, I, KH, KW) as ``nn.Conv2d``'s, KH and KW odd, dtype of ``x``.
        bias: (O,) or None.
        mask: "A" leaves the centre out (first layer), "B" keeps it.
        activation: "none", "relu", "elu", "concat_elu" (channels become 2·O: elu([p, -p])) or "gated" (channels become
            O / 2: tanh of the first half times sigmoid of the second).
        residual: shape of the result, added after the activation; or None.
        color_groups: how many colours the channels are divided into. With 3, the centre tap of colour g sees colours
            < g (mask "A") or ≤ g (mask "B"). With "gated", each half of O is divided on its own.
        groups_order: "contiguous" (the first third is red) or "interleaved" (channel c has colour c mod 3).

    Returns:
        (N, O, H, W), 2·O channels for "concat_elu", O / 2 for "gated". channels_last if ``x`` is, else contiguous.

    Raises:
        ValueError: a shape, ``mask``, ``activation`` or ``groups_order`` does not fit; says which, expected and got.
        TypeError: dtypes differ or are others. Under autocast all are cast, as nn.Conv2d casts them.

    Gradients: first and second order, to x, weight, bias and residual. Sums have a fixed order: the same
    call gives the same bits. On CUDA float64 is the reference: torch's convolution of the weight times its mask.

    Source: van den Oord et al. 2016, arXiv:1601.06759, section 3.4; the gate: arXiv:1606.05328, eq. 2; concat_elu:
    Shang et al. 2016, arXiv:1603.05201, as in PixelCNN++, arXiv:1701.05517.
    """
    dtype = autocast_dtype(check_dense("x", x))
    if dtype is not None:  # as nn.Conv2d does
        check_dense("weight", weight)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = bias if bias is None else bias.to(dtype)
        residual = residual if residual is None else residual.to(dtype)
    check_masked_conv2d(x, weight, bias, mask, activation, residual, color_groups, groups_order)
    differentiated = torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )
    save = differentiated and not _tells_by_result(activation, residual)
    op = torch.ops.fastgen.masked_conv2d.default
    y, _ = call(op, x, weight, bias, residual, mask, activation, color_groups, groups_order, save)
    return y
