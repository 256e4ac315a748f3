"""The sampling kernel for GPUs, on the shim: plans of every kind, against their oracle and the CPU's executor."""

import dataclasses

import pytest
import torch
from torch import Tensor

from fastgen.ops.sample import Walk
from fastgen.ops.sample_cuda import Teams
from fastgen.sampling.plan import BINARY, UNARY, Plan, Ref, Step
from fastgen.sampling.precision import PRECISIONS, Precision
from plans import (
    ABOVE,
    LEFT,
    Builder,
    attending_plan,
    biases_plan,
    check,
    colours_plan,
    deep_plan,
    numbers_plan,
    overhanging_plan,
    plan_with_constants,
    reference,
    run,
    slices_plan,
    step_plan,
    strides_plan,
    table_of,
    unary_plan,
    wavefront_plan,
)  # fmt: skip
from shim_plans import ShimPlan, check_on_shim, run_on_shim
from simt.shim import SCHEDULES, Shim


@pytest.mark.parametrize("op", UNARY)
def test_unary_steps(op: str, shim: Shim) -> None:
    check_on_shim(shim, unary_plan(op))


@pytest.mark.parametrize("op", BINARY)
def test_binary_steps(op: str, shim: Shim) -> None:
    """A constant vector, a map, and a function of it."""
    away_from_zero = (Step("abs"), Step("add", vector=torch.ones(17)))
    operands = (
        Step(op, vector=0.5 + torch.rand(17)),
        Step(op, operand=Ref(1, 0, 17)),
        Step(op, operand=Ref(1, 0, 17), function="exp"),
    )
    for operand in operands:
        check_on_shim(shim, step_plan(17, *away_from_zero, operand))


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("channels", [2, 18, 34, 70])
@pytest.mark.parametrize(
    "steps",
    [
        (Step("gate"),),
        (Step("relu"), Step("gate"), Step("neg")),
        (Step("concat_elu"),),
        (Step("norm", (2.0, 1e-3)), Step("relu")),
        (Step("gate"), Step("concat_elu"), Step("neg")),
    ],
)
def test_vector_steps(steps: tuple[Step, ...], channels: int, blocks: int, shim: Shim) -> None:
    """Of numbers in registers, and of rows in memory, where a norm or two pairs are among them."""
    check_on_shim(shim, step_plan(channels, *steps), n=4, blocks=blocks)


@pytest.mark.parametrize("activation", ["gate", "concat_elu"])
def test_addends_activation_and_residual_of_a_product(activation: str, shim: Shim) -> None:
    channels = 20
    b = Builder(1, 5, 7)
    first = b.map([(0, ABOVE + LEFT)], channels)
    second = b.map([(0, ABOVE)], channels, clock="row")
    out = channels // 2 if activation == "gate" else 2 * channels
    third = b.map([(0, LEFT)], out)
    steps = (
        Step("add", operand=Ref(first, 0, channels)),
        Step("add", operand=Ref(second, 0, channels, -1, 1)),
        Step(activation),
        Step("add", operand=Ref(third, 0, out)),
    )
    check_on_shim(shim, b.finish(b.map([(first, ((0, -1), (0, 0)))], channels, *steps)), blocks=2)


def test_slices_of_channels_are_read_and_written(shim: Shim) -> None:
    check_on_shim(shim, slices_plan())


def test_colours_are_drawn_one_after_the_other(shim: Shim) -> None:
    check_on_shim(shim, colours_plan(), blocks=2)


def test_constants_and_given_maps(shim: Shim) -> None:
    given = (torch.randn(4, 1, 1, 6), torch.randn(4, 5, 7, 3))
    for blocks in (1, 2):
        check_on_shim(shim, plan_with_constants(), 4, given, blocks)


@pytest.mark.parametrize("clock", ["row", "pixel"])
def test_strides(clock: str, shim: Shim) -> None:
    check_on_shim(shim, strides_plan(clock))


def test_a_wavefront_draws_what_the_raster_walk_draws(shim: Shim) -> None:
    torch.manual_seed(1)
    raster = wavefront_plan(None)
    torch.manual_seed(1)
    wave = wavefront_plan(3)
    uniforms = torch.rand(5, 1, 6, 8)
    expected = run_on_shim(shim, raster, uniforms, Teams(2, 1))
    for blocks in (1, 3):
        walk = run_on_shim(shim, wave, uniforms, Teams(3, blocks))
        assert walk.ticks == 8 + 3 * 5
        assert torch.equal(walk.values, expected.values)
        assert torch.equal(walk.params, expected.params)
    assert torch.equal(expected.values, run(raster, uniforms).values)


def test_the_walk_begins_outside_of_the_image_and_ends_there(shim: Shim) -> None:
    check_on_shim(shim, overhanging_plan())


def test_a_product_of_nothing_is_its_bias(shim: Shim) -> None:
    check_on_shim(shim, biases_plan())


@pytest.mark.parametrize("read", ["earlier", "before", "band"])
@pytest.mark.parametrize(("heads", "key", "value", "bias"), [(1, 1, 1, 0), (2, 3, 5, 1), (3, 16, 40, 3)])
def test_attention(heads: int, key: int, value: int, bias: int, read: str, shim: Shim) -> None:
    check_on_shim(shim, attending_plan(heads, key, value, read, bias, levels=6), blocks=2)


def test_attention_whose_masked_keys_would_count_gives_no_numbers(shim: Shim) -> None:
    plan = attending_plan()
    attend = plan.instructions[-2].attend
    assert attend is not None
    for floor, bad_row in ((-200.0, None), (-90.0, 0)):
        pattern = dataclasses.replace(attend.pattern, floor=floor)
        plan.instructions[-2].attend = dataclasses.replace(attend, pattern=pattern)
        walk = Walk(ShimPlan(plan, shim, Teams(2, 1)), torch.rand(2, 1, 4, 6), table_of(plan)[0])
        assert walk.advance() == bad_row


def test_attention_to_one_key_that_is_no_number_is_none(shim: Shim) -> None:
    """Whichever of a block's warps has it."""
    plan = attending_plan(levels=6)
    table, values = table_of(plan)[0].clone(), torch.randint(5, (2, *plan.shape))
    table[:, 5], values[0, 0, 0, 0] = torch.nan, 5
    walk = Walk(
        ShimPlan(plan, shim, Teams(2, 1)), torch.rand(2, *plan.shape), table, known=values, keep=values >= 0, params=6
    )
    assert walk.advance() == 0
    expected = reference(plan, table[0][values], ()).isnan()
    assert torch.equal(walk.params.isnan(), expected)
    assert 0 < expected.sum() < expected[0].numel()


@pytest.mark.parametrize("channels", [24, 37])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_products_of_rounded_numbers(precision: Precision, channels: int, shim: Shim) -> None:
    """Of matrix instructions, against the reference, which rounds in torch; a last bit decides how some are rounded."""
    plan = deep_plan(levels=5, channels=channels)
    plan.precision = precision
    walk = run_on_shim(shim, plan, torch.rand(9, *plan.shape), Teams(9, 2))
    inputs = table_of(plan)[1].to_input(walk.values)
    expected = reference(plan, inputs, ())
    plan.precision = "float32"
    error, rounding = ((each - expected).abs().mean() for each in (walk.params, reference(plan, inputs, ())))
    assert error < 0.1 * rounding


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_numbers_are_rounded_as_on_the_cpu(blocks: int, precision: Precision, shim: Shim) -> None:
    plan = numbers_plan()
    plan.precision = precision
    uniforms = torch.rand(9, *plan.shape)
    assert torch.equal(run_on_shim(shim, plan, uniforms, Teams(9, blocks)).params, run(plan, uniforms).params)


def test_what_float16_has_not_is_infinite_and_told(shim: Shim) -> None:
    for largest, precision, bad_row in (
        (65519.99, "float16", None),
        (65520.0, "float16", 0),
        (-1e30, "bfloat16", None),
    ):
        plan = numbers_plan((1.0, largest))
        plan.instructions[-1].weight, plan.precision = torch.tensor([[1.0, 0.0], [0.0, 0.5]]), precision
        walk = Walk(ShimPlan(plan, shim, Teams(2, 1)), torch.rand(2, *plan.shape), table_of(plan)[0])
        assert walk.advance() == bad_row


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_image_is_the_same_bits_whoever_draws_it(precision: Precision, shim: Shim) -> None:
    """Whatever the chunk, the blocks of a team, the order of threads and blocks, and the images beside it."""
    plan = deep_plan(levels=4)
    plan.precision = precision
    uniforms = torch.rand(11, *plan.shape)
    whole = run_on_shim(shim, plan, uniforms, Teams(8, 1))
    every = [(teams, 0) for teams in (Teams(3, 1), Teams(16, 5), Teams(4, 2))]
    for teams, schedule in every + [(Teams(6, 2), schedule) for schedule in SCHEDULES]:
        again = run_on_shim(shim, plan, uniforms, teams, schedule)
        assert torch.equal(again.values, whole.values)
        assert torch.equal(again.params, whole.params)
    alone = run_on_shim(shim, plan, uniforms[4:5], Teams(1, 1))
    assert torch.equal(alone.params[0], whole.params[4])


@pytest.mark.parametrize("blocks", [1, 2])
def test_rows_are_drawn_one_launch_at_a_time(blocks: int, shim: Shim) -> None:
    plan = deep_plan(levels=4)
    uniforms = torch.rand(3, *plan.shape)
    whole = run(plan, uniforms)
    packed = ShimPlan(plan, shim, Teams(2, blocks))
    walk = Walk(packed, uniforms, table_of(plan)[0], params=4)
    for r in range(1, 7):
        walk.values[:, :, r:] = -1  # not drawn yet, not read
        assert walk.advance(1) is None
        assert torch.equal(walk.values[:, :, :r], whole.values[:, :, :r])
    assert packed.launches == 6


def test_known_values_are_kept_and_read(shim: Shim) -> None:
    plan = deep_plan(levels=4)
    uniforms = torch.rand(3, *plan.shape)
    known, keep = torch.randint(4, (3, *plan.shape)), torch.rand(3, *plan.shape) < 0.5
    walk = run_on_shim(shim, plan, uniforms, known=known, keep=keep)
    assert torch.equal(walk.values, run(plan, uniforms, known=known, keep=keep).values)
    assert torch.equal(walk.values[keep], known[keep])


@pytest.mark.parametrize("levels", [1, 2, 256])
@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_draws_are_the_distributions(levels: int, temperature: float, shim: Shim) -> None:
    plan = step_plan(8, Step("mul", vector=torch.full((8,), 4.0)), levels=levels)
    uniforms = torch.rand(20, *plan.shape)
    uniforms[0] = 0
    walk = run_on_shim(shim, plan, uniforms, Teams(20, 1), temperature=temperature)
    expected = table_of(plan)[1].draw(walk.params, uniforms, temperature)
    assert (walk.values != expected).sum() <= 1  # the last bit of softmax is torch's own: one boundary in 700 draws


@pytest.mark.parametrize("C", [1, 3])
def test_mixtures_are_drawn_as_on_the_cpu(C: int, shim: Shim) -> None:
    plan = deep_plan(C, levels=(10 if C == 3 else 3) * 4)
    uniforms = torch.rand(3, 2 * C, *plan.shape[1:])
    expected = run(plan, uniforms, components=4)
    walk = run_on_shim(shim, plan, uniforms, Teams(2, 1), components=4)
    assert torch.equal(walk.values, expected.values)


def nan_in_row(plan: Plan, row: int) -> Tensor:
    given = torch.zeros(4, *plan.shape[1:], 3)
    given[2, row] = torch.nan
    return given


def test_parameters_that_are_not_finite_are_told_with_their_row(shim: Shim) -> None:
    plan = plan_with_constants()
    given = (torch.zeros(4, 1, 1, 6), nan_in_row(plan, 3))
    walk = Walk(ShimPlan(plan, shim, Teams(3, 1)), torch.rand(4, *plan.shape), table_of(plan)[0], given)
    assert walk.advance(2) is None
    assert walk.advance() == 3


def test_what_is_on_the_cpu_is_checked_there() -> None:
    """The plans of this file are what they are taken for."""
    check(deep_plan(levels=4))
    check(attending_plan(levels=6))
