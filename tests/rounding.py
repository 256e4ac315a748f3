"""How far the roundings of a formula may move its results, in one dtype, whoever computes it and in whatever order.

The formula runs in float64, and every operation's result y is moved by r times a number from a normal distribution,
where r is what that operation's roundings come to, of unit roundoff u = eps / 2:

    elementwise              r = u |y|
    a sum of K terms t       r = v (Σ |t| + √K |y|) + u |y|

A sum in floating point is off by Σ δ_j s_j over its partial sums s_j, with |δ_j| ≤ v, the unit roundoff of what it is
accumulated in (float32 for halves): about v √(Σ s_j²), as the δ_j are as good as independent (Higham and Mary 2019, "A
new approach to probabilistic rounding error analysis"). In an arbitrary order s_j is (j / K) y and a random bridge
between 0 and 0, at most about √K rms(t): the first part comes to v √(K / 3) |y|, the second to v √K √K rms(t) / √6 or
about v Σ |t|. Σ |t| is the same sum over absolute values, so cancellation is counted at every place where the formula
cancels. What the moves come to at the end, over a few draws, is what the formula's roundings do (Parker 1997, "Monte
Carlo arithmetic"): a function of the formula, its inputs and the dtype, and of no implementation.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
NUMBERS = 64
"""So many numbers of every result are drawn for the largest move, but at most eight of each element."""
KINKS = (aten.relu.default, aten.relu_.default, aten.leaky_relu.default, aten.leaky_relu_.default)


def moved_by_rounding(compute: Callable[[], Sequence[Tensor]], dtype: torch.dtype) -> list[float]:
    """How far, at most, an element of each result moves when every operation is rounded as in ``dtype``.

    Args:
        compute: of float64 tensors, plain torch; may take gradients inside.
        dtype: what the results are judged in.
    """
    exact = [result.detach() for result in compute()]
    furthest = [0.0] * len(exact)
    fewest = min((result.numel() for result in exact if result.numel()), default=NUMBERS)
    for seed in range(max(2, min(8, NUMBERS // fewest))):
        with _Rounded(dtype, seed):
            results = compute()
        for i, (one, true) in enumerate(zip(results, exact, strict=True)):
            if true.numel():
                furthest[i] = max(furthest[i], (one.detach() - true).abs().max().item())
    return furthest


class Moved:
    """What ``moved_by_rounding`` says, computed when a result of it first decides, and once."""

    def __init__(self, compute: Callable[[], Sequence[Tensor]], dtype: torch.dtype) -> None:
        self.compute, self.dtype, self.found = compute, dtype, list[float]()

    def __getitem__(self, i: int) -> Callable[[], float]:
        def one() -> float:
            self.found = self.found or moved_by_rounding(self.compute, self.dtype)
            return self.found[i]

        return one


def random_upstream(results: Callable[[], Sequence[Tensor]], dtype: torch.dtype) -> list[Tensor]:
    """Random gradients that arrive at float64 results, and zeros where ``dtype`` cannot tell the side of a kink.

    Where the argument of a ReLU is as near to zero as its roundings, an implementation may be on either side, and its
    gradients off by the whole upstream one. So none arrives there, if the results have the shape of the argument.
    """
    with _Kinks(dtype) as kinks:
        found = results()
    upstream = [torch.randn_like(result) for result in found]
    for near in kinks.near:
        for gradient in upstream:
            if gradient.shape == near.shape:
                gradient.masked_fill_(near, 0)
    return upstream


class Mode(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled; to say so to the compiler would import it, which takes seconds."""
        return False


class _Kinks(Mode):
    """Where the arguments of ReLUs are within some hundred roundings of sums, and some of results, of zero."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        u, v = _unit_roundoffs(dtype)
        self.reach, self.near = 8 * u + 256 * v, list[Tensor]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in KINKS and args[0].numel():
            self.near.append(args[0].abs() <= self.reach * args[0].abs().max())
        return func(*args, **(kwargs or {}))


def _unit_roundoffs(dtype: torch.dtype) -> tuple[float, float]:
    """Those of results, and of what sums are accumulated in."""
    return torch.finfo(dtype).eps / 2, torch.finfo(torch.float32 if dtype.itemsize == 2 else dtype).eps / 2


class _Rounded(Mode):
    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        self.u, self.v = _unit_roundoffs(dtype)
        self.seed, self.generators = seed, dict[torch.device, torch.Generator]()

    def _normal(self, like: Tensor) -> Tensor:
        """From a generator of its own: the formula's own draws stay."""
        if like.device not in self.generators:
            self.generators[like.device] = torch.Generator(like.device).manual_seed(self.seed)
        return torch.randn(like.shape, generator=self.generators[like.device], device=like.device, dtype=like.dtype)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in PARTS:
            with self:
                return PARTS[func](*args, **kwargs)
        results = func(*args, **kwargs)
        if any(returned.alias_info and not returned.alias_info.is_write for returned in func._schema.returns):
            return results  # a view
        sums: Any = [None]
        if func in TERMS:
            sums = func(*tree_map_only(Tensor, torch.abs, args), **tree_map_only(Tensor, torch.abs, kwargs))
            sums = sums if isinstance(sums, tuple) else (sums,)
        listed = results if isinstance(results, (tuple, list)) else [results]
        for i, y in enumerate(listed):
            if not isinstance(y, Tensor) or not y.is_floating_point() or not y.numel():
                continue
            r = self.u * y.abs()
            if func in TERMS:
                K = TERMS[func](i, y, *args)
                r += self.v * (sums[i].abs() + math.sqrt(K) * y.abs())
            y += r * self._normal(y)
        return results


def _of_convolution(i: int, y: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    transposed, groups = rest[-3], rest[-1]
    return weight[0, 0].numel() * weight.shape[0] // groups if transposed else weight[0].numel()


def _of_convolution_backward(i: int, y: Tensor, grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    transposed, groups = rest[-4], rest[-2]
    if i == 0:  # the other way round
        return weight[0].numel() if transposed else weight[0, 0].numel() * weight.shape[0] // groups
    positions = x if transposed and i == 1 else grad
    return positions.shape[0] * positions[0, 0].numel()


def _of_reduction(i: int, y: Tensor, x: Tensor, *rest: Any) -> int:
    return x.numel() // y.numel()


#: Operation → how many terms each element of its i-th result sums.
TERMS: dict[Any, Callable[..., int]] = {
    aten.convolution.default: _of_convolution,
    aten.convolution_backward.default: _of_convolution_backward,
    aten.mm.default: lambda i, y, a, b: a.shape[1],
    aten.bmm.default: lambda i, y, a, b: a.shape[2],
    aten.mv.default: lambda i, y, a, b: a.shape[1],
    aten.dot.default: lambda i, y, a, b: a.shape[0],
    aten.addmm.default: lambda i, y, c, a, b, *rest: a.shape[1],
    aten.sum.default: _of_reduction,
    aten.sum.dim_IntList: _of_reduction,
    aten.mean.default: _of_reduction,
    aten.mean.dim: _of_reduction,
}


def _var_mean(x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
    """In two passes."""
    mean = x.mean(dim, True)
    squares = (x - mean).square().sum(dim, keepdim)
    count = x.numel() // mean.numel() - (1 if correction is None else correction)
    return squares / count, mean if keepdim else mean.reshape(squares.shape)


#: Operation → the same in those above.
PARTS: dict[Any, Callable[..., Any]] = {
    **get_decompositions(
        [
            aten.native_batch_norm,
            aten.native_batch_norm_backward,
            aten._softmax,
            aten._softmax_backward_data,
            aten._log_softmax,
            aten._log_softmax_backward_data,
            aten.logsumexp,
            aten.mse_loss,
            aten.binary_cross_entropy_with_logits,
        ]
    ),
    aten.var_mean.correction: _var_mean,
}
