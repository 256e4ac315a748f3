"""Numbers for pairs of positions, as attention has them between its two products: never computed, only described.

The scores of a traced attention are scale·q·kᵀ + bias, with constants for each pair; masks change these constants. A
softmax over the keys makes weights of them, which may be set to zero, and so do exponentials divided by their sum, see
``normalisers``. What they multiply makes the operation: then it is known which keys each query reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .normalisers import ADDED, MASKED, Described, Normaliser, Side, Term, Terms, equal, plus
from .trace import UnsupportedModelError
from .traced_tensor import Dims, Value

#: Steps of the plan whose operands change places.
SWAPPED = {"sub": "rsub", "rsub": "sub", "div": "rdiv", "rdiv": "div"}

#: Of constants for each pair, along which dimension heads and queries lie; keys lie along the last two.
AXES = {"c": 0, "r": 1, "s": 2, "p": 2}

#: Weights that change nothing.
ONES = torch.ones((1,) * 5, dtype=torch.float64)


@dataclass(eq=False)
class Pairs(Described):
    """A tensor of numbers for each pair; its channels are the heads, its ``channel`` their numbers.

    Along r, s and p lie the queries, along R, S and P the keys; where a dimension of both is rows or columns alone,
    pairs are of the same row or column.

    It stands for scale·q·kᵀ + bias − shift; with weights for exp(scale·q·kᵀ + bias − shift) · weights.

    Attributes:
        query, key: what is multiplied.
        scale, bias: (heads or 1, rows or 1, columns or 1, rows or 1, columns or 1): of queries, then of keys. A piece
            of a sequence is one row.
        undefined: likewise, which are NaN: those of a query that has no key.
        shift: the same for all keys of a query.
        weights: after an exponential or a softmax: what it is multiplied with, as ``scale``; or None.
    """

    query: Side = None  # type: ignore[assignment]
    key: Side = None  # type: ignore[assignment]
    scale: Tensor = None  # type: ignore[assignment]
    bias: Tensor = None  # type: ignore[assignment]
    undefined: Tensor = None  # type: ignore[assignment]
    shift: Terms = ()
    weights: Tensor | None = None

    # ---- constants

    def constant(self, tensor: Tensor) -> Tensor:
        """One that broadcasts against the pairs, as ``scale`` is."""
        if torch.broadcast_shapes(tensor.shape, self.shape) != self.shape:
            raise UnsupportedModelError(f"attention scores {self.shape} with a constant {tuple(tensor.shape)}")
        tensor = tensor.reshape([1] * (len(self.dims) - tensor.dim()) + list(tensor.shape))
        atoms = [(kind, 1 if size == 1 else length) for dim, size in zip(self.dims, tensor.shape, strict=True)
                 for kind, length in dim]  # fmt: skip
        tensor = tensor.reshape([size for _, size in atoms])
        kinds, sizes = [kind for kind, _ in atoms], dict(atoms)
        order = [axis for wanted in "ncrspRSP" for axis, kind in enumerate(kinds) if kind == wanted]
        tensor = tensor.permute(order)
        for axis in range(kinds.count("n")):
            if not torch.equal(tensor, tensor.narrow(axis, 0, 1).expand_as(tensor)):
                raise UnsupportedModelError("a constant that differs between the images of a batch")
            tensor = tensor.narrow(axis, 0, 1)
        heads = tensor.shape[kinds.count("n") : kinds.count("n") + kinds.count("c")]
        grid = [
            size
            for row, column, piece in ("rsp", "RSP")
            for size in ((1, sizes[piece]) if piece in sizes else (sizes.get(row, 1), sizes.get(column, 1)))
        ]
        if math.prod(heads) > 1:
            tensor = tensor.reshape(*heads, *grid).expand(*self.channel.shape, *grid).reshape(-1, *grid)
            return tensor[torch.from_numpy(np.argsort(self.channel.reshape(-1)))]
        return tensor.reshape(1, *grid)

    # ---- arithmetic

    def with_constant(self, op: str, tensor: Tensor) -> Pairs:
        """A step of the plan, before a constant."""
        other = self.constant(tensor.to(torch.float64))
        if self.weights is not None:
            if op in ("mul", "div"):
                return replace(self, weights=self.weights * other if op == "mul" else self.weights / other)
            raise UnsupportedModelError(
                f"{op} of attention weights: these may be masked, by a product or filled with 0"
            )
        if op in ("mul", "div"):
            other = other if op == "mul" else 1 / other
            return replace(self, scale=self.scale * other, bias=self.bias * other, shift=self._shift_times(other))
        if op in ("add", "sub"):
            return replace(self, bias=self.bias + other if op == "add" else self.bias - other)
        if op == "rsub":
            return replace(self, scale=-self.scale, bias=other - self.bias, shift=plus((), self.shift, -1))
        raise UnsupportedModelError(f"{op} of attention scores: these may be scaled, added to, and masked")

    def _shift_times(self, factor: Tensor) -> Terms:
        if not self.shift:
            return ()
        one = factor.reshape(-1)[0]
        if not equal(factor, one):
            raise UnsupportedModelError(
                "attention scores less a number for each query, then scaled otherwise than all alike"
            )
        return plus((), self.shift, float(one))

    def with_normaliser(self, op: str, other: Normaliser) -> Pairs:
        """A step of the plan, before a number for each query."""
        if self.weights is None and op == "rsub":
            return self.of_itself("neg").with_normaliser("add", other)
        signs = {"sub": 1, "add": -1} if self.weights is None else {"div": 1, "mul": -1}
        if other.exponential != (self.weights is not None) or op not in signs:
            raise UnsupportedModelError(
                f"{op} of attention {'scores' if self.weights is None else 'weights'} with "
                f"{'a sum of weights' if other.exponential else 'the largest score, or a logsumexp'}"
            )
        pairs = self if other.lies_along(self) or self.shift else self.turned()
        if not other.lies_along(pairs):
            raise UnsupportedModelError("attention scores or weights with numbers that are not the same for all keys")
        return pairs.shifted_by(other, signs[op])

    def shifted_by(self, other: Normaliser, sign: int) -> Pairs:
        """Scores less ``sign`` times a number for each query, or weights divided by its exponential."""
        shifted = replace(
            self,
            shift=plus(self.shift, other.terms, sign),
            undefined=self.undefined | other.undefined | other.empty,
        )
        if self.weights is None or shifted.are_a_softmax():
            return shifted
        folded = shifted.folded()
        return folded if folded.are_a_softmax() else shifted

    def are_a_softmax(self) -> bool:
        """Whether what is subtracted makes the exponentials sum up to 1, but for ``weights``."""
        (factor, term), *others = self.shift or ((0.0, None),)
        return term is not None and factor == 1 and not others and term.is_same(self._term("logsumexp"))

    def are_weighed(self) -> bool:
        """Whether ``weights`` are something other than 1 for keys that are read, where not 0 for all of a query's."""
        assert self.weights is not None
        plain = (self.weights == 1) | (self.bias <= MASKED)
        none = (self.weights == 0).all(dim=(3, 4), keepdim=True)
        return not bool((plain | none).all())

    def folded(self) -> Pairs:
        """With weights of 1 alone: others as an addend of the scores."""
        bias = self.bias
        if self.weights is not None:
            if bool(((self.weights < 0) | ~self.weights.isfinite()).any()):
                raise UnsupportedModelError("a sum of attention weights some of which are negative, infinite or NaN")
            bias = bias + self.weights.log()
        return replace(self, bias=bias, weights=None if self.weights is None else ONES)

    def of_itself(self, op: str, parameters: Sequence[float] = ()) -> Pairs:
        """A step of the plan on it alone."""
        if op == "neg":
            return self.with_constant("mul", torch.tensor(-1.0))
        if op == "exp" and self.weights is None:
            return replace(self, weights=ONES)
        if op == "log" and self.weights is not None:
            return replace(self.folded(), weights=None)
        if op:
            raise UnsupportedModelError(
                f"{op} of attention scores or weights: these may be scaled, added to, and masked"
            )
        return self

    def filled(self, where: Tensor, number: Tensor) -> Pairs:
        """With a constant in the place of some."""
        mask, number = self.constant(where), self.constant(number.to(torch.float64))
        undefined = self.undefined & ~mask
        if self.weights is not None:
            if number.where(mask, 0.0).any():
                raise UnsupportedModelError("attention weights filled with something other than 0")
            return replace(self, weights=torch.where(mask, 0.0, self.weights), undefined=undefined)
        if self.shift and bool((number.where(mask, ADDED) > ADDED).any()):
            raise UnsupportedModelError(
                f"attention scores less a number for each query, filled with more than {ADDED:g}: fill them with -inf"
            )
        scale, bias = torch.where(mask, 0.0, self.scale), torch.where(mask, number, self.bias)
        return replace(self, scale=scale, bias=bias, undefined=undefined)

    # ---- over the keys

    def softmax(self, dim: int, safe: bool) -> Pairs:
        """Over the keys; ``safe``: zeros where there is none."""
        scores = self.log_softmax(dim, "a softmax")
        return replace(scores.of_itself("exp"), undefined=scores.undefined & torch.tensor(not safe))

    def log_softmax(self, dim: int, what: str = "a log_softmax") -> Pairs:
        if self.weights is not None:
            raise UnsupportedModelError(f"{what} of attention weights")
        pairs = self.over_keys([dim], what).folded()
        undefined = pairs.undefined.any(dim=(3, 4), keepdim=True) | pairs._empty((3, 4), -math.inf)
        return replace(pairs, shift=((1.0, pairs._term("logsumexp")),), undefined=undefined)

    def reduced(self, kind: str, dims: Sequence[int] | None, keepdim: bool) -> Normaliser:
        """The "max" or "logsumexp" of scores, or the "sum" of weights; the largest may be of all queries and heads."""
        every, what = len(self.dims), {"max": "a maximum"}.get(kind, f"a {kind}")
        if kind == ("sum" if self.weights is None else "logsumexp"):
            raise UnsupportedModelError(
                f"{what} of attention {'scores without an exponential' if kind == 'sum' else 'weights'}: no softmax"
            )
        gone = {d % every for d in dims} if dims else set(range(every))
        among = self._among(gone) if kind == "max" and not self.shift else set()
        pairs = (self if among else self.over_keys(sorted(gone), what)).folded()
        along = (*sorted({AXES[each] for each in among & set(AXES)}), 3, 4)
        term = pairs._term("logsumexp" if kind != "max" else f"max over {sorted(among)}" if among else "max")
        one = tuple(
            0 if d in gone else slice(None) for d, dim in enumerate(self.dims) for each, _ in dim if each == "c"
        )
        left = [() if d in gone else dim for d, dim in enumerate(pairs.dims) if keepdim or d not in gone]
        return Normaliser(
            left, [], self.part[one], self.channel[one], self.rows, self.columns, self.first,
            terms=plus(((1.0, term),), pairs.shift, -1), exponential=self.weights is not None,
            undefined=pairs.undefined.any(dim=along, keepdim=True),
            empty=pairs._empty(along, MASKED if kind == "sum" and not self._is_stable() else -math.inf),
        )  # fmt: skip

    def _among(self, gone: set[int]) -> set[str]:
        """What lies along dimensions, if both queries and keys do, or no position along others."""
        lying = {kind for d in gone for kind, size in self.dims[d] if size > 1}
        others = {kind for d, dim in enumerate(self.dims) for kind, size in dim if d not in gone and size > 1}
        both = lying & set("rsp") and lying & set("RSP")
        return lying if both or not others & set("rspRSP") else set()

    def _empty(self, along: tuple[int, ...], masked: float) -> Tensor:
        return (self.bias + 0 * self.scale <= masked).all(dim=along, keepdim=True)

    def _is_stable(self) -> bool:
        """Whether exponentials of masked scores alone, finite ones, do not vanish: the largest is subtracted first."""
        (factor, term), *others = self.shift or ((0.0, None),)
        return term is not None and factor == 1 and not others and term.is_same(self._term(term.kind))

    def _term(self, kind: str) -> Term:
        """Of these scores; those far beyond all others are none, so that it is the same however they are masked."""
        far = self.bias <= ADDED
        none = (far & ~far.all(dim=(3, 4), keepdim=True)) | torch.isneginf(self.bias)
        bias = torch.where(none, -math.inf, self.bias)
        return Term(kind, self.query, self.key, torch.where(none, 0.0, self.scale), bias)

    def over_keys(self, dims: Sequence[int], what: str) -> Pairs:
        """Itself, or turned, such that all keys, and nothing else, lie along dimensions."""
        kinds = {kind for dim in dims for kind in self.kind(dim)}
        if all(self.shape[dim] == 1 for dim in dims):  # a view may have put either's positions, of one, side by side
            kinds = kinds & set("RSP") or kinds
        if kinds and not kinds - set("rsp"):
            return self.turned().over_keys(dims, what)
        keys = {kind for each in self.dims for kind, size in each if kind in "RSP" and size > 1}
        if not kinds or kinds - set("RSP") or keys - kinds:
            raise UnsupportedModelError(f"attention: {what} over something other than the keys")
        return self

    def turned(self) -> Pairs:
        """The first factor's positions are the keys, and the second's the queries."""
        if self.shift:
            raise UnsupportedModelError("attention: over the queries, of what is divided, or made less, for each query")
        other = {**{kind: kind.upper() for kind in "rsp"}, **{kind.upper(): kind for kind in "rsp"}}
        dims: Dims = [tuple((other.get(kind, kind), size) for kind, size in dim) for dim in self.dims]
        scale, bias, undefined = (each.permute(0, 3, 4, 1, 2) for each in (self.scale, self.bias, self.undefined))
        weights = None if self.weights is None else self.weights.permute(0, 3, 4, 1, 2)
        turned = replace(self, dims=dims, scale=scale, bias=bias, undefined=undefined, weights=weights)
        turned.query, turned.key = self.key, self.query
        return turned


@dataclass(eq=False)
class Unnormalised(Described):
    """Exponentials of scores times values, which have yet to be divided by the exponentials' sum.

    Attributes:
        pairs: the exponentials.
        finish: what makes, of weights that are a softmax, the operation, in the same order of dimensions.
    """

    WHY: ClassVar[str] = (
        "attention whose weights are exponentials of scores, or changed after the softmax, and not divided by their "
        "own sum over the keys: divide by it, before or after the product with the values"
    )

    pairs: Pairs = None  # type: ignore[assignment]
    finish: Callable[[Pairs], Value] = None  # type: ignore[assignment]

    def heads(self) -> np.ndarray:
        return self.channel // (self.channel.size // self.pairs.query.heads)

    def with_normaliser(self, op: str, other: Normaliser) -> Value:
        """A step of the plan, before a number for each query."""
        sign = {"div": 1, "mul": -1}.get(op)
        if sign is None or not other.exponential or not other.lies_along(self):
            return self.merged()
        pairs = self.pairs.shifted_by(other, sign)
        if not pairs.are_a_softmax() or pairs.are_weighed():
            return replace(self, pairs=pairs)
        made = self.finish(pairs)
        part, channel = (each.reshape(-1)[self.channel] for each in (made.part, made.channel))
        return Value(self.dims, made.parts, part, channel, made.rows, made.columns, made.first)


def of_pairs(op: str, operands: Sequence[Any], parameters: Sequence[float] = ()) -> Value:
    """A step of the plan on what is described, alone, with a constant or with one another."""
    if len(operands) == 1:
        (alone,) = operands
        return alone.of_itself(op, parameters) if isinstance(alone, Pairs | Normaliser) else alone.merged()
    first, second = operands
    if _rank(first) < _rank(second):
        first, second, op = second, first, SWAPPED.get(op, op)
    if isinstance(first, Unnormalised) and not isinstance(second, Normaliser):
        return first.merged()
    if isinstance(second, Normaliser):
        return first.with_normaliser(op, second)
    if isinstance(second, Tensor):
        return first.with_constant(op, second)
    if isinstance(first, Normaliser):
        return first.with_value(op, second)
    raise UnsupportedModelError(f"{op} of attention scores or weights: these may be scaled, added to, and masked")


def _rank(operand: Any) -> int:
    return 2 if isinstance(operand, Pairs | Unnormalised) else int(isinstance(operand, Normaliser))
