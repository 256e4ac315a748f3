"""The sampling kernel on a GPU: what test_sample_cuda.py asks of it on the shim, by the hardware."""

import pytest
import torch
from torch import nn

from fastgen import models, sampling
from fastgen.ops.sample import Walk
from fastgen.ops.sample_cuda import Teams
from fastgen.sampling.precision import PRECISIONS, Precision
from gpu_plans import TeamsPlan, run_on_gpu
from parity import assert_parity
from plans import attending_plan, deep_plan, evaluate, numbers_plan, plan_with_constants, run, table_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
GPU = torch.device("cuda")


@pytest.mark.parametrize("teams", [Teams(8, 1), Teams(64, 1), Teams(8, 4), Teams(64, 16)], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_images_are_the_oracles_whoever_draws_them(precision: Precision, teams: Teams) -> None:
    for plan in (deep_plan(levels=4), attending_plan(3, 16, 40, levels=4)):
        plan.precision = precision
        uniforms = torch.rand(67, *plan.shape)
        walk = run_on_gpu(plan, uniforms, teams, GPU)
        again = run_on_gpu(plan, uniforms, Teams(16, 1), GPU)
        assert torch.equal(walk.params, again.params)
        assert torch.equal(walk.values, again.values)
        _, distribution = table_of(plan)
        values, params = walk.values.cpu(), walk.params.cpu()
        if precision == "float32":
            inputs = distribution.to_input(values)
            assert_parity(params, evaluate(plan, inputs), evaluate(plan, inputs.double()))
        assert (values != distribution.draw(params, uniforms)).sum() <= 1  # a last bit of an exponential


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_numbers_are_rounded_as_on_the_cpu(precision: Precision) -> None:
    plan = numbers_plan()
    plan.precision = precision
    uniforms = torch.rand(9, *plan.shape)
    for blocks in (1, 2):
        walk = run_on_gpu(plan, uniforms, Teams(9, blocks), GPU)
        assert torch.equal(walk.params.cpu(), run(plan, uniforms).params)


def test_maps_that_come_with_a_batch() -> None:
    plan, given = plan_with_constants(), (torch.randn(5, 1, 1, 6), torch.randn(5, 5, 7, 3))
    uniforms = torch.rand(5, *plan.shape)
    walk = run_on_gpu(plan, uniforms, Teams(3, 2), GPU, given=given)
    torch.testing.assert_close(walk.params.cpu(), run(plan, uniforms, given=given).params, rtol=1e-4, atol=1e-5)


def test_a_launch_can_be_captured_in_a_graph() -> None:
    plan = deep_plan(levels=4)
    uniforms = torch.rand(6, *plan.shape)
    expected = run_on_gpu(plan, uniforms, Teams(8, 1), GPU)
    for blocks in (1, 4):
        walk = Walk(TeamsPlan(plan, Teams(8, blocks), GPU), uniforms, table_of(plan)[0], params=4)
        walk._memory.launch(walk._batch, 0, walk.ticks)  # outside of a graph first, as torch wants it
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            walk._memory.launch(walk._batch, 0, walk.ticks)
        walk.values.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(walk.values, expected.values)


def test_more_blocks_than_fit_are_refused() -> None:
    plan = deep_plan(levels=4)
    with pytest.raises(RuntimeError, match="sample: launch failed"):
        run_on_gpu(plan, torch.rand(1, *plan.shape), Teams(8, 1 << 16), GPU)


@pytest.fixture
def _whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards that do not round to TF32, which torch's convolutions do on a GPU unless told otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.usefixtures("_whole_float32")
@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn", "pixelcnn++", "image-gpt"])
def test_models_draw_what_their_forwards_draw(name: str) -> None:
    sizes = {"blocks": 1, "resolutions": 2} if name == "pixelcnn++" else {"layers": 2}
    model = models.build(name, channels=8, image_size=8, **sizes).to(GPU)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    sampler = sampling.compile(model, (model.in_channels, *model.image_size), model.distribution)
    assert sampler.instruction_set.startswith("sm_")
    assert sampler.sample(3, seed=0).device.type == "cuda"
    report = sampling.verify(sampler, 2)
    assert report.differing <= 1, report
    assert report.logit_error <= report.allowed, report
