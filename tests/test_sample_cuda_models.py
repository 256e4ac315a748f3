"""Whole models drawn by the sampling kernel for GPUs, on the shim: as the CPU's executor draws them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import expected_sampling
from architectures import randomise
from fastgen import models, sampling
from fastgen.distributions import Bernoulli, Categorical
from fastgen.ops.sample_cuda import Gpu, Teams, Work, teams_of
from fastgen.sampling.native_executor import work_of
from foreign import CroppingGatedPixelCNN, ShiftedPixelCNN, classic_pixelcnn
from foreign_attention import GPT, MADE, Axial, Encoder, Local, PixelSnail, WaveNet
from foreign_conditions import MODELS, SHAPE, conditions
from parity import LOGITS_AGREE
from shim_plans import on_shim
from simt.shim import Shim

SIZE = (4, 5)
FOREIGN: dict[str, Callable[[], tuple[nn.Module, tuple[int, int, int], int]]] = {
    "masked by data": lambda: (classic_pixelcnn(), (1, *SIZE), 3),
    "cropping gated": lambda: (CroppingGatedPixelCNN(), (1, *SIZE), 1),
    "shifted, strided": lambda: (ShiftedPixelCNN(filters=4, levels=2, params=6), (3, 4, 4), 2),
    "snail": lambda: (PixelSnail(SIZE), (1, *SIZE), 3),
    "transformer": lambda: (GPT(SIZE), (1, *SIZE), 3),
    "strict": lambda: (GPT(SIZE, "strict"), (1, *SIZE), 3),
    "encoder": lambda: (Encoder(SIZE), (1, *SIZE), 1),
    "local": lambda: (Local(SIZE, "near"), (1, *SIZE), 1),
    "axial": lambda: (Axial(SIZE), (1, *SIZE), 1),
    "waves": lambda: (WaveNet(), (1, 1, 9), 4),
    "perceptron": lambda: (MADE(SIZE, 3), (1, *SIZE), 3),
}


def integers(values: torch.Tensor) -> torch.Tensor:
    return values.float()


@pytest.mark.parametrize("name", FOREIGN)
def test_public_models(name: str, shim: Shim) -> None:
    model, shape, levels = FOREIGN[name]()
    law = Bernoulli() if levels == 1 else Categorical(levels)
    sampler = sampling.compile(model.eval(), shape, law, integers)
    values = sampler.sample(3, seed=0)
    seen = sampler.forced(values)
    plan = on_shim(sampler, shim, Teams(2, 2))
    assert torch.equal(sampler.sample(3, seed=0), values)
    assert (sampler.forced(values) - seen).abs().max() < LOGITS_AGREE * seen.abs().max().clamp(min=1)
    assert plan.launches > 1


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn", "pixelcnn++", "pixelsnail", "image-gpt"])
def test_models_of_the_package(name: str, shim: Shim) -> None:
    sizes = {"pixelcnn++": {"blocks": 1, "resolutions": 2}, "pixelsnail": {"blocks": 1, "layers": 1}}.get(
        name, {"layers": 2}
    )
    model = models.build(name, in_channels=1, channels=8, image_size=4, **sizes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    sampler = sampling.compile(model, (1, *model.image_size), model.distribution)
    values = sampler.sample(3, seed=0)
    assert sampler.walks == (sampler.plan.slope is None)
    on_shim(sampler, shim)
    assert not sampler.walks
    assert torch.equal(sampler.sample(3, seed=0), values)


@pytest.mark.parametrize("model", MODELS)
def test_models_that_are_told_something(model: type[nn.Module], shim: Shim) -> None:
    sampler = sampling.compile(
        randomise(model()).eval(),
        SHAPE,
        Bernoulli(),
        "[-1, 1]",
        condition=model.example,  # type: ignore[attr-defined]
    )
    values = sampler.sample(3, seed=0, condition=conditions(model, 3))
    on_shim(sampler, shim, Teams(2, 1))
    assert torch.equal(sampler.sample(3, seed=0, condition=conditions(model, 3)), values)


# ---- who draws what


def test_work_is_counted_as_the_plan_has_it() -> None:
    model = models.GatedPixelCNN(channels=8, layers=2, image_size=8)
    plan = sampling.compile(model, (1, 8, 8), model.distribution).plan
    work = work_of(plan)
    pixel = [i for i in plan.instructions if i.clock == "pixel"]
    assert work.products == sum(i.weight.numel() for i in pixel if i.weight is not None)
    assert work.weights == 4 * work.products
    assert (work.instructions, work.steps) == (len(pixel), 64)
    for plan.precision in ("bfloat16", "float16"):
        assert work_of(plan).weights == 2 * work.products


def test_the_page_says_what_is_expected() -> None:
    page = (Path(__file__).parent.parent / "docs/gpu_sampling.md").read_text().splitlines()
    assert expected_sampling.HEAD in page
    for row in expected_sampling.rows(["pixelcnn", "gated-pixelcnn"]):
        assert row in page


LARGE = Work(weights=8_000_000, products=2_000_000, instructions=60, waits=60, units=16, steps=784)
SMALL = Work(weights=40_000, products=10_000, instructions=20, waits=20, units=2, steps=784)


def test_a_large_model_is_shared_by_blocks_and_a_small_one_is_not() -> None:
    gpu = Gpu(blocks=264)
    assert teams_of(1, LARGE, gpu) == Teams(8, 16)
    assert teams_of(1, SMALL, gpu).blocks == 1
    assert teams_of(1 << 14, LARGE, gpu).blocks == 1


@pytest.mark.parametrize("n", [0, 1, 7, 64, 1000])
@pytest.mark.parametrize("work", [LARGE, SMALL])
def test_teams_fit_on_the_gpu_together(n: int, work: Work) -> None:
    for blocks in (1, 20, 264):
        teams = teams_of(n, work, Gpu(blocks=blocks))
        assert teams.blocks == 1 or teams.blocks * -(-n // teams.chunk) <= blocks
        assert 1 <= teams.chunk <= 64
