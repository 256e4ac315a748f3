"""A training layer whose result is asked for at once, on a CPU: torch's own batch norm, which is fewer passes.

An op that takes statistics and another that applies them pay where the next layer normalises while it loads.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._conv_transpose2d_bn_norm import activate_
from ._dtypes import autocast_dtype


def is_torchs_own(x: Any, vectors: Iterable[Tensor | None], momentum: float | None) -> bool:
    """Whether torch's batch norm takes these: float32 or float64 throughout, a fixed momentum, no autocast."""
    return (
        isinstance(x, Tensor)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and all(vector is None or vector.dtype == x.dtype for vector in vectors)
        and momentum is not None
        and autocast_dtype(x) is None
    )


def in_torch(
    x: Any, weight: Tensor, bias: Tensor | None, bn_weight: Tensor | None, bn_bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, num_batches_tracked: Tensor | None, momentum: Any,
    eps: float, geometry: list[Any], activation: str, slope: float,
) -> Tensor:  # fmt: skip
    """The formula as ``conv_transpose2d_bn`` states it; the result may be laid out in any way."""
    stride, padding, output_padding, dilation, groups = geometry
    y = F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    y = F.batch_norm(y, running_mean, running_var, bn_weight, bn_bias, True, momentum, eps)
    return activate_(y, activation, slope)
