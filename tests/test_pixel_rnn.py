"""PixelRNN: what its models see, that they are likelihoods, their sizes, and how they are sampled."""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures import randomise
from autoregressive import CONFIGS, assert_gradients, assert_normalised, before, build, influence, labels_for
from autoregressive import random_values as values_for
from fastgen import models, sampling
from fastgen.distributions import Bernoulli
from fastgen.models import DiagonalBiLSTM, RowLSTM
from fastgen.ops import image_lstm
from ops import assert_runs
from samplers import assert_same_as_naive

KINDS = [kind for kind in CONFIGS if kind.startswith(("row-lstm", "diagonal-bilstm"))]
H, W = 4, 7


@pytest.mark.parametrize("kind", KINDS)
def test_no_parameter_sees_its_own_value_or_a_later_one(kind: str) -> None:
    seen = influence(build(kind, channels=12), H, W, tries=3)
    assert not (seen & ~before(len(seen))).any()


@pytest.mark.parametrize("kind", ["diagonal-bilstm", "diagonal-bilstm-rgb"])
def test_a_diagonal_bilstm_sees_every_value_but_one(kind: str) -> None:
    """The last colour of the last pixel above: not in its own feature, by mask A, and the 7×7 reaches 3 columns."""
    C = 3 if "rgb" in kind else 1
    expected = before(H * W * C).view(H, W, C, H, W, C)
    for r, c in itertools.product(range(1, H), range(W - 4)):
        expected[r, c, :, r - 1, W - 1, C - 1] = False
    assert torch.equal(influence(build(kind, channels=12, layers=1), H, W, tries=3), expected.view(H * W * C, -1))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_row_lstm_sees_a_triangle_above_and_little_of_its_row(layers: int) -> None:
    """Features of the 7×7 mask A, read by K_is one to the left, and by K_ss one more to each side per row above."""
    seen = influence(build("row-lstm", channels=12, layers=layers), H, W, tries=3).view(H, W, H, W)
    first = {(r, c) for r in range(-3, 1) for c in range(-3, 4) if (r, c) < (0, 0)}
    for r, c in itertools.product(range(H), range(W)):
        features = {(r, c)}
        for _ in range(layers):
            for s, d in list(features):
                features |= {
                    (s - up, k) for up in range(s + 1) for k in range(max(d - 1 - up, 0), min(d + up, W - 1) + 1)
                }
        expected = {(s + a, d + b) for s, d in features for a, b in first if 0 <= s + a < H and 0 <= d + b < W}
        assert {(s, d) for s, d in itertools.product(range(H), range(W)) if seen[r, c, s, d]} == expected


@pytest.mark.parametrize(
    ("kind", "size"),
    [("row-lstm", (3, 3)), ("diagonal-bilstm", (3, 3)), ("row-lstm-rgb", (1, 2)), ("diagonal-bilstm-rgb", (2, 1))],
)
def test_probabilities_of_all_images_add_up_to_one(kind: str, size: tuple[int, int]) -> None:
    assert_normalised(build(kind, levels=2), *size)


def test_log_prob_gradient() -> None:
    assert_gradients(build("row-lstm", channels=1, layers=1), 2, 3)


@pytest.mark.parametrize("kind", ["row-lstm", "diagonal-bilstm"])
def test_channels_lie_together_from_the_first_layer_on(kind: str) -> None:
    """As cells lie: an image of one colour, which lies in both layouts, does not decide for all that follows."""
    model = build(kind, channels=12, layers=2)
    seen: list[bool] = []
    for layer in model.stack:
        layer.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
    model(torch.randn(2, 1, H, W))
    assert seen == [True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_config_builds_the_same_model_which_compiles(kind: str) -> None:
    model = build(kind, image_size=4).eval()
    twin = models.build(
        next(n for n in ("row-lstm", "diagonal-bilstm") if kind.startswith(n)), **json.loads(json.dumps(model.config))
    )
    twin.load_state_dict(model.state_dict())
    values, labels = values_for(model, 2, 4, 5), labels_for(model, 2)
    assert twin.config == model.config
    ops = torch.ops.fastgen
    with assert_runs((ops.row_lstm_layer if "row" in kind else ops.image_lstm).default, backward=False):
        assert torch.equal(twin.log_prob(values, labels), model.log_prob(values, labels))
    x = model.to_input(values)
    if kind == "diagonal-bilstm-rgb":
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, labels), model(x, labels))


@pytest.mark.parametrize(
    ("name", "weights", "states"), [("row-lstm", 71_681, [(64, 16, 3)]), ("diagonal-bilstm", 65_185, [(64, 16, 2)] * 2)]
)
def test_the_papers_sizes(name: str, weights: int, states: list[tuple[int, ...]]) -> None:
    """Of binarised MNIST, Table 1: 7 layers, h 16."""
    model = models.build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights
    assert model.input.weight.shape == (32, 1, 7, 7)
    assert [tuple(weight.shape) for weight in model.stack[0].state_to_state] == states
    assert model.stack[0].up.weight.shape == (32, 16, 1, 1)
    assert model.hidden.weight.shape == (32, 32, 1, 1)
    assert len(model.stack) == 7


@pytest.mark.parametrize("name", ["row-lstm", "diagonal-bilstm"])
def test_classes_add_to_the_gates_of_every_layer_once_learned(name: str) -> None:
    torch.manual_seed(1)
    model = models.build(name, channels=4, layers=2, classes=3)
    values = values_for(model, 1, 4, 4).expand(3, -1, -1, -1)
    alike = model.log_prob(values, torch.arange(3))
    assert len(set(alike.tolist())) == 1
    for told in model.classes_to_gates:
        with torch.no_grad():
            told.weight[1] += 1
        changed = model.log_prob(values, torch.arange(3)) != alike
        assert changed.tolist() == [False, True, False]
        with torch.no_grad():
            told.weight[1] -= 1


def test_errors() -> None:
    for model in (RowLSTM, DiagonalBiLSTM):
        for config, message in (
            ({"channels": 0}, "channels: expected a positive integer, got 0"),
            ({"layers": 0}, "layers: expected a positive integer, got 0"),
            ({"in_channels": 3}, "channels: expected a multiple of in_channels = 3, .* got 16"),
            ({"skip": "yes"}, "skip: expected True or False, got 'yes'"),
        ):
            with pytest.raises(ValueError, match=message):
                model(**config)


# ---- sampled


def test_the_row_lstm_is_drawn_along_a_front_and_the_bilstm_by_pixels_and_finished_rows() -> None:
    row, diagonal = (
        sampling.compile(models.build(name, channels=4, layers=1), (1, 16, 16))
        for name in ("row-lstm", "diagonal-bilstm")
    )
    assert row.plan.slope == 4
    assert row.plan.sequential_draws == 16 + 4 * 15
    assert diagonal.plan.slope is None
    clocks = {i.clock for i in diagonal.plan.instructions if i.columns.count == 1 and i.name == "stack.0"}
    assert clocks == {"row"}


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (16, 16)])
def test_one_row_one_column_and_a_front_draw_what_naive_sampling_draws(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for name in ("row-lstm",) if size == (16, 16) else ("row-lstm", "diagonal-bilstm"):
        model = randomise(models.build(name, channels=2, layers=1, classes=None))
        if size == (16, 16):
            assert sampling.verify(sampling.compile(model, (1, *size)), 2).same
        else:
            assert_same_as_naive(model, (1, *size), Bernoulli())


class Scans(nn.Module):
    """Scans in a row of the image moved down, before or after one another."""

    def __init__(self, *scans: str) -> None:
        super().__init__()
        self.scans = scans
        self.read = nn.Conv2d(1, 8, 1)
        self.weights = nn.ParameterList(torch.randn(8, 2, 3 if scan == "row" else 2) for scan in scans)
        self.state = nn.Parameter(torch.randn(2))
        self.widen = nn.Conv2d(2, 8, 1)
        self.output = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.read(F.pad(x, (0, 0, 1, -1)))
        for scan, weight in zip(self.scans, self.weights, strict=True):
            h = self.widen(image_lstm(h, weight, self.state, -self.state, scan))
        return self.output(h)


@pytest.mark.parametrize(
    "scans",
    [("mirrored",), ("row", "mirrored", "row"), ("mirrored", "mirrored"), ("diagonal",), ("mirrored", "diagonal")],
)
def test_scans_of_rows_above_are_planned(scans: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    assert_same_as_naive(Scans(*scans), (1, 4, 5), Bernoulli())


def test_what_cannot_be_planned_is_refused_by_name() -> None:
    def refused(model: nn.Module, message: str) -> None:
        with pytest.raises(sampling.UnsupportedModelError, match=message):
            sampling.compile(model, (1, 4, 5), Bernoulli(), "[-1, 1]")

    refused(
        Scans("diagonal", "mirrored"), "^model: a recurrence along rows of which something is wanted before its row"
    )
    present = Scans("mirrored")
    present.forward = lambda x: present.output(  # type: ignore[method-assign]
        present.widen(image_lstm(present.read(x), present.weights[0], present.state, present.state, "mirrored"))
    )
    refused(present, r"so the parameters of pixel \(r, c\) depend on pixel \(r, c\+4\), which is drawn later")
