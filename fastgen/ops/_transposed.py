"""A layer of a transposed convolution that is evaluated, as torch's compiler has it in its graph."""

from typing import Any

import torch
from torch import Tensor

from ._composites import composite, is_program
from ._records import Activation, BatchNorm, Convolution
from .batch_norm import Deferred
from .conv_transpose2d_bn import run_layer


@composite(
    "transposed_layer(Tensor x, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] output_padding, "
    "int[2] dilation, int groups, Tensor?[] statistics, float eps, str activation, float slope, bool? channels_last) "
    "-> Tensor"
)
def transposed_layer(x: Tensor, *layer: Any) -> Tensor:
    """``run_layer`` by running statistics. ``layer``: a convolution as its record has it, a batch norm's vectors, none
    of them without one, its epsilon, an activation, and the layout.
    """
    weight, bias, stride, padding, output_padding, dilation, groups, statistics, eps, *activation, channels_last = layer
    sizes = [tuple(each) for each in (stride, padding, output_padding, dilation)]
    batch_norm = BatchNorm(*statistics)._replace(eps=eps) if statistics else None
    convolution = Convolution._make([weight, bias, *sizes, groups])
    y = run_layer(x, convolution, batch_norm, Activation(*activation), False, channels_last)
    assert isinstance(y, Tensor)
    return y


_RUN = torch.ops.fastgen.transposed_layer.default


def run_traced_layer(
    x: Tensor | Deferred,
    convolution: Convolution,
    batch_norm: BatchNorm | None,
    activation: Activation,
    deferred: bool = False,
    channels_last: bool | None = None,
) -> Tensor | Deferred:
    """``run_layer``, of what torch's compiler evaluates on a CPU as one name in its graph."""
    evaluated = batch_norm is None or not batch_norm.training
    if not is_program() or torch.is_grad_enabled() or not evaluated or not isinstance(x, Tensor) or not x.is_cpu:
        return run_layer(x, convolution, batch_norm, activation, deferred, channels_last)
    statistics = [] if batch_norm is None else list(batch_norm[:4])
    eps = 0.0 if batch_norm is None else batch_norm.eps
    y: Tensor = _RUN(x, *convolution, statistics, eps, *activation, channels_last)
    return y
