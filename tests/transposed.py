"""Layers that the tests of conv_transpose2d_bn share, in three torch functions and by the ops."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.ops import conv_transpose2d_bn
from fastgen.ops._dtypes import multiplies
from fastgen.ops._layouts import is_channels_last
from fastgen.ops._records import Activation, BatchNorm, Convolution
from fastgen.ops.batch_norm import Deferred
from fastgen.ops.conv_transpose2d import result_shape
from fastgen.ops.conv_transpose2d_bn import run_layer

NAMES = torch.ops.fastgen
OP, FOLD = NAMES.conv_transpose2d_bn.default, NAMES.conv_transpose2d_bn_fold.default
APPLY, FINALIZE = NAMES.batch_norm_apply.default, NAMES.batch_norm_finalize.default
# N, I, O, H, W; kernel, stride, padding, output_padding, dilation, groups
CASES = {
    "doubling": ((5, 6, 10, 5, 7), (4, 2, 1, 0, 1, 1)),
    "to an image": ((5, 7, 3, 6, 5), (4, 2, 1, 0, 1, 1)),
    "product": ((23, 13, 7, 1, 1), (4, 1, 0, 0, 1, 1)),
    "Cin == Cout": ((5, 6, 6, 5, 5), (4, 2, 1, 0, 1, 1)),
    "any": ((5, 3, 5, 5, 7), ((3, 5), (2, 3), (1, 2), (1, 0), 1, 1)),
    "same size": ((7, 5, 3, 7, 5), (3, 1, 1, 0, 1, 1)),
    "grouped": ((7, 4, 6, 7, 5), (4, 2, 1, 1, 1, 2)),
    "dilated": ((7, 4, 3, 5, 7), (3, 1, 2, 0, 2, 1)),
}
REAL = ((16, 32, 16, 8, 8), (4, 2, 1, 0, 1, 1))


def pair(value: Any) -> list[int]:
    return [value] * 2 if isinstance(value, int) else list(value)


def options(case: Any) -> dict[str, Any]:
    return dict(zip(("stride", "padding", "output_padding", "dilation", "groups"), case[1][1:], strict=True))


def arguments(case: Any, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
    """x, weight, bias, bn_weight, bn_bias."""
    (N, I, O, H, W), (kernel, *_, groups) = case
    x = torch.randn(N, I, H, W, device=device, dtype=dtype)
    weight = torch.randn(I, O // groups, *pair(kernel), device=device, dtype=dtype) / I**0.5
    bias, bn_weight, bn_bias = torch.randn(3, O, device=device, dtype=dtype).unbind()
    return [x, weight, bias, bn_weight, bn_bias]


def running(O: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor]:
    return torch.randn(O, device=device).to(dtype), (torch.rand(O, device=device) + 0.5).to(dtype)


def eager(case: Any, stats: tuple[Any, Any], training: bool, activation: str) -> Callable[..., Tensor]:
    named = options(case)

    def function(x: Tensor, weight: Tensor, bias: Any, bn_weight: Any, bn_bias: Any) -> Tensor:
        y = F.conv_transpose2d(x, weight, bias, **named)
        mean, variance = (v if v is None else v.detach().to(y.dtype) for v in stats)
        y = F.batch_norm(y, mean, variance, bn_weight, bn_bias, training)
        return {"relu": F.relu, "tanh": torch.tanh, "leaky_relu": lambda t: F.leaky_relu(t, 0.2)}.get(
            activation, lambda t: t
        )(y)

    return function


def ours(
    case: Any, stats: tuple[Any, Any], training: bool, activation: str, deferred: bool = False
) -> Callable[..., Tensor]:
    """``deferred``: by stages also where a CPU in training would not, as between the layers of a chain."""

    def function(x: Tensor, *inputs: Any) -> Tensor:
        buffers = [v if v is None else v.clone() for v in stats]
        if not deferred:
            named = {"training": training, "activation": activation, "negative_slope": 0.2, **options(case)}
            return conv_transpose2d_bn(x, *inputs, *buffers, **named)
        weight, bias, *vectors = inputs
        batch_norm = BatchNorm(*vectors, *buffers, training=training)
        y = run_layer(x, Convolution(weight, bias, **options(case)), batch_norm, Activation(activation, 0.2), True)
        return y.materialize(is_channels_last(x)) if isinstance(y, Deferred) else y

    return function


def ops_of(
    case: Any, training: bool, deferred: bool = True, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[Any]:
    """What ``ours`` has to run: on a CPU torch's own convolution and one op, where nothing is deferred or folded."""
    if training and not deferred and device == "cpu":  # of few numbers in channels_last torch's own batch norm as well
        return [] if dtype in (torch.float32, torch.float64) else [OP, NAMES.batch_norm_train.default]
    x, weight, *_ = arguments(case, device="meta")
    convolution = Convolution(weight, None, *(pair(v) for v in case[1][1:5]), case[1][5])
    results = math.prod(result_shape(x, convolution))
    halves = device == "cpu" and dtype in (torch.bfloat16, torch.float16) and multiplies(dtype)
    if not training and weight.numel() * (8 if halves else 1) <= results:
        return [FOLD, OP]
    return [OP, FINALIZE, APPLY]
