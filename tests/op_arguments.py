"""Small arguments for every op that has a CUDA kernel, and for every function of fastgen.ops.

A new op adds a line to ``ARGUMENTS``, a new function one to ``FUNCTIONS``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastgen.ops as ops
from fastgen.ops.discretized_logistic_mixture import discretized_logistic_mixture_reference
from fastgen.ops.gated_activation import gated_activation_reference
from fastgen.ops.masked_conv2d import masked_conv2d_mask, masked_conv2d_reference
from fastgen.ops.rsample_kl import rsample_kl_reference
from parity import channels_last

Make = Callable[[torch.dtype], tuple[Any, ...]]


def _randn(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape).to(dtype) for shape in shapes]


def _accumulated(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _seed() -> Tensor:
    return torch.randint(-(2**62), 2**62, (1,))


def _gated_activation(dtype: torch.dtype, run: int) -> tuple[Any, ...]:
    return tuple(_randn(dtype, (3, 2, run)))


def _gated_activation_backward(dtype: torch.dtype, run: int) -> tuple[Any, ...]:
    return tuple(_randn(dtype, (3, 1, run), (3, 2, run)))


def _rsample_kl(dtype: torch.dtype, N: int, R: int) -> tuple[Any, ...]:
    return *_randn(dtype, (N, R), (N, R)), _seed()


def _rsample_kl_backward(dtype: torch.dtype, N: int, R: int) -> tuple[Any, ...]:
    grad_z, mu, logvar = _randn(dtype, (N, R), (N, R), (N, R))
    return grad_z, torch.randn(N).to(_accumulated(dtype)), mu, logvar, _seed()


def _masked_conv2d(
    dtype: torch.dtype, mask: str, activation: str, groups: int, layout: Callable[[Tensor], Tensor]
) -> tuple[Any, ...]:
    channels = {"concat_elu": 24, "gated": 6}.get(activation, 12)
    x, weight, bias, residual = _randn(dtype, (2, 6, 7, 5), (12, 6, 3, 3), (12,), (2, channels, 7, 5))
    return layout(x), weight / 6, bias, layout(residual), mask, activation, groups, "interleaved", True


def _masked_conv2d_backward(
    dtype: torch.dtype, mask: str, activation: str, groups: int, layout: Callable[[Tensor], Tensor]
) -> tuple[Any, ...]:
    x, weight, bias, residual, *options, _ = _masked_conv2d(dtype, mask, activation, groups, layout)
    op = torch.ops.fastgen.masked_conv2d.default
    _, preactivation = op(x, weight, bias, residual, *options, True)
    return torch.randn_like(residual), preactivation, x, weight, *options, [True, True, True]


def _block(dtype: torch.dtype, C: int, bias: bool, groups: int, layout: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    x, weight, weight_out, bias_in, bias_out = _randn(
        dtype, (2, C, 7, 5), (2 * C, C, 3, 3), (C, C, 1, 1), (2 * C,), (C,)
    )
    biases = (bias_in, bias_out) if bias else (None, None)
    return layout(x), weight / C, biases[0], weight_out / C, biases[1], "B", groups, "contiguous", True


def _block_backward(
    dtype: torch.dtype, C: int, bias: bool, groups: int, layout: Callable[[Tensor], Tensor]
) -> tuple[Any, ...]:
    args = _block(dtype, C, bias, groups, layout)
    x, weight, _, weight_out, _, *options, _ = args
    y, preactivation = torch.ops.fastgen.gated_residual_block.default(*args)
    return torch.randn_like(y), preactivation, x, weight, weight_out, *options, [True] * 5


def _mixture(
    dtype: torch.dtype, C: int, K: int, layout: Callable[[Tensor], Tensor], values_dtype: torch.dtype
) -> tuple[Any, ...]:
    channels = 10 * K if C == 3 else 3 * K
    values = torch.randint(256, (2, C, 7, 5)).to(values_dtype)
    return layout(_randn(dtype, (2, channels, 7, 5))[0]), values, 256


def _mixture_backward(dtype: torch.dtype, *options: Any) -> tuple[Any, ...]:
    params, values, levels = _mixture(dtype, *options)
    return torch.randn(2, 7, 5).to(_accumulated(dtype)), params, values, levels


def _vectors(dtype: torch.dtype, C: int) -> list[Tensor]:
    """Center, scale and shift of a batch norm."""
    center, scale, shift = _randn(_accumulated(dtype), (C,), (C,), (C,))
    return [center, scale.abs() + 0.5, shift]


def _conv_transpose(
    dtype: torch.dtype, size: int, kernel: int, stride: int, padding: int, prologue: bool, activation: str, O: int
) -> tuple[Any, ...]:
    """As a layer of a chain calls it: statistics where no activation follows."""
    x, weight, bias = _randn(dtype, (3, 8, size, size), (8, O, kernel, kernel), (O,))
    before = (*_vectors(dtype, 8), "relu", 0.0) if prologue else (None, None, None, "none", 0.0)
    geometry = [[stride] * 2, [padding] * 2, [0, 0], [1, 1], 1]
    statistics = activation == "none"
    return channels_last(x), *before, weight / kernel**2, bias, *geometry, activation, 0.0, statistics, True


def _conv_transpose_backward(dtype: torch.dtype, *options: Any) -> tuple[Any, ...]:
    args = _conv_transpose(dtype, *options)
    y, mean, _ = torch.ops.fastgen.conv_transpose2d_bn.default(*args)
    statistics = [torch.randn_like(mean), torch.randn_like(mean)] if mean.numel() else [None, None]
    x, *before, weight, _bias = args[:8]
    return torch.randn_like(y), *statistics, y, mean, x, *before, weight, *args[8:15], [True] * 3


def _finalize(dtype: torch.dtype) -> tuple[Any, ...]:
    mean, m2 = _randn(_accumulated(dtype), (13,), (13,))
    return mean, m2.abs() + 1, *_randn(dtype, (13,)), None, None, None, 57, 0.1, 1e-5


def _finalize_backward(dtype: torch.dtype) -> tuple[Any, ...]:
    grad_scale, m2 = _randn(_accumulated(dtype), (13,), (13,))
    return grad_scale, m2.abs() + 1, *_randn(dtype, (13,)), 57, 1e-5


def _fold(dtype: torch.dtype, groups: int, layout: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    weight, bias, bn_weight, bn_bias, mean, var = _randn(dtype, (6, 8 // groups, 4, 4), *[(8,)] * 5)
    return layout(weight), bias, bn_weight, bn_bias, mean, var.abs() + 0.5, groups, 1e-5


def _statistics(dtype: torch.dtype, layout: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    return (layout(*_randn(dtype, (3, 13, 7, 5))),)


def _apply(dtype: torch.dtype, activation: str, layout: bool) -> tuple[Any, ...]:
    return channels_last(*_randn(dtype, (3, 13, 7, 5))), *_vectors(dtype, 13), activation, 0.2, layout


def _apply_backward(dtype: torch.dtype, activation: str) -> tuple[Any, ...]:
    grad_z, y = (channels_last(one) for one in _randn(dtype, (3, 13, 7, 5), (3, 13, 7, 5)))
    return grad_z, y, *_vectors(dtype, 13), activation, 0.2


def _image_lstm(dtype: torch.dtype, scan: str, H: int, W: int, h: int) -> tuple[Any, ...]:
    """As the public function calls it: half types are cast before."""
    gates, weight, hidden, cell = _randn(_accumulated(dtype), (2, H, W, 4 * h), (4 * h, h, 3), (h,), (h,))
    return gates, weight[..., : 3 if scan == "row" else 2] / h**0.5, hidden, cell, scan


def _image_lstm_backward(dtype: torch.dtype, *options: Any) -> tuple[Any, ...]:
    args = _image_lstm(dtype, *options)
    states = torch.ops.fastgen.image_lstm.default(*args)
    return torch.randn_like(states[0]), None, None, *states, *args[1:]


_BLOCKS = ((16, True, 1, channels_last), (24, True, 3, Tensor.contiguous), (160, False, 1, channels_last))
_SCANS = (("row", 4, 5, 16), ("diagonal", 4, 3, 5), ("mirrored", 3, 4, 33))  # the last by a launch for each step
_MIXTURES = ((3, 5, Tensor.contiguous, torch.uint8), (1, 10, channels_last, torch.int64))
_TRANSPOSED = (
    (4, 4, 2, 1, True, "none", 16),
    (1, 4, 1, 0, False, "none", 16),
    (4, 4, 2, 1, True, "tanh", 3),
    (4, 3, 1, 1, True, "none", 16),
)
_CONVOLUTIONS = (
    ("A", "none", 1, Tensor.contiguous),
    ("B", "relu", 3, channels_last),
    ("B", "elu", 1, channels_last),
    ("B", "concat_elu", 1, channels_last),
    ("B", "gated", 1, channels_last),
)
_ROWS = ((5, 21), (3, 1021), (2, 8200), (2, 65543))  # a warp, a block, a wide block, several blocks to a row


def _for_each(make: Callable[..., tuple[Any, ...]], *options: tuple[Any, ...]) -> list[Make]:
    return [lambda dtype, one=one: make(dtype, *one) for one in options]


#: Op → its argument sets, each made for a dtype, on the CPU, from torch's generator.
ARGUMENTS: dict[str, list[Make]] = {
    "batch_norm_apply": _for_each(_apply, ("relu", True), ("leaky_relu", False), ("tanh", True)),
    "batch_norm_apply_backward": _for_each(_apply_backward, ("relu",), ("tanh",)),
    "batch_norm_finalize": _for_each(_finalize, ()),
    "batch_norm_finalize_backward": _for_each(_finalize_backward, ()),
    "batch_norm_statistics": _for_each(_statistics, (Tensor.contiguous,), (channels_last,)),
    "conv_transpose2d_bn": _for_each(_conv_transpose, *_TRANSPOSED),
    "conv_transpose2d_bn_backward": _for_each(_conv_transpose_backward, *_TRANSPOSED),
    "conv_transpose2d_bn_fold": _for_each(_fold, (1, Tensor.contiguous), (2, channels_last)),
    "discretized_logistic_mixture": _for_each(_mixture, *_MIXTURES),
    "discretized_logistic_mixture_backward": _for_each(_mixture_backward, *_MIXTURES),
    "gated_activation": _for_each(_gated_activation, (37,), (1024,)),
    "gated_activation_backward": _for_each(_gated_activation_backward, (37,), (1024,)),
    "gated_residual_block": _for_each(_block, *_BLOCKS),
    "gated_residual_block_backward": _for_each(_block_backward, *_BLOCKS),
    "image_lstm": _for_each(_image_lstm, *_SCANS),
    "image_lstm_backward": _for_each(_image_lstm_backward, *_SCANS),
    "masked_conv2d": _for_each(_masked_conv2d, *_CONVOLUTIONS),
    "masked_conv2d_backward": _for_each(_masked_conv2d_backward, *_CONVOLUTIONS),
    "rsample_kl": _for_each(_rsample_kl, *_ROWS),
    "rsample_kl_backward": _for_each(_rsample_kl_backward, *_ROWS),
}


@dataclass(frozen=True)
class Function:
    """A public function of some differentiable inputs, the same in plain torch, and shapes to call them on."""

    ours: Callable[..., Any]
    plain: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]


def _five(like: Tensor) -> Tensor:
    return torch.tensor([5], device=like.device)


def _images(params: Tensor) -> Tensor:
    return torch.arange(2 * 3 * 7 * 5, device=params.device).view(2, 3, 7, 5)


def _block_in_torch(x: Tensor, weight: Tensor, bias: Tensor, weight_out: Tensor, bias_out: Tensor) -> Tensor:
    live = weight * masked_conv2d_mask(weight, "B").to(weight.dtype)
    a, b = F.conv2d(x, live, bias, padding=1).chunk(2, dim=1)
    y = F.conv2d(torch.tanh(a) * torch.sigmoid(b), weight_out, bias_out)
    return x.to(y.dtype) + y


def _row_lstm_in_torch(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
    h, c = hidden[:, None].expand(len(gates), -1, gates.shape[3]), cell[:, None]
    rows = []
    for row in gates.unbind(dim=2):
        read = F.conv1d(h, weight, padding=1)
        o, f, i, g = (row + read).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        rows.append(h.to(read.dtype))
    return torch.stack(rows, dim=2)


def _transposed(x: Tensor, weight: Tensor, bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    y = F.conv_transpose2d(x, weight, None, 2, 1)
    return F.relu(F.batch_norm(y, None, None, bn_weight, bn_bias, True))


#: By the name of the function.
FUNCTIONS: dict[str, Function] = {
    "conv_transpose2d_bn": Function(
        lambda x, weight, bn_weight, bn_bias: ops.conv_transpose2d_bn(
            x, weight, None, bn_weight, bn_bias, None, None, training=True, stride=2, padding=1, activation="relu"
        ),
        _transposed,
        ((3, 8, 4, 4), (8, 6, 4, 4), (6,), (6,)),
    ),
    "discretized_logistic_mixture": Function(
        lambda params: ops.discretized_logistic_mixture(params, _images(params)),
        lambda params: discretized_logistic_mixture_reference(params, _images(params), 256),
        ((2, 50, 7, 5),),
    ),
    "gated_activation": Function(ops.gated_activation, gated_activation_reference, ((3, 6, 5),)),
    "gated_residual_block": Function(
        lambda x, weight, bias, weight_out, bias_out: ops.gated_residual_block(
            x, weight, bias, weight_out, bias_out, mask="B"
        ),
        _block_in_torch,
        ((2, 16, 7, 5), (32, 16, 3, 3), (32,), (16, 16, 1, 1), (16,)),
    ),
    "image_lstm": Function(ops.image_lstm, _row_lstm_in_torch, ((2, 20, 4, 3), (20, 5, 3), (5,), (5,))),
    "masked_conv2d": Function(
        lambda x, weight, bias: ops.masked_conv2d(x, weight, bias, mask="B", activation="relu"),
        lambda x, weight, bias: masked_conv2d_reference(x, weight, bias, None, "B", "relu", 1, "contiguous", False)[0],
        ((2, 6, 7, 5), (8, 6, 3, 3), (8,)),
    ),
    "rsample_kl": Function(
        lambda mu, logvar: ops.rsample_kl(mu, logvar, _five(mu)),
        lambda mu, logvar: rsample_kl_reference(mu, logvar, _five(mu)),
        ((5, 21), (5, 21)),
    ),
}
