"""sample: attention, and products of rounded numbers."""

import dataclasses

import pytest
import torch

from fastgen.ops.sample import PackedPlan, Walk
from fastgen.sampling.precision import PRECISIONS, Precision, rounded
from plans import ROUGH, attending_plan, check, deep_plan, numbers_plan, packs, reference, run, table_of

ISAS = ("portable", "avx2", "avx512", "avx512bf16")


@pytest.mark.parametrize(("heads", "key", "value"), [(1, 1, 1), (2, 3, 5), (3, 16, 32), (2, 35, 20)])
@pytest.mark.parametrize("bias", ["none", "shared", "each"])
def test_attention(heads: int, key: int, value: int, bias: str) -> None:
    for read in ("earlier", "before", "band"):
        check(attending_plan(heads, key, value, read, {"none": 0, "shared": 1, "each": heads}[bias], levels=6), n=32)


def test_attention_whose_masked_keys_would_count_gives_no_numbers() -> None:
    """Masked with a finite number, which the scores are not far above."""
    plan = attending_plan()
    attend = plan.instructions[-2].attend
    assert attend is not None
    for floor, fine in ((-200.0, True), (-90.0, False)):
        pattern = dataclasses.replace(attend.pattern, floor=floor)
        plan.instructions[-2].attend = dataclasses.replace(attend, pattern=pattern)
        codes, constants = plan.encode()
        walk = Walk(PackedPlan(codes, constants), torch.rand(2, 1, 4, 6), table_of(plan)[0])
        assert (walk.advance() is None) == fine
        seen = reference(plan, torch.zeros(2, 1, 4, 6), ())
        assert bool(seen.isfinite().all()) == fine


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [24, 37])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_products_of_rounded_numbers(precision: Precision, channels: int, isa: str) -> None:
    """Against the reference, which rounds in torch; a last bit decides how some few numbers are rounded."""
    plan = deep_plan(levels=5, channels=channels)
    plan.precision = precision
    if not packs(*plan.encode(), isa):
        pytest.skip(f"this machine has no {isa}")
    uniforms = torch.rand(13, *plan.shape)
    walk = run(plan, uniforms, isa)
    inputs = table_of(plan)[1].to_input(walk.values)
    expected = reference(plan, inputs, ())
    plan.precision = "float32"
    error, rounding = ((each - expected).abs().mean() for each in (walk.params, reference(plan, inputs, ())))
    assert error < 0.1 * rounding


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_numbers_are_rounded_as_torch_rounds_them(precision: Precision, isa: str) -> None:
    """To nearest, ties to even, subnormal numbers kept: to the last bit, and the reference does so too."""
    plan = numbers_plan()
    plan.precision = precision
    if not packs(*plan.encode(), isa):
        pytest.skip(f"this machine has no {isa}")
    numbers = rounded(torch.tensor(ROUGH), precision)
    expected = (numbers.flip(0) * numbers)[:, None, None].expand(7, -1, *plan.shape[1:])
    assert torch.equal(run(plan, torch.rand(7, *plan.shape), isa).params, expected)
    assert torch.equal(reference(plan, torch.zeros(7, *plan.shape), ()), expected)


@pytest.mark.parametrize("isa", ISAS)
def test_what_float16_has_not_is_infinite_and_told(isa: str) -> None:
    """Numbers that are drawn along the way; weights are refused beforehand, see fastgen.sampling."""
    for largest, precision, fine in (
        (65519.99, "float16", True),
        (65520.0, "float16", False),
        (-1e30, "float16", False),
        (-1e30, "bfloat16", True),
    ):
        plan = numbers_plan((1.0, largest))
        plan.instructions[-1].weight, plan.precision = torch.tensor([[1.0, 0.0], [0.0, 0.5]]), precision
        if not packs(*plan.encode(), isa):
            pytest.skip(f"this machine has no {isa}")
        packed = PackedPlan(*plan.encode(), isa)
        walk = Walk(packed, torch.rand(2, *plan.shape), table_of(plan)[0], params=2)
        assert walk.advance() == (None if fine else 0)
        assert bool(reference(plan, torch.zeros(2, *plan.shape), ()).isfinite().all()) == fine


@pytest.mark.parametrize("isa", ISAS)
def test_rounded_weights_take_half_the_memory(isa: str) -> None:
    sizes = {}
    for precision in PRECISIONS:
        plan = numbers_plan((1.0,) * 64)
        plan.precision = precision
        if not packs(*plan.encode(), isa):
            pytest.skip(f"this machine has no {isa}")
        sizes[precision] = PackedPlan(*plan.encode(), isa).packed.numel()
    assert sizes["float32"] - sizes["float16"] == sizes["float32"] - sizes["bfloat16"] == 64 * 64 // 2
