"""A batch norm's module and the activation behind it, as one step of a sequence."""

from torch import Tensor, nn

from ..ops._records import Activation
from ..ops.batch_norm_activation import batch_norm_activation
from ._records import batch_norm_of


def run_batch_norm_activation(bn: nn.BatchNorm2d | nn.SyncBatchNorm, activation: Activation, x: Tensor) -> Tensor:
    """``activation(bn(x))``, in training mode or not; laid out as ``x``.

    The running statistics go along as ``bn`` would take them along.
    """
    weight, bias, running_mean, running_var, tracked, training, momentum, eps, group = batch_norm_of(bn)
    return batch_norm_activation(
        x, weight, bias, running_mean, running_var, training=training, momentum=momentum, eps=eps,
        activation=activation.name, negative_slope=activation.slope, num_batches_tracked=tracked, process_group=group,
    )  # type: ignore[arg-type]  # fmt: skip
