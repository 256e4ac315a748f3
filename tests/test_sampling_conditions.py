"""Samplers of models that are told a vector, an image or several things: naive sampling's draws, whatever is told."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures import randomise
from autoregressive import build
from fastgen import sampling
from fastgen.conditions import Classes, Vector, apply
from fastgen.distributions import Bernoulli
from fastgen.sampling import CompiledSampler, NaiveSampler
from foreign import CausalConv2d
from foreign_conditions import MODELS, SHAPE, MixedModel, UpsampledModel, VectorModel, conditions
from samplers import assert_same_as_naive

EXECUTORS = ("native", "reference")


def made(model: type[nn.Module], kind: type = CompiledSampler, **options: object) -> sampling.Sampler:
    torch.manual_seed(0)
    return kind(randomise(model()).eval(), SHAPE, Bernoulli(), "[-1, 1]", condition=model.example, **options)


# ---- draws


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("model", MODELS)
def test_draws_are_those_of_naive_sampling(model: type[nn.Module], n: int) -> None:
    torch.manual_seed(0)
    assert_same_as_naive(randomise(model()), SHAPE, Bernoulli(), n, conditions(model, n))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("model", MODELS)
def test_verify_says_so(model: type[nn.Module], executor: str) -> None:
    sampler = made(model, executor=executor)
    for n in (1, 5):
        assert sampling.verify(sampler, n, condition=conditions(model, n)).same
    drawn = [sampler.sample(8, seed=0, condition=conditions(model, 8, seed)) for seed in (1, 2)]
    assert not torch.equal(*drawn), "the condition shows"


@pytest.mark.parametrize("model", MODELS)
def test_an_image_depends_on_its_own_condition_alone(model: type[nn.Module]) -> None:
    sampler, values, told = made(model), torch.randint(2, (5, *SHAPE)), conditions(model, 5)
    seen = sampler.forced(values, condition=told)
    for i in range(5):
        others = apply(lambda part, i=i: torch.cat((part[:i].flip(0), part[i : i + 1], part[i + 1 :].flip(0))), told)
        assert torch.equal(sampler.forced(values, condition=others)[i], seen[i])
        first = apply(lambda part, i=i: part[: i + 1], told)
        assert torch.equal(sampler.forced(values[: i + 1], condition=first), seen[: i + 1])


@pytest.mark.parametrize("kind", [CompiledSampler, NaiveSampler])
def test_a_condition_of_one_example_counts_for_all(kind: type) -> None:
    sampler = made(MixedModel, kind)
    one = {"class": 2, "text": torch.randn(5), "image": torch.randn(1, 1, 6, 8)[0].numpy()}
    every = {
        "class": [2] * 3,
        "text": one["text"].expand(3, -1),
        "image": torch.tensor(one["image"])[None].expand(3, -1, -1, -1),
    }
    drawn = sampler.sample(3, seed=5, condition=one)
    assert torch.equal(drawn, sampler.sample(seed=5, condition=every)), "n comes from the condition"
    assert torch.equal(drawn, sampler.sample(seed=5, condition={**one, "class": torch.tensor([2, 2, 2])}))
    assert torch.equal(drawn[:1], sampler.sample(seed=5, condition=one))
    assert torch.equal(drawn, list(sampler.stream(3, seed=5, condition=one))[-1])
    known = torch.randint(2, (3, *SHAPE))
    kept = sampler.sample(seed=5, condition=one, known=known, known_mask=torch.ones(6, 8).triu().bool())
    assert torch.equal(kept.triu(), known.triu())
    assert torch.equal(sampler.forced(drawn, condition=one), sampler.forced(drawn, condition=every))


def test_numbers_are_cast_to_the_models_dtype() -> None:
    sampler, z = made(VectorModel), torch.randn(4, 5, dtype=torch.float64)
    drawn = sampler.sample(seed=1, condition=z)
    assert torch.equal(drawn, sampler.sample(seed=1, condition=z.float()))
    assert torch.equal(drawn, sampler.sample(seed=1, condition=z.numpy()))
    assert torch.equal(drawn, sampler.sample(seed=1, condition=z.tolist()))
    assert copy.deepcopy(sampler).sample(seed=1, condition=z).equal(drawn), "copies know their kind"


def test_labels_and_condition_are_one_where_labels_are_meant() -> None:
    for kind in (CompiledSampler, NaiveSampler):
        sampler = kind(build("gated-pixelcnn-classes"), (1, 5, 4))
        drawn = sampler.sample(seed=1, labels=[2, 0, 1])
        assert torch.equal(drawn, sampler.sample(seed=1, condition=torch.tensor([2, 0, 1])))
        assert torch.equal(sampler.forced(drawn, [2, 0, 1]), sampler.forced(drawn, condition=[2, 0, 1]))


def test_what_may_be_told_or_not() -> None:
    class Optional(VectorModel):
        def forward(self, x: Tensor, text: Tensor | None = None) -> Tensor:
            return super().forward(x, x.new_ones(1, 5) if text is None else text)

    compiled, naive = made(Optional), made(Optional, NaiveSampler)
    for given in ({}, {"condition": conditions(VectorModel, 3)}):
        assert torch.equal(compiled.sample(3, seed=1, **given), naive.sample(3, seed=1, **given))


def test_a_model_says_itself_what_it_is_told() -> None:
    class Saying(VectorModel):
        condition_kind = Vector(5)

    model = randomise(Saying()).eval()
    given = (model, SHAPE, Bernoulli(), "[-1, 1]")
    assert sampling.verify(sampling.compile(*given), 3, condition=torch.randn(5)).same
    assert sampling.explain(*given) == sampling.explain(*given, condition=torch.zeros(5))
    with pytest.raises(
        ValueError, match=r"condition: expected an example of what Saying says that it takes, floating po"
    ):
        sampling.compile(*given, condition=torch.zeros(4))


class Doubling(nn.Module):
    """Writes over what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.text = CausalConv2d(True, 1, 1, 3, padding=1), nn.Linear(3, 1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return self.input(x.mul_(2)) + self.text(text.mul_(2))[:, :, None, None]


def test_a_forward_may_write_over_what_it_is_told() -> None:
    text = torch.randn(3, 3)
    before, sampler = (
        text.clone(),
        sampling.compile(randomise(Doubling()).eval(), (1, 3, 3), Bernoulli(), "[-1, 1]", condition=torch.zeros(3)),
    )
    report = sampling.verify(sampler, 3, condition=text)
    assert report.same, str(report)
    assert torch.equal(text, before)


def test_a_forward_of_the_image_alone_takes_no_example() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor, *, text: Tensor) -> Tensor:
            return x

    for model in (CausalConv2d(True, 1, 1, 3, padding=1), Named()):
        with pytest.raises(TypeError, match=r"condition: expected None, since the forward of \w+ takes no second arg"):
            NaiveSampler(model, SHAPE, Bernoulli(), "[-1, 1]", condition=torch.zeros(3))


def test_all_classes_are_verified_however_the_model_says_them() -> None:
    class Saying(nn.Module):
        condition_kind = Classes(3)

        def __init__(self) -> None:
            super().__init__()
            self.input, self.of_class = CausalConv2d(True, 1, 1, 3, padding=1), nn.Embedding(3, 1)

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return self.input(x) + self.of_class(labels)[:, :, None, None]

    sampler = NaiveSampler(randomise(Saying()).eval(), SHAPE, Bernoulli(), "[-1, 1]")
    seen: list[Any] = []
    sampler.model.register_forward_pre_hook(lambda _, given: seen.append(given[1].tolist()))
    assert sampling.verify(sampler, 4).same
    assert seen
    assert all(labels == [0, 1, 2, 0] for labels in seen)


# ---- what does not fit

VECTOR, MAP = conditions(VectorModel, 3), conditions(UpsampledModel, 3)
MIXED = conditions(MixedModel, 3)


@pytest.mark.parametrize("way", ["sample", "stream", "forced", "forward", "verify"])
@pytest.mark.parametrize(
    ("model", "given", "error", "message"),
    [
        (VectorModel, {}, ValueError, "condition: expected floating point (N, 5), which the model is told, got None"),
        (MixedModel, {}, ValueError, "condition: expected a dict of 'class': integers (N,), 'text': floating"),
        (VectorModel, {"condition": VECTOR[:, :4]}, ValueError, "condition: expected floating point (N, 5), got"),
        (VectorModel, {"condition": VECTOR.round().long()}, TypeError, "condition: expected floating point (N, 5)"),
        (VectorModel, {"condition": VECTOR[:2]}, ValueError, "condition: expected one batch size, got 3 from"),
        (VectorModel, {"condition": VECTOR.to("meta")}, ValueError, "condition: expected a tensor with values, got"),
        (VectorModel, {"condition": VECTOR / 0}, ValueError, "condition: expected finite numbers, got inf or nan"),
        (VectorModel, {"condition": VECTOR.double() + 1e99}, ValueError, "condition: expected finite numbers, got inf"),
        (MixedModel, {"condition": {**MIXED, "text": VECTOR / 0}}, ValueError, "condition['text']: expected finite"),
        (VectorModel, {"labels": [0, 1, 2]}, ValueError, "labels: expected None, since a condition is floating point"),
        (VectorModel, {"labels": 1, "condition": VECTOR}, ValueError, "labels: expected None together with condition"),
        (UpsampledModel, {"condition": MAP[:, :1]}, ValueError, "condition: expected floating point (N, 2, 3, 4), got"),
        (UpsampledModel, {"condition": VECTOR}, ValueError, "condition: expected floating point (N, 2, 3, 4), got a t"),
        (MixedModel, {"condition": VECTOR}, TypeError, "condition: expected a dict of 'class', 'image', 'text', got"),
        (MixedModel, {"condition": {"text": VECTOR}}, ValueError, "'class', 'image', 'text', got one of 'text'"),
        (MixedModel, {"condition": {**MIXED, "class": VECTOR}}, TypeError, "condition['class']: expected an integer"),
        (MixedModel, {"condition": {**MIXED, "text": VECTOR[:2]}}, ValueError, "3 from condition['class'], 2 from"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    model: type[nn.Module], given: dict[str, object], error: type[Exception], message: str, way: str
) -> None:
    naive, values = NAIVE[model], torch.zeros((3, *SHAPE), dtype=torch.int64)
    ways = {
        "sample": lambda: naive.sample(3, **given),
        "stream": lambda: naive.stream(3, **given),
        "forced": lambda: naive.forced(values, **given),
        "forward": lambda: naive.forward(values, **given),
        "verify": lambda: sampling.verify(naive, 3, **given),
    }
    with pytest.raises(error, match=re.escape(message)):
        ways[way]()


NAIVE = {model: made(model, NaiveSampler) for model in MODELS}


def test_what_is_no_example_is_named_and_so_is_a_missing_one() -> None:
    model = randomise(VectorModel()).eval()
    for make in (sampling.compile, NaiveSampler, sampling.explain):
        with pytest.raises(ValueError, match=r"condition: expected one example, \(D,\) or \(C', H', W'\)"):
            make(model, SHAPE, Bernoulli(), "[-1, 1]", condition=torch.zeros(2, 5))
    with pytest.raises(
        TypeError, match="condition: expected an example of what the forward of VectorModel takes beside"
    ):
        sampling.compile(model, SHAPE, Bernoulli(), "[-1, 1]")
