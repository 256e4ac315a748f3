"""Attention whose softmax is written by hand: planned as the softmax that it is, and refused where it is none."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import sampling
from fastgen.distributions import Bernoulli
from fastgen.sampling import UnsupportedModelError
from foreign_softmax import (
    FORMS,
    STRICT,
    AlongRows,
    ByHand,
    ages,
    hidden,
    largest,
    less_largest,
    over_clamped,
    over_sum,
    total,
)
from samplers import assert_same_as_naive

SIZES = [(3, 4), (2, 3)]


def patterns(model: nn.Module, size: tuple[int, int]) -> list[sampling.plan.Pattern]:
    """Of the instructions that attend."""
    plan = sampling.compile(model.eval(), (1, *size), Bernoulli(), "integers").plan
    return [instruction.attend.pattern for instruction in plan.instructions if instruction.attend is not None]


def assert_planned(model: nn.Module, size: tuple[int, int], n: int) -> None:
    """The forward's own parameters and draws, in float64 and in float32."""
    assert_same_as_naive(model, (1, *size), Bernoulli(), n, to_input=lambda values: values.float())
    sampler = sampling.compile(model.eval(), (1, *size), Bernoulli(), "integers")
    assert sampling.verify(sampler, n).same


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_however_it_is_written(form, size):
    torch.manual_seed(0)
    model = ByHand(FORMS[form])
    for n in (1, 5):
        assert_planned(model, size, n)
    length = size[0] * size[1]
    read = [length * (length + 1) // 2] if form != "heads apart" else [length * (length + 1) // 2, 2 * length - 1]
    assert [pattern.pairs for pattern in patterns(model, size)] == read


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", STRICT)
def test_of_a_position_without_a_key(form, size):
    torch.manual_seed(0)
    model = ByHand(STRICT[form], strict=True)
    for n in (1, 5):
        assert_planned(model, size, n)
    length = size[0] * size[1]
    assert [pattern.pairs for pattern in patterns(model, size)] == [length * (length - 1) // 2]


@pytest.mark.parametrize("form", ["less the largest masked", "a softmax, masked", "after the values, rearranged"])
def test_of_a_piece_of_a_sequence(form):
    torch.manual_seed(0)
    for size in SIZES:
        assert_planned(ByHand(FORMS[form], late=True), size, 5)
        assert len(patterns(ByHand(FORMS[form], late=True), size)) == 1


@pytest.mark.parametrize(
    "form", ["less the largest masked", "less the largest of a head", "after the values", "log_softmax"]
)
def test_along_rows(form):
    torch.manual_seed(0)
    for size in SIZES:
        assert_planned(AlongRows(FORMS[form]), size, 5)
        assert [pattern.pairs for pattern in patterns(AlongRows(FORMS[form]), size)] == [
            size[0] * size[1] * (size[1] + 1) // 2
        ]


@pytest.mark.parametrize("form", ["less the largest of all", "less the largest of a head", "after the values, by ones"])
@pytest.mark.parametrize("make", [ByHand, AlongRows])
def test_of_narrow_images(make, form):
    """Whose rows or columns are one position: views may put those of queries beside those of keys."""
    torch.manual_seed(0)
    for size in ((3, 1), (1, 3), (2, 1)):
        assert_planned(make(FORMS[form]), size, 5)
        assert len(patterns(make(FORMS[form]), size)) == 1


def test_what_weights_are_multiplied_with_is_added_to_scores():
    (pattern,) = patterns(ByHand(FORMS["weights that decay"]), (2, 2))
    assert torch.allclose(pattern.bias[0].tril(), (ages(torch.ones(4, 4)) * math.log(0.8)).tril().to(pattern.bias))
    assert pattern.floor == -math.inf
    (pattern,) = patterns(ByHand(FORMS["a number filled in"]), (2, 2))
    assert pattern.bias is None
    assert pattern.floor == -1e9


def strictly(s: Tensor, m: Tensor) -> Tensor:
    """Weights of earlier positions; the first's are 0."""
    return hidden(over_sum(s.exp() * m.tril(-1)), m.tril(-1), 0)


def less_logarithm(s: Tensor, top: Tensor) -> Tensor:
    return s - (top + total((s - top).exp()).log())


NOT_DIVIDED = "exponentials of scores, or changed after the softmax, and not divided by their own sum over the keys"
QUERIES = "its weights are normalised over the queries"
NO_KEY = "a position that has no key"

REFUSED = [
    # none of its own sum
    (lambda s, v, m: (s.exp() * m) @ v, NOT_DIVIDED),
    (lambda s, v, m: (s.exp() * m) / total(s.exp()) @ v, NOT_DIVIDED),
    (lambda s, v, m: ((s - 0.3 * ages(m)).exp() * m) / total(s.exp() * m) @ v, NOT_DIVIDED),
    (lambda s, v, m: F.normalize(s.exp() * m, dim=-1) @ v, "attention scores or weights, cut, joined or summed"),
    (lambda s, v, m: s.softmax(-1) * m @ v, NOT_DIVIDED),
    (lambda s, v, m: (s - largest(s)).exp() * m / total(s.exp() * m) @ v, NOT_DIVIDED),
    (lambda s, v, m: (s - s.max()).exp() * m / total((s - s.amax((-2, -1), keepdim=True)).exp() * m) @ v, NOT_DIVIDED),
    (lambda s, v, m: (2 * s).exp() * m / total(s.exp() * m) @ v, NOT_DIVIDED),
    (lambda s, v, m: over_sum(s.exp() * m) / total(s.exp() * m) @ v, NOT_DIVIDED),
    (lambda s, v, m: ((s.exp() * m) @ v) / total(s.exp()), NOT_DIVIDED),
    (lambda s, v, m: ((s.exp() * m) @ v) / total(s.exp() * m).log(), NOT_DIVIDED),
    (lambda s, v, m: (2 * s - 2 * largest(s) + largest(s)).exp() * m / total((2 * s).exp() * m) @ v, NOT_DIVIDED),
    (lambda s, v, m: (2 * less_largest(s) + largest(s)).exp() * m / total((2 * s).exp() * m) @ v, NOT_DIVIDED),
    (lambda s, v, m: (hidden(s, m).softmax(-1) @ v) / total(s.exp() * m), "rdiv of a sum of attention weights"),
    (lambda s, v, m: s.exp() * m * (2 / total(s.exp() * m)) @ v, "mul of a sum of attention weights"),
    (lambda s, v, m: over_sum(s.exp() * m).softmax(-1) @ v, "a softmax of attention weights"),
    # a sum of more than weights, or of less
    (lambda s, v, m: s.exp() * m / (total(s.exp() * m) + 1e-8) @ v, "add of a sum .* as an epsilon, are no softmax"),
    (lambda s, v, m: s.exp() * m / (1 + total(s.exp() * m)) @ v, "add of a sum .* as an epsilon, are no softmax"),
    (lambda s, v, m: ((s.exp() * m) @ v) / (total(s.exp() * m) + 1e-8), "add of a sum .* as an epsilon"),
    (lambda s, v, m: over_sum(s.exp() * m + 1e-9) @ v, "add of attention weights"),
    (lambda s, v, m: over_clamped(s.exp() * m) @ v, "a sum of attention weights that is clamped"),
    (lambda s, v, m: over_clamped((s - largest(s)).exp() * m) @ v, "a sum of attention weights that is clamped"),
    (lambda s, v, m: over_clamped((s - largest(hidden(s, m, -1e4))).exp() * m) @ v, "a sum .* that is clamped"),
    (lambda s, v, m: less_largest(hidden(s, m)).exp() / total(less_largest(hidden(s, m)).exp()).clamp(min=2.0) @ v,
     "a sum of attention weights that is clamped"),
    (lambda s, v, m: (s - largest(s).clamp(min=0)).exp() * m @ v, "a bound of the largest attention score"),
    (lambda s, v, m: (s.exp() * m) / (total(s.exp() * m) * 2) @ v, "mul of a sum of attention weights"),
    (lambda s, v, m: (s.exp() * m) / total(s.exp() * m).sqrt() @ v, "sqrt of a sum of attention weights"),
    # no exponentials
    (lambda s, v, m: over_sum(s * m) @ v, "a sum of attention scores without an exponential: no softmax"),
    (lambda s, v, m: (s * m) @ v, "scores that are no softmax, as linear attention has them"),
    (lambda s, v, m: over_sum(s.relu() * m) @ v, "relu of attention scores or weights"),
    (lambda s, v, m: over_sum(s.sigmoid() * m) @ v, "sigmoid of attention scores or weights"),
    (lambda s, v, m: over_sum((s.exp() * m) ** 2) @ v, "pow of attention scores or weights"),
    (lambda s, v, m: over_sum(s.exp().exp() * m) @ v, "exp of attention scores or weights"),
    (lambda s, v, m: over_sum(s.exp() * (m - 0.5)) @ v, "weights some of which are negative"),
    (lambda s, v, m: over_sum((s / largest(s)).exp() * m) @ v, "div of attention scores with the largest score"),
    (lambda s, v, m: over_sum((s / total(s.exp())).exp() * m) @ v, "div of attention scores with a sum of weights"),
    # over something other than the keys
    (lambda s, v, m: (s.exp() * m) / (s.exp() * m).sum(-2, keepdim=True) @ v, QUERIES),
    (lambda s, v, m: hidden(s, m).softmax(-2) @ v, QUERIES),
    (lambda s, v, m: (s.exp() * m) / total(s.exp() * m).transpose(-1, -2) @ v, QUERIES),
    (lambda s, v, m: (s.exp() * m) / (s.exp() * m).sum((-1, -2), keepdim=True) @ v, "other than the keys"),
    (lambda s, v, m: over_sum((s - s.amax(-2, keepdim=True)).exp() * m) @ v, "attention: over the queries"),
    (lambda s, v, m: over_sum((less_largest(s) - less_largest(s).max()).exp() * m) @ v, "a maximum over something"),
    (lambda s, v, m: over_sum(s.exp() * m).sum(1, keepdim=True) @ v, "a sum over something other than the keys"),
    # of the future, or of nothing
    (lambda s, v, m: over_sum(s.exp()) @ v, r"pixel \(r, c\) reads pixel|model: pixel"),
    (lambda s, v, m: hidden(s, m).softmax(-1) @ v + over_sum((s - largest(s)).exp()) @ v, "model: pixel"),
    (lambda s, v, m: over_sum(s.exp() * m.tril(-1)) @ v, NO_KEY),
    (lambda s, v, m: ((s.exp() * m.tril(-1)) @ v / total(s.exp() * m.tril(-1))).nan_to_num(), NO_KEY),
    (lambda s, v, m: over_sum((s - largest(hidden(s, m.tril(-1)))).exp() * m) @ v, NO_KEY),
    (lambda s, v, m: less_logarithm(hidden(s, m.tril(-1)), largest(s)).exp() @ v, NO_KEY),
    (lambda s, v, m: over_sum((s - largest(hidden(s, m.tril(-1)))).exp() * m).nan_to_num() @ v, "though there is"),
    (lambda s, v, m: over_sum(hidden(s, m.tril(-1), -1e9).exp()) * m.tril(-1).amax(-1, keepdim=True) @ v, NO_KEY),
    (lambda s, v, m: strictly(s, m) @ v / total(strictly(s, m)), "rdiv of a sum of attention weights"),
    (lambda s, v, m: over_clamped((s - largest(hidden(s, m.tril(-1))).nan_to_num()).exp() * m) @ v, "but of 0 for"),
    (lambda s, v, m: over_sum(hidden(s, m, -3).exp()) @ v, "masked keys have finite scores"),
    (lambda s, v, m: over_sum(hidden(s - largest(s), m, -1e5).exp()) @ v, "filled with more than -1e.08"),
    (lambda s, v, m: over_sum(hidden(s.exp(), m, 1e-9)) @ v, "filled with something other than 0"),
    (lambda s, v, m: over_sum(((s - largest(s)) * (1 + m)).exp() * m) @ v, "scaled otherwise than all alike"),
    # what is only described is no number
    (lambda s, v, m: v + largest(s).transpose(-1, -2) @ v, "for more than the scores or weights that it is of"),
    (lambda s, v, m: v + largest(s).flatten(1).sum(1)[:, None, None, None], "for more than the scores or weights"),
    (lambda s, v, m: v + F.linear(largest(s).flatten(1), torch.ones(1, 24))[..., None, None], "for more than"),
    (lambda s, v, m: v * largest(s), "mul of the largest attention score"),
    (lambda s, v, m: torch.cat([largest(s), v[..., 1:]], -1), "for more than the scores or weights that it is of"),
    (lambda s, v, m: v + (1 - s.softmax(-1)) @ v, "rsub of attention weights"),
    (lambda s, v, m: over_sum(s.exp() * m) @ torch.linspace(-1, 1, v.shape[2] * 3).view(-1, 3), "do not depend on the"),
    (lambda s, v, m: over_sum(s.exp() * m / largest(s)) @ v, "div of attention weights with the largest score"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "reason"), REFUSED)
def test_refused(form, reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        sampling.compile(ByHand(form).eval(), (1, 3, 4), Bernoulli(), "integers")


class Crossed(nn.Module):
    """Four heads, over an image of two pixels; ``form`` is told queries, keys, values (N, 4, 2, 2) and the mask."""

    def __init__(self, form) -> None:
        super().__init__()
        self.form, self.qkv = form, nn.Linear(1, 24)

    def forward(self, x: Tensor) -> Tensor:
        h = self.qkv(F.pad(x, (1, -1)).flatten(2).transpose(1, 2))
        q, k, v = (each.unflatten(2, (4, 2)).transpose(1, 2) for each in h.chunk(3, -1))
        y = self.form(q, k.transpose(-1, -2), v, torch.ones(2, 2, dtype=x.dtype).tril())
        return y.transpose(1, 2).flatten(2).sum(-1).view_as(x)


def weighed(q: Tensor, k: Tensor, m: Tensor) -> Tensor:
    return (q @ k).exp() * m


def by_twos(w: Tensor) -> Tensor:
    return w.unflatten(1, (2, 2))


OTHERS = [
    (lambda q, k, v, m: weighed(q, k, m) / total(weighed(v, k, m)) @ v, NOT_DIVIDED),
    (lambda q, k, v, m: weighed(q, k, m) / total(weighed(q, v.transpose(-1, -2), m)) @ v, NOT_DIVIDED),
    (
        lambda q, k, v, m: (
            by_twos(weighed(q, k, m)) / by_twos(total(weighed(q, k, m))).transpose(1, 2) @ by_twos(v)
        ).flatten(1, 2),
        "numbers that are not the same for all keys",
    ),
    (
        lambda q, k, v, m: (
            (by_twos(weighed(q, k, m)) @ by_twos(v)) / by_twos(total(weighed(q, k, m))).transpose(1, 2)
        ).flatten(1, 2),
        NOT_DIVIDED,
    ),
    (
        lambda q, k, v, m: (
            by_twos(weighed(q, k, m)) / by_twos(total(weighed(q, k, m))).transpose(2, 3) @ by_twos(v)
        ).flatten(1, 2),
        "numbers that are not the same for all keys",
    ),
    (
        lambda q, k, v, m: (
            (by_twos(weighed(q, k, m)) @ by_twos(v)) / by_twos(total(weighed(q, k, m))).transpose(2, 3)
        ).flatten(1, 2),
        NOT_DIVIDED,
    ),
]


@pytest.mark.parametrize(("form", "reason"), OTHERS)
def test_of_the_sums_of_other_pairs(form, reason):
    """Of shapes that fit: other queries, keys or heads, or heads where positions lie."""
    with pytest.raises(UnsupportedModelError, match=reason):
        sampling.compile(Crossed(form).eval(), (1, 1, 2), Bernoulli(), "integers")


def test_heads_in_twos():
    torch.manual_seed(0)
    model = Crossed(
        lambda q, k, v, m: (by_twos(weighed(q, k, m)) / by_twos(total(weighed(q, k, m))) @ by_twos(v)).flatten(1, 2)
    )
    assert_planned(model, (1, 2), 5)
    assert len(patterns(model, (1, 2))) == 1


def test_parameters_that_are_only_described():
    class Largest(nn.Module):
        def forward(self, x):
            h = x.flatten(2).transpose(1, 2)
            return (h @ h.transpose(1, 2)).amax(-1).view_as(x)

    with pytest.raises(UnsupportedModelError, match="model: expected parameters, got the largest attention score"):
        sampling.compile(Largest(), (1, 2, 3), Bernoulli(), "integers")
