"""A perceptron of one hidden layer on a CPU: two linear layers and what is between them, as one op.

y = activation(x @ weightᵀ + bias) @ weight_outᵀ + bias_out

x and results are float32 or bfloat16, weights and their gradients float32: sums are, and results are rounded once. Of
few rows a step is as much calls as products, and both are fewer: weights are multiplied where they lie, activations and
gradients of biases are no passes of their own, and of all that torch's autograd keeps one node.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from ._activations import activate_, activate_backward
from ._dtypes import in_dtype, layer_dtype, lowered, widened
from ._layouts import is_vectorized
from ._recomputed import gradients_by
from ._records import Activation
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/mlp_cpu.cpp"}

#: From so many weights on. One thread of an AMD EPYC with AVX-512, times faster than torch's two layers and ReLU,
#: evaluation and with gradients: 784-400-40 of 4 rows 1.8 and 1.35, of 16 1.4 and 1.15, of 512 1.1 and 1.1; 16 rows of
#: 100-128-1 1.1 and 1.0, 64 of 2-64-1 0.9 and 1.0; 256 of 1024-1024-1024 1.1 and 1.1.
WEIGHTS = 2**13
#: Up to so many rows in bfloat16: products are of float32, half as many at a time as AVX512-BF16 has, but torch rounds
#: all weights at each step. 784-400-40 under autocast, one thread: 16 rows 1.9 and 1.5, 64 0.8 and 0.65.
ROWS_OF_HALVES = 32


def mlp_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    activation: str,
    slope: float,
) -> tuple[Tensor, Tensor]:
    """(M, N), and the hidden layer, (M, hidden)."""
    weight, bias, weight_out, bias_out = in_dtype(x.dtype, weight, bias, weight_out, bias_out)
    hidden = activate_(F.linear(x, weight, bias), Activation(activation, slope))
    return F.linear(hidden, weight_out, bias_out), hidden


def mlp_backward_reference(
    grad_y: Tensor,
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    weight_out: Tensor,
    activation: str,
    slope: float,
    output_mask: list[bool],
) -> tuple[Tensor, ...]:
    dtype, (weight, weight_out) = weight.dtype, in_dtype(x.dtype, weight, weight_out)
    want_x, want_weight, want_bias, want_weight_out, want_bias_out = output_mask
    nothing = x.new_empty(0, dtype=dtype)
    grad_x, grad_weight, grad_bias = x.new_empty(0), nothing, nothing
    if want_x or want_weight or want_bias:
        grad = activate_backward(grad_y @ weight_out, hidden, Activation(activation, slope))
        grad_x = grad @ weight if want_x else grad_x
        grad_weight = (grad.t() @ x).to(dtype) if want_weight else nothing
        grad_bias = grad.sum(0, dtype=dtype) if want_bias else nothing
    grad_weight_out = (grad_y.t() @ hidden).to(dtype) if want_weight_out else nothing
    return grad_x, grad_weight, grad_bias, grad_weight_out, grad_y.sum(0, dtype=dtype) if want_bias_out else nothing


def takes(weight: Tensor, weight_out: Tensor) -> bool:
    """Whether a perceptron of these weights is large enough that the op pays."""
    return weight.numel() + weight_out.numel() >= WEIGHTS


def pays(x: Tensor, parameters: Sequence[Tensor | None]) -> bool:
    """Whether ``mlp`` takes these, the weights and biases there are, and is the fastest that a CPU has.

    Not in an exported program, which has other executors, and not in transforms.
    """
    if not x.is_cpu or torch.compiler.is_exporting() or is_vectorized() or forward_ad._current_level >= 0:
        return False
    dtype = layer_dtype(x, [each for each in parameters if each is not None])
    return dtype == torch.float32 or (dtype is not None and x.shape[0] <= ROWS_OF_HALVES)


def mlp(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_out: Tensor, bias_out: Tensor | None, activation: Activation
) -> Tensor:
    """Of x (M, K), weight (hidden, K) and weight_out (N, hidden): (M, N)."""
    parameters: tuple[Tensor | None, ...] = (weight, bias, weight_out, bias_out)
    if any(each is not None and each.dtype != torch.float32 for each in parameters):
        parameters = widened(parameters)
    y: Tensor = call(torch.ops.fastgen.mlp.default, lowered(x), *parameters, *activation)[0]
    return y


def _fake(x, weight, _bias, weight_out, *_rest):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], weight_out.shape[0]), x.new_empty(x.shape[0], weight.shape[0])


def _fake_backward(_grad_y, x, _hidden, weight, weight_out, _activation, _slope, output_mask):  # type: ignore[no-untyped-def]
    shapes = (x.shape, weight.shape, weight.shape[:1], weight_out.shape, weight_out.shape[:1])
    like = (x, weight, weight, weight, weight)
    return tuple(
        each.new_empty(shape if want else 0) for each, shape, want in zip(like, shapes, output_mask, strict=True)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, activation, slope = inputs
    ctx.options = activation, slope
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[1])


def _backward(ctx: Any, grad_y: Tensor | None, grad_hidden: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, hidden = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:5])
    grads: Sequence[Tensor | None] = [None] * 5
    if grad_y is not None and grad_hidden is None and not torch.is_grad_enabled():
        x, weight, _, weight_out, _ = inputs
        run = torch.ops.fastgen.mlp_backward.default
        grads = call(run, grad_y, x, hidden, weight, weight_out, *ctx.options, needs)
    elif grad_y is not None or grad_hidden is not None:
        grads = gradients_by(mlp_reference, inputs, ctx.options, needs, (grad_y, grad_hidden))
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None


define_op(
    "mlp(Tensor x, Tensor weight, Tensor? bias, Tensor weight_out, Tensor? bias_out, str activation, float slope) "
    "-> (Tensor y, Tensor hidden)",
    kernels=KERNELS,
    reference=mlp_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
define_op(
    "mlp_backward(Tensor grad_y, Tensor x, Tensor hidden, Tensor weight, Tensor weight_out, str activation, "
    "float slope, bool[5] output_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=mlp_backward_reference,
    fake=_fake_backward,
    backward=None,
)
