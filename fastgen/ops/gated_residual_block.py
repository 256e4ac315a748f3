"""Gated residual block: masked convolution, gate, 1×1 convolution and residual (arXiv:1606.05328, figure 2)."""

from typing import Any, Literal

import torch
from torch import Tensor

from .._checks import check_same
from ._dtypes import autocast_dtype, check_dense
from ._layouts import layout_of
from ._masked_conv2d_checks import check_masked_conv2d, check_taps
from ._registry import define_op
from .masked_conv2d import convolution_backward

KERNELS = {"CUDA": "fastgen/ops/gated_residual_block_triton.py"}


def gated_residual_block_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    mask: str,
    color_groups: int,
    groups_order: str,
    save_preactivation: bool,
) -> tuple[Tensor, Tensor]:
    """Two masked convolutions, by whatever kernels their device has."""
    convolve = torch.ops.fastgen.masked_conv2d.default
    gated, pre = convolve(x, weight, bias, None, mask, "gated", color_groups, groups_order, save_preactivation)
    y, _ = convolve(gated, weight_out, bias_out, x, "B", "none", color_groups, groups_order, False)
    return y, pre


def gated_residual_block_backward_reference(
    grad_y: Tensor,
    preactivation: Tensor,
    x: Tensor,
    weight: Tensor,
    weight_out: Tensor,
    mask: str,
    color_groups: int,
    groups_order: str,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    want_x, want_weight, want_bias, want_weight_out, want_bias_out = output_mask
    want_inner = want_x or want_weight or want_bias
    colors = (color_groups, groups_order)
    backward = torch.ops.fastgen.masked_conv2d_backward.default
    grad_gated, grad_weight_out, grad_bias_out = backward(
        grad_y, x.new_empty(0), _gate(preactivation), weight_out, "B", "none", *colors,
        [want_inner, want_weight_out, want_bias_out],
    )  # fmt: skip
    grad_x, grad_weight, grad_bias = (x.new_empty(0) for _ in range(3))
    if want_inner:
        grad_x, grad_weight, grad_bias = backward(
            grad_gated, preactivation, x, weight, mask, "gated", *colors, [want_x, want_weight, want_bias]
        )
    if want_x:
        grad_x = grad_x.add_(grad_y)  # of the residual
    return grad_x, grad_weight, grad_bias, grad_weight_out, grad_bias_out


def _gate(pre: Tensor) -> Tensor:
    """What the 1×1 convolution read, in the layout of ``pre``: a pass over it is cheaper than to have kept it."""
    gate = torch.ops.fastgen.gated_activation.default
    if layout_of(pre) == torch.contiguous_format:
        return gate(pre)
    N, C, H, W = pre.shape
    return gate(pre.permute(0, 2, 3, 1).reshape(-1, C)).view(N, H, W, C // 2).permute(0, 3, 1, 2)


def _fake(x, weight, _bias, weight_out, _bias_out, *options):  # type: ignore[no-untyped-def]
    mask, *colors, save_preactivation = options
    check_taps(weight, mask, "gated", *colors)
    check_taps(weight_out, "B", "none", *colors)
    N, C, H, W = x.shape
    like = {"dtype": x.dtype, "device": x.device, "memory_format": layout_of(x)}
    return torch.empty(x.shape, **like), torch.empty((N, 2 * C, H, W), **like) if save_preactivation else x.new_empty(0)


def _fake_backward(_grad_y, _preactivation, x, weight, weight_out, *options):  # type: ignore[no-untyped-def]
    mask, *colors, output_mask = options
    check_taps(weight, mask, "gated", *colors)
    check_taps(weight_out, "B", "none", *colors)
    grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))]
    grads += [weight.new_empty(size) for size in (weight.shape, weight.shape[:1], weight_out.shape, x.shape[1])]
    return tuple(grad if want else x.new_empty(0) for grad, want in zip(grads, output_mask, strict=True))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _bias, weight_out, _bias_out, *ctx.options = inputs[:8]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, weight_out, output[1])


def _backward(ctx: Any, grad_y: Tensor | None, grad_pre: Tensor | None) -> tuple[Tensor | None, ...]:
    """``grad_pre``: where a gradient that was taken before is differentiated, which read the preactivation."""
    x, weight, weight_out, pre = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:5])
    mask, *colors = ctx.options
    grads: list[Tensor | None] = [None] * 5
    if grad_y is not None:
        backward = torch.ops.fastgen.gated_residual_block_backward.default
        grads[:] = backward(grad_y, pre, x, weight, weight_out, mask, *colors, needs)
    if grad_pre is not None and pre.numel():
        inner = convolution_backward(grad_pre, x, weight, mask, "gated", *colors, needs[:3])
        grads[:3] = [one if other is None else one + other for one, other in zip(inner, grads[:3], strict=True)]
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None, None, None


define_op(
    "gated_residual_block(Tensor x, Tensor weight, Tensor? bias, Tensor weight_out, Tensor? bias_out, str mask, "
    "int color_groups, str groups_order, bool save_preactivation) -> (Tensor y, Tensor preactivation)",
    kernels=KERNELS,
    reference=gated_residual_block_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "gated_residual_block_backward(Tensor grad_y, Tensor preactivation, Tensor x, Tensor weight, Tensor weight_out, "
    "str mask, int color_groups, str groups_order, bool[5] output_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=gated_residual_block_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
    composite=True,
)


def gated_residual_block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    mask: Literal["A", "B"] = "B",
    *,
    color_groups: int = 1,
    groups_order: Literal["contiguous", "interleaved"] = "contiguous",
) -> Tensor:
    """A masked convolution to twice the channels, a gate back to as many, a 1×1 convolution, and ``x`` added.

    y = x + weight_out · (tanh(a) · σ(b)) + bias_out,   [a, b] = Σ_live taps x · weight + bias

    Equivalent to::

        gated = masked_conv2d(x, weight, bias, mask, "gated")
        y = masked_conv2d(gated, weight_out, bias_out, "B", residual=x)

    On the CPU it is these two. On CUDA it is one launch up to 128 channels (64 in float32), and neither [a, b] nor the
    gate's value reaches memory, unless a gradient will need [a, b]; two launches beyond. float64 is the reference.

    Args:
        x: (N, C, H, W), float32, float64, float16 or bfloat16.
        weight: (2·C, C, KH, KW), KH and KW odd, dtype of ``x``.
        bias: (2·C,) or None.
        weight_out: (C, C, 1, 1).
        bias_out: (C,) or None.
        mask: of the first convolution: "A" leaves its centre out, "B" keeps it. ``x`` is added either way.
        color_groups: how many colours the channels are divided into; both convolutions keep to them.
        groups_order: "contiguous" or "interleaved", as for ``masked_conv2d``.

    Returns:
        (N, C, H, W), channels_last if ``x`` is, else contiguous.

    Raises:
        ValueError: a shape or an option does not fit; says which, expected and got.
        TypeError: dtypes differ or are others. Under autocast all are cast, as nn.Conv2d casts them.

    Gradients: first and second order, to x, both weights and both biases.

    Source: van den Oord et al. 2016, arXiv:1606.05328, section 2.1 and figure 2, without the vertical stack.
    """
    dtype = autocast_dtype(check_dense("x", x))
    check_dense("weight_out", weight_out)
    if dtype is not None:  # as nn.Conv2d does
        x, weight, weight_out = x.to(dtype), weight.to(dtype), weight_out.to(dtype)
        bias, bias_out = (b if b is None else b.to(dtype) for b in (bias, bias_out))
    check_masked_conv2d(x, weight, bias, mask, "gated", None, color_groups, groups_order)
    C = x.shape[1]
    if weight.shape[0] != 2 * C:
        raise ValueError(f"weight: expected twice the {C} channels of x, got shape {tuple(weight.shape)}")
    for name, tensor, shape in (("weight_out", weight_out, (C, C, 1, 1)), ("bias_out", bias_out, (C,))):
        if tensor is None:
            continue
        check_same(name, check_dense(name, tensor), "x", x)
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    differentiated = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias, weight_out, bias_out)
    )
    y, _ = torch.ops.fastgen.gated_residual_block.default(
        x, weight, bias, weight_out, bias_out, mask, color_groups, groups_order, differentiated
    )
    return y
