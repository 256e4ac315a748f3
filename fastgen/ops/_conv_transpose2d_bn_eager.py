"""Where a training layer is best left to torch: on a CPU, if nothing that follows could normalise while it loads.

Torch's batch norm takes its statistics and normalises in fewer passes than one convolution op and one that applies.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._conv_transpose2d_bn_checks import check_batch_norm, check_count, check_dtypes, check_shapes
from ._conv_transpose2d_bn_conv import is_channels_last
from ._conv_transpose2d_bn_forms import result_shape
from ._conv_transpose2d_bn_norm import activate_, layout
from ._conv_transpose2d_bn_sync import synchronized
from ._dtypes import autocast_dtype


def is_torchs_own(x: Any, weight: Tensor, training: bool, momentum: float | None, process_group: Any) -> bool:
    """Whether a layer whose result is asked for at once runs as ``in_torch``."""
    plain = isinstance(x, Tensor) and x.device.type == "cpu" and autocast_dtype(x) is None
    exact = weight.dtype in (torch.float32, torch.float64)
    return training and plain and exact and momentum is not None and not synchronized(process_group)


def in_torch(
    x: Any, weight: Tensor, bias: Tensor | None, bn_weight: Tensor | None, bn_bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, num_batches_tracked: Tensor | None, momentum: float | None,
    eps: float, geometry: list[Any], activation: str, slope: float, channels_last: bool | None = None,
) -> Tensor:  # fmt: skip
    """The formula as ``conv_transpose2d_bn`` states it, with its checks; ``channels_last`` of the result, or as x."""
    vectors = {"bn_weight": bn_weight, "bn_bias": bn_bias, "running_mean": running_mean, "running_var": running_var}
    check_batch_norm(weight.shape[1] * geometry[4], vectors, True, momentum, num_batches_tracked)
    check_shapes(x, weight, bias, geometry)
    check_dtypes(x, weight, bias)
    size = result_shape(x, weight, *geometry)
    check_count(size, size[0] * size[2] * size[3], False)
    stride, padding, output_padding, dilation, groups = geometry
    y = F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    y = F.batch_norm(y, running_mean, running_var, bn_weight, bn_bias, True, momentum or 0.0, eps)
    wanted = is_channels_last(x) if channels_last is None else channels_last
    return activate_(y, activation, slope).contiguous(memory_format=layout(wanted))
