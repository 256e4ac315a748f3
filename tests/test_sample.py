"""sample: the compiled executor of sampling plans."""

import pytest
import torch

from fastgen.distributions import Categorical
from fastgen.ops.sample import CHUNK, PackedPlan, Walk, available
from fastgen.sampling.plan import BINARY, UNARY, Ref, Step
from parity import assert_parity
from plans import (
    ABOVE,
    LEFT,
    Builder,
    biases_plan,
    check,
    colours_plan,
    deep_plan,
    evaluate,
    overhanging_plan,
    packs,
    plan_with_constants,
    run,
    slices_plan,
    step_plan,
    strides_plan,
    table_of,
    unary_plan,
    wavefront_plan,
)  # fmt: skip

OPERANDS = ("buffer", "buffer, function", "vector")


def operand_step(op: str, operand: str, channels: int) -> Step:
    if operand == "vector":
        return Step(op, vector=0.5 + torch.rand(channels))
    return Step(op, operand=Ref(1, 0, channels), function="exp" if "function" in operand else "")


@pytest.mark.parametrize("clock", ["row", "pixel"])
@pytest.mark.parametrize("op", UNARY)
def test_unary_steps(op: str, clock: str) -> None:
    check(unary_plan(op, clock))


@pytest.mark.parametrize("operand", OPERANDS)
@pytest.mark.parametrize("op", BINARY)
def test_binary_steps(op: str, operand: str) -> None:
    away_from_zero = (Step("abs"), Step("add", vector=torch.ones(17)))
    check(step_plan(17, *away_from_zero, operand_step(op, operand, 17)))


@pytest.mark.parametrize("channels", [2, 18, 34, 70, 130, 160])
@pytest.mark.parametrize(
    "steps",
    [
        (Step("gate"),),
        (Step("concat_elu"),),
        (Step("elu", (1.0,)),),
        (Step("norm", (1.0, 1e-5)),),
        (Step("norm", (2.0, 1e-3)), Step("relu")),
        (Step("gate"), Step("concat_elu"), Step("neg")),
    ],
)
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_vector_steps(steps: tuple[Step, ...], channels: int, isa: str) -> None:
    plan = step_plan(channels, *steps)
    if not packs(*plan.encode(), isa):
        pytest.skip(f"this machine has no {isa}")
    check(plan, n=7, isa=isa)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu", "silu", "gate", "concat_elu"])
@pytest.mark.parametrize("channels", [10, 66])
def test_addends_activation_and_residual_of_a_product(activation: str, channels: int, isa: str) -> None:
    b = Builder(1, 5, 7)
    first = b.map([(0, ABOVE + LEFT)], channels)
    second = b.map([(0, ABOVE)], channels, clock="row")
    out = channels // 2 if activation == "gate" else 2 * channels if activation == "concat_elu" else channels
    third = b.map([(0, LEFT)], out)
    steps = (
        Step("add", operand=Ref(first, 0, channels)),
        Step("add", operand=Ref(second, 0, channels, -1, 1)),
        Step(activation),
        Step("add", operand=Ref(third, 0, out)),
    )
    plan = b.finish(b.map([(first, ((0, -1), (0, 0)))], channels, *steps))
    if not packs(*plan.encode(), isa):
        pytest.skip(f"this machine has no {isa}")
    check(plan, isa=isa)


def test_slices_of_channels_are_read_and_written() -> None:
    check(slices_plan())


@pytest.mark.parametrize("n", [0, 1, 2, 5, 13, 64, 67])
@pytest.mark.parametrize("levels", [1, 5])
def test_batches_and_levels(n: int, levels: int) -> None:
    check(deep_plan(levels=levels), n)


def test_colours_are_drawn_one_after_the_other() -> None:
    check(colours_plan())


def test_constants_and_given_maps() -> None:
    plan = plan_with_constants()
    check(plan, n=4, given=(torch.randn(4, 1, 1, 6), torch.randn(4, 5, 7, 3)))


@pytest.mark.parametrize("clock", ["row", "pixel"])
def test_strides(clock: str) -> None:
    check(strides_plan(clock))


def test_the_walk_begins_outside_of_the_image_and_ends_there() -> None:
    plan = overhanging_plan()
    check(plan)
    assert (plan.top, plan.left, plan.tail) == (1, 1, 2)


def test_a_product_of_nothing_is_its_bias() -> None:
    check(biases_plan())


def test_a_wavefront_draws_what_the_raster_walk_draws() -> None:
    plan = wavefront_plan(None)
    for buffer in plan.buffers:
        buffer.keep = 3
    uniforms = torch.rand(5, 1, 6, 8)
    raster = run(plan, uniforms)
    plan.slope = 3
    for buffer in plan.buffers:
        buffer.keep = 6
    wave = run(plan, uniforms)
    assert wave.ticks == 8 + 3 * 5
    assert torch.equal(wave.values, raster.values)
    assert torch.equal(wave.params, raster.params)


def test_an_image_is_the_same_whatever_the_batch_and_the_threads() -> None:
    plan = deep_plan(levels=4)
    uniforms = torch.rand(2 * CHUNK + 3, *plan.shape)
    whole = run(plan, uniforms, threads=1)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            again = run(plan, uniforms)
            assert torch.equal(again.values, whole.values)
            assert torch.equal(again.params, whole.params)
    finally:
        torch.set_num_threads(threads)
    for i in (0, 5, 2 * CHUNK + 2):
        alone = run(plan, uniforms[i : i + 1])
        assert torch.equal(alone.params[0], whole.params[i])


def test_rows_are_drawn_one_call_at_a_time() -> None:
    plan = deep_plan(levels=4)
    uniforms = torch.rand(3, *plan.shape)
    whole = run(plan, uniforms)
    walk = Walk(PackedPlan(*plan.encode()), uniforms, table_of(plan)[0], params=4)
    for r in range(1, 7):
        walk.values[:, :, r:] = -1  # not drawn yet, not read
        assert walk.advance(1) is None
        assert walk.done == r
        assert torch.equal(walk.values[:, :, :r], whole.values[:, :, :r])
    assert torch.equal(walk.params, whole.params)


def test_known_values_are_kept_and_read() -> None:
    plan = deep_plan(levels=4)
    uniforms = torch.rand(3, *plan.shape)
    known, keep = torch.randint(4, (3, *plan.shape)), torch.rand(3, *plan.shape) < 0.5
    walk = run(plan, uniforms, known=known, keep=keep)
    inputs = table_of(plan)[1].to_input(walk.values)
    assert_parity(walk.params, evaluate(plan, inputs), evaluate(plan, inputs.double()))
    assert torch.equal(walk.values[keep], known[keep])
    assert torch.equal(walk.values[~keep], Categorical(4).draw(walk.params, uniforms)[~keep])


@pytest.mark.parametrize("levels", [1, 2, 256])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_draws_are_the_distributions(levels: int, temperature: float) -> None:
    plan = step_plan(8, Step("mul", vector=torch.full((8,), 4.0)), levels=levels)
    uniforms = torch.rand(40, *plan.shape)
    uniforms[0] = 0
    walk = run(plan, uniforms, temperature=temperature)
    expected = table_of(plan)[1].draw(walk.params, uniforms, temperature)
    assert (walk.values != expected).sum() <= 1  # the last bit of softmax is torch's own: one boundary in 1400 draws


def test_parameters_that_are_not_finite_stop_the_walk() -> None:
    plan = deep_plan()
    given = plan.instructions[-1].bias
    assert given is not None
    given.fill_(float("nan"))
    walk = Walk(PackedPlan(*plan.encode()), torch.rand(2, *plan.shape), table_of(plan)[0])
    assert walk.advance() == 0


def test_errors() -> None:
    plan = deep_plan(levels=3)
    packed, (table, _) = PackedPlan(*plan.encode()), table_of(plan)
    with pytest.raises(ValueError, match=r"uniforms: expected shape \(N, 1, 6, 8\), got \(2, 1, 8, 6\)"):
        Walk(packed, torch.rand(2, 1, 8, 6), table)
    with pytest.raises(RuntimeError, match="table: expected an entry for each level"):
        Walk(packed, torch.rand(2, 1, 6, 8), table[:, :2]).advance()


def test_available() -> None:
    assert available(torch.device("cpu"), torch.float32)
    assert not available(torch.device("cpu"), torch.float64)
