"""The ops' records of a layer, made from torch's modules as they are at a call."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch.distributed as dist
from torch import nn

from .._constants import constant
from ..ops._records import Activation, BatchNorm, Convolution


def convolution_of(conv: nn.ConvTranspose2d) -> Convolution:
    """Kernel, geometry and bias as they come; ``padding_mode`` "zeros" is all that it knows."""
    return Convolution(
        conv.weight, conv.bias, conv.stride, conv.padding, conv.output_padding, conv.dilation, conv.groups
    )


def batch_norm_of(bn: nn.BatchNorm2d | nn.SyncBatchNorm) -> BatchNorm:
    """Parameters, buffers and mode: by the batch in training, or where nothing else was ever tracked."""
    mean, training = _held(bn, "running_mean"), bn.training
    tracked = mean is not None
    used = tracked and (bn.track_running_stats or not training)  # to be updated, or to normalise by
    return BatchNorm(
        _held(bn, "weight"), _held(bn, "bias"), mean if used else None, _held(bn, "running_var") if used else None,
        bn.num_batches_tracked if used and training else None, training or not tracked, bn.momentum, bn.eps,
        process_group_of(bn),
    )  # fmt: skip


def _held(bn: nn.Module, name: str) -> Any:
    """Its parameter or buffer, past ``__getattr__``, which takes several microseconds behind a convolution."""
    if name in bn.__dict__:
        return bn.__dict__[name]
    if name in bn._parameters:
        return bn._parameters[name]
    return bn._buffers[name] if name in bn._buffers else getattr(bn, name)


_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, a batch norm's statistics are of this process alone: the others do not compute the same now."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def process_group_of(bn: nn.Module) -> Any:
    """The processes that share the batch of a ``SyncBatchNorm`` in training; None otherwise."""
    if not bn.training or type(bn) is nn.BatchNorm2d or not hasattr(bn, "process_group") or _ALONE.get():
        return None
    if not (dist.is_available() and dist.is_initialized()):
        return None
    return bn.process_group or dist.group.WORLD


@constant
def _activation_name(kind: type[nn.Module]) -> str | None:
    return {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Identity: "none"}.get(kind)


def activation_of(module: nn.Module | str | None, negative_slope: float = 0.01) -> Activation | None:
    """The record of an activation that the ops know: of a name or of a torch module; None for any other."""
    if module is None or isinstance(module, str):
        return Activation(module or "none", negative_slope)
    return activation_by(module)


def activation_by(module: nn.Module) -> Activation | None:
    """The record of a torch module; None for others."""
    if type(module) is nn.LeakyReLU:
        slope = module.negative_slope
        return Activation("leaky_relu", slope) if isinstance(slope, (int, float)) and slope >= 0 else None
    name = _activation_name(type(module))
    return None if name is None else Activation(name)
