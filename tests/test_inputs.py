"""What a model reads for a value is stated, by a word or by the model, and is the same for every sampler."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures import randomise
from autoregressive import build
from fastgen import sampling
from fastgen.distributions import Bernoulli, Categorical
from fastgen.nn import MaskedConv2d
from fastgen.sampling import NaiveSampler, UnsupportedModelError
from parity import LOGITS_AGREE

LEVELS = 4


class Reading(nn.Module):
    """Causal in C colours of k channels each, with parameters of ``levels`` for each colour."""

    def __init__(self, colors: int, inputs: int) -> None:
        super().__init__()
        self.first = MaskedConv2d(colors * inputs, 6, 3, "A", color_groups=colors)
        self.second = MaskedConv2d(6, colors * LEVELS, 3, "B", color_groups=colors)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def one_hot(values: Tensor) -> Tensor:
    N, C, H, W = values.shape
    return F.one_hot(values, LEVELS).permute(0, 1, 4, 2, 3).reshape(N, C * LEVELS, H, W).float()


MAPPINGS = {
    "[-1, 1]": ("[-1, 1]", lambda values: values / 1.5 - 1),
    "[0, 1]": ("[0, 1]", lambda values: values / 3),
    "integers": ("integers", lambda values: values.float()),
    "one-hot": ("one-hot", one_hot),
    "one number each": ((0.25, 0.5), lambda values: (values / 3 - 0.25) / 0.5),
    "a function": (lambda values: values.float() ** 2, lambda values: values.float() ** 2),
    "a function of several channels": (one_hot, one_hot),
}


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize("name", MAPPINGS)
def test_every_sampler_reads_the_same(name, colors):
    to_input, expected = MAPPINGS[name]
    values = torch.randint(LEVELS, (3, colors, 5, 4))
    model = randomise(Reading(colors, expected(values).shape[1] // colors)).eval()
    given = (model, (colors, 5, 4), Categorical(LEVELS), to_input)
    naive = NaiveSampler(*given)
    with torch.no_grad():
        exact = model(expected(values))
    drawn = naive.sample(3, seed=0)
    assert (naive.forced(values) - exact).abs().max() < LOGITS_AGREE
    for options in ({}, {"executor": "reference"}, {"wavefront": False}):
        sampler = sampling.compile(*given, **options)
        assert (sampler.forced(values) - exact).abs().max() < LOGITS_AGREE
        assert torch.equal(sampler.sample(3, seed=0), drawn)


def test_one_number_for_each_colour():
    sampler = NaiveSampler(Reading(3, 1), (3, 2, 2), Categorical(LEVELS), ((0.1, 0.2, 0.3), (1, 2, 4)))
    values = torch.full((1, 3, 2, 2), 3)
    assert sampler.to_input(values)[0, :, 0, 0].tolist() == pytest.approx([0.9, 0.4, 0.175])
    assert "mean (0.1, 0.2, 0.3), std (1, 2, 4)" in repr(sampler)


def test_a_model_that_does_not_say_what_it_reads_is_refused():
    """Its weights do not tell {0, 1} from {−1, 1}, and read wrongly it draws wrong images without an error."""
    model = MaskedConv2d(1, 1, 3, "A")
    for make in (sampling.compile, NaiveSampler, sampling.explain):
        with pytest.raises(TypeError, match=r"to_input: expected one of '\[-1, 1\]', '\[0, 1\]', .* MaskedConv2d does"):
            make(model, (1, 4, 4), Bernoulli())


def test_one_of_our_distributions_on_a_model_says_nothing_of_what_it_reads():
    model = MaskedConv2d(1, 1, 3, "A")
    model.distribution = Bernoulli()
    for given in ((), (Bernoulli(),)):
        with pytest.raises(TypeError, match=r"to_input: expected one of .* MaskedConv2d does not say itself"):
            sampling.compile(model, (1, 4, 4), *given)


def test_another_mapping_than_the_models_own_is_refused():
    theirs = MaskedConv2d(1, 1, 3, "A")
    theirs.to_input = "[0, 1]"
    for model, other, own in ((build("pixelcnn"), "[0, 1]", "[-1, 1]"), (theirs, "[-1, 1]", "[0, 1]")):
        shape = (getattr(model, "in_channels", 1), 4, 4)
        distribution = getattr(model, "distribution", Bernoulli())
        expected = (
            rf"to_input: expected None or what {type(model).__name__} itself says that it reads, {re.escape(own)}"
        )
        with pytest.raises(ValueError, match=expected):
            sampling.compile(model, shape, distribution, to_input=other)
        assert sampling.compile(model, shape, distribution, to_input=own).to_input.name == own


def test_images_of_a_model_trained_on_zeros_and_ones():
    """A pixel is black after a black one and white after a white one; the first is black: all is, read rightly."""
    model = MaskedConv2d(1, 1, 3, "A")
    with torch.no_grad():
        model.weight.zero_()
        model.weight[0, 0, 1, 0] = 40
        model.bias.fill_(-20)
    sampler = sampling.compile(model, (1, 3, 5), Bernoulli(), to_input="[0, 1]")
    known, mask = torch.zeros(1, 3, 5, dtype=torch.int64), torch.zeros(3, 5, dtype=torch.bool)
    known[0, :, 1], mask[:, 1] = 1, True
    assert sampler.sample(4, seed=0, known=known, known_mask=mask).sum(dim=(0, 1, 2)).tolist() == [0, 12, 12, 12, 12]


def test_who_says_it_itself_need_not_be_told():
    model = build("pixelcnn")
    assert sampling.compile(model, (1, 4, 4)).to_input.name == "[-1, 1]"
    assert sampling.compile(model, (1, 4, 4), Bernoulli()).to_input.name == "[-1, 1]"
    with pytest.raises(TypeError, match="to_input: expected one of"):
        sampling.compile(build("pixelcnn-levels"), (1, 4, 4), Bernoulli())  # which it has other levels than
    own = Reading(1, 1)
    own.to_input = "[0, 1]"
    assert sampling.compile(own, (1, 4, 4), Categorical(LEVELS)).to_input.name == "[0, 1]"


def test_it_is_said_by_whatever_speaks_of_a_sampler():
    sampler = sampling.compile(randomise(Reading(1, 1)).eval(), (1, 3, 3), Categorical(LEVELS), "[0, 1]")
    assert repr(sampler) == (
        "CompiledSampler(Reading, (1, 3, 3), Categorical(levels=4), to_input='[0, 1] (0 → 0, 3 → 1)')"
    )
    assert sampling.explain(sampler).endswith("the model reads   [0, 1] (0 → 0, 3 → 1)")
    assert "both give the model [0, 1] (0 → 0, 3 → 1) to read" in str(sampling.verify(sampler, n=1))


def test_a_function_that_is_a_word_is_called_by_it():
    sampler = NaiveSampler(Reading(1, 1), (1, 3, 3), Categorical(LEVELS), lambda values: values / 3)
    assert sampler.to_input.name == "[0, 1]"


@pytest.mark.parametrize(
    ("to_input", "error", "message"),
    [
        ("0..1", ValueError, "to_input: expected one of .*, got '0..1'"),
        ("[0, 255]", ValueError, "to_input: expected 'integers' or another word for 4 levels"),
        (3, TypeError, "to_input: expected one of .*, got 3"),
        ((0.5,), ValueError, r"to_input: expected a pair \(mean, std\), got 1"),
        ((0.5, 0), ValueError, "to_input: expected positive standard deviations"),
        (((0, 0, 0), 1), ValueError, "to_input: expected one mean or 2, one for each colour, got 3"),
        (("a", 1), ValueError, "to_input: mean: expected a finite number"),
        (lambda values: values[:, :1], ValueError, r"to_input: expected a function from \(N, 2, H, W\)"),
        (lambda values: values - values.float().mean((2, 3), True), ValueError, "expected an elementwise function"),
        (lambda values: values + values.flip(1) * 0.5, ValueError, "expected an elementwise function"),
        (lambda values: values + torch.rand(values.shape), ValueError, "expected an elementwise function"),
    ],
)
def test_what_is_no_mapping_is_refused(to_input, error, message):
    with pytest.raises(error, match=message):
        NaiveSampler(Reading(2, 1), (2, 3, 3), Categorical(LEVELS), to_input)


def test_the_channels_that_a_model_reads_have_to_fit():
    with pytest.raises(ValueError, match="to_input: expected inputs of 1 channels to fit the model, got 2, one-hot"):
        sampling.compile(MaskedConv2d(1, 1, 3, "A"), (1, 4, 4), Bernoulli(), "one-hot")


class Ending(nn.Module):
    """A causal model, and what its parameters end in."""

    def __init__(self, params: int, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.end = MaskedConv2d(1, params, 3, "A"), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.conv(x))


@pytest.mark.parametrize(
    ("law", "end", "said"),
    [
        (Bernoulli(), torch.sigmoid, "sigmoid"),
        (Bernoulli(), lambda y: y.sigmoid().clamp(1e-6, 1 - 1e-6).view(y.shape), "sigmoid"),
        (Categorical(4), lambda y: y.softmax(1), "softmax"),
        (Categorical(4), lambda y: torch.sigmoid(y)[:, :], "sigmoid"),
        (Categorical(4), lambda y: torch.cat([y[:, :2].softmax(1), y[:, 2:]], 1), "softmax"),
        (Bernoulli(), lambda y: torch.stack([y[:, 0].sigmoid_()], 1), "sigmoid"),
        (Bernoulli(), lambda y: torch.where(y > 0, y.sigmoid(), y), "sigmoid"),
    ],
)
def test_probabilities_are_not_taken_for_logits(law: Any, end: Callable[[Tensor], Tensor], said: str) -> None:
    """A model that was trained with BCELoss draws other images, and naive sampling agrees: it reads them so, too."""
    model = Ending(law.param_channels(1), end).eval()
    message = (
        f"its last op is {said}, which makes probabilities, and {type(law).__name__} reads logits: leave the {said}"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        sampling.compile(model, (1, 4, 4), law, to_input="[0, 1]")


@pytest.mark.parametrize(
    ("law", "end"),
    [
        (Bernoulli(), lambda y: torch.logit(torch.sigmoid(y))),
        (Bernoulli(), lambda y: y * torch.sigmoid(y)),
        (Bernoulli(), lambda y: torch.where(torch.sigmoid(y) > 0.5, y, -y)),
        (Categorical(4), lambda y: y.log_softmax(1)),
        (Categorical(4), lambda y: y.softmax(1).log()),
    ],
)
def test_what_ends_in_logits_is_taken(law: Any, end: Callable[[Tensor], Tensor]) -> None:
    sampler = sampling.compile(Ending(law.param_channels(1), end).eval(), (1, 4, 4), law, to_input="[0, 1]")
    assert sampling.verify(sampler, n=2).same
