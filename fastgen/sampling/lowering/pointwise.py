"""Activations and arithmetic, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..builder import Argument, Builder, Given
from ..trace import UnsupportedModelError
from ..traced_tensor import Value
from .registry import handles
from .views import split_with_sizes

UNARY = (
    "relu", "tanh", "sigmoid", "silu", "exp", "log", "neg", "abs", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "erf",
    "log1p", "expm1", "floor", "ceil", "trunc", "sign",
)  # fmt: skip
for _name in UNARY:
    handles(_name)(lambda b, x, *, _op=_name: b.pointwise(_op, x))


@handles("elu")
def elu(b: Builder, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if input_scale == 1:
        y = b.pointwise("elu", x, parameters=(float(alpha),))
    else:
        falling = b.pointwise("expm1", multiply(b, _clamp(b, x, None, 0), input_scale))
        y = b.pointwise("add", b.pointwise("relu", x), multiply(b, falling, alpha))
    return y if scale == 1 else multiply(b, y, scale)


def concat_elu(b: Builder, x: Value) -> Value:
    return elu(b, b.cat([x, b.pointwise("neg", x)], 1))


@handles("celu")
def _celu(b: Builder, x: Value, alpha: float) -> Value:
    return elu(b, x, alpha, 1, 1 / alpha)


@handles("gelu")
def _gelu(b: Builder, x: Value, *, approximate: str) -> Value:
    return b.pointwise("gelu" if approximate == "none" else "gelu_tanh", x)


@handles("leaky_relu")
def _leaky_relu(b: Builder, x: Value, slope: float) -> Value:
    return b.pointwise("leaky_relu", x, parameters=(float(slope),))


@handles("_prelu_kernel")
def _prelu(b: Builder, x: Value, slope: Argument) -> Value:
    falling = b.pointwise("mul", b.pointwise("relu", b.pointwise("neg", x)), slope)
    return b.pointwise("sub", b.pointwise("relu", x), falling)


@handles("softplus")
def _softplus(b: Builder, x: Value, beta: float, threshold: float) -> Value:
    return b.pointwise("softplus", x, parameters=(float(beta), float(threshold)))


@handles("log_sigmoid_forward")
def _log_sigmoid(b: Builder, x: Value) -> list[Value]:
    falling = b.pointwise("neg", b.pointwise("abs", x))
    return [b.pointwise("sub", _clamp(b, x, None, 0), b.pointwise("log1p", b.pointwise("exp", falling)))]


@handles("mish")
def _mish(b: Builder, x: Value) -> Value:
    return b.pointwise("mul", b.pointwise("tanh", _softplus(b, x, 1, 20)), x)


@handles("clamp", "hardtanh")
def _clamp(b: Builder, x: Any, low: Any, high: Any) -> Value:
    if all(bound is None or isinstance(bound, int | float) for bound in (low, high)):
        low, high = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
        return b.pointwise("clamp", x, parameters=(min(low, high), high))  # torch's answer is the upper bound, too
    x = x if low is None else _maximum(b, x, low)
    return x if high is None else _minimum(b, x, high)


@handles("clamp_min")
def _clamp_min(b: Builder, x: Any, low: Any) -> Value:
    return _clamp(b, x, low, None)


@handles("clamp_max")
def _clamp_max(b: Builder, x: Any, high: Any) -> Value:
    return _clamp(b, x, None, high)


@handles("logit")
def _logit(b: Builder, x: Value, eps: float | None) -> Value:
    x = x if eps is None else _clamp(b, x, eps, 1 - eps)
    return b.pointwise("log", b.pointwise("div", x, b.pointwise("rsub", x, b.scalar(1))))


@handles("hardsigmoid")
def _hardsigmoid(b: Builder, x: Value) -> Value:
    return _clamp(b, add(b, multiply(b, x, 1 / 6), 0.5), 0, 1)


@handles("hardswish")
def _hardswish(b: Builder, x: Value) -> Value:
    return b.pointwise("mul", _hardsigmoid(b, x), x)


@handles("glu")
def _glu(b: Builder, x: Value, dim: int) -> Value:
    half = x.shape[dim] // 2
    first, second = split_with_sizes(b, x, [half, half], dim)
    return b.pointwise("mul", first, b.pointwise("sigmoid", second))


@handles("pow")
def _pow(b: Builder, x: Argument, exponent: float) -> Value:
    if not isinstance(x, Value) or isinstance(exponent, Tensor | Value):
        raise UnsupportedModelError("a power other than of a tensor by a number")
    return b.pointwise("pow", x, parameters=(float(exponent),))


def binary(op: str, swapped: str) -> Callable[[Builder, Any, Any], Value]:
    def handler(b: Builder, first: Any, second: Any) -> Value:
        first, second = (b.scalar(x) if isinstance(x, int | float) else x for x in (first, second))
        if not isinstance(first, Value) and not isinstance(second, Value):
            raise UnsupportedModelError("a part of it that depends on the condition, or on nothing, alone")
        if isinstance(first, Value):
            return b.pointwise(op, first, second)
        return b.pointwise(swapped, second, first)

    return handler


multiply = handles("mul", integer=True)(binary("mul", "mul"))
_maximum = handles("maximum")(binary("max", "max"))
_minimum = handles("minimum")(binary("min", "min"))
_plus, _minus, _divide = binary("add", "add"), binary("sub", "rsub"), binary("div", "rdiv")


def scaled(b: Builder, operand: Any, factor: float) -> Any:
    if isinstance(operand, Given):
        return b.told(torch.mul, operand, factor)
    return multiply(b, operand, factor) if isinstance(operand, Value) else operand * factor


@handles("add", integer=True)
def add(b: Builder, first: Any, second: Any, alpha: float = 1) -> Value:
    return _plus(b, first, second if alpha == 1 else scaled(b, second, alpha))


@handles("sub", integer=True)
def _sub(b: Builder, first: Any, second: Any, alpha: float) -> Value:
    return _minus(b, first, second if alpha == 1 else scaled(b, second, alpha))


@handles("rsub", integer=True)
def _rsub(b: Builder, first: Any, second: Any, alpha: float) -> Value:
    return _minus(b, second, first if alpha == 1 else scaled(b, first, alpha))


@handles("div")
def _div(b: Builder, first: Any, second: Any, *, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise UnsupportedModelError("a division that rounds")
    return _divide(b, first, second)


@handles("addcmul")
def _addcmul(b: Builder, x: Any, first: Any, second: Any, *, value: float) -> Value:
    if isinstance(first, Value) or isinstance(second, Value):
        product: Argument = multiply(b, first, second)
    elif isinstance(first, Given) or isinstance(second, Given):
        product = b.told(torch.mul, first, second)
    else:
        product = first * second
    return _plus(b, x, scaled(b, product, value))


@handles("fastgen.gated_activation")
def gate(b: Builder, x: Value) -> Value:
    half = x.shape[1] // 2
    first, second = x.slice(1, 0, 1, half), x.slice(1, half, 1, half)
    return b.pointwise("mul", b.pointwise("tanh", first), b.pointwise("sigmoid", second))


@handles("fastgen.residual_gate")
def _residual_gate(b: Builder, x: Argument, h: Value) -> Value:
    return add(b, x, _glu(b, h, 1))
