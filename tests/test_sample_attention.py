"""sample: attention, and products of numbers that are rounded to bfloat16."""

import dataclasses

import pytest
import torch

from fastgen.ops.sample import PackedPlan, Walk
from plans import attending_plan, check, deep_plan, packs, reference, run, table_of


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


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "avx512bf16"])
@pytest.mark.parametrize("channels", [24, 37])
def test_products_of_rounded_numbers(channels: int, isa: str) -> None:
    """Against the reference, which rounds in torch; a last bit decides how some few numbers are rounded."""
    plan = deep_plan(levels=5, channels=channels)
    plan.precision = "bfloat16"
    if not packs(*plan.encode(), isa):
        pytest.skip(f"this machine has no {isa}")
    uniforms = torch.rand(13, *plan.shape)
    walk = run(plan, uniforms, isa)
    inputs = table_of(plan)[1].to_input(walk.values)
    expected = reference(plan, inputs, ())
    plan.precision = "float32"
    error, rounding = ((each - expected).abs().mean() for each in (walk.params, reference(plan, inputs, ())))
    assert error < 0.1 * rounding
