"""Sequences of positions that are cut, shifted and joined, and attention between pieces: exact or refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import sampling
from fastgen.distributions import Bernoulli
from fastgen.sampling import UnsupportedModelError
from samplers import assert_same_as_naive

SIZES = [(3, 4), (4, 4)]


class Sequence(nn.Module):
    """``function(model, e, h)`` makes (N, L, 4) of the embedded pixels e, and of h, shifted by a start token."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.embed, self.linear, self.out = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.sos = nn.Parameter(torch.randn(2, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        e = self.embed(x.flatten(2).transpose(1, 2))
        h = torch.cat([self.sos[0].expand(len(x), 1, 4), e[:, :-1]], 1)
        return self.out(self.function(self, e, h)).transpose(1, 2).reshape(x.shape)


def masked(scores: Tensor, strict: bool = False) -> Tensor:
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(-1 if strict else 0).logical_not()
    return scores.masked_fill(later, -math.inf)


def heads(m: nn.Module, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (each(h).unflatten(2, (2, 2)).transpose(1, 2) for each in (m.q, m.k, m.v))
    return q @ k.transpose(2, 3), v, k


def assigned(m: nn.Module, e: Tensor, h: Tensor) -> Tensor:
    made = torch.zeros_like(e)
    made[:, 1:] = e[:, :-1]
    made[:, 0] = m.sos[0]
    return m.linear(made)


def scaled_by_head(m: nn.Module, e: Tensor, h: Tensor) -> Tensor:
    scores, v, _ = heads(m, h)
    return (masked(scores * torch.tensor([0.5, 2.0]).view(2, 1, 1)).softmax(-1) @ v).transpose(1, 2).flatten(2)


EXACT = {
    "a piece, a layer, padded": lambda m, e, h: F.pad(m.linear(e[:, :-1]), (0, 0, 1, 0)),
    "shifted by more than a row": lambda m, e, h: F.pad(e, (0, 0, 6, 0))[:, : e.shape[1]],
    "two start tokens": lambda m, e, h: torch.cat([m.sos.expand(2, len(e), 4).transpose(0, 1), e], 1)[:, : e.shape[1]],
    "assigned": assigned,
    "scaled by head": scaled_by_head,
    "negated": lambda m, e, h: masked(-(m.q(h) @ m.k(h).transpose(1, 2))).softmax(-1) @ m.v(h),
    "one head": lambda m, e, h: (masked(m.q(h)[:, None] @ m.k(h)[:, None].mT).softmax(-1) @ m.v(h)[:, None])[:, 0],
    "rows above alone": lambda m, e, h: rows_above(m, h),
    "keys of a piece of a piece": lambda m, e, h: piece_of_keys(m, h),
    "no key at first": lambda m, e, h: masked(m.q(h) @ m.k(h).mT, strict=True).softmax(-1).nan_to_num(0) @ m.v(h),
}


def piece_of_keys(m: nn.Module, h: Tensor) -> Tensor:
    later = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool).triu(1)[:, 2:]
    weights = (m.q(h) @ m.k(h)[:, 1:][:, 1:].mT).masked_fill(later, -math.inf).softmax(-1).nan_to_num(0)
    return weights @ m.v(h[:, 2:]) + h


def beyond(m: nn.Module, e: Tensor) -> Tensor:
    """All positions read the one behind the last pixel, which is no pixel's."""
    h = torch.cat([m.sos[0].expand(len(e), 1, 4), e], 1)
    read = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool).tril()
    read[:, -1] = True
    return ((m.q(h) @ m.k(h).mT).masked_fill(~read, -math.inf).softmax(-1) @ m.v(h))[:, :-1]


def heads_reordered(m: nn.Module, h: Tensor) -> Tensor:
    q, k, v = (each(h).view(*h.shape[:2], 2, 2, 1).permute(0, 2, 3, 1, 4) for each in (m.q, m.k, m.v))
    return (masked(q @ k.mT).transpose(1, 2).softmax(-1) @ v).permute(0, 3, 1, 2, 4).flatten(2)


def rows_above(m: nn.Module, h: Tensor) -> Tensor:
    row = torch.arange(h.shape[1]) // 4
    allowed = (row[:, None] > row).to(h.dtype)
    weights = (m.q(h) @ m.k(h).mT).masked_fill(allowed == 0, -1e9).softmax(-1) * allowed
    return weights @ m.v(h) + h


@pytest.mark.parametrize("name", EXACT)
def test_exact(name):
    torch.manual_seed(0)
    for size in SIZES:
        assert_same_as_naive(Sequence(EXACT[name]), (1, *size), Bernoulli(), to_input=torch.Tensor.float)


def together(m: nn.Module, h: Tensor, join) -> Tensor:
    """The first head alone is masked."""
    scores, v, _ = heads(m, h)
    a, b = scores.chunk(2, 1)
    return (join(masked(a), b).softmax(-1) @ v).transpose(1, 2).flatten(2)


REFUSED = {
    "a first position cut away, then padded": lambda m, e, h: F.pad(m.linear(e[:, 1:]), (0, 0, 1, 0)),
    "pieces side by side": lambda m, e, h: F.pad(torch.cat([e[:, :-1, :2], e[:, 1:, :2]], -1), (0, 0, 1, 0)),
    "pieces added": lambda m, e, h: F.pad(m.q(h[:, :-1]) + m.k(h[:, 1:]), (0, 0, 1, 0)),
    "scores side by side": lambda m, e, h: together(m, h, lambda a, b: torch.cat([a, b], 1)),
    "scores stacked": lambda m, e, h: together(m, h, lambda a, b: torch.stack([a, b], 1).flatten(1, 2)),
    "weights cut": lambda m, e, h: F.pad(masked(m.q(h) @ m.k(h).mT).softmax(-1)[:, 1:] @ m.v(h), (0, 0, 1, 0)),
    "weights padded": lambda m, e, h: F.pad(masked(m.q(h) @ m.k(h).mT).softmax(-1), (0, 0, 1, -1)) @ m.v(h),
    "weights summed over heads": lambda m, e, h: masked(heads(m, h)[0]).softmax(-1).mean(1) @ m.v(h),
    "a position behind the last pixel": lambda m, e, h: beyond(m, e),
    "heads reordered": lambda m, e, h: heads_reordered(m, h),
    "values of other positions": lambda m, e, h: masked(m.q(h) @ m.k(h)[:, :-1].mT).softmax(-1) @ m.v(h)[:, 1:],
    "a mask of more dimensions": lambda m, e, h: (m.q(h) @ m.k(h).mT + torch.zeros(1, 1, 1, 1))[0].softmax(-1) @ m.v(h),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(UnsupportedModelError):
        sampling.compile(Sequence(REFUSED[name]), (1, 4, 4), Bernoulli(), "integers")


MAPS = {  # of one size, whose positions stand at other pixels
    "strided alone": lambda h: F.pad(h[:, :, ::2, ::2], (0, 2, 0, 2)),
    "cropped and strided": lambda h: h + F.pad(h[:, :, ::2, ::2], (0, 2, 0, 2)),
    "side by side": lambda h: torch.cat([h[:, :, :2, :2], h[:, :, ::2, ::2]], 1).sum((1,), True).repeat(1, 1, 2, 2),
    "transposed": lambda h: torch.cat([h, h.transpose(2, 3)], 1)[:, :1],
    "permuted": lambda h: torch.cat([h.repeat(1, 4, 1, 1), h.repeat(1, 4, 1, 1).permute(0, 2, 1, 3)], 1)[:, :1],
    "values strided": lambda h: attended(h[:, :, :2, :2], h[:, :, ::2, ::2]),
}


def attended(keys: Tensor, values: Tensor) -> Tensor:
    k, v = (each.flatten(2).transpose(1, 2) for each in (keys, values))
    y = F.scaled_dot_product_attention(k, k, v, is_causal=True)
    return F.pad(y.transpose(1, 2).reshape(values.shape), (0, 2, 0, 2))


class Maps(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(F.pad(x, (1, 0))[..., :-1])


@pytest.mark.parametrize("name", MAPS)
def test_positions_that_stand_at_other_pixels_are_told_apart(name):
    with pytest.raises(UnsupportedModelError):
        sampling.compile(Maps(MAPS[name]), (1, 4, 4), Bernoulli(), "integers")
