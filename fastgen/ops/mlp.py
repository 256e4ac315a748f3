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

from .._constants import is_exporting
from ._activations import activate_, activate_backward
from ._dtypes import in_dtype, layer_dtype, lowered, pairs_pay, widened, without_autocast
from ._layouts import is_vectorized
from ._records import Activation
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/mlp_cpu.cpp"}

#: From so many weights on. One thread of an AMD EPYC with AVX-512, times faster than torch's two layers and ReLU,
#: evaluation and with gradients: 784-400-40 of 4 rows 1.8 and 1.35, of 16 1.4 and 1.15, of 512 1.1 and 1.1; 16 rows of
#: 100-128-1 1.1 and 1.0, 64 of 2-64-1 0.9 and 1.0; 256 of 1024-1024-1024 1.1 and 1.1.
WEIGHTS = 2**13
#: Up to so many rows of bfloat16 products are of float32: torch rounds all weights at each step. 784-400-40 under
#: autocast, one thread: 16 rows 1.9 and 1.5. Of more rows they are of pairs, whose weights are rounded where they are
#: packed, where those pay.
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
    x: Tensor | None,
    hidden: Tensor | None,
    weight: Tensor | None,
    weight_out: Tensor | None,
    activation: str,
    slope: float,
    output_mask: list[bool],
) -> tuple[Tensor, ...]:
    """``x`` is there for the weight's gradient, ``weight`` for x's, ``weight_out`` for the inner layer's, ``hidden``
    for all but bias_out's.
    """
    found = _gradients(grad_y, None, (x, hidden, weight, weight_out), Activation(activation, slope), output_mask)
    nothing = grad_y.new_empty(0), *[grad_y.new_empty(0, dtype=_wide(grad_y))] * 4
    return tuple(each if one is None else one for one, each in zip(found, nothing, strict=True))


def _wide(grad: Tensor) -> torch.dtype:
    """Of weights and their gradients, beside such images."""
    return torch.promote_types(torch.float32, grad.dtype)


def _gradients(
    grad_y: Tensor | None,
    grad_hidden: Tensor | None,
    kept: Sequence[Tensor | None],
    activation: Activation,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Those that are wanted, in operations that can be differentiated; ``kept``: x, hidden, weight and weight_out."""
    x, hidden, weight, weight_out = kept
    arrived = grad_y if grad_y is not None else grad_hidden
    assert arrived is not None
    found: list[Tensor | None] = [None] * 5
    if any(wanted[:3]):
        assert hidden is not None
        grad = grad_hidden
        if grad_y is not None:
            assert weight_out is not None
            through = grad_y @ weight_out.to(grad_y.dtype)
            grad = through if grad is None else grad + through
        assert grad is not None
        grad = activate_backward(grad, hidden, activation)
        found[0] = grad @ weight.to(grad.dtype) if wanted[0] and weight is not None else None
        found[1] = (grad.t() @ x).to(_wide(grad)) if wanted[1] and x is not None else None
        found[2] = grad.sum(0, dtype=_wide(grad)) if wanted[2] else None
    if grad_y is not None:
        found[3] = (grad_y.t() @ hidden).to(_wide(grad_y)) if wanted[3] and hidden is not None else None
        found[4] = grad_y.sum(0, dtype=_wide(grad_y)) if wanted[4] else None
    return found


def takes(weight: Tensor, weight_out: Tensor) -> bool:
    """Whether a perceptron of these weights is large enough that the op pays, and no layer of it is empty."""
    return weight.numel() + weight_out.numel() >= WEIGHTS and 0 not in (*weight.shape, *weight_out.shape)


def pays(x: Tensor, parameters: Sequence[Tensor | None]) -> bool:
    """Whether ``mlp`` takes these, the weights and biases there are, and is the fastest that a CPU has.

    Not in an exported program, which has other executors, and not in transforms.
    """
    if not x.is_cpu or is_exporting() or is_vectorized() or forward_ad._current_level >= 0:
        return False
    dtype = layer_dtype(x, [each for each in parameters if each is not None])
    if dtype == torch.bfloat16:
        return x.shape[0] <= ROWS_OF_HALVES or pairs_pay()
    return dtype is not None


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


def _fake_backward(grad_y, x, hidden, weight, weight_out, _activation, _slope, output_mask):  # type: ignore[no-untyped-def]
    M, N = grad_y.shape
    H = next((each.shape[dim] for each, dim in ((hidden, 1), (weight_out, 1), (weight, 0)) if each is not None), 0)
    K = next((each.shape[1] for each in (x, weight) if each is not None), 0)
    shapes = ((M, K), (H, K), (H,), (N, H), (N,))
    like = (grad_y.dtype, *[_wide(grad_y)] * 4)
    return tuple(
        grad_y.new_empty(shape if want else 0, dtype=dtype)
        for shape, dtype, want in zip(shapes, like, output_mask, strict=True)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keeps what is read, as torch's layers do: who trains a part may write over the rest before the gradients."""
    x, weight, _, weight_out, _, *ctx.options = inputs
    needs = ctx.needs_input_grad
    inner = any(needs[:3])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        x if needs[1] else None, output[1] if inner or needs[3] else None, weight if needs[0] else None,
        weight_out if inner else None,
    )  # fmt: skip


def _backward(ctx: Any, grad_y: Tensor | None, grad_hidden: Tensor | None) -> tuple[Tensor | None, ...]:
    needs, kept = list(ctx.needs_input_grad[:5]), ctx.saved_tensors
    grads: Sequence[Tensor | None] = [None] * 5
    if grad_y is not None and grad_hidden is None and not torch.is_grad_enabled():
        run = torch.ops.fastgen.mlp_backward.default
        grads = call(run, grad_y, *kept, *ctx.options, needs)
    elif grad_y is not None or grad_hidden is not None:
        with without_autocast((grad_y, grad_hidden)):
            grads = _gradients(grad_y, grad_hidden, kept, Activation(*ctx.options), needs)
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
    "mlp_backward(Tensor grad_y, Tensor? x, Tensor? hidden, Tensor? weight, Tensor? weight_out, str activation, "
    "float slope, bool[5] output_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=mlp_backward_reference,
    fake=_fake_backward,
    backward=None,
)
