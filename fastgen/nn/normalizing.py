"""A batch norm and its activation in a sequence of modules, as one op on a CPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ops._layouts import is_channels_last
from ..ops._records import BatchNorm
from ..ops._registry import evaluates
from ..ops.batch_norm import normalize_running
from ..ops.batch_norm_train import normalize_batch, outruns, trains_at_once
from ._records import batch_norm_of
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
    if not batch_norm.training:  # past the checks of batch_norm_activation, as often as a model is evaluated
        known = evaluates()
        return (normalize_running(x, batch_norm, activation, is_channels_last(x)), end) if known else None
    if x.dtype.itemsize == 2 and not is_channels_last(x):
        # gradients of convolutions arrive in another layout: a step of DCGAN's discriminator of 16 images took 1.04 of
        # the time, two threads of an AMD EPYC with AVX512-BF16
        return None
    alone = x.shape[0] * x.shape[2] * x.shape[3] == 1  # which torch refuses
    if alone or not trains_at_once(x, batch_norm) or not outruns(x, activation):
        return None
    return normalize_batch(x, batch_norm, activation), end


def _fits(dtype: torch.dtype, batch_norm: BatchNorm) -> bool:
    """Whether torch takes such vectors: of the image's dtype, or all float32 beside halves."""
    kinds = {each.dtype for each in batch_norm[:4] if each is not None}
    return kinds <= {dtype} or (kinds == {torch.float32} and dtype in (torch.bfloat16, torch.float16))
