"""RowLSTM and DiagonalLSTM: what the layers of PixelRNN compute, and what a feature of theirs depends on."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.nn import DiagonalLSTM, RowLSTM
from fastgen.ops import image_lstm
from ops import assert_raises, assert_runs

LAYERS = (RowLSTM, DiagonalLSTM)
OP = torch.ops.fastgen.image_lstm.default


def random(layer: type[nn.Module], channels: int = 4, **options: object) -> nn.Module:
    made = layer(channels, **options).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.7)
    return made


def cells(gates: Tensor) -> Tensor:
    """Cells that read no state: σ(o)·tanh(σ(i)·tanh(g))."""
    o, _, i, g = gates.chunk(4, dim=1)
    return o.sigmoid() * torch.tanh(i.sigmoid() * g.tanh())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("residual", [True, False])
def test_without_state_to_state_it_is_a_gated_convolution(layer: type[nn.Module], residual: bool) -> None:
    """Forget gates shut, K_ss zero: each pixel is its own gates', the direction from the right a row further down."""
    made = random(layer, residual=residual)
    with torch.no_grad():
        for weight in made.state_to_state:
            weight.zero_()
        for gates in made.input_to_state.bias.chunk(len(made.scans)):
            gates[4:8] = -1e9
        made.input_to_state.weight.view(len(made.scans), 4, 4, -1)[:, 1] = 0
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    gates = F.conv2d(F.pad(x, (1, 1, 0, 0)) if layer is RowLSTM else x, made.input_to_state.live_weight())
    left, *right = (gates + made.input_to_state.bias[:, None, None]).chunk(len(made.scans), dim=1)
    h = cells(left) + sum(F.pad(cells(one), (0, 0, 1, -1)) for one in right)
    expected = F.conv2d(h, made.up.weight, made.up.bias) + (x if residual else 0)
    with assert_runs(OP, backward=False):
        torch.testing.assert_close(made(x), expected)


def test_the_direction_from_the_right_is_the_other_one_mirrored() -> None:
    made = random(DiagonalLSTM, residual=False)
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    left, right = made.input_to_state(x).chunk(2, dim=1)
    from_left = image_lstm(left, made.state_to_state[0], made.hidden[0], made.cell[0], "diagonal")
    mirrored = image_lstm(right.flip(3), made.state_to_state[1], made.hidden[1], made.cell[1], "diagonal").flip(3)
    torch.testing.assert_close(made(x), made.up(from_left + F.pad(mirrored, (0, 0, 1, -1))))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_feature_reads_what_the_paper_says(layer: type[nn.Module]) -> None:
    """Of a Row LSTM a triangle that opens upwards, of a Diagonal BiLSTM every pixel before its own, and its own."""
    H, W = 4, 5
    x = torch.randn(1, 8, H, W, dtype=torch.float64, requires_grad=True)
    y = random(layer)(x)
    for r, c in itertools.product(range(H), range(W)):
        (grad,) = torch.autograd.grad(y[0, :, r, c].sum(), x, retain_graph=True)
        for s, d in itertools.product(range(H), range(W)):
            expected = (s, d) <= (r, c)
            if layer is RowLSTM:  # K_is reaches one to the left, K_ss one to each side per row
                expected = expected and c - 1 - (r - s) <= d <= c + (r - s)
            assert bool(grad[0, :, s, d].any()) == expected, f"feature at {(r, c)}, pixel {(s, d)}"


@pytest.mark.parametrize("layer", LAYERS)
def test_a_colour_reads_earlier_ones_here_and_all_of_other_pixels(layer: type[nn.Module]) -> None:
    made = random(layer, channels=6, color_groups=3)
    x = torch.randn(1, 12, 3, 3, dtype=torch.float64, requires_grad=True)
    y = made(x)
    for color in range(3):
        (grad,) = torch.autograd.grad(y[0, color::3, 1, 1].sum(), x, retain_graph=True)
        read = [[bool(grad[0, k::3, s, d].any()) for k in range(3)] for s, d in ((1, 1), (0, 1), (1, 2))]
        assert read == [[k <= color for k in range(3)], [True] * 3, [False] * 3]
        if layer is DiagonalLSTM:
            assert all(grad[0, k::3, 1, 0].any() for k in range(3))


@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_added_joins_the_gates(layer: type[nn.Module]) -> None:
    made = random(layer)
    x, added = torch.randn(2, 8, 3, 4, dtype=torch.float64), torch.randn(len(made.scans) * 16, dtype=torch.float64)
    y = made(x, added[:, None, None])
    assert not torch.equal(y, made(x))
    with torch.no_grad():
        made.input_to_state.bias += added
    torch.testing.assert_close(y, made(x))


@pytest.mark.parametrize(("layer", "weights"), [(RowLSTM, 3 * 4 + 2), (DiagonalLSTM, 2 * (2 * 4 + 2))])
def test_parameters_and_where_they_begin(layer: type[nn.Module], weights: int) -> None:
    """K_ss as nn.LSTM begins, the state at zero."""
    h = 16
    made = layer(h)
    states = sum(
        p.numel() for n, p in made.named_parameters() if n.split(".")[0] in ("state_to_state", "hidden", "cell")
    )
    assert states == (weights - 2 * len(made.scans)) * h * h + 2 * len(made.scans) * h
    assert not made.hidden.any()
    assert not made.cell.any()
    for weight in made.state_to_state:
        assert 0.9 * h**-0.5 < weight.abs().max() <= h**-0.5
    assert made.double().input_to_state.weight.dtype == torch.float64
    assert layer(4, dtype=torch.bfloat16).state_to_state[0].dtype == torch.bfloat16
    assert repr(layer(6, 3)).startswith(f"{layer.__name__}(\n  6, color_groups=3")


def test_errors() -> None:
    colors = "channels: expected a multiple of color_groups"
    assert_raises(
        [
            (lambda: RowLSTM(0), ValueError, "channels: expected a positive integer, got 0"),
            (lambda: DiagonalLSTM(4, residual="no"), ValueError, "residual: expected True or False, got 'no'"),
            (lambda: RowLSTM(4, dtype=torch.int32), TypeError, "dtype: expected float32, .* got torch.int32"),
            (lambda: RowLSTM(4, 3), ValueError, colors),
        ]
    )
