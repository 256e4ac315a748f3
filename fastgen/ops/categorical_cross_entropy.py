"""Cross-entropy of images of which each value has a logit for every level, as PixelCNN and PixelRNN have them.

Logits are read where they lie, in channels_last or in planes, once forward and once backward. torch lays them out anew
by level, with all their log-softmax beside them, and again for the gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from .._checks import check_device, check_integer, check_number, check_tensor, check_values
from .._constants import is_exporting
from ._dtypes import check_floating, without_autocast
from ._layouts import is_vectorized, layout
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/categorical_cross_entropy_cpu.cpp"}

#: More levels than any image has; sizes stay far from wrapping.
LEVELS_MAX = 2**24 - 1
#: From so many logits of a pixel on, and levels of a value, the CPU's kernel outruns torch in every layout and dtype.
LOGITS, LEVELS = 64, 16


def categorical_cross_entropy_reference(
    params: Tensor, values: Tensor, levels: int, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Nats (N, C, H, W), NaN where a value is no level, and Σ exp(l − largest), which the backward reads."""
    logits = _by_level(params, levels)
    shifted = logits - logits.amax(2, keepdim=True)
    sums = shifted.exp().sum(2)
    own = shifted.gather(2, values.clamp(0, levels - 1).unsqueeze(2)).squeeze(2)
    nats = sums.log() - (own * (1 - smoothing) + shifted.mean(2) * smoothing if smoothing else own)
    return torch.where((values < 0) | (values >= levels), torch.nan, nats), sums


def categorical_cross_entropy_backward_reference(
    grad: Tensor, params: Tensor, values: Tensor, sums: Tensor, levels: int, smoothing: float
) -> Tensor:
    logits = _by_level(params, levels)
    p = (logits - logits.amax(2, keepdim=True)).exp() / sums.unsqueeze(2)
    found = _gradient(grad, p, values, levels, smoothing).to(params.dtype)
    return found.contiguous(memory_format=layout(_lies_by_pixel(params)))


def _by_level(params: Tensor, levels: int) -> Tensor:
    """(N, C·L, H, W) → (N, C, L, H, W), in the dtype of sums."""
    return params.unflatten(1, (-1, levels)).to(torch.promote_types(params.dtype, torch.float32))


def _gradient(grad: Tensor, p: Tensor, values: Tensor, levels: int, smoothing: float) -> Tensor:
    """To the logits, (N, C·L, H, W), of probabilities (N, C, L, H, W)."""
    outside = (values < 0) | (values >= levels)
    own = torch.zeros_like(p).scatter(2, values.clamp(0, levels - 1).unsqueeze(2), 1 - smoothing)
    grad = torch.where(outside, torch.nan, grad).unsqueeze(2)
    return (grad * (p - own - smoothing / levels)).flatten(1, 2)


def _lies_by_pixel(params: Tensor) -> bool:
    """Whether the levels of a colour lie together."""
    return params.stride(1) == 1 and not params.is_contiguous()


def pays(params: Tensor, levels: int) -> bool:
    """Whether the op is the fastest for these logits (N, C·L, H, W): of a CPU, and enough of them.

    Not in an exported program, which has other executors, and not in transforms.
    """
    if not params.is_cpu or levels < LEVELS or params.shape[1] < LOGITS or params.layout != torch.strided:
        return False
    return not (is_exporting() or is_vectorized() or forward_ad._current_level >= 0)


def cross_entropy(params: Tensor, values: Tensor, levels: int, smoothing: float) -> Tensor:
    """``categorical_cross_entropy`` of what has been checked, by the op or by torch's functions; values: int64."""
    if pays(params, levels):
        nats: Tensor = call(torch.ops.fastgen.categorical_cross_entropy.default, params, values, levels, smoothing)[0]
        return nats
    logits = _by_level(params, levels).transpose(1, 2)
    if values.is_cpu and not torch.compiler.is_compiling():  # else no value has been looked at
        return F.cross_entropy(logits, values, reduction="none", label_smoothing=smoothing)
    inside = values.clamp(0, levels - 1)
    nats = F.cross_entropy(logits, inside, reduction="none", label_smoothing=smoothing)
    return torch.where(values == inside, nats, torch.nan)


def _fake(params: Tensor, values: Tensor, _levels: int, _smoothing: float) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(params.dtype, torch.float32)
    return params.new_empty(values.shape, dtype=dtype), params.new_empty(values.shape, dtype=dtype)


def _fake_backward(_grad: Tensor, params: Tensor, *_rest: Any) -> Tensor:
    memory = layout(_lies_by_pixel(params))
    return torch.empty(params.shape, dtype=params.dtype, device=params.device, memory_format=memory)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    params, values, *ctx.options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(params, values, output[1])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    params, values, sums = ctx.saved_tensors
    if torch.is_grad_enabled():  # to be differentiated
        with without_autocast((grad,)):
            p = torch.softmax(_by_level(params, ctx.options[0]), 2)
            return _gradient(grad, p, values, *ctx.options).to(params.dtype), None, None, None
    run = torch.ops.fastgen.categorical_cross_entropy_backward.default
    return call(run, grad, params, values, sums, *ctx.options), None, None, None


define_op(
    "categorical_cross_entropy(Tensor params, Tensor values, int levels, float smoothing) "
    "-> (Tensor nats, Tensor sums)",
    kernels=KERNELS,
    reference=categorical_cross_entropy_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
define_op(
    "categorical_cross_entropy_backward(Tensor grad, Tensor params, Tensor values, Tensor sums, int levels, "
    "float smoothing) -> Tensor",
    kernels=KERNELS,
    reference=categorical_cross_entropy_backward_reference,
    fake=_fake_backward,
    backward=None,
    contiguous=False,
)


def categorical_cross_entropy(
    params: Tensor, values: Tensor, levels: int = 256, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of every value with the law of its logits, −log softmax(l)[v].

    −Σᵤ q(u) log softmax(l)[u],  q(u) = (1 − ε)·[u = v] + ε / L

    Equivalent to ``F.cross_entropy(params.unflatten(1, (C, L)).transpose(1, 2), values, reduction="none",
    label_smoothing=ε)``. The loss in bits per dimension of images of 256 levels::

        bits_per_dim = categorical_cross_entropy(params, images).mean() / math.log(2)

    Args:
        params: l, (N, C·L, H, W), float32, float64, float16 or bfloat16; any strides. Half types are computed in
            float32. The logits of a colour lie side by side: colour k has the channels [k·L, (k + 1)·L).
        values: v, (N, C, H, W), integers in [0, levels).
        levels: L, at least 2.
        label_smoothing: ε, in [0, 1].

    Returns:
        (N, C, H, W), nats, contiguous, float32 (float64 for float64).

    Raises:
        ValueError: shapes do not fit, devices differ, ``levels`` or ``label_smoothing`` is out of range, or a value is.
            The last is looked for on the CPU only; on a GPU that would wait for the device, and under ``torch.compile``
            it would break the graph. There, such a value's cross-entropy is NaN. ``torch.vmap`` leaves it to torch.
        TypeError: ``params`` are of another dtype, or ``values`` are not integers.

    Gradients: first and second order, to ``params``, in their layout. Beside the arguments a number for each value is
    kept for the backward pass. On a GPU, of fewer than 64 logits of a pixel or 16 levels, and in transforms it is plain
    torch.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7; van den Oord et al. 2016, arXiv:1601.06759, section 2.2.
    """
    levels = check_integer("levels", check_integer("levels", levels, 2), 2, LEVELS_MAX)
    smoothing = float(check_number("label_smoothing", label_smoothing, 0, 1))
    check_floating("params", params)
    on_cpu = check_tensor("values", values).is_cpu
    check_values(values, levels if on_cpu and not is_vectorized() else None)
    if values.dim() != 4 or not values.shape[1]:
        raise ValueError(f"values: expected shape (N, C, H, W), got {tuple(values.shape)}")
    N, C, H, W = values.shape
    if params.shape != (N, C * levels, H, W):
        raise ValueError(f"params: expected shape {(N, C * levels, H, W)}, got {tuple(params.shape)}")
    check_device("values", values, "params", params)
    return cross_entropy(params, values.to(torch.int64), levels, smoothing)
