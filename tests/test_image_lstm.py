"""image_lstm: the recurrences of the Row LSTM and of the Diagonal BiLSTM, eq. 3 of arXiv:1601.06759."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.ops import image_lstm
from fastgen.ops.image_lstm import SCANS, TAPS, image_lstm_backward_reference, image_lstm_reference, steps
from ops import (
    assert_compiles,
    assert_gradcheck,
    assert_gradients,
    assert_no_forward_mode,
    assert_op_parity,
    assert_opcheck,
    assert_raises,
    assert_runs,
    assert_second_order,
)
from parity import DTYPES, LAYOUTS, assert_parity

OP = torch.ops.fastgen.image_lstm.default
BACKWARD = torch.ops.fastgen.image_lstm_backward.default
SHAPES = ((0, 2, 3, 3), (2, 3, 0, 4), (1, 1, 1, 1), (2, 3, 1, 7), (3, 5, 7, 1), (5, 17, 4, 6), (2, 16, 9, 5))
WIDE = (torch.float32, torch.float64)


def arguments(shape: tuple[int, ...], scan: str, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """Gates (N, 4h, H, W), weight, hidden and cell; ``shape`` is (N, h, H, W)."""
    N, h, H, W = shape
    sizes = ((N, 4 * h, H, W), (4 * h, h, len(TAPS[scan])), (h,), (h,))
    gates, weight, hidden, cell = (torch.randn(size, device=device, dtype=dtype) for size in sizes)
    return [gates, weight / h**0.5, hidden, cell]


def definition(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, scan: str) -> Tensor:
    """Eq. 3, one cell after the other, as the paper has it: mirrored is the mirrored image, along diagonals."""
    if scan == "mirrored":
        return definition(gates.flip(3), weight, hidden, cell, "diagonal").flip(3)
    H, W = gates.shape[2:]
    h, c = {}, {}
    for r in range(H):
        for k in range(W):
            if scan == "row":
                zero = hidden * 0  # beside a row
                above = [h.get((r - 1, k + d), hidden if r == 0 and 0 <= k + d < W else zero) for d in (-1, 0, 1)]
                read, previous = above, c.get((r - 1, k), cell)
            else:
                read = [h.get((r - 1, k), hidden), h.get((r, k - 1), hidden)]
                previous = c.get((r, k - 1), cell)
            total = gates[:, :, r, k] + sum(state @ tap.t() for state, tap in zip(read, weight.unbind(2), strict=True))
            o, f, i, g = total.chunk(4, dim=1)
            c[r, k] = torch.sigmoid(f) * previous + torch.sigmoid(i) * torch.tanh(g)
            h[r, k] = torch.sigmoid(o) * torch.tanh(c[r, k])
    return torch.stack([torch.stack([h[r, k] for k in range(W)], dim=-1) for r in range(H)], dim=-2)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape: tuple[int, ...], scan: str, dtype: torch.dtype, device: str) -> None:
    gates, weight, hidden, cell = arguments(shape, scan, dtype, device)
    args = gates.permute(0, 2, 3, 1), weight, hidden, cell, scan
    assert_op_parity(OP, image_lstm_reference, *args)
    h, c, activations = image_lstm_reference(*args)
    grads = [torch.randn_like(t) for t in (h, c, activations)]
    for given in (grads, [grads[0], None, None]):
        assert_op_parity(BACKWARD, image_lstm_backward_reference, *given, h, c, activations, weight, hidden, cell, scan)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scan", SCANS)
def test_gradients(scan: str, layout, dtype: torch.dtype, device: str) -> None:
    """Of one cell after the other, in torch; half types are computed in float32 and rounded once."""
    gates, *others = arguments((2, 5, 4, 3), scan, dtype, device)
    assert_gradients([OP], lambda *args: image_lstm(*args, scan), lambda *args: definition(*args, scan), gates, *others)
    y = image_lstm(layout(gates), *others, scan)
    exact = definition(*(t.double() for t in (gates, *others)), scan)
    assert_parity(y, exact.to(dtype), exact)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("size", [(0, 4), (3, 0)])
def test_images_without_pixels_have_gradients_of_zero(size: tuple[int, int], scan: str, device: str) -> None:
    leaves = [t.requires_grad_() for t in arguments((2, 3, *size), scan, torch.float32, device)]
    for grad, leaf in zip(torch.autograd.grad(image_lstm(*leaves, scan).sum(), leaves), leaves, strict=True):
        assert grad.shape == leaf.shape
        assert not grad.any()


@pytest.mark.parametrize("scan", SCANS)
def test_gradcheck_and_second_order(scan: str, device: str) -> None:
    inputs = arguments((2, 2, 3, 2), scan, torch.float64, device)
    assert_gradcheck([OP], lambda *args: image_lstm(*args, scan), *inputs)
    assert_second_order(lambda *args: image_lstm(*args, scan), *inputs)


def test_opcheck(device: str) -> None:
    scan = "mirrored"
    gates, *others = arguments((2, 3, 4, 2), scan, torch.float32, device)
    rows = gates.permute(0, 2, 3, 1)
    leaves = [t.requires_grad_() for t in others]
    assert_opcheck(OP, (rows.contiguous().requires_grad_(), *leaves, scan), (rows.requires_grad_(), *leaves, scan))
    h, c, activations = (t.detach() for t in OP(rows, *others, scan))
    rest = *(t.detach() for t in others), scan
    moved = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (h, c, activations)]
    assert_opcheck(
        BACKWARD,
        (h, None, None, h, c, activations, *rest),
        (moved[0], c, None, *moved, *rest),
    )


def test_compile(device: str) -> None:
    inputs = arguments((2, 3, 4, 2), "diagonal", torch.float32, device)
    assert_compiles([OP], lambda *args: image_lstm(*args, "diagonal"), *inputs)
    assert_no_forward_mode(lambda gates: image_lstm(gates, *inputs[1:], "diagonal"), inputs[0])


@pytest.mark.parametrize("scan", SCANS)
def test_every_cell_is_in_one_step_after_those_it_reads(scan: str) -> None:
    for H, W in ((4, 3), (1, 5), (5, 1), (0, 3), (3, 0)):
        done: set[tuple[int, int]] = set()
        for rows, columns in steps(scan, H, W):
            cells = set(zip(rows, columns, strict=True))
            assert len(cells) == len(rows)
            assert not cells & done
            for (r, c), (down, across) in ((cell, tap) for cell in cells for tap in TAPS[scan]):
                inside = 0 <= r + down < H and 0 <= c + across < W
                assert (r + down, c + across) in done or not inside
            done |= cells
        assert len(done) == H * W


@pytest.mark.parametrize("scan", SCANS)
def test_an_image_has_the_same_bits_whatever_stands_beside_it(scan: str, device: str) -> None:
    gates, *others = arguments((7, 16, 5, 6), scan, torch.float32, device)
    whole = image_lstm(gates, *others, scan)
    assert all(torch.equal(image_lstm(gates[n : n + 1], *others, scan), whole[n : n + 1]) for n in range(7))


def test_row_is_the_loop_that_the_docstring_shows(device: str) -> None:
    gates, weight, hidden, cell = arguments((2, 3, 4, 5), "row", torch.float64, device)
    N, _, H, W = gates.shape
    h, c = hidden[:, None], cell[:, None]
    y = image_lstm(gates, weight, hidden, cell)
    for r in range(H):
        o, f, i, g = (gates[:, :, r] + F.conv1d(h.expand(N, -1, W), weight, padding=1)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        torch.testing.assert_close(y[:, :, r], h)


def test_autocast_takes_its_dtype(device: str) -> None:
    inputs = arguments((2, 3, 4, 2), "row", torch.float32, device)
    with torch.autocast(device, torch.bfloat16), assert_runs(OP, backward=False):
        y = image_lstm(*inputs)
    assert torch.equal(y, image_lstm(*(t.bfloat16() for t in inputs)))


def test_errors() -> None:
    gates, weight, hidden, cell = arguments((2, 3, 4, 2), "row", torch.float32)
    state = r"expected shape \(3,\), got \(2,\)"
    assert_raises(
        [
            (lambda: image_lstm(gates[0], weight, hidden, cell), ValueError, r"gates: expected shape \(N, 4·h, H, W\)"),
            (lambda: image_lstm(gates[:, 1:], weight, hidden, cell), ValueError, r"gates: .* got \(2, 11, 4, 2\)"),
            (lambda: image_lstm(gates, weight, hidden, cell, "diagonal"), ValueError, r"shape \(12, 3, 2\), got"),
            (lambda: image_lstm(gates, weight, hidden[1:], cell), ValueError, f"hidden: {state}"),
            (lambda: image_lstm(gates, weight, hidden, cell[1:]), ValueError, f"cell: {state}"),
            (lambda: image_lstm(gates, weight, hidden, cell, "rows"), ValueError, "scan: expected one of 'row', "),
            (
                lambda: image_lstm(gates, weight.double(), hidden, cell),
                TypeError,
                "weight: expected the dtype of",
            ),
            (lambda: image_lstm(gates.int(), weight, hidden, cell), TypeError, "gates: expected float32, .* got torch"),
        ]
    )
