"""Attention in a plan: found in whatever form, exact, and refused where it sees what is drawn later."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import sampling
from fastgen.distributions import Bernoulli, Categorical
from fastgen.sampling import UnsupportedModelError
from foreign_attention import GPT, MADE, STARTS, STYLES, Axial, Encoder, Local, PixelSnail, SequenceFirst, WaveNet
from samplers import assert_same_as_naive

SIZES = [(4, 5), (3, 3)]


def integers(values: Tensor) -> Tensor:
    return values.float()


def attends(model: nn.Module, size: tuple[int, int], law: object) -> int:
    plan = sampling.compile(model.eval(), (1, *size), law, "integers").plan
    return sum(instruction.attend is not None for instruction in plan.instructions)


@pytest.mark.parametrize("size", SIZES)
def test_pixelsnail(size):
    torch.manual_seed(0)
    model = PixelSnail(size)
    assert_same_as_naive(model, (1, *size), Categorical(3), 5, to_input=integers)
    assert attends(model, size, Categorical(3)) == 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("style", STYLES)
def test_masks_however_written(style, size):
    torch.manual_seed(0)
    model = GPT(size, style)
    assert_same_as_naive(model, (1, *size), Categorical(3), to_input=integers)
    assert attends(model, size, Categorical(3)) == 2


def test_a_pixel_reads_the_earlier_ones_and_no_pair_twice():
    plan = sampling.compile(GPT((3, 4)).eval(), (1, 3, 4), Categorical(3), "integers").plan
    attending = [instruction for instruction in plan.instructions if instruction.attend is not None]
    assert [i.attend.pattern.pairs for i in attending] == [12 * 13 // 2] * 2
    assert {i.flops for i in attending} == {round(2 * 16 * 6.5)}
    assert {plan.buffers[i.attend.keys.buffer].keep for i in attending} == {3}
    assert "attention(b" in sampling.explain(
        sampling.compile(GPT((3, 4)).eval(), (1, 3, 4), Categorical(3), "integers")
    )


def test_what_is_filled_in_is_remembered():
    """So that drawing stops where it would weigh something."""
    for style, number in (("sdpa", -torch.inf), ("gpt2", -1e10), ("added", torch.finfo(torch.float32).min)):
        plan = sampling.compile(GPT((3, 3), style).eval(), (1, 3, 3), Categorical(3), "integers").plan
        assert {i.attend.pattern.floor for i in plan.instructions if i.attend is not None} == {number}


@pytest.mark.parametrize("start", STARTS)
def test_start_tokens(start):
    torch.manual_seed(0)
    for size in SIZES:
        assert_same_as_naive(GPT(size, start=start), (1, *size), Categorical(3), 1, to_input=integers)


@pytest.mark.parametrize("make", [SequenceFirst, Encoder])
def test_torchs_own_layers(make):
    torch.manual_seed(0)
    law = Categorical(2) if make is SequenceFirst else Bernoulli()
    for size in SIZES:
        assert_same_as_naive(make(size), (1, *size), law, to_input=integers)
        assert attends(make(size), size, law) == (1 if make is SequenceFirst else 2)


class Layers(nn.Module):
    """``call`` is told nn.MultiheadAttention, nn.TransformerEncoderLayer, a sequence (N, L, C) and its two masks."""

    def __init__(self, call, norm_first: bool = False) -> None:
        super().__init__()
        self.call = call
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(6, 2, 10, batch_first=True, norm_first=norm_first)
        self.embed, self.head = nn.Linear(1, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(F.pad(x.flatten(2).transpose(1, 2), (0, 0, 1, -1)))
        later = torch.ones(h.shape[1], h.shape[1]).triu(1).bool()
        added = torch.zeros(later.shape, dtype=h.dtype).masked_fill(later, -torch.inf)
        return self.head(self.call(self, h, later, added)).transpose(1, 2).view_as(x)


CALLS = [
    lambda m, h, later, added: m.attention(h, h, h, attn_mask=later, need_weights=False)[0],
    lambda m, h, later, added: m.attention(h, h, h, attn_mask=added, need_weights=False)[0],
    lambda m, h, later, added: m.attention(h, h, h, attn_mask=added, is_causal=True, need_weights=False)[0],
    lambda m, h, later, added: m.attention(
        h, h, h, attn_mask=added.expand(2 * len(h), -1, -1), need_weights=False
    )[0],
    lambda m, h, later, added: m.layer(h, src_mask=added),
    lambda m, h, later, added: m.layer(h, src_mask=later),
    lambda m, h, later, added: m.layer(h, src_mask=added, is_causal=True),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_torchs_own_layers_however_called(call):
    torch.manual_seed(0)
    for size in SIZES:
        for norm_first in (False, True):
            model = Layers(call, norm_first)
            assert_same_as_naive(model, (1, *size), Bernoulli(), to_input=integers)
            assert attends(model, size, Bernoulli()) == 1


@pytest.mark.parametrize("kind", ["last", "near", "strided", "heads"])
def test_local_attention(kind):
    torch.manual_seed(0)
    for size in SIZES:
        assert_same_as_naive(Local(size, kind), (1, *size), Bernoulli(), to_input=integers)


def test_local_attention_along_a_wavefront():
    torch.manual_seed(0)
    model = Local((14, 12), "near")
    assert_same_as_naive(model, (1, 14, 12), Bernoulli(), to_input=integers)
    assert sampling.compile(model.eval(), (1, 14, 12), Bernoulli(), "integers").plan.slope is not None
    assert attends(model, (14, 12), Bernoulli()) == 1


def test_axial_attention():
    torch.manual_seed(0)
    for size in SIZES:
        assert_same_as_naive(Axial(size), (1, *size), Bernoulli(), to_input=integers)


def test_wavenet():
    torch.manual_seed(0)
    for length in (9, 20):
        assert_same_as_naive(WaveNet(), (1, 1, length), Categorical(4), to_input=integers)


@pytest.mark.parametrize("levels", [1, 3])
def test_made(levels):
    torch.manual_seed(0)
    for size in SIZES:
        law = Bernoulli() if levels == 1 else Categorical(levels)
        assert_same_as_naive(MADE(size, levels), (1, *size), law, 5, to_input=integers)
        assert_same_as_naive(MADE(size, levels, colors=3), (3, *size), law, to_input=integers)


# ---- what is refused


class Attending(nn.Module):
    """``change`` makes weights of the scores (N, L, L) and of a mask of earlier positions."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        h = F.pad(x, (1, 0))[..., :-1].flatten(2).transpose(1, 2)
        mask = torch.ones(h.shape[1], h.shape[1], dtype=x.dtype).tril()
        return (self.change(h @ h.transpose(1, 2), mask) @ h).transpose(1, 2).view_as(x)


@pytest.mark.parametrize("size", [(1, 2), (3, 4)])
def test_attention_none_of_whose_positions_has_a_key_is_zeros(size):
    for change in (
        lambda s, m: s.softmax(-1).masked_fill(m >= 0, 0),
        lambda s, m: s.masked_fill(m >= 0, -torch.inf).softmax(-1).nan_to_num(),
    ):
        sampler = sampling.compile(Attending(change), (1, *size), Bernoulli(), "integers")
        assert not sampler.forced(torch.ones(2, 1, *size, dtype=torch.int64)).any()


REFUSED = [
    (lambda s, m: s.softmax(-1), r"model: pixel \(r, c\) reads \(r\+3, c\+3\)"),
    (lambda s, m: s.masked_fill(m.tril(-1) == 0, -torch.inf).softmax(-1), "a position that has no key"),
    (lambda s, m: s.masked_fill(m.tril(-1) == 0, -1e9).softmax(-1), "all of whose keys are masked with one finite"),
    (lambda s, m: (s * m).softmax(-1), "masked keys have finite scores"),
    (lambda s, m: (s + (1 - m) * -1e4).softmax(-1), "a mask between -10000 and -1e.08 that is added to scores"),
    (lambda s, m: s.softmax(-1) * m, "changed after the softmax, and not divided by"),
    (
        lambda s, m: s.masked_fill(m == 0, -torch.inf).softmax(1),
        "other than attention: its weights are normalised over the queries",
    ),
    (lambda s, m: s.masked_fill(m == 0, -torch.inf).exp(), "exponentials of scores, .* not divided by their own sum"),
    (lambda s, m: s.masked_fill(m == 0, -torch.inf).softmax(-1) + 1, "add of attention weights"),
    (lambda s, m: (s * (1 + m.cumsum(0))).masked_fill(m == 0, -torch.inf).softmax(-1), "scaled differently"),
    (lambda s, m: s, "a product of two things .* scores that are no softmax"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSED)
def test_refused(change, reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        sampling.compile(Attending(change), (1, 4, 4), Bernoulli(), "integers")


def test_several_start_tokens_are_refused():
    class Registers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.cat([torch.ones(len(x), 3, 1), x.flatten(2).transpose(1, 2)], 1)
            y = F.scaled_dot_product_attention(h, h, h, is_causal=True)[:, 2:-1]
            return y.transpose(1, 2).view_as(x)

    with pytest.raises(UnsupportedModelError, match="2 more behind the last pixel: a plan has one start token"):
        sampling.compile(Registers(), (1, 3, 4), Bernoulli(), "integers")
