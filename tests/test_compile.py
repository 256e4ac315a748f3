"""Any causal model can be compiled: it draws what naive sampling draws, and sees what one forward sees."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from architectures import RandomModel, randomise, recipes
from autoregressive import build
from fastgen import sampling
from fastgen.distributions import Bernoulli, Categorical
from fastgen.nn import MaskedConv2d
from fastgen.sampling import NaiveSampler, schedule
from foreign import CroppingGatedPixelCNN, ShiftedPixelCNN, classic_pixelcnn
from parity import LOGITS_AGREE, assert_parity
from samplers import assert_same_as_naive


@settings(max_examples=40, deadline=None)
@given(recipe=recipes(), H=st.integers(2, 6), W=st.integers(3, 6), seed=st.integers(0, 999))
def test_random_architectures(recipe, H, W, seed):
    torch.manual_seed(seed)
    model = randomise(RandomModel(recipe))
    distribution = Bernoulli() if recipe["params"] == 1 else Categorical(3)
    assert_same_as_naive(model, (1, H, W), distribution)


@settings(max_examples=20, deadline=None)
@given(recipe=recipes(), H=st.integers(2, 6), W=st.integers(3, 9), seed=st.integers(0, 999))
def test_random_wavefronts(recipe, H, W, seed):
    """Of every model that has one, even where it saves little."""
    torch.manual_seed(seed)
    model = randomise(RandomModel(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "WORTHWHILE", 1)
        assert_same_as_naive(model, (1, H, W), Bernoulli() if recipe["params"] == 1 else Categorical(3))


def rgb_recipe() -> st.SearchStrategy[dict[str, object]]:
    """Models of three colours made of fastgen's masked convolutions, whose groups tell the colours apart."""
    layer = st.fixed_dictionaries(
        {
            "k": st.sampled_from([1, 3]),
            "activation": st.sampled_from(["none", "relu", "elu", "concat_elu", "gated"]),
            "residual": st.booleans(),
        }
    )
    return st.fixed_dictionaries(
        {
            "levels": st.sampled_from([2, 3]),
            "order": st.sampled_from(["contiguous", "interleaved"]),
            "layers": st.lists(layer, min_size=1, max_size=3),
        }
    )


class Colours(nn.Module):
    def __init__(self, recipe: dict[str, object]) -> None:
        super().__init__()
        self.order, self.levels = recipe["order"], recipe["levels"]
        self.first = MaskedConv2d(3, 6, 3, "A", color_groups=3, groups_order=self.order)
        layers = []
        for each in recipe["layers"]:
            activation = each["activation"]
            if activation == "concat_elu" and self.order == "contiguous":
                activation = "elu"
            outputs = {"gated": 12, "concat_elu": 3}.get(activation, 6)
            groups = {"color_groups": 3, "groups_order": self.order}
            layers.append(MaskedConv2d(6, outputs, each["k"], "B", activation=activation, **groups))
        self.layers = nn.ModuleList(layers)
        self.residual = [each["residual"] for each in recipe["layers"]]
        self.output = MaskedConv2d(6, 3 * self.levels, 1, "B", color_groups=3, groups_order=self.order)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for layer, residual in zip(self.layers, self.residual, strict=True):
            h = layer(h, residual=h if residual else None)
        y = self.output(h)
        if self.order == "interleaved":
            y = y.unflatten(1, (self.levels, 3)).transpose(1, 2).flatten(1, 2)
        return y


@settings(max_examples=20, deadline=None)
@given(recipe=rgb_recipe(), H=st.integers(1, 5), W=st.integers(1, 5), seed=st.integers(0, 999))
def test_random_architectures_of_three_colours(recipe, H, W, seed):
    torch.manual_seed(seed)
    assert_same_as_naive(randomise(Colours(recipe)), (3, H, W), Categorical(recipe["levels"]))


FOREIGN = {
    "classic": (classic_pixelcnn, (1, 6, 7), Categorical(3)),
    "cropping": (CroppingGatedPixelCNN, (1, 6, 7), Bernoulli()),
    "shifted": (ShiftedPixelCNN, (3, 6, 8), Categorical(2)),
    "shifted, three resolutions": (lambda: ShiftedPixelCNN(levels=3), (3, 8, 8), Categorical(2)),
}


@pytest.mark.parametrize("style", FOREIGN)
def test_models_in_other_peoples_style(style):
    make, shape, distribution = FOREIGN[style]
    assert_same_as_naive(randomise(make()), shape, distribution)


@pytest.mark.parametrize("style", FOREIGN)
def test_float32_is_as_accurate_as_one_forward(style):
    """And within 1e-4, with executors of both kinds."""
    make, shape, distribution = FOREIGN[style]
    model = randomise(make()).eval()
    values = torch.randint(distribution.levels, (5, *shape))
    x = distribution.to_input(values)
    with torch.no_grad():
        eager, exact = model(x), copy.deepcopy(model).double()(x.double())
    for executor in ("native", "reference"):
        seen = sampling.compile(model, shape, distribution, "[-1, 1]", executor=executor).forced(values)
        assert_parity(seen, eager, exact)
        assert (seen - eager).abs().max() < LOGITS_AGREE


@pytest.mark.parametrize("style", FOREIGN)
def test_every_executor_and_every_walk_draws_the_same_images(style):
    make, shape, distribution = FOREIGN[style]
    model = randomise(make()).eval()
    first = NaiveSampler(model, shape, distribution, "[-1, 1]").sample(3, seed=5)
    for options in ({}, {"executor": "reference"}, {"wavefront": False}, {"executor": "reference", "wavefront": False}):
        assert torch.equal(sampling.compile(model, shape, distribution, "[-1, 1]", **options).sample(3, seed=5), first)


@pytest.mark.parametrize("executor", ["native", "reference"])
@pytest.mark.parametrize(("H", "W"), [(28, 28), (12, 30), (30, 9)])
def test_wavefront_draws_what_the_raster_walk_draws(H, W, executor):
    model = build("pixelcnn", channels=8)
    slanted, straight = (
        sampling.compile(model, (1, H, W), executor=executor, wavefront=wavefront) for wavefront in (True, False)
    )
    assert straight.plan.sequential_draws == H * W
    if (H, W) == (28, 28):
        assert slanted.plan.sequential_draws == 136
    assert torch.equal(slanted.sample(2, seed=1), straight.sample(2, seed=1))
