"""A distribution of one's own is drawn in torch, and compiled code computes what lies between two draws."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures import randomise
from autoregressive import build
from fastgen import sampling
from fastgen.distributions import Categorical, Distribution
from fastgen.nn import MaskedConv2d
from fastgen.ops.sample import PackedPlan
from fastgen.sampling.native_executor import NativeWalk
from parity import assert_parity
from plans import deep_plan


class Own(Categorical):
    """Draws as Categorical does; no compiled code knows it."""


class Mixture(Distribution):
    """Of two categorical distributions over three levels: a weight, and the logits of both."""

    def param_channels(self, channels: int) -> int:
        return 7 * channels

    def _draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        each = logits.unflatten(1, (-1, 7))
        weight = each[:, :, :1].sigmoid()
        mixed = weight * each[:, :, 1:4].softmax(2) + (1 - weight) * each[:, :, 4:].softmax(2)
        return (mixed.cumsum(2) <= uniforms.unsqueeze(2)).sum(2).clamp(max=2)


class Coloured(nn.Module):
    """Three colours, labels, and a bias for each class."""

    def __init__(self, params: int) -> None:
        super().__init__()
        self.classes = 4
        self.first = MaskedConv2d(3, 12, 5, "A", color_groups=3)
        self.classes_bias = nn.Embedding(4, 12)
        self.output = MaskedConv2d(12, 3 * params, 3, "B", color_groups=3)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.output(torch.relu(self.first(x) + self.classes_bias(labels)[:, :, None, None]))


def executors(model: nn.Module, shape: tuple[int, int, int], distribution: Any) -> list[sampling.CompiledSampler]:
    return [
        sampling.CompiledSampler(model, shape, distribution, "[-1, 1]", executor=executor)
        for executor in ("native", "reference")
    ]


@pytest.mark.parametrize("distribution", [Own(3), Mixture(3)])
@pytest.mark.parametrize("n", [1, 67])
def test_it_draws_what_the_reference_draws(distribution: Distribution, n: int) -> None:
    model = randomise(Coloured(distribution.param_channels(1))).eval()
    native, reference = executors(model, (3, 5, 4), distribution)
    labels, uniforms = torch.arange(n) % 4, torch.rand(n, 3, 5, 4)
    known, mask = torch.randint(3, (n, 3, 5, 4)), torch.rand(n, 3, 5, 4) < 0.3
    assert isinstance(native._engine(n, labels), NativeWalk)
    for options in ({}, {"temperature": 0.6}, {"known": known, "known_mask": mask}):
        values = native.sample(uniforms=uniforms, labels=labels, **options)
        assert torch.equal(values, reference.sample(uniforms=uniforms, labels=labels, **options))
        assert len(values.unique()) == 3
    double = sampling.NaiveSampler(model.double(), (3, 5, 4), distribution, "[-1, 1]").forward(values, labels)
    model.float()
    assert_parity(native.forced(values, labels), reference.forced(values, labels), double)


def test_it_draws_what_the_built_in_distribution_draws() -> None:
    """A wavefront is drawn in raster order; what is drawn is the same."""
    model = build("pixelcnn", levels=3)
    own, built_in = (
        sampling.compile(model, (1, 8, 7), kind(3), "[-1, 1]").sample(5, seed=3) for kind in (Own, Categorical)
    )
    assert torch.equal(own, built_in)


def test_parameters_that_are_not_finite_are_refused() -> None:
    model = randomise(Coloured(3)).eval()
    model.output.bias.detach()[4] = float("nan")
    with pytest.raises(ValueError, match="model: expected finite parameters, got inf or nan in row 0"):
        sampling.compile(model, (3, 5, 4), Own(3), "[-1, 1]").sample(2, labels=1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"draw": -1}, "draw: expected"),
        ({"draw": 48}, "draw: expected"),
        ({"chunk": 0}, "chunk: expected"),
        ({"params": torch.zeros(2, 2)}, "params: expected"),
        ({"input": torch.zeros(1, 1)}, "input: expected"),
        ({"state": torch.zeros(3)}, "state: expected"),
        ({"given": []}, None),
    ],
)
def test_hand_made_calls(changed: dict[str, Any], message: str | None) -> None:
    codes, constants = deep_plan(levels=3).encode()
    call = {
        "codes": codes, "constants": constants, "packed": PackedPlan(codes, constants).packed,
        "state": torch.ops.fastgen.sample_state.default(codes, constants, 2, 2), "given": [],
        "input": torch.zeros(2, 1), "params": torch.zeros(2, 3), "chunk": 2, "draw": 0,
    }  # fmt: skip
    if message is None:
        assert torch.ops.fastgen.sample_between.default(**call | changed) == 1
        return
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastgen.sample_between.default(**call | changed)
