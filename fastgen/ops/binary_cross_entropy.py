"""Cross-entropy of black and white, or of greys between, of a logit each: what VAEs reconstruct images by.

Logits and targets are read once forward and once backward, and only the sums of images are written. torch writes the
cross-entropy of each pixel, and two more numbers of it on the way.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from .._checks import check_dense, check_device
from .._constants import is_exporting
from ._composites import composite, is_program
from ._dtypes import check_floating
from ._layouts import is_channels_last, is_vectorized, layout
from ._registry import call, define_op, is_compiled

KERNELS = {"CPU": "csrc/binary_cross_entropy_cpu.cpp"}

#: From so many logits on.
NUMBERS = 2**13


def binary_cross_entropy_reference(logits: Tensor, target: Tensor) -> Tensor:
    """(*S, N), of logits (*S, N, *D) and targets (N, *D)."""
    each = F.binary_cross_entropy_with_logits(logits.to(target.dtype), target.expand_as(logits), reduction="none")
    return each.flatten(-target.dim() + 1).sum(-1) if target.dim() > 1 else each


def binary_cross_entropy_backward_reference(grad: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    grad = grad.view(*grad.shape, *[1] * (target.dim() - 1))
    found = (grad * (torch.sigmoid(logits.to(target.dtype)) - target)).to(logits.dtype)
    return found.contiguous(memory_format=layout(_lie_together(logits, target)))


def _lie_together(logits: Tensor, target: Tensor) -> bool:
    """Whether what is read and written has the colours of a pixel side by side."""
    return logits.dim() == target.dim() == 4 and is_channels_last(logits)


def _fake_backward(_grad: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=layout(_lie_together(logits, target)))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return call(torch.ops.fastgen.binary_cross_entropy_backward.default, grad, *ctx.saved_tensors), None


define_op(
    "binary_cross_entropy(Tensor logits, Tensor target) -> Tensor",
    kernels=KERNELS,
    reference=binary_cross_entropy_reference,
    fake=lambda logits, target: target.new_empty(logits.shape[: logits.dim() - target.dim() + 1]),
    setup_context=_setup_context,
    backward=_backward,
)
define_op(
    "binary_cross_entropy_backward(Tensor grad, Tensor logits, Tensor target) -> Tensor",
    kernels=KERNELS,
    reference=binary_cross_entropy_backward_reference,
    fake=_fake_backward,
    backward=None,
    composite=True,
    contiguous=False,
)


def pays(logits: Tensor, target: Tensor) -> bool:
    """Whether the op is the fastest for these: of a CPU, enough of them, and with no gradient to the target.

    Not in an exported program, which has other executors, and not in transforms.
    """
    if not logits.is_cpu or logits.numel() < NUMBERS or target.requires_grad or logits.layout != torch.strided:
        return False
    return not (is_exporting() or is_vectorized() or forward_ad._current_level >= 0)


def summed(logits: Tensor, target: Tensor, looks: bool = False) -> Tensor:
    """``binary_cross_entropy`` of what has been checked, of targets in the result's dtype, by op or by torch.

    ``looks``: at targets that the op does not see, too.
    """
    if pays(logits, target):
        nats: Tensor = call(torch.ops.fastgen.binary_cross_entropy.default, logits, target)
        return nats
    if looks:
        _check_unit(target)
    return binary_cross_entropy_reference(logits, target)


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each image with the law of its logits, summed over what an image has.

    −Σ t · log σ(l) + (1 − t) · log σ(−l)

    Equivalent to ``F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1).sum(1)``. A VAE's
    loss::

        loss = (binary_cross_entropy(logits, x) + kl).mean()

    Args:
        logits: l, (\\*S, N, \\*), float32, float64, float16 or bfloat16; any strides. Half types are computed in
            float32.
        target: t, (N, \\*), in [0, 1]: values, or probabilities of a 1. Any dtype, read in that of the result. Of more
            samples S of the logits for one image it is read again, and not repeated in memory.

    Returns:
        (\\*S, N), nats, float32 (float64 for float64).

    Raises:
        ValueError: shapes do not fit, or devices differ.
        TypeError: ``logits`` are of another dtype.
        RuntimeError: a target is not in [0, 1]. That is looked for on the CPU only; on a GPU it would wait for the
            device, and in transforms and of few logits under ``torch.compile`` it would break the graph.

    Gradients: first and second order, to ``logits``; nothing beside the arguments is kept for the backward pass. On a
    GPU, in transforms, and with a target that has gradients it is plain torch.

    Source: Kingma and Welling 2014, arXiv:1312.6114, appendix C.1, equation 11.
    """
    if is_program():
        nats: Tensor = _RUN(logits, target)
        return nats
    return _checked(logits, target)


@composite("checked_binary_cross_entropy(Tensor logits, Tensor target) -> Tensor")
def _checked(logits: Tensor, target: Tensor) -> Tensor:
    check_floating("logits", logits)
    check_dense("target", target)
    if not target.dim():
        raise ValueError("target: expected shape (N, *), got a scalar")
    if logits.dim() < target.dim() or logits.shape[logits.dim() - target.dim() :] != target.shape:
        raise ValueError(f"logits: expected shape (*, {', '.join(map(str, target.shape))}), got {tuple(logits.shape)}")
    check_device("target", target, "logits", logits)
    return summed(logits, target.to(torch.promote_types(logits.dtype, torch.float32)), looks=True)


_RUN = torch.ops.fastgen.checked_binary_cross_entropy.default


def _check_unit(target: Tensor) -> None:
    """As the op does it, where a look does not wait for a device or break a graph."""
    traced = torch.compiler.is_compiling() or is_compiled() or torch._C._get_tracing_state()
    if not target.is_cpu or traced or is_vectorized():
        return
    if target.numel() and not (target.min() >= 0 and target.max() <= 1):
        raise RuntimeError("target: expected values in [0, 1], got others")
