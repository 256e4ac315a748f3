"""What every compiled sampler is held to."""

import copy

import torch
from torch import nn

from fastgen import sampling
from fastgen.sampling import NaiveSampler
from parity import LOGITS_AGREE, assert_parity


def assert_same_as_naive(model: nn.Module, shape: tuple[int, int, int], distribution: object, n: int = 2) -> None:
    """Zero differing values given the same uniforms, and what forced sees is one forward.

    In float64, by the reference, to float32 rounding; in float32, by compiled code where it draws the distribution, to
    what a sampler promises.
    """
    single, model = model.eval(), copy.deepcopy(model).double().eval()
    labels = None if getattr(model, "classes", None) is None else torch.arange(n) % model.classes
    given = (model, shape, distribution, distribution.to_input)
    compiled, naive = sampling.compile(*given), NaiveSampler(*given)
    values = torch.randint(distribution.levels, (n, *shape))
    with torch.no_grad():
        exact = model(distribution.to_input(values).double(), *(() if labels is None else (labels,)))
    assert_parity(compiled.forced(values, labels).float(), exact.float(), exact)
    C, H, W = shape
    uniforms = torch.rand(n, C * getattr(distribution, "uniforms_per_value", 1), H, W)
    drawn = compiled.sample(uniforms=uniforms, labels=labels)
    assert torch.equal(drawn, naive.sample(uniforms=uniforms, labels=labels))
    seen = sampling.compile(single, shape, distribution, distribution.to_input).forced(values, labels)
    assert (seen - exact).abs().max() < LOGITS_AGREE * exact.abs().max().clamp(min=1)
