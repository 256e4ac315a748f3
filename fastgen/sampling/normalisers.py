"""Numbers for each query: what a softmax written by hand subtracts from scores, or divides their exponentials by.

Whatever c is, as long as it is the same for all keys of a query, exp(s − c) / Σ exp(s − c) is softmax(s). So these
numbers are never computed, only described: as a sum of terms, each the largest score of all keys, or the logarithm of
the sum of their exponentials. A quotient is a softmax if what is left of all terms is that logarithm of its own scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .trace import UnsupportedModelError
from .traced_tensor import Dims, Value

#: What is in the place of the scores of keys that are not read, at most, where it is finite; and what is added to them,
#: which has to be far beyond all scores, since these are not looked at.
MASKED, ADDED = -1e4, -1e8

#: Along dimensions of size 1 that were expanded.
REPEATED = "x"


@dataclass(eq=False)
class Described(Value):
    """A tensor that is never computed: what is asked of it but views and its own arithmetic is refused, and why."""

    WHY: ClassVar[str] = (
        "attention scores or weights, cut, joined or summed: these may be scaled, added to, masked, and multiplied "
        "with values"
    )

    def settled(self) -> Value:
        return self

    def merged(self) -> Value:
        raise UnsupportedModelError(self.WHY)

    def _stride(self) -> tuple[int, int] | None:
        self.merged()
        return None

    def expand(self, shape: Sequence[int]) -> Value:
        lacking = len(shape) - len(self.dims)
        sizes = [have if size == -1 else size for size, have in zip(shape[lacking:], self.shape, strict=True)]
        return self if (lacking, *sizes) == (0, *self.shape) else self.merged()

    def slice(self, dim: int, start: int, step: int, count: int) -> Value:
        return self if (start, step, count) == (0, 1, self.shape[dim]) else self.merged()

    def heads(self) -> np.ndarray:
        """For each channel, of which head it is."""
        return self.channel


@dataclass(frozen=True, eq=False)
class Side:
    """The queries, the keys or the values of an attention.

    Attributes:
        value: (N, rows, columns, channels): heads, then those of one head.
        heads: how many.
        first, count: of a piece of a sequence, where it begins, and how many positions it has.
    """

    value: Value
    heads: int
    first: int
    count: int

    @property
    def every(self) -> int:
        """Positions of the maps."""
        return self.value.rows * self.value.columns

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns; a piece of a sequence is one row."""
        whole = (self.first, self.count) == (0, self.every)
        return (self.value.rows, self.value.columns) if whole else (1, self.count)

    def of(self, heads: list[int]) -> Value:
        """The channels of some heads."""
        width = self.value.part.size // self.heads
        channels = np.concatenate([np.arange(head * width, (head + 1) * width) for head in heads])
        dims: Dims = [*self.value.dims[:3], (("c", len(channels)),)]
        return replace(self.value, dims=dims, part=self.value.part[channels], channel=self.value.channel[channels])

    def is_same(self, other: Side) -> bool:
        """Whether both are the same numbers."""
        mine, theirs = self.value, other.value
        return (
            (self.heads, self.first, self.count) == (other.heads, other.first, other.count)
            and (mine.rows, mine.columns, mine.parts) == (theirs.rows, theirs.columns, theirs.parts)
            and np.array_equal(mine.part, theirs.part)
            and np.array_equal(mine.channel, theirs.channel)
        )


@dataclass(frozen=True, eq=False)
class Term:
    """The largest of the scores scale·q·k + bias of all keys, or the logarithm of the sum of their exponentials.

    Attributes:
        kind: which; of the largest of several queries' or heads', "max" and the dimensions.
        query, key: what is multiplied.
        scale, bias: (heads or 1, rows or 1, columns or 1, rows or 1, columns or 1): of queries, then of keys; those far
            beyond all others are none.
    """

    kind: str
    query: Side
    key: Side
    scale: Tensor
    bias: Tensor

    def is_same(self, other: Term) -> bool:
        return (
            self.kind == other.kind
            and self.query.is_same(other.query)
            and self.key.is_same(other.key)
            and equal(self.scale, other.scale)
            and equal(self.bias, other.bias)
        )

    def covers(self, largest: Term) -> bool:
        """Of a logarithm of a sum: whether ``largest`` is of its own scores, but for masked keys, so that the sum of
        what these are subtracted from is 1 at least where there is a key.
        """
        none = torch.isneginf(self.bias)
        agree = (self.scale == largest.scale) & (self.bias == largest.bias)
        masked = largest.bias <= ADDED
        same = (self.kind, largest.kind) == ("logsumexp", "max") and self.query.is_same(largest.query)
        return same and self.key.is_same(largest.key) and bool(torch.where(none, masked, agree).all())


#: Each with what it is multiplied by.
Terms = tuple[tuple[float, Term], ...]


def plus(first: Terms, second: Terms, factor: float) -> Terms:
    """First + factor · second."""
    result = list(first)
    for weight, term in second:
        at = next((index for index, (_, known) in enumerate(result) if known.is_same(term)), len(result))
        before = result[at][0] if at < len(result) else 0.0
        result[at : at + 1] = [(before + factor * weight, term)]
    return tuple((weight, term) for weight, term in result if weight)


@dataclass(eq=False)
class Normaliser(Described):
    """A number for each query and head; its channels are the heads, its ``channel`` their numbers.

    Attributes:
        terms: what it is the sum of.
        exponential: whether it is the exponential of that.
        undefined: bool, as ``Term.scale`` with one key: which are NaN.
        empty: likewise, which are of no key: −inf, or its exponential.
    """

    WHY: ClassVar[str] = (
        "the largest attention score, a logsumexp or a sum of attention weights, for more than the scores or weights "
        "that it is of: what reads it would have to be computed for all pairs"
    )

    terms: Terms = ()
    exponential: bool = False
    undefined: Tensor = None  # type: ignore[assignment]
    empty: Tensor = None  # type: ignore[assignment]

    def expand(self, shape: Sequence[int]) -> Value:
        """Repeated where nothing lies."""
        value: Normaliser = self
        for _ in range(len(shape) - len(self.dims)):
            value = replace(value, dims=[(), *value.dims])
        dims = list(value.dims)
        for dim, size in enumerate(shape):
            if size in (-1, value.shape[dim]):
                continue
            if value.shape[dim] != 1:
                raise UnsupportedModelError(f"an expansion of {self.shape} to {tuple(shape)}")
            dims[dim] = (*dims[dim], (REPEATED, size))
        return replace(value, dims=dims)

    def lies_along(self, other: Described) -> bool:
        """Whether it broadcasts to one of pairs, or of what they multiply, and is the same for all keys."""
        lacking = len(other.dims) - len(self.dims)
        if lacking < 0:
            return False
        mine: Dims = [()] * lacking + self.dims
        sizes, whole = [], []
        for along, theirs in zip(mine, other.dims, strict=True):
            left = [atom for atom in along if atom[1] > 1 and atom[0] != REPEATED]
            right = [atom for atom in theirs if atom[1] > 1]
            if left and left != right:
                return False
            whole += [size for kind, size in right if kind == "c"]
            sizes += [size if left else 1 for kind, size in right if kind == "c"]
        if self.channel.size == 1:
            return True
        return np.array_equal(np.broadcast_to(self.channel.reshape(sizes), whole), other.heads().reshape(whole))

    # ---- arithmetic

    def of_itself(self, op: str, parameters: Sequence[float]) -> Normaliser:
        """A step of the plan on it alone."""
        if op == "exp" and not self.exponential:
            return replace(self, exponential=True)
        if op == "log" and self.exponential:
            return replace(self, exponential=False)
        if (op == "neg" and not self.exponential) or (op == "reciprocal" and self.exponential):
            return replace(self, terms=plus((), self.terms, -1), undefined=self.undefined | self.empty)
        if op == "clamp" and tuple(parameters[1:]) == (math.inf,):
            return self.at_least(parameters[0])
        raise self.refusal(op)

    def with_constant(self, op: str, tensor: Tensor) -> Normaliser:
        """A step of the plan, before a constant."""
        one = float(tensor.reshape(-1)[0]) if equal(tensor, tensor.reshape(-1)[0]) else math.nan
        if op == "max" and math.isfinite(one):
            return self.at_least(one)
        if self.exponential and one == 1 and op in ("mul", "div", "rdiv"):
            return self.of_itself("reciprocal", ()) if op == "rdiv" else self
        if not self.exponential and op == "mul" and math.isfinite(one) and one:
            return replace(self, terms=plus((), self.terms, one), undefined=self.undefined | self.empty)
        raise self.refusal(op)

    def with_normaliser(self, op: str, other: Normaliser) -> Normaliser:
        signs = {"mul": 1, "div": -1} if self.exponential else {"add": 1, "sub": -1}
        if self.exponential != other.exponential or op not in signs or not self.lies_as(other):
            raise self.refusal(op)
        undefined = self.undefined | other.undefined | other.empty
        return replace(self, terms=plus(self.terms, other.terms, signs[op]), undefined=undefined)

    def with_value(self, op: str, other: Any) -> Value:
        """A step of the plan, before what is computed: the sum of weights that are divided by their sum is 1."""
        one = self.exponential and not self.terms and not bool((self.undefined | self.empty).any())
        if not one or op not in ("mul", "rdiv") or not isinstance(other, Value):
            raise self.refusal(op)
        return other.expand(torch.broadcast_shapes(self.shape, other.shape))

    def of_none(self, number: float | None) -> Normaliser:
        """With a number in the place of −inf, the largest score of no key, which leaves such scores what they are."""
        if self.exponential or number != 0 or bool(self.undefined.any()):
            raise self.refusal("nan_to_num, but of 0 for -inf,")
        return replace(self, empty=torch.zeros_like(self.empty))

    def lies_as(self, other: Normaliser) -> bool:
        return self.lies_along(other) and other.lies_along(self)

    def at_least(self, bound: float) -> Normaliser:
        """Clamped, which changes nothing where a sum is 1 at least, and makes a quotient 0 of a sum of nothing."""
        if not self.exponential:
            raise self.refusal("a bound")
        added = [term for weight, term in self.terms if weight == 1]
        taken = [term for weight, term in self.terms if weight == -1]
        whole = 0 < bound <= 1 and len(added) == len(taken) == 1 and len(self.terms) == 2
        if not whole or not added[0].covers(taken[0]):
            raise UnsupportedModelError(
                "a sum of attention weights that is clamped, and may be less than the bound: no softmax; subtract the "
                "largest score of the same keys before the exponential, or leave the clamp out"
            )
        return replace(self, empty=torch.zeros_like(self.empty))

    def refusal(self, op: str) -> UnsupportedModelError:
        if self.exponential and op in ("add", "sub", "rsub"):
            return UnsupportedModelError(
                f"{op} of a sum of attention weights: weights divided by their sum and something more, as an epsilon, "
                "are no softmax; leave it out, and let each position read a key"
            )
        what = "a sum of attention weights" if self.exponential else "the largest attention score, or a logsumexp"
        return UnsupportedModelError(
            f"{op or 'a copy'} of {what}: it may be subtracted from the scores, or divide the weights, that it is of"
        )


def equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors that broadcast against each other have the same numbers."""
    return torch.equal(*torch.broadcast_tensors(first, second))
