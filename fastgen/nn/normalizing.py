"""A batch norm and its activation in a sequence of modules, as one op on a CPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ops._records import BatchNorm
from ..ops._registry import evaluates
from ..ops.batch_norm_train import outruns, trains_at_once
from ._records import batch_norm_of
from .batch_norm_activation import run_batch_norm_activation
from .halving import follower
from .sequence import observed

#: Fewer channels are looked at where something else runs at once, and are no reason to.
CHANNELS = 16


def normalizes(bn: nn.Module) -> bool:
    """Whether a sequence is worth looking at for this layer's sake: on a CPU, of enough channels."""
    if type(bn) is not nn.BatchNorm2d or observed(bn) or bn.num_features < CHANNELS:
        return False
    held = [each for each in (bn.weight, bn.running_mean) if each is not None]
    return all(each.device.type == "cpu" for each in held)


def run_batch_norm(modules: Sequence[nn.Module], i: int, x: Any) -> tuple[Tensor, int] | None:
    """The batch norm at ``i``, perhaps with its activation, and where it ends, where something else than calling it is
    the fastest: by the batch, or without gradients by the running statistics.
    """
    bn: Any = modules[i]
    if type(bn) is not nn.BatchNorm2d or observed(bn) or not isinstance(x, Tensor) or x.dim() != 4:
        return None
    if x.shape[1] != bn.num_features or x.layout != torch.strided or x.numel() == 0 or x.device.type != "cpu":
        return None
    batch_norm = batch_norm_of(bn)
    if not _fits(x.dtype, batch_norm):
        return None
    activation, end = follower(modules, i + 1, kept=False)
    at_once = batch_norm.training and trains_at_once(x, batch_norm) and outruns(x, activation)
    if not (at_once if batch_norm.training else evaluates()):
        return None
    return run_batch_norm_activation(bn, activation, x), end


def _fits(dtype: torch.dtype, batch_norm: BatchNorm) -> bool:
    """Whether torch takes such vectors: of the image's dtype, or all float32 beside halves."""
    kinds = {each.dtype for each in batch_norm[:4] if each is not None}
    return kinds <= {dtype} or (kinds == {torch.float32} and dtype in (torch.bfloat16, torch.float16))
