"""Argument checks of batch norms: each error names the argument, what was expected and what came."""

from torch import Tensor

from .._checks import check_device, check_number
from ._dtypes import check_floating
from ._records import BatchNorm


def check_batch_norm(x: Tensor, channels: int, batch_norm: BatchNorm, prefix: str = "bn_") -> None:
    """Of a result of ``x`` with so many ``channels``; ``prefix``: of the arguments that are weight and bias."""
    if batch_norm.momentum is not None:
        check_number("momentum", batch_norm.momentum)
    names = (f"{prefix}weight", f"{prefix}bias", "running_mean", "running_var")
    for name, vector in zip(names, batch_norm[:4], strict=True):
        if vector is None:
            continue
        check_floating(name, vector)
        if vector.device != x.device:
            check_device(name, vector, "x", x)
        if vector.shape != (channels,):
            raise ValueError(f"{name}: expected shape ({channels},), got {tuple(vector.shape)}")
    tracked = batch_norm.running_mean is not None
    if tracked != (batch_norm.running_var is not None):
        raise ValueError("running_mean, running_var: expected both or neither, got one")
    if not batch_norm.training and not tracked:
        raise ValueError("running_mean: expected a tensor when training is False, got None")
    if batch_norm.training and batch_norm.momentum is None and tracked and batch_norm.num_batches_tracked is None:
        raise ValueError("num_batches_tracked: expected a tensor when momentum is None, got None")
    check_number("eps", batch_norm.eps, 0)


def check_count(shape: tuple[int, ...], count: int) -> None:
    """As torch: one value has no variance. Of several processes, one may well hold a single value, or none."""
    if count == 1:
        raise ValueError(f"x: expected more than 1 value per channel when training, got a result of size {shape}")
