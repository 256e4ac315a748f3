"""What a model depends on is found from its weights, and a model that cannot be planned is refused by name."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoregressive import build, influence
from fastgen import sampling
from fastgen.distributions import Bernoulli, Categorical
from fastgen.nn import MaskedConv2d
from fastgen.sampling import UnsupportedModelError
from fastgen.sampling.analyse import analyse
from fastgen.sampling.compiled_sampler import build_plan
from fastgen.sampling.schedule import schedule
from fastgen.sampling.trace import BATCH, trace


class Function(nn.Module):
    """A model made of a function, which may call the module's layers."""

    def __init__(self, function: object, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)  # type: ignore[operator]


def causal(inputs: int = 1, outputs: int = 1, k: int = 3, mask: str = "A", **options: object) -> MaskedConv2d:
    return MaskedConv2d(inputs, outputs, k, mask, **options)  # type: ignore[arg-type]


def refused(model: nn.Module, shape: tuple[int, int, int] = (1, 4, 4), distribution: object = None) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        sampling.compile(model, shape, distribution or Bernoulli(), "[-1, 1]")
    return str(caught.value)


def stack(**changes: nn.Module) -> nn.Module:
    """Four layers named layers.0.conv to layers.3.conv, some of them replaced."""

    class Layer(nn.Module):
        def __init__(self, conv: nn.Module) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(x))

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            default = [causal(1, 4, 3, "A"), *(causal(4, 4, 3, "B") for _ in range(3))]
            self.layers = nn.ModuleList(Layer(changes.get(f"l{i}", conv)) for i, conv in enumerate(default))
            self.output = nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return self.output(x)

    return Stack()


# ---- causality


def test_a_forgotten_mask_is_named():
    message = refused(stack(l3=nn.Conv2d(4, 4, (1, 3), padding=(0, 1))))
    assert message.startswith("layers.3.conv: pixel (r, c) reads (r, c+1)")


def test_the_layer_that_looks_furthest_ahead_is_named():
    message = refused(stack(l2=nn.Conv2d(4, 4, 3, padding=1)))
    assert message.startswith("layers.2.conv: pixel (r, c) reads (r+1, c+1)")
    assert "the parameters of pixel (r, c) depend on pixel (r+1, c), which is drawn later" in message


def test_mask_b_in_the_first_layer_sees_its_own_pixel():
    message = refused(stack(l0=causal(1, 4, 3, "B")))
    assert message.startswith("layers.0.conv: pixel (r, c) reads (r, c);")
    assert "depend on pixel (r, c), which is drawn later" in message


def test_a_shift_too_few_is_noticed():
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (1, 1, 1, 0)))  # sees the pixel itself and its right neighbour

    message = refused(Function(forward, conv=nn.Conv2d(1, 1, (2, 3))))
    assert message.startswith("conv: pixel (r, c) reads (r, c+1)")


def test_colours_are_told_apart():
    ok = Function(
        lambda self, x: self.b(self.a(x)),
        a=causal(3, 6, 3, "A", color_groups=3),
        b=causal(6, 6, 1, "B", color_groups=3),
    )
    sampling.compile(ok, (3, 4, 4), Categorical(2), "[-1, 1]")
    message = refused(
        Function(lambda self, x: self.a(x), a=causal(3, 6, 3, "B", color_groups=3)), (3, 4, 4), Categorical(2)
    )
    assert message.startswith("a: pixel (r, c) reads (r, c)")
    assert "parameters of pixel (r, c) of colour 0 depend on colour 0 of pixel (r, c)" in message


def test_a_tap_without_weight_is_dead():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    assert "reads (r+1, c+1)" in refused(conv)
    with torch.no_grad():
        conv.weight[:, :, 1, 1:] = 0
        conv.weight[:, :, 2] = 0
    sampling.compile(conv, (1, 4, 4), Bernoulli(), "[-1, 1]")


def test_training_a_model_into_the_future_is_noticed_before_it_is_sampled():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    with torch.no_grad():
        conv.weight[:, :, 1, 1:] = 0
        conv.weight[:, :, 2] = 0
    sampler = sampling.compile(conv, (1, 4, 4), Bernoulli(), "[-1, 1]")
    sampler.sample()
    with torch.no_grad():
        conv.weight[:, :, 1, 2] = 1
    with pytest.raises(UnsupportedModelError, match=r"model: pixel \(r, c\) reads \(r, c\+1\)"):
        sampler.sample()


# ---- what cannot be planned


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return F.scaled_dot_product_attention(flat, flat, flat).view_as(x)


NOT_PLANNED = [
    (lambda m, x: x + m.layer(x), nn.AdaptiveAvgPool2d(1), "layer: aten.mean cannot be planned: global pooling"),
    (lambda m, x: x - x.amax(dim=(2, 3), keepdim=True), None, "model: aten.amax cannot be planned"),
    (lambda m, x: m.layer(x), Attention(), "layer: aten.bmm cannot be planned: a product of two"),
    (lambda m, x: m.layer(x), nn.GroupNorm(1, 1), "layer: aten.native_group_norm cannot be planned: group norm mixes"),
    (lambda m, x: m.layer(x), nn.InstanceNorm2d(1), "layer: aten.* cannot be planned"),
    (lambda m, x: m.layer(x), nn.LayerNorm((1, 4, 4)), "layer: aten.native_layer_norm cannot be planned: a layer norm"),
    (lambda m, x: m.layer(x), nn.MaxPool2d(3, 1, 1), r"layer: pixel \(r, c\) reads \(r\+2, c\+2\)"),
    (lambda m, x: x.flip(3), None, "model: aten.flip cannot be planned: another order of rows, columns or images"),
    (lambda m, x: x.roll(1, 2), None, r"model: aten.roll cannot be planned: another order .*\(F.pad and a slice move"),
    (lambda m, x: x.cumsum(2), None, "model: aten.cumsum cannot be planned: a cumulative sum, over rows"),
    (lambda m, x: F.normalize(x, 3), None, "model: aten.linalg_vector_norm cannot be planned: a norm of order 3"),
    (lambda m, x: x.sort(1)[0], None, "model: aten.sort cannot .*: there is no rule for it; .* sampling.NaiveSampler"),
    (lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect"), None, "model: aten.reflection_pad2d cannot be planned"),
    (lambda m, x: x.flatten(1), None, r"model: expected parameters of shape \(N, 1, 4, 4\), got \(N, 16\)"),
    (
        lambda m, x: F.conv2d(x, x),
        None,
        "model: aten.convolution cannot be planned: a convolution with weights that depend",
    ),
    (
        lambda m, x: x * x.mean().item(),
        None,
        "model: aten.mean cannot be planned|reads a number that depends on the image",
    ),
    (lambda m, x: x + torch.rand_like(x), None, "model: aten.rand_like draws random numbers"),
    (lambda m, x: torch.zeros_like(x), None, "model: expected parameters that depend on the image"),
    (lambda m, x: torch.zeros(len(x), 1, 1, 1), None, "model: expected parameters that depend on the image"),
    (lambda m, x: (x, x), None, "model: expected a forward that returns one tensor, got tuple"),
    (
        lambda m, x: x + torch.arange(3.0).view(3, 1, 1, 1),
        None,
        "model: aten.add cannot be planned: a constant that differs",
    ),
    (
        lambda m, x: x.view(3, 4, 2, 2, 1).transpose(1, 2).reshape(3, 1, 4, 4),
        None,
        "model: aten.view cannot be planned: a view",
    ),
]


@pytest.mark.parametrize(("function", "layer", "message"), NOT_PLANNED)
def test_what_cannot_be_planned_is_refused_by_name(function, layer, message):
    model = Function(function, layer=layer or nn.Identity())
    with pytest.raises(UnsupportedModelError, match=message):
        sampling.compile(model, (1, 4, 4), Bernoulli(), "[-1, 1]")


def test_one_pixel_may_have_parameters_that_are_always_the_same():
    """There is no earlier one; of more pixels, that is a mistake."""
    law, fixed = Categorical(3), torch.tensor([0.5, -1.0, 2.0])
    model = Function(lambda m, x: m.fixed.view(1, 3, 1, 1).expand(len(x), -1, *x.shape[2:]))
    model.fixed = fixed
    for executor in ("native", "reference"):
        sampler = sampling.compile(model, (1, 1, 1), law, "[-1, 1]", executor=executor)
        assert torch.equal(sampler.forced(torch.ones(2, 1, 1, 1).long()).flatten(1), fixed.expand(2, -1))
    assert "expected parameters that depend on the image" in refused(model, (1, 1, 2), law)
    model.function = lambda m, x: m.fixed.view(1, 3, 1, 1)
    assert "expected parameters that depend on the image" in refused(model, (1, 1, 1), law)


def test_a_refused_model_can_still_be_sampled_naively():
    model = Function(lambda self, x: self.conv(x).cumprod(1), conv=causal())
    assert "aten.cumprod cannot be planned" in refused(model)
    assert sampling.NaiveSampler(model, (1, 3, 3), Bernoulli(), "[-1, 1]").sample(2, seed=0).shape == (2, 1, 3, 3)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="distribution: expected one, since Conv2d names none"):
        sampling.compile(nn.Conv2d(1, 1, 1), (1, 4, 4))
    with pytest.raises(ValueError, match="executor: expected 'native' or 'reference', got 'cpu'"):
        sampling.compile(causal(), (1, 4, 4), Bernoulli(), "[-1, 1]", executor="cpu")


# ---- reach, clocks, wavefront


@pytest.mark.parametrize("kind", ["pixelcnn", "gated-pixelcnn", "pixelcnn-rgb", "gated-pixelcnn-rgb"])
def test_reach_is_the_last_value_that_shows(kind):
    """The analysis, against what changes in the parameters when a value does."""
    model = build(kind, channels=12, layers=1)
    H, W, C = 4, 6, model.in_channels
    seen = influence(model, H, W).view(H, W, C, H, W, C)
    x = torch.zeros(BATCH, C, H, W, dtype=torch.float64)
    params = model.distribution.param_channels(C)
    graph = analyse(trace(model, x), (C, H, W), params, x.dtype, x.device).graph
    reach = graph.params.reach.reshape(C, -1).max(axis=1)
    r, c = 2, 3
    for k in range(C):
        last = max((int(i), int(j), int(l)) for i, j, l in seen[r, c, k].nonzero())
        rows, columns, color = graph.split(int(reach[k]))
        assert (r + rows, c + columns, color) == last


def test_rows_above_are_computed_once_a_row():
    plan = build_plan(build("gated-pixelcnn"), (1, 6, 5), 1).plan
    clocks = {i.name.split(".")[-1]: i.clock for i in plan.instructions if i.name}
    assert clocks["vertical"] == clocks["link"] == "row"
    assert clocks["horizontal"] == clocks["out"] == clocks["output"] == "pixel"


def test_every_colour_is_computed_once():
    """Not the whole pixel for each colour: an instruction waits for the colours that it reads, and runs once."""
    plan = build_plan(build("pixelcnn-rgb"), (3, 4, 5), 12).plan
    flops = sum(i.flops for i in plan.instructions if i.name == "hidden")
    dense = 2 * 12 * 12
    assert dense / 2 < flops < dense


def test_wavefront_of_the_plain_pixelcnn():
    plan = build_plan(build("pixelcnn"), (1, 28, 28), 1).plan
    assert (plan.slope, plan.sequential_draws) == (4, 136)
    assert {i.clock for i in plan.instructions} == {"pixel"}


def test_no_wavefront_where_the_row_above_is_needed_far_to_the_right():
    plan = build_plan(build("gated-pixelcnn", layers=8), (1, 28, 28), 1).plan
    assert (plan.slope, plan.sequential_draws) == (None, 784)


def test_what_nobody_reads_is_not_computed():
    class Wasteful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = causal(1, 8, 3, "A")
            self.unused = causal(8, 8, 3, "B")
            self.output = nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            self.unused(h)
            return self.output(h[:, ::2])

    plan = build_plan(Wasteful(), (1, 5, 6), 1).plan
    assert "unused" not in {i.name for i in plan.instructions}
    assert {i.out.channels for i in plan.instructions if i.name == "a"} == {4}


def test_only_the_rows_that_are_needed_are_kept():
    plan = build_plan(build("pixelcnn"), (1, 28, 28), 1, wavefront=False).plan
    assert plan.buffers[0].keep == 4  # a 7×7 kernel: three rows above and the row itself
    assert {b.keep for b in plan.buffers[1:]} == {1, 2}


def test_times_are_never_after_deadlines():
    for kind in ("gated-pixelcnn-classes", "pixelcnn-rgb"):
        model = build(kind)
        C = model.in_channels
        x = torch.zeros(BATCH, C, 5, 6)
        labels = None if model.classes is None else torch.zeros(BATCH, dtype=torch.int64)
        params = model.distribution.param_channels(C)
        graph = analyse(trace(model, x, labels), (C, 5, 6), params, x.dtype, x.device).graph
        result = schedule(graph)
        for m, times in result.times.items():
            needed = result.needed(m)
            assert not needed.any() or (times[needed] <= result.deadlines[m][needed]).all()
