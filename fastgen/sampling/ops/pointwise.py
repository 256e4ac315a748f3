"""Activations and arithmetic, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..builder import Argument, Builder, Given
from ..trace import UnsupportedModelError
from ..values import Value
from .registry import handles
from .views import split_with_sizes

UNARY = ("relu", "tanh", "sigmoid", "silu", "exp", "log", "neg", "abs", "sqrt", "rsqrt", "reciprocal", "sin", "cos")
for _name in UNARY:
    handles(_name)(lambda b, x, _op=_name: b.pointwise(_op, x))


@handles("elu")
def elu(b: Builder, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if input_scale != 1:
        raise UnsupportedModelError(f"an elu with input_scale {input_scale}")
    y = b.pointwise("elu", x, parameters=(float(alpha),))
    return y if scale == 1 else multiply(b, y, scale)


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
    return _clamp(b, _add(b, multiply(b, x, 1 / 6), 0.5), 0, 1)


@handles("hardswish")
def _hardswish(b: Builder, x: Value) -> Value:
    return b.pointwise("mul", _hardsigmoid(b, x), x)


@handles("glu")
def _glu(b: Builder, x: Value, dim: int = -1) -> Value:
    half = x.shape[dim] // 2
    first, second = split_with_sizes(b, x, [half, half], dim)
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


multiply = handles("mul")(_binary("mul", "mul"))
_maximum = handles("maximum")(_binary("max", "max"))
_minimum = handles("minimum")(_binary("min", "min"))
_plus, _minus, _divide = _binary("add", "add"), _binary("sub", "rsub"), _binary("div", "rdiv")


def scaled(b: Builder, operand: Any, factor: float) -> Any:
    if isinstance(operand, Given):
        raise UnsupportedModelError("a multiple of what depends on the labels, inside of a sum")
    return multiply(b, operand, factor) if isinstance(operand, Value) else operand * factor


@handles("add")
def _add(b: Builder, first: Any, second: Any, *, alpha: float = 1) -> Value:
    return _plus(b, first, second if alpha == 1 else scaled(b, second, alpha))


@handles("sub")
def _sub(b: Builder, first: Any, second: Any, *, alpha: float = 1) -> Value:
    return _minus(b, first, second if alpha == 1 else scaled(b, second, alpha))


@handles("rsub")
def _rsub(b: Builder, first: Any, second: Any, alpha: float = 1) -> Value:
    return _minus(b, second, first if alpha == 1 else scaled(b, first, alpha))


@handles("div")
def _div(b: Builder, first: Any, second: Any, *, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise UnsupportedModelError("a division that rounds")
    return _divide(b, first, second)


@handles("addcmul")
def _addcmul(b: Builder, x: Any, first: Any, second: Any, *, value: float = 1) -> Value:
    return _plus(b, x, scaled(b, multiply(b, first, second), value))


@handles("fastgen.gated_activation")
def gate(b: Builder, x: Value) -> Value:
    half = x.shape[1] // 2
    first, second = x.slice(1, 0, 1, half), x.slice(1, half, 1, half)
    return b.pointwise("mul", b.pointwise("tanh", first), b.pointwise("sigmoid", second))
