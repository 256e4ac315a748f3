"""Any causal model can be compiled: it draws what naive sampling draws, and sees what one forward sees."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from architectures import RandomModel, randomise, recipes
from fastgen import sampling
from fastgen.distributions import Bernoulli, Categorical
from fastgen.sampling import NaiveSampler
from parity import assert_parity


def assert_same_as_naive(model: nn.Module, shape: tuple[int, int, int], distribution: object, n: int = 2) -> None:
    """Zero differing values given the same uniforms; what forced sees is one forward, to float32 rounding in float64."""
    model = model.double().eval()
    labels = None if getattr(model, "classes", None) is None else torch.arange(n) % model.classes
    compiled, naive = sampling.compile(model, shape, distribution), NaiveSampler(model, shape, distribution)
    values = torch.randint(distribution.levels, (n, *shape))
    with torch.no_grad():
        exact = model(distribution.to_input(values).double(), *(() if labels is None else (labels,)))
    assert_parity(compiled.forced(values, labels).float(), exact.float(), exact)
    uniforms = torch.rand(n, *shape)
    drawn = compiled.sample(uniforms=uniforms, labels=labels)
    assert torch.equal(drawn, naive.sample(uniforms=uniforms, labels=labels))


@settings(max_examples=40, deadline=None)
@given(recipe=recipes(), H=st.integers(2, 6), W=st.integers(3, 6), seed=st.integers(0, 999))
def test_random_architectures(recipe, H, W, seed):
    torch.manual_seed(seed)
    model = randomise(RandomModel(recipe))
    distribution = Bernoulli() if recipe["params"] == 1 else Categorical(3)
    assert_same_as_naive(model, (1, H, W), distribution)
