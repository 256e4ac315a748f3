"""What every compiled sampler is held to."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastgen import sampling
from fastgen.conditions import Condition, apply, arguments, kind_of
from fastgen.sampling import NaiveSampler
from parity import LOGITS_AGREE, assert_parity


def assert_same_as_naive(
    model: nn.Module,
    shape: tuple[int, int, int],
    distribution: object,
    n: int = 2,
    condition: Condition | None = None,
    to_input: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Zero differing values given the same uniforms, and what forced sees is one forward.

    In float64, by the reference, to float32 rounding; in float32, by compiled code where it draws the distribution, to
    what a sampler promises.
    """
    single, model = model.eval(), copy.deepcopy(model).double().eval()
    kind = None if condition is None else kind_of(apply(lambda part: part[0], condition))
    if condition is None and getattr(model, "classes", None) is not None:
        condition = torch.arange(n) % model.classes
    to_input = to_input or distribution.to_input
    given = (model, shape, distribution, to_input)
    compiled, naive = sampling.compile(*given, condition=kind), NaiveSampler(*given, condition=kind)
    values = torch.randint(distribution.levels, (n, *shape))
    with torch.no_grad():
        exact = model(to_input(values).double(), *arguments(apply(_double, condition)))
    assert_parity(compiled.forced(values, condition=condition).float(), exact.float(), exact)
    C, H, W = shape
    uniforms = torch.rand(n, C * getattr(distribution, "uniforms_per_value", 1), H, W)
    drawn = compiled.sample(uniforms=uniforms, condition=condition)
    assert torch.equal(drawn, naive.sample(uniforms=uniforms, condition=condition))
    seen = sampling.compile(single, shape, distribution, to_input, condition=kind).forced(values, condition=condition)
    assert (seen - exact).abs().max() < LOGITS_AGREE * exact.abs().max().clamp(min=1)


def _double(part: Tensor) -> Tensor:
    return part.double() if part.is_floating_point() else part
