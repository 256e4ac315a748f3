"""A layer of a Gated PixelCNN on a CPU: four convolutions of two stacks, through which pixels pass in one op.

above = vertical(v) + class, v' = gate(above);  here = horizontal(h) + link(above) + class, h' = out(gate(here)) + h
arXiv:1606.05328, figure 2

Images are float32 or bfloat16; weights, what a class adds and the gradients of both float32.
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

KERNELS = {"CPU": "csrc/gated_layer_cpu.cpp"}

#: Up to so many weights in a convolution, and from so few channels on, products of pixels outrun oneDNN. One thread of
#: an AMD EPYC with AVX-512, 16 images of 28×28: three layers of 128 channels train in 0.80 of plain torch's time.
MOST_WEIGHTS, FEWEST = 2**18, 8


def _gate(pre: Tensor) -> tuple[Tensor, Tensor]:
    a, b = pre.chunk(2, dim=1)
    return torch.tanh(a), torch.sigmoid(b)


def gated_layer_reference(
    v: Tensor,
    h: Tensor,
    vertical: Tensor,
    bias_vertical: Tensor | None,
    link: Tensor,
    bias_link: Tensor | None,
    horizontal: Tensor,
    bias_horizontal: Tensor | None,
    out: Tensor,
    bias_out: Tensor | None,
    class_above: Tensor | None,
    class_here: Tensor | None,
    color_groups: int,
    groups_order: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """v', h', above, and of ``here`` the tanh and the sigmoid side by side, (N, 2p, H, W); channels_last."""
    vertical, bias_vertical, link, bias_link = in_dtype(h.dtype, vertical, bias_vertical, link, bias_link)
    horizontal, bias_horizontal, out, bias_out = in_dtype(h.dtype, horizontal, bias_horizontal, out, bias_out)
    class_above, class_here = in_dtype(h.dtype, class_above, class_here)
    convolve, colors = torch.ops.fastgen.masked_conv2d.default, (color_groups, groups_order, False)
    rows, K = vertical.shape[2:]
    above = F.conv2d(F.pad(v, (K // 2, K // 2, rows - 1, 0)), vertical, bias_vertical)
    above = above if class_above is None else above + class_above[:, :, None, None]
    joined = F.conv2d(above, link, bias_link)
    here, _ = convolve(h.contiguous(), horizontal, bias_horizontal, joined, "B", "none", *colors)
    factors = _gate(here if class_here is None else here + class_here[:, :, None, None])
    a, b = _gate(above)
    y, _ = convolve(factors[0] * factors[1], out, bias_out, h, "B", "none", *colors)
    kept = (above, torch.cat(factors, dim=1)) if save else (v.new_empty(0), v.new_empty(0))
    results = (a * b, y, *kept)
    return tuple(  # type: ignore[return-value]
        each.contiguous(memory_format=torch.channels_last) if each.dim() == 4 else each for each in results
    )


def gated_layer_backward_reference(
    grad_v: Tensor | None,
    grad_h: Tensor,
    v: Tensor,
    h: Tensor,
    above: Tensor,
    factors: Tensor,
    vertical: Tensor,
    link: Tensor,
    horizontal: Tensor,
    out: Tensor,
    color_groups: int,
    groups_order: str,
) -> tuple[Tensor, ...]:
    backward, every = torch.ops.fastgen.masked_conv2d_backward.default, [True, True, True]
    nothing, options = v.new_empty(0), ("B", "none", color_groups, groups_order, every)
    dtype, (vertical, link, horizontal, out) = out.dtype, in_dtype(h.dtype, vertical, link, horizontal, out)
    t, s = factors.chunk(2, dim=1)
    grad, grad_out, bias_out = backward(grad_h, nothing, t * s, out, *options)
    grad_here = torch.cat((grad * s * (1 - t * t), grad * t * s * (1 - s)), dim=1)
    found_h, grad_horizontal, bias_horizontal = backward(grad_here, nothing, h, horizontal, *options)
    plain = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1, every)
    convolve = torch.ops.aten.convolution_backward.default
    grad_above, grad_link, bias_link = convolve(grad_here, above, link, [link.shape[0]], *plain)
    if grad_v is not None:
        t, s = _gate(above)
        grad_above = grad_above + torch.cat((grad_v * s * (1 - t * t), grad_v * t * s * (1 - s)), dim=1)
    rows, K = vertical.shape[2:]
    padded = F.pad(v, (K // 2, K // 2, rows - 1, 0))
    framed, grad_vertical, bias_vertical = convolve(grad_above, padded, vertical, [vertical.shape[0]], *plain)
    found_v = framed[:, :, rows - 1 :, K // 2 : framed.shape[3] - K // 2]
    images = (each.contiguous(memory_format=torch.channels_last) for each in (found_v, found_h + grad_h))
    weights = (
        grad_vertical.contiguous(), bias_vertical, grad_link.contiguous(), bias_link, grad_horizontal,
        bias_horizontal, grad_out, bias_out, grad_above.to(dtype).sum(dim=(2, 3)), grad_here.to(dtype).sum(dim=(2, 3)),
    )  # fmt: skip
    return *images, *in_dtype(dtype, *weights)


def pays(v: Tensor, h: Tensor, weights: tuple[Tensor, ...], classes: tuple[Tensor | None, ...] = ()) -> bool:
    """Whether ``gated_layer`` takes these, vertical, link, horizontal and out, and is the fastest that a CPU has."""
    told = [each for each in classes if each is not None]
    tensors = (v, h, *weights, *told)
    if is_vectorized() or any(each.device.type != "cpu" for each in tensors):
        return False
    if any(each.dim() != 4 for each in (v, h, *weights)):
        return False
    vertical, link, horizontal, out = (each.shape for each in weights)
    p, (rows, K) = h.shape[1], vertical[2:]
    fits = vertical == (2 * p, p, rows, K) and link == (2 * p, 2 * p, 1, 1) and horizontal == (2 * p, p, 1, K)
    if not fits or out != (p, p, 1, 1) or K % 2 == 0 or v.shape != h.shape:
        return False
    if any(each.shape != (h.shape[0], 2 * p) for each in told):  # one for all images, say
        return False
    fits = p >= FEWEST and vertical.numel() <= MOST_WEIGHTS
    return fits and is_channels_last(v) and is_channels_last(h) and layer_dtype(h, (v, *weights, *told)) is not None


def gated_layer(
    v: Tensor, h: Tensor, weights: tuple[Tensor | None, ...], classes: tuple[Tensor | None, Tensor | None], *colors: Any
) -> tuple[Tensor, Tensor]:
    """Both stacks (N, p, H, W) after the layer, channels_last; weights and biases as the op lists them."""
    tensors = (lowered(v), lowered(h), *widened((*weights, *classes)))
    differentiated = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)
    op = torch.ops.fastgen.gated_layer.default
    next_v, next_h, _, _ = call(op, *tensors, *colors, differentiated)
    return next_v, next_h


def _fake(_v, h, *rest):  # type: ignore[no-untyped-def]
    *weights, color_groups, groups_order, save = rest
    check_taps(weights[4], "B", "none", color_groups, groups_order)
    N, p, H, W = h.shape
    like = {"dtype": h.dtype, "device": h.device, "memory_format": torch.channels_last}
    kept = [torch.empty((N, 2 * p, H, W), **like) if save else h.new_empty(0) for _ in range(2)]
    return torch.empty(h.shape, **like), torch.empty(h.shape, **like), *kept


def _fake_backward(_grad_v, _grad_h, _v, h, _above, _factors, *rest):  # type: ignore[no-untyped-def]
    weights = [grad for each in rest[:4] for grad in (each.new_empty(each.shape), each.new_empty(each.shape[0]))]
    images = [torch.empty_like(h, memory_format=torch.channels_last) for _ in range(2)]
    return *images, *weights, *(rest[0].new_empty((h.shape[0], 2 * h.shape[1])) for _ in range(2))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, color_groups, groups_order, _ = inputs
    ctx.colors = color_groups, groups_order
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output[2:])


def _backward(ctx: Any, grad_v: Tensor | None, grad_h: Tensor | None, *kept: Tensor | None) -> tuple[Any, ...]:
    *inputs, above, factors = ctx.saved_tensors
    needs = ctx.needs_input_grad[:12]
    grads: list[Tensor | None] = [None] * 12
    read = any(grad is not None for grad in kept)
    if not read and above.numel() and not torch.is_grad_enabled() and (grad_v is not None or grad_h is not None):
        v, h, vertical, _, link, _, horizontal, _, out, *_ = inputs
        run = torch.ops.fastgen.gated_layer_backward.default
        arrived = torch.zeros_like(h) if grad_h is None else grad_h
        grads = list(call(run, grad_v, arrived, v, h, above, factors, vertical, link, horizontal, out, *ctx.colors))
        if grad_h is None:  # the upper stack reads v, vertical, its bias and a class' numbers alone
            grads = [grad if i in (0, 2, 3, 10) else None for i, grad in enumerate(grads)]
    elif read or grad_v is not None or grad_h is not None:
        options = (*ctx.colors, read)
        grads = gradients_by(gated_layer_reference, inputs, options, needs, (grad_v, grad_h, *kept))
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None, None


define_op(
    "gated_layer(Tensor v, Tensor h, Tensor vertical, Tensor? bias_vertical, Tensor link, Tensor? bias_link, "
    "Tensor horizontal, Tensor? bias_horizontal, Tensor out, Tensor? bias_out, Tensor? class_above, "
    "Tensor? class_here, int color_groups, str groups_order, bool save) -> "
    "(Tensor next_v, Tensor next_h, Tensor above, Tensor factors)",
    kernels=KERNELS,
    reference=gated_layer_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    contiguous=False,
)
define_op(
    "gated_layer_backward(Tensor? grad_v, Tensor grad_h, Tensor v, Tensor h, Tensor above, Tensor factors, "
    "Tensor vertical, Tensor link, Tensor horizontal, Tensor out, int color_groups, str groups_order) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=gated_layer_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
)
