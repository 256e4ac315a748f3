"""What every ATen and fastgen op means to a plan. An op that is not here is refused by name.

A function takes the builder and the op's arguments, in the order of its schema: values (what depends on the image),
:class:`~fastgen.sampling.builder.Given` (on the labels), constant tensors, and numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..ops.masked_conv2d import _live, masked_conv2d_mask
from .builder import Argument, Builder
from .trace import UnsupportedModelError
from .values import Value

Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}

#: Ops that see a whole image, or compare its pixels with each other, and what they are called.
REFUSED = {
    "aten.softmax": "attention, or a softmax inside the model",
    "aten._softmax": "attention, or a softmax inside the model",
    "aten._scaled_dot_product_flash_attention_for_cpu": "attention",
    "aten._scaled_dot_product_flash_attention": "attention",
    "aten._scaled_dot_product_efficient_attention": "attention",
    "aten._scaled_dot_product_attention_math": "attention",
    "aten._adaptive_avg_pool2d": "global pooling",
    "aten.adaptive_max_pool2d": "global pooling",
    "aten.native_group_norm": "group norm mixes all pixels of an image",
}


def handles(*names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name if "." in name else f"aten.{name}"] = handler
        return handler

    return register


# ---- views and pieces

@handles("detach", "alias", "clone", "contiguous", "lift_fresh", "dropout", "feature_dropout")
def _same(b: Builder, x: Value, *_: Any, **__: Any) -> Value:
    return x


@handles("_to_copy")
def _to_copy(b: Builder, x: Value, *, dtype: torch.dtype | None = None, **_: Any) -> Value:
    if dtype is not None and dtype != b.dtype:
        raise UnsupportedModelError(f"a conversion from {b.dtype} to {dtype}")
    return x


@handles("copy")
def _copy(b: Builder, x: Argument, source: Argument, *_: Any) -> Argument:
    return source.expand(x.shape) if isinstance(source, Value) else source


@handles("view", "_unsafe_view", "reshape", "_reshape_alias")
def _view(b: Builder, x: Value, size: Sequence[int], *_: Any) -> Value:
    return x.view(list(b.shape if b.shape else size))


@handles("permute")
def _permute(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    return x.permute([d % len(x.dims) for d in dims])


@handles("transpose")
def _transpose(b: Builder, x: Value, first: int, second: int) -> Value:
    order = list(range(len(x.dims)))
    order[first], order[second] = order[second], order[first]
    return x.permute(order)


@handles("t", "numpy_T")
def _t(b: Builder, x: Value) -> Value:
    return x.permute(list(reversed(range(len(x.dims)))))


@handles("unsqueeze")
def _unsqueeze(b: Builder, x: Value, dim: int) -> Value:
    return x.unsqueeze(dim % (len(x.dims) + 1))


@handles("squeeze")
def _squeeze(b: Builder, x: Value, dim: int | Sequence[int] | None = None) -> Value:
    every = range(len(x.dims)) if dim is None else [dim] if isinstance(dim, int) else dim
    for d in sorted((d % len(x.dims) for d in every), reverse=True):
        if x.shape[d] == 1:
            x = x.squeeze(d)
    return x


@handles("expand")
def _expand(b: Builder, x: Value, size: Sequence[int], **_: Any) -> Value:
    return x.expand(size)


@handles("repeat")
def _repeat(b: Builder, x: Value, repeats: Sequence[int]) -> Value:
    for _ in range(len(repeats) - len(x.dims)):
        x = x.unsqueeze(0)
    for dim, times in enumerate(repeats):
        x = b.cat([x] * times, dim) if times > 1 else x
    return x


@handles("slice")
def _slice(
    b: Builder, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    dim %= len(x.dims)
    first, last, step = slice(start, end, step).indices(x.shape[dim])
    return x.slice(dim, first, step, max(0, -((first - last) // step)))


@handles("select")
def _select(b: Builder, x: Value, dim: int, index: int) -> Value:
    dim %= len(x.dims)
    return x.slice(dim, index % x.shape[dim], 1, 1).squeeze(dim)


@handles("split")
def _split(b: Builder, x: Value, size: int, dim: int = 0) -> list[Value]:
    total = x.shape[dim]
    return _split_with_sizes(b, x, [min(size, total - at) for at in range(0, total, size)], dim)


@handles("split_with_sizes")
def _split_with_sizes(b: Builder, x: Value, sizes: Sequence[int], dim: int = 0) -> list[Value]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [x.slice(dim % len(x.dims), start, 1, size) for start, size in zip(starts, sizes, strict=True)]


@handles("unbind")
def _unbind(b: Builder, x: Value, dim: int = 0) -> list[Value]:
    return [_select(b, x, dim, index) for index in range(x.shape[dim])]


@handles("index_select")
def _index_select(b: Builder, x: Value, dim: int, index: Tensor) -> Value:
    return b.cat([x.slice(dim % len(x.dims), i, 1, 1) for i in index.tolist()], dim)


@handles("index")
def _index(b: Builder, x: Value, indices: Sequence[Tensor | None]) -> Value:
    chosen = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(chosen) != 1 or not isinstance(chosen[0][1], Tensor) or chosen[0][1].dim() != 1:
        raise UnsupportedModelError("an index other than one vector of channels")
    dim, index = chosen[0]
    return _index_select(b, x, dim, index.nonzero()[:, 0] if index.dtype == torch.bool else index)


@handles("cat")
def _cat(b: Builder, tensors: Sequence[Argument], dim: int = 0) -> Value:
    tensors = [t for t in tensors if tuple(t.shape) != (0,)]
    return b.cat(tensors, dim)


@handles("stack")
def _stack(b: Builder, tensors: Sequence[Argument], dim: int = 0) -> Value:
    if not all(isinstance(t, Value) for t in tensors):
        raise UnsupportedModelError("a stack of the image and something else")
    dim %= len(tensors[0].shape) + 1
    return b.cat([t.unsqueeze(dim) for t in tensors], dim)  # type: ignore[union-attr]


@handles("constant_pad_nd")
def _pad(b: Builder, x: Value, pad: Sequence[int], value: float = 0) -> Value:
    if value:
        return b.pointwise("add", _pad(b, b.pointwise("sub", x, b.scalar(value)), pad), b.scalar(value))
    for index in range(len(pad) // 2):
        dim = len(x.dims) - 1 - index
        before, after = pad[2 * index : 2 * index + 2]
        x = x.slice(dim, -before, 1, x.shape[dim] + before + after)
    return x


@handles("fastgen.assign")
def _assign(b: Builder, base: Argument, part: Argument, region: tuple[list[tuple[int, int, int]], list[int]]) -> Value:
    """``base`` with a rectangular region overwritten by ``part``."""
    slices, missing = region
    if any(step != 1 for _, step, _ in slices):
        raise UnsupportedModelError("an assignment to every second element")
    if not isinstance(part, Value):
        raise UnsupportedModelError("an assignment of something constant into what depends on the image")
    for dim in missing:
        part = part.unsqueeze(dim)
    mask = torch.ones(base.shape, dtype=b.dtype, device=b.device)
    mask[tuple(slice(start, start + count) for start, _, count in slices)] = 0
    placed = part
    for dim, (start, _, _) in enumerate(slices):
        if start or part.shape[dim] != base.shape[dim]:
            if part.kind(dim) == "":
                placed = b.cat([placed], dim)
            placed = placed.slice(dim, -start, 1, base.shape[dim])
    if isinstance(base, Tensor):
        rest = base * mask
        return b.pointwise("add", placed, rest) if rest.any() else placed
    return b.pointwise("add", b.pointwise("mul", base, mask), placed)


# ---- linear

@handles("convolution")
def _convolution(
    b: Builder, x: Value, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor | None):
        raise UnsupportedModelError("a convolution with weights that depend on the image or the labels")
    x = x.settled()
    if [x.kind(d) for d in range(len(x.dims))] != ["n", "c", "r", "s"]:
        raise UnsupportedModelError("a convolution over something other than rows and columns of (N, C, H, W)")
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    weight = dense(weight.transpose(0, 1) if transposed and groups == 1 else weight, groups, transposed)
    make = b.transposed if transposed else b.linear
    return Value.of(make(x.merged(), weight, bias, size=b.shape[2:], **geometry), b.n)


def dense(weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """Weights (O, I, KH, KW) of a convolution without groups."""
    if groups == 1:
        return weight
    parts = weight.chunk(groups)
    parts = [part.transpose(0, 1) for part in parts] if transposed else list(parts)
    O, I = parts[0].shape[:2]
    full = weight.new_zeros((groups * O, groups * I, *weight.shape[2:]))
    for g, part in enumerate(parts):
        full[g * O : (g + 1) * O, g * I : (g + 1) * I] = part
    return full


@handles("fastgen.masked_conv2d")
def _masked_conv2d(
    b: Builder, x: Value, weight: Tensor, bias: Tensor | None, residual: Argument | None, mask: str, activation: str,
    color_groups: int, groups_order: str, save_preactivation: bool,
) -> list[Value]:  # fmt: skip
    live = _live(weight, masked_conv2d_mask(weight, mask, activation, color_groups, groups_order))
    y = Value.of(b.linear(x.merged(), live, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2)), b.n)
    if activation == "gated":
        y = _gate(b, y)
    elif activation == "concat_elu":
        y = _elu(b, b.cat([y, b.pointwise("neg", y)], 1))
    elif activation == "elu":
        y = _elu(b, y)
    elif activation != "none":
        y = b.pointwise(activation, y)
    return [y if residual is None else b.pointwise("add", y, residual)]


@handles("fastgen.gated_activation")
def _gate(b: Builder, x: Value) -> Value:
    half = x.shape[1] // 2
    first, second = x.slice(1, 0, 1, half), x.slice(1, half, 1, half)
    return b.pointwise("mul", b.pointwise("tanh", first), b.pointwise("sigmoid", second))


@handles("mm")
def _mm(b: Builder, x: Argument, weight: Argument) -> Value:
    if not isinstance(x, Value) or not isinstance(weight, Tensor):
        raise UnsupportedModelError("a product of two things that depend on the image")
    if x.kind(1) != "c" or "c" in x.kind(0):
        raise UnsupportedModelError("a matrix product over something other than channels")
    return across_channels(b, x, weight.t(), dim=1)


@handles("addmm")
def _addmm(b: Builder, bias: Argument, x: Value, weight: Tensor, *, beta: float = 1, alpha: float = 1) -> Value:
    y = _mm(b, x, weight if alpha == 1 else weight * alpha)
    return b.pointwise("add", y, bias if beta == 1 else _mul(b, bias, beta))


@handles("bmm")
def _bmm(b: Builder, first: Argument, second: Argument) -> Value:
    """A constant matrix, the same for every image, times channels: what einsum makes of a 1×1 convolution."""
    x, weight, left = (second, first, True) if isinstance(first, Tensor) else (first, second, False)
    if not isinstance(x, Value) or not isinstance(weight, Tensor) or not torch.equal(weight, weight[:1].expand_as(weight)):
        raise UnsupportedModelError("attention, or another product of two things that depend on the image")
    dim = 1 if left else 2
    if x.kind(dim) != "c" or "c" in x.kind(3 - dim) or x.kind(0) != "n":
        raise UnsupportedModelError("a matrix product over something other than channels")
    return across_channels(b, x, weight[0] if left else weight[0].t(), dim)


def across_channels(b: Builder, x: Value, weight: Tensor, dim: int) -> Value:
    """weight (O, I) applied to the only dimension of channels."""
    x = x.merged()
    out = b.linear(x, weight[:, :, None, None])
    dims = list(x.dims)
    dims[dim] = (("c", weight.shape[0]),)
    return replace(Value.of(out, b.n), dims=dims)


@handles("pixel_unshuffle")
def _pixel_unshuffle(b: Builder, x: Value, factor: int) -> Value:
    H, W = x.shape[2] // factor, x.shape[3] // factor
    pieces = [x.slice(2, i, factor, H).slice(3, j, factor, W) for i in range(factor) for j in range(factor)]
    channels = [b.cat([piece.slice(1, c, 1, 1) for piece in pieces], 1) for c in range(x.shape[1])]
    return b.cat(channels, 1)


@handles("pixel_shuffle", "upsample_nearest2d")
def _spread(b: Builder, x: Value, factor: Any, *scales: float | None) -> Value:
    """Every position becomes a block of positions: a transposed convolution with ones."""
    N, C, H, W = x.shape
    shuffled = isinstance(factor, int)
    f, g = (factor, factor) if shuffled else (b.shape[2] // H, b.shape[3] // W)
    if (H * f, W * g) != tuple(b.shape[2:]):
        raise UnsupportedModelError("an enlargement by a factor that is no integer")
    out = C // (f * g) if shuffled else C
    weight = torch.zeros(out, C, f, g, dtype=b.dtype, device=b.device)
    for channel in range(out):
        for i in range(f):
            for j in range(g):
                weight[channel, channel * f * g + i * g + j if shuffled else channel, i, j] = 1
    made = b.transposed(x.merged(), weight, None, size=b.shape[2:], stride=(f, g), padding=(0, 0), dilation=(1, 1))
    return Value.of(made, b.n)


# ---- pointwise

UNARY = ("relu", "tanh", "sigmoid", "silu", "exp", "log", "neg", "abs", "sqrt", "rsqrt", "reciprocal", "sin", "cos")
for _name in UNARY:
    handles(_name)(lambda b, x, _op=_name: b.pointwise(_op, x))


@handles("elu")
def _elu(b: Builder, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if input_scale != 1:
        raise UnsupportedModelError(f"an elu with input_scale {input_scale}")
    y = b.pointwise("elu", x, parameters=(float(alpha),))
    return y if scale == 1 else _mul(b, y, scale)


@handles("gelu")
def _gelu(b: Builder, x: Value, *, approximate: str = "none") -> Value:
    return b.pointwise("gelu" if approximate == "none" else "gelu_tanh", x)


@handles("leaky_relu")
def _leaky_relu(b: Builder, x: Value, slope: float = 0.01) -> Value:
    return b.pointwise("leaky_relu", x, parameters=(float(slope),))


@handles("_prelu_kernel")
def _prelu(b: Builder, x: Value, slope: Argument) -> Value:
    falling = b.pointwise("mul", b.pointwise("relu", b.pointwise("neg", x)), slope)
    return b.pointwise("sub", b.pointwise("relu", x), falling)


@handles("softplus")
def _softplus(b: Builder, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    return b.pointwise("softplus", x, parameters=(float(beta), float(threshold)))


@handles("mish")
def _mish(b: Builder, x: Value) -> Value:
    return b.pointwise("mul", b.pointwise("tanh", _softplus(b, x)), x)


@handles("clamp", "hardtanh")
def _clamp(b: Builder, x: Value, low: float | None = -1, high: float | None = 1) -> Value:
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise UnsupportedModelError("a clamp between tensors")
    bounds = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    return b.pointwise("clamp", x, parameters=bounds)


@handles("clamp_min")
def _clamp_min(b: Builder, x: Value, low: float) -> Value:
    return _clamp(b, x, low, None)


@handles("clamp_max")
def _clamp_max(b: Builder, x: Value, high: float) -> Value:
    return _clamp(b, x, None, high)


@handles("hardsigmoid")
def _hardsigmoid(b: Builder, x: Value) -> Value:
    return _clamp(b, _add(b, _mul(b, x, 1 / 6), 0.5), 0, 1)


@handles("hardswish")
def _hardswish(b: Builder, x: Value) -> Value:
    return b.pointwise("mul", _hardsigmoid(b, x), x)


@handles("glu")
def _glu(b: Builder, x: Value, dim: int = -1) -> Value:
    half = x.shape[dim] // 2
    first, second = _split_with_sizes(b, x, [half, half], dim)
    return b.pointwise("mul", first, b.pointwise("sigmoid", second))


@handles("pow")
def _pow(b: Builder, x: Argument, exponent: float) -> Value:
    if not isinstance(x, Value) or isinstance(exponent, Tensor | Value):
        raise UnsupportedModelError("a power other than of a tensor by a number")
    return b.pointwise("pow", x, parameters=(float(exponent),))


def _binary(op: str, swapped: str) -> Callable[[Builder, Any, Any], Value]:
    def handler(b: Builder, first: Any, second: Any) -> Value:
        first, second = (b.scalar(x) if isinstance(x, int | float) else x for x in (first, second))
        if isinstance(first, Value):
            return b.pointwise(op, first, second)
        return b.pointwise(swapped, second, first)

    return handler


_mul = handles("mul")(_binary("mul", "mul"))
_maximum = handles("maximum")(_binary("max", "max"))
_minimum = handles("minimum")(_binary("min", "min"))
_plus, _minus, _divide = _binary("add", "add"), _binary("sub", "rsub"), _binary("div", "rdiv")


@handles("add")
def _add(b: Builder, first: Any, second: Any, *, alpha: float = 1) -> Value:
    return _plus(b, first, second if alpha == 1 else b.scaled(second, alpha, _mul))


@handles("sub")
def _sub(b: Builder, first: Any, second: Any, *, alpha: float = 1) -> Value:
    return _minus(b, first, second if alpha == 1 else b.scaled(second, alpha, _mul))


@handles("rsub")
def _rsub(b: Builder, first: Any, second: Any, alpha: float = 1) -> Value:
    return _minus(b, second, first if alpha == 1 else b.scaled(first, alpha, _mul))


@handles("div")
def _div(b: Builder, first: Any, second: Any, *, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise UnsupportedModelError("a division that rounds")
    return _divide(b, first, second)


@handles("addcmul")
def _addcmul(b: Builder, x: Any, first: Any, second: Any, *, value: float = 1) -> Value:
    return _plus(b, x, b.scaled(_mul(b, first, second), value, _mul))


# ---- norms and sums over channels

@handles("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit")
def _batch_norm(
    b: Builder, x: Value, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, *rest: Any
) -> list[Value]:
    training, eps = (rest[0], rest[-1]) if isinstance(rest[0], bool) else (False, rest[-1])
    if training:
        raise UnsupportedModelError("a norm over the pixels of an image or a batch")
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    shift = -mean * scale + (0 if bias is None else bias)
    shape = [1, -1] + [1] * (len(x.dims) - 2)
    return [b.pointwise("add", b.pointwise("mul", x, scale.view(shape)), shift.view(shape))]


@handles("native_layer_norm")
def _layer_norm(
    b: Builder, x: Value, shape: Sequence[int], weight: Argument | None, bias: Argument | None, eps: float
) -> list[Value]:
    x = x.merged()
    if any(x.kind(len(x.dims) - 1 - d) != "c" for d in range(len(shape))):
        raise UnsupportedModelError("a layer norm over more than channels mixes pixels")
    groups = x.part.size // math.prod(shape)
    x = b.pointwise("", x)
    x.parts[0].read.map.ordered = True
    y = b.pointwise("norm", x, parameters=(float(groups), float(eps)))
    y = y if weight is None else b.pointwise("mul", y, weight)
    return [y if bias is None else b.pointwise("add", y, bias)]


AVERAGES = ("aten.mean", "aten.var", "aten.var_mean")


@handles("sum", "mean")
def _sum(b: Builder, x: Value, dims: Sequence[int] | None = None, keepdim: bool = False, **_: Any) -> Value:
    x = x.merged()
    dims = range(len(x.dims)) if not dims else [d % len(x.dims) for d in dims]
    if len(list(dims)) != 1 or x.kind(dims[0]) != "c" or x.part.ndim != 1:
        raise UnsupportedModelError("global pooling: a sum over rows, columns or images")
    dim, count = dims[0], x.shape[dims[0]]
    weight = 1 / count if b.op in AVERAGES else 1.0
    y = across_channels(b, x, torch.full((1, count), weight, dtype=b.dtype, device=b.device), dim)
    return y if keepdim else y.squeeze(dim)


@handles("var")
def _var(
    b: Builder, x: Value, dims: Sequence[int] | None = None, *, correction: float = 1, keepdim: bool = False
) -> Value:
    centred = b.pointwise("sub", x, _sum(b, x, dims, keepdim=True))
    variance = _sum(b, b.pointwise("mul", centred, centred), dims, keepdim)
    count = x.shape[dims[0]]  # type: ignore[index]
    return _mul(b, variance, count / (count - correction)) if correction else variance


@handles("var_mean")
def _var_mean(b: Builder, x: Value, dims: Sequence[int] | None = None, **options: Any) -> list[Value]:
    variance = _var(b, x, dims, **options)
    return [variance, _sum(b, x, dims, options.get("keepdim", False))]
