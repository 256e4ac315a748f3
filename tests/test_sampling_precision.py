"""Sampling in 16 bits: what is rounded, what that does, and how it is said."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from autoregressive import build, random_values
from fastgen import sampling
from fastgen.distributions import Bernoulli
from fastgen.sampling import CompiledSampler
from fastgen.sampling.precision import PRECISIONS, Precision, check_weights, rounded

ROUNDED = ("bfloat16", "float16")
#: Roundings of one number, relative to it.
ROUNDING = {"bfloat16": 2**-9, "float16": 2**-12}


def samplers(kind: str, channels: int = 24) -> tuple[nn.Module, dict[str, CompiledSampler]]:
    """A model and its samplers in every precision."""
    model = build(kind, channels=channels)
    shape = (model.in_channels, 6, 7)
    return model, {each: sampling.compile(model, shape, precision=each) for each in PRECISIONS}


@pytest.mark.parametrize("kind", ["gated-pixelcnn", "pixelcnn-rgb"])
def test_parameters_are_near_those_of_float32_and_not_the_same(kind: str) -> None:
    model, by = samplers(kind)
    values = random_values(model, 5, 6, 7)
    seen = {each: by[each].forced(values) for each in PRECISIONS}
    off = {each: (seen[each] - seen["float32"]).abs() / seen["float32"].abs().max() for each in ROUNDED}
    assert 1e-5 < off["bfloat16"].max() < 0.05
    for each in ROUNDED:
        assert 0.1 * ROUNDING[each] < off[each].max() < 25 * ROUNDING[each]
    assert 4 < off["bfloat16"].mean() / off["float16"].mean() < 16, "three bits more"


@pytest.mark.parametrize("precision", ROUNDED)
def test_compiled_code_rounds_as_the_reference_does(precision: Precision) -> None:
    model, by = samplers("gated-pixelcnn")
    values = random_values(model, 5, 6, 7)
    shape = by[precision].shape
    expected = sampling.compile(model, shape, executor="reference", precision=precision).forced(values)
    error, rounding = ((by[each].forced(values) - expected).abs().mean() for each in (precision, "float32"))
    assert error < 0.1 * rounding


@pytest.mark.parametrize("precision", ROUNDED)
def test_an_images_bits_depend_on_no_batch(precision: Precision) -> None:
    sampler = samplers("gated-pixelcnn")[1][precision]
    images = sampler.sample(7, seed=3)
    assert torch.equal(sampler.sample(2, seed=3), images[:2])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(sampler.sample(7, seed=3), images)
    finally:
        torch.set_num_threads(threads)


def of_two_layers(weight: float, bias: float = 0.0) -> nn.Module:
    """Two layers on pixels before; the second alone, of this weight, reads a map, which is at least this bias."""
    model = nn.Sequential(nn.ZeroPad2d((1, -1, 0, 0)), nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape) / 4)
        model[1].weight.abs_(), model[1].bias.fill_(bias), model[3].weight[0, 2].fill_(weight)
    return model


def compiled(model: nn.Module, precision: Precision, **options: object) -> CompiledSampler:
    return sampling.compile(model, (1, 6, 7), Bernoulli(), "[-1, 1]", precision=precision, **options)


def test_a_model_of_round_numbers_loses_nothing() -> None:
    """Weights, and what they are multiplied with, that both hold: pixels are -1 and 1, one layer, no sums."""
    model = of_two_layers(1.5)
    values = torch.randint(2, (3, 1, 6, 7))
    expected = compiled(model, "float32").forced(values)
    for precision in ROUNDED:
        assert torch.equal(compiled(model, precision).forced(values), expected)


@pytest.mark.parametrize("precision", ROUNDED)
def test_verify_says_what_it_costs(precision: Precision) -> None:
    _, by = samplers("gated-pixelcnn")
    report = sampling.verify(by[precision], 8)
    assert report.precision == precision
    assert report.nats is not None
    assert abs(report.nats) < 0.1
    assert report.allowed < report.logit_error < 25 * ROUNDING[precision] * report.largest_logit
    assert not report.same
    assert f"as {precision} makes them" in str(report)
    assert "nats an image" in str(report)
    report = sampling.verify(by["float32"], 2)
    assert report.same
    assert report.nats is not None
    assert abs(report.nats) < 1e-4


@pytest.mark.parametrize("precision", ROUNDED)
def test_it_is_said(precision: Precision) -> None:
    by = samplers("gated-pixelcnn")[1]
    sampler = by[precision]
    assert f"precision='{precision}'" in repr(sampler)
    assert "precision" not in repr(by["float32"])
    assert f"rounded to {precision}" in sampling.explain(sampler)
    assert "rounded" not in sampling.explain(by["float32"])
    assert copy.deepcopy(sampler).plan.precision == precision
    sampler.refresh()
    assert sampler.plan.precision == precision


def test_instruction_sets_are_those_that_multiply_so() -> None:
    by = samplers("gated-pixelcnn")[1]
    float32, bfloat16, float16 = (by[each].instruction_set for each in PRECISIONS)
    assert float32 == float16
    assert bfloat16 in (float32, f"{float32}bf16")


@pytest.mark.parametrize(("capability", "expected"), [("default", {"portable"}), ("avx2", {"portable", "avx2"})])
def test_a_user_may_limit_instruction_sets(capability: str, expected: set[str]) -> None:
    """By torch's own variable: to measure as another machine would, or to decode what it encoded."""
    code = (
        "from fastgen import sampling, models\n"
        "print(sampling.compile(models.PixelCNN(channels=4, layers=1), (1, 4, 4)).instruction_set)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
    )  # fmt: skip
    assert done.stdout.strip() in expected


def test_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16, float16, got 'float8'"):
        sampling.compile(build("gated-pixelcnn"), (1, 6, 7), precision="float8")


# ---- numbers that float16 has not


@pytest.mark.parametrize("executor", ["native", "reference"])
def test_weights_that_float16_has_not_are_refused_by_name(executor: str) -> None:
    refused = "^precision: expected weights that float16 has, up to 65504, got -70000 in 3: 'bfloat16' has it$"
    with pytest.raises(ValueError, match=refused):
        compiled(of_two_layers(-7e4), "float16", executor=executor)
    for precision in ("float32", "bfloat16"):
        compiled(of_two_layers(-7e4), precision, executor=executor).sample(1, seed=0)
    model = of_two_layers(65519.9)
    sampler = compiled(model, "float16", executor=executor)
    assert sampler.forced(torch.ones(1, 1, 6, 7, dtype=torch.int64)).isfinite().all()
    with torch.no_grad():
        model[3].weight[0, 2] = -7e4
    with pytest.raises(ValueError, match=refused):
        sampler.sample(1, seed=0)


def test_weights_that_read_pixels_are_not_rounded_nor_refused() -> None:
    model = of_two_layers(1.0)
    with torch.no_grad():
        model[1].weight[2] = 7e4
    sampler = compiled(model, "float16")
    assert any(i.weight is not None and i.weight.max() == 7e4 for i in sampler.plan.instructions)


def test_the_largest_weight_is_named_and_who_has_it() -> None:
    weights = [("first", torch.tensor([1.0, 65504.0])), ("second", torch.tensor([7e4, -8e4, torch.inf]))]
    with pytest.raises(ValueError, match="got -80000 in second: 'bfloat16' has it"):
        check_weights(weights, "float16")
    with pytest.raises(ValueError, match=r"up to 3.38953e\+38, got 3.4e\+38 in a layer: 'float32' has it"):
        check_weights([("", torch.tensor([3.4e38]))], "bfloat16")
    check_weights(weights, "bfloat16")
    check_weights(weights[:1], "float16")


@pytest.mark.parametrize("executor", ["native", "reference"])
def test_activations_that_float16_has_not_are_told_with_their_row(executor: str) -> None:
    model, uniforms = of_two_layers(1.0, bias=7e4), torch.zeros(2, 1, 6, 7)
    told = r"^model: expected finite parameters, got inf or nan {}; float16 has none beyond 65504, 'bfloat16' has$"
    with pytest.raises(ValueError, match=told.format("in row 0")):
        compiled(model, "float16", executor=executor).sample(uniforms=uniforms)
    with pytest.raises(ValueError, match=told.format(r"at \(0, 0\)")):
        next(sampling.Walker(model, (1, 6, 7), precision="float16", executor=executor).walk(1))
    compiled(model, "bfloat16", executor=executor).sample(uniforms=uniforms)
    model[1].bias.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"got inf or nan in row 0$"):
        compiled(model, "bfloat16", executor=executor).sample(uniforms=uniforms)
    late = of_two_layers(1.0)
    with torch.no_grad():
        late[1].weight[2] = 65519.9
    assert compiled(late, "float16", executor=executor).forced(torch.ones(1, 1, 6, 7).long()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_torchs(dtype: torch.dtype) -> None:
    x = torch.tensor([1 + 2**-11, 65519.9, 65520, -torch.inf, torch.nan, 2**-24, 2**-25, -0.0], dtype=dtype)
    assert rounded(x, "float16").dtype == dtype
    expected = torch.tensor([1, 65504, torch.inf, -torch.inf, torch.nan, 2**-24, 0, -0.0], dtype=dtype)
    assert torch.equal(rounded(x, "float16").nan_to_num(5), expected.nan_to_num(5))
    assert rounded(x, "float32") is x
