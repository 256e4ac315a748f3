"""The layout contract: channels_last is answered with channels_last, everything else with contiguous."""

import torch
from torch import Tensor

from .._constants import constant


def is_channels_last(x: Tensor) -> bool:
    """Of a tensor that is both, as a single pixel is, no."""
    if torch.compiler.is_compiling() and x.dim() == 4:  # perhaps within a transform, which knows no memory formats
        return _is_dense(x.permute(0, 2, 3, 1)) and not x.is_contiguous()
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _is_dense(x: Tensor) -> bool:
    """Whether the last dimension lies together, and the others around it."""
    expected = 1
    for size, stride in zip(reversed(x.shape), reversed(x.stride()), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def layout_of(x: Tensor) -> torch.memory_format:
    """In which an op answers ``x``."""
    return layout(is_channels_last(x))


@constant  # asked within the transforms that are traced
def is_vectorized() -> bool:
    """Whether a transform of ``torch.func`` runs: ``vmap`` has tensors of which the layout is not known."""
    return torch._C._are_functorch_transforms_active()


def in_channels_last(x: Tensor) -> Tensor:
    """``x`` with its channels together, but for a transform's."""
    if is_batched(x):
        return x
    if torch.compiler.is_compiling():  # perhaps within a transform, which knows no memory formats
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def laid_as(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the layout of another of its shape: torch reads two layouts number by number, in three times as long."""
    if x.dim() != 4 or is_batched(x):
        return x
    return in_channels_last(x) if is_channels_last(like) else x.contiguous()


def is_batched(x: Tensor) -> bool:
    """Whether it stands for several tensors, of which the layout is not known."""
    return is_vectorized() or (not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(x))


def together(x: Tensor) -> Tensor:
    """``x``, on a CPU in channels_last: there the ops of pixels are at their fastest, and convolutions of halves."""
    return in_channels_last(x) if x.device.type == "cpu" and x.dtype != torch.float64 else x
