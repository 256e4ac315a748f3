"""Sampling in bfloat16: what is rounded, what that does, and how it is said."""

import copy

import pytest
import torch
from torch import nn

from autoregressive import build, random_values
from fastgen import sampling
from fastgen.sampling import CompiledSampler


def pair(kind: str, channels: int = 24) -> tuple[nn.Module, CompiledSampler, CompiledSampler]:
    """A model and its samplers in float32 and in bfloat16."""
    model = build(kind, channels=channels)
    shape = (model.in_channels, 6, 7)
    return model, sampling.compile(model, shape), sampling.compile(model, shape, precision="bfloat16")


@pytest.mark.parametrize("kind", ["gated-pixelcnn", "pixelcnn-rgb"])
def test_parameters_are_near_those_of_float32_and_not_the_same(kind):
    model, exact, rounded = pair(kind)
    values = random_values(model, 5, 6, 7)
    one, other = exact.forced(values), rounded.forced(values)
    assert 1e-5 < (one - other).abs().max() / one.abs().max() < 0.05


def test_compiled_code_rounds_as_the_reference_does():
    model, exact, rounded = pair("gated-pixelcnn")
    shape = exact.shape
    values = random_values(model, 5, 6, 7)
    expected = sampling.compile(model, shape, executor="reference", precision="bfloat16").forced(values)
    error, rounding = ((each.forced(values) - expected).abs().mean() for each in (rounded, exact))
    assert error < 0.1 * rounding


def test_an_images_bits_depend_on_no_batch():
    _, _, rounded = pair("gated-pixelcnn")
    images = rounded.sample(7, seed=3)
    assert torch.equal(rounded.sample(2, seed=3), images[:2])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(rounded.sample(7, seed=3), images)
    finally:
        torch.set_num_threads(threads)


def test_a_model_of_round_numbers_loses_nothing():
    """Weights, and what they are multiplied with, that bfloat16 holds: pixels are -1 and 1, one layer, no sums."""
    model = nn.Sequential(nn.ZeroPad2d((1, -1, 0, 0)), nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape) / 4)
    law = sampling.compile(build("gated-pixelcnn"), (1, 6, 7)).distribution
    values = torch.randint(2, (3, 1, 6, 7))
    seen = [
        sampling.compile(model, (1, 6, 7), law, "[-1, 1]", precision=precision).forced(values)
        for precision in ("float32", "bfloat16")
    ]
    assert torch.equal(*seen)


def test_verify_says_what_it_costs():
    _, exact, rounded = pair("gated-pixelcnn")
    report = sampling.verify(rounded, 8)
    assert report.precision == "bfloat16"
    assert report.nats is not None
    assert abs(report.nats) < 0.1
    assert not report.same
    assert "as bfloat16 makes them" in str(report)
    assert "nats an image" in str(report)
    report = sampling.verify(exact, 2)
    assert report.same
    assert report.nats is not None
    assert abs(report.nats) < 1e-4


def test_it_is_said():
    _, exact, rounded = pair("gated-pixelcnn")
    assert "precision='bfloat16'" in repr(rounded)
    assert "precision" not in repr(exact)
    assert "rounded to bfloat16" in sampling.explain(rounded)
    assert "rounded" not in sampling.explain(exact)
    assert copy.deepcopy(rounded).plan.precision == "bfloat16"
    rounded.refresh()
    assert rounded.plan.precision == "bfloat16"


def test_another_precision_is_refused():
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16, got 'float16'"):
        sampling.compile(build("gated-pixelcnn"), (1, 6, 7), precision="float16")
