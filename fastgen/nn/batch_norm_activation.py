"""A batch norm's module and the activation behind it, as one step of a sequence."""

from typing import Any

from torch import Tensor, nn

from ..ops._records import Activation
from ..ops.batch_norm_activation import batch_norm_activation
from ._records import batch_norm_of


def run_batch_norm_activation(bn: nn.BatchNorm2d | nn.SyncBatchNorm, activation: Activation, x: Tensor) -> Tensor:
    """``activation(bn(x))``, in training mode or not; laid out as ``x``. Running statistics go along as by ``bn``."""
    *vectors, tracked, training, momentum, eps, group = batch_norm_of(bn)
    name: Any = activation.name
    return batch_norm_activation(
        x, *vectors, training=training, momentum=momentum, eps=eps, activation=name, negative_slope=activation.slope,
        num_batches_tracked=tracked, process_group=group,
    )  # fmt: skip
