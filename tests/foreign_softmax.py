"""Attention whose softmax is written by hand, as other people write it: exponentials, and what they are divided by."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: From scores (N, heads, L, L), values (N, heads, L, C) and a mask (L, L) of 0 and 1 to (N, heads, L, C).
Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def hidden(s: Tensor, mask: Tensor, number: float = -math.inf) -> Tensor:
    return s.masked_fill(mask == 0, number)


def total(w: Tensor) -> Tensor:
    return w.sum(-1, keepdim=True)


def largest(s: Tensor) -> Tensor:
    return s.max(-1, keepdim=True).values


def less_largest(s: Tensor) -> Tensor:
    return s - largest(s)


def over_sum(w: Tensor) -> Tensor:
    return w / total(w)


def over_clamped(w: Tensor) -> Tensor:
    return w / total(w).clamp(min=1e-6)


def ages(mask: Tensor) -> Tensor:
    """How far a key is behind its query."""
    place = torch.arange(len(mask))
    return (place[:, None] - place).clamp(min=0)


def _in_place(s: Tensor, v: Tensor, m: Tensor) -> Tensor:
    w = s - s.amax(-1, keepdim=True)
    w.exp_().mul_(m)
    w /= total(w)
    return w @ v


def _by_hand_twice(s: Tensor, v: Tensor, m: Tensor) -> Tensor:
    s = hidden(s, m)
    top = largest(s)
    return (s - (top + (s - top).exp().sum(-1, keepdim=True).log())).exp() @ v


def _keys_first(s: Tensor, v: Tensor, m: Tensor) -> Tensor:
    w = (s - s.amax(-1, keepdim=True)).transpose(-1, -2).exp() * m.t()
    return (v.transpose(-1, -2) @ (w / w.sum(-2, keepdim=True))).transpose(-1, -2)


def _keys_first_after(s: Tensor, v: Tensor, m: Tensor) -> Tensor:
    w = s.transpose(-1, -2).exp() * m.t()
    return ((v.transpose(-1, -2) @ w) / w.sum(-2, keepdim=True)).transpose(-1, -2)


def _after_rearranged(s: Tensor, v: Tensor, m: Tensor) -> Tensor:
    w = s.exp() * m
    y = torch.einsum("nhqk,nhkc->nqhc", w, v) / w.sum(-1).transpose(1, 2)[..., None]
    return y.transpose(1, 2)


def _after_ones(s: Tensor, v: Tensor, m: Tensor) -> Tensor:
    w = s.exp() * m
    return (w @ v) / (w @ torch.ones(len(m), 1, dtype=v.dtype))


def _after_many_ones(s: Tensor, v: Tensor, m: Tensor) -> Tensor:
    w = (s.exp() * m).transpose(-1, -2)
    return ((v.transpose(-1, -2) @ w) / (torch.ones(v.shape, dtype=v.dtype).transpose(-1, -2) @ w)).transpose(-1, -2)


FORMS: dict[str, Form] = {
    "a product with the mask": lambda s, v, m: over_sum(s.exp() * m) @ v,
    "-inf filled in": lambda s, v, m: over_sum(hidden(s, m).exp()) @ v,
    "a number filled in": lambda s, v, m: over_sum(hidden(s, m, -1e9).exp()) @ v,
    "a number added": lambda s, v, m: over_sum((s * m - 1e10 * (1 - m)).exp()) @ v,
    "0 filled in after": lambda s, v, m: over_sum(hidden(s.exp(), m, 0)) @ v,
    "torch.where": lambda s, v, m: over_sum(torch.where(m > 0, s.exp(), 0.0)) @ v,
    "less the largest masked": lambda s, v, m: over_sum(less_largest(hidden(s, m)).exp()) @ v,
    "less the largest, detached": lambda s, v, m: over_sum((s - s.amax(-1, keepdim=True).detach()).exp() * m) @ v,
    "less the largest, then masked": lambda s, v, m: over_sum(hidden(s - largest(s), m, -1e9).exp()) @ v,
    "less the largest of a head": lambda s, v, m: over_sum((s - s.amax((-2, -1), keepdim=True)).exp() * m) @ v,
    "less the largest of all": lambda s, v, m: over_sum((s - s.max()).exp() * m) @ v,
    "the largest less it, negated": lambda s, v, m: over_sum((-(largest(s) - s)).exp() * m) @ v,
    "less a multiple of the largest": lambda s, v, m: over_sum((s - largest(s) * 0.9).exp() * m) @ v,
    "less the largest of all earlier": lambda s, v, m: over_sum((s - hidden(s, m.tril(-1)).max()).exp() * m) @ v,
    "subtracted and added again": lambda s, v, m: (
        (0 - less_largest(s) - largest(s)).exp() * m / total((-s).exp() * m) @ v
    ),
    "a temperature after": lambda s, v, m: over_sum(((s - largest(s)) / 0.7).exp() * m) @ v,
    "a softmax of the shifted": lambda s, v, m: hidden(s - largest(s), m).softmax(-1) @ v,
    "less the logsumexp": lambda s, v, m: (hidden(s, m) - torch.logsumexp(hidden(s, m), -1, keepdim=True)).exp() @ v,
    "less the logarithm of the sum": lambda s, v, m: (hidden(s, m) - total(hidden(s, m).exp()).log()).exp() @ v,
    "less the stable logarithm": _by_hand_twice,
    "over the logsumexp's exponential": lambda s, v, m: (
        hidden(s, m).exp() / hidden(s, m).logsumexp(-1, keepdim=True).exp() @ v
    ),
    "log_softmax": lambda s, v, m: F.log_softmax(hidden(s, m), -1).exp() @ v,
    "a log_softmax, masked": lambda s, v, m: over_sum(F.log_softmax(s, -1).exp() * m) @ v,
    "the logarithm of a softmax": lambda s, v, m: over_sum(hidden(s.softmax(-1).log(), m).exp()) @ v,
    "a softmax, masked": lambda s, v, m: over_sum(F.softmax(s, -1) * m) @ v,
    "a softmax, filled with 0": lambda s, v, m: over_sum(hidden(F.softmax(s, -1), m, 0)) @ v,
    "divided twice": lambda s, v, m: over_sum(over_sum(s.exp() * m)) @ v,
    "after the values": lambda s, v, m: ((s.exp() * m) @ v) / total(s.exp() * m),
    "after the values, stable": lambda s, v, m: (((s - largest(s)).exp() * m) @ v) / total((s - largest(s)).exp() * m),
    "after the values, of a softmax": lambda s, v, m: (
        ((s.softmax(-1) * m) @ v) / (s.softmax(-1) * m).sum(-1)[..., None]
    ),
    "after the values, once more": lambda s, v, m: (hidden(s, m).softmax(-1) @ v) / total(hidden(s, m).softmax(-1)),
    "after the values, masked twice": lambda s, v, m: (
        ((hidden(s, m, -1e9).softmax(-1) * m) @ v) / total(hidden(s, m, -1e9).softmax(-1) * m)
    ),
    "after the values, times 1 over": lambda s, v, m: (1 / total(s.exp() * m)) * ((s.exp() * m) @ v),
    "after the values, rearranged": _after_rearranged,
    "after the values, by ones": _after_ones,
    "after the values, by many ones": _after_many_ones,
    "times 1 over the sum": lambda s, v, m: (s.exp() * m) * (1 / total(s.exp() * m)) @ v,
    "times the sum's reciprocal": lambda s, v, m: (s.exp() * m) * total(s.exp() * m).reciprocal() @ v,
    "the sum expanded": lambda s, v, m: (s.exp() * m) / total(s.exp() * m).expand_as(s) @ v,
    "over the largest, then the sum": lambda s, v, m: over_sum(s.exp() * m / largest(s.exp() * m)) @ v,
    "F.normalize": lambda s, v, m: F.normalize(less_largest(hidden(s, m)).exp(), p=1, dim=-1) @ v,
    "a clamped sum, 1 at least": lambda s, v, m: over_clamped(less_largest(hidden(s, m, -1e9)).exp() * m) @ v,
    "weights that decay": lambda s, v, m: over_sum(s.exp() * m * 0.8 ** ages(m)) @ v,
    "distances": lambda s, v, m: over_sum((s - 0.3 * ages(m)).exp() * m) @ v,
    "heads apart": lambda s, v, m: over_sum(s.exp() * torch.stack([m, m.triu(-1)])) @ v,
    "in place": _in_place,
    "all in place": lambda s, v, m: s.masked_fill_(m == 0, -math.inf).sub_(largest(s)).exp_().div_(total(s)) @ v,
    "keys first": _keys_first,
    "keys first, after the values": _keys_first_after,
}  # fmt: skip


def _none_is_0(s: Tensor, v: Tensor, m: Tensor) -> Tensor:
    s = hidden(s, m)
    return over_clamped((s - largest(s).nan_to_num(neginf=0)).exp()) @ v


#: Of a mask that leaves the first position without a key, whose weights are then 0.
STRICT: dict[str, Form] = {
    "filled with 0": lambda s, v, m: hidden(over_sum(s.exp() * m), m, 0) @ v,
    "NaN becomes 0": lambda s, v, m: over_sum(hidden(s, m).exp()).nan_to_num() @ v,
    "the largest's NaN becomes 0": lambda s, v, m: over_sum(less_largest(hidden(s, m)).exp()).nan_to_num() @ v,
    "a softmax, masked": lambda s, v, m: over_sum(s.softmax(-1) * m).nan_to_num() @ v,
    "a clamped sum": lambda s, v, m: over_clamped(less_largest(hidden(s, m, -1e9)).exp() * m) @ v,
    "F.normalize": lambda s, v, m: F.normalize(less_largest(hidden(s, m, -1e9)).exp() * m, p=1, dim=-1) @ v,
    "the largest of none is 0": _none_is_0,
    "one number, times 0": lambda s, v, m: (
        over_sum(less_largest(hidden(s, m, -1e9)).exp()) * m.amax(-1, keepdim=True) @ v
    ),
}  # fmt: skip


class ByHand(nn.Module):
    """Pixels as a sequence, one attention of two heads; ``strict`` leaves out a position itself.

    ``late``: the start token comes before all pixels, and the last position is left out at the end.
    """

    def __init__(self, form: Form, strict: bool = False, late: bool = False) -> None:
        super().__init__()
        self.form, self.strict, self.late = form, strict, late
        self.embed, self.qkv, self.head = nn.Linear(1, 6), nn.Linear(6, 18), nn.Linear(6, 1)
        self.start = nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        N, _, H, W = x.shape
        pixels = self.embed(x.flatten(2).transpose(1, 2))
        h = torch.cat([self.start.expand(N, 1, 6), pixels if self.late else pixels[:, :-1]], 1)
        q, k, v = (each.unflatten(2, (2, 3)).transpose(1, 2) for each in self.qkv(h).chunk(3, -1))
        mask = torch.ones(h.shape[1], h.shape[1], dtype=x.dtype).tril(-1 if self.strict else 0)
        y = self.form(2 * q @ k.transpose(-1, -2), v, mask)
        return self.head(h + y.transpose(1, 2).flatten(2))[:, : H * W].transpose(1, 2).view_as(x)


class AlongRows(nn.Module):
    """One head, along each row up to the pixel."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form, self.embed, self.qkv, self.head = form, nn.Linear(1, 4), nn.Linear(4, 12), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(F.pad(x, (1, 0))[..., :-1].permute(0, 2, 3, 1))
        q, k, v = self.qkv(h).chunk(3, -1)
        y = self.form(q @ k.transpose(-1, -2), v, torch.ones(x.shape[3], x.shape[3], dtype=x.dtype).tril())
        return self.head(h + y).permute(0, 3, 1, 2)
