"""The recurrences of PixelRNN: LSTM cells that read their neighbours in the rows above, or along diagonals (eq. 3)."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_option, check_same
from ._dtypes import autocast_dtype, check_dense, check_floating
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/image_lstm_cpu.cpp", "CUDA": "fastgen/ops/image_lstm_triton.py"}

#: Scan → where a cell reads states, as (rows, columns) away from it; c' comes along the second.
TAPS = {
    "row": ((-1, -1), (-1, 0), (-1, 1)),
    "diagonal": ((-1, 0), (0, -1)),
    "mirrored": ((-1, 0), (0, 1)),
}
SCANS = list(TAPS)


def steps(scan: str, H: int, W: int) -> Iterator[tuple[list[int], list[int]]]:
    """Rows and columns of the cells that do not read each other, in the order in which they can be computed."""
    if scan == "row":
        yield from (([r] * W, list(range(W))) for r in range(H if W else 0))
        return
    for step in range(H + W - 1 if H and W else 0):
        rows = list(range(max(0, step - W + 1), min(step, H - 1) + 1))
        yield rows, [step - r if scan == "diagonal" else W - 1 - step + r for r in rows]


def around(states: Tensor, initial: Tensor, scan: str) -> Tensor:
    """States (N, H, W, h) with what cells read outside of the image: (N, 1 + H, 1 + W + 1, h).

    It is the initial state; beside a row that a Row LSTM convolves it is zeros.
    """
    N, _, W, _ = states.shape
    if scan == "row":
        above = initial.expand(N, 1, W, -1)
        return F.pad(torch.cat((above, states), dim=1), (0, 0, 1, 1))
    beside = initial.expand(N, states.shape[1], 1, -1)
    return torch.cat((initial.expand(N, 1, W + 2, -1), torch.cat((beside, states, beside), dim=2)), dim=1)


def image_lstm_reference(
    gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, scan: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 3 as a loop over steps; every state is kept where its pixel is."""
    N, H, W, channels = gates.shape
    h, c = (around(gates.new_zeros(N, H, W, channels // 4), initial, scan) for initial in (hidden, cell))
    activations = torch.empty_like(gates)
    carry = TAPS[scan][1]
    for rows, columns in steps(scan, H, W):
        at = torch.tensor(rows, device=gates.device), torch.tensor(columns, device=gates.device)
        total = gates[:, at[0], at[1]]
        for (row, column), tap in zip(TAPS[scan], weight.unbind(2), strict=True):
            total = total + h[:, at[0] + 1 + row, at[1] + 1 + column] @ tap.t()
        o, f, i, g = total.chunk(4, dim=-1)
        o, f, i, g = torch.sigmoid(o), torch.sigmoid(f), torch.sigmoid(i), torch.tanh(g)
        state = f * c[:, at[0] + 1 + carry[0], at[1] + 1 + carry[1]] + i * g
        c[:, at[0] + 1, at[1] + 1] = state
        h[:, at[0] + 1, at[1] + 1] = o * torch.tanh(state)
        activations[:, at[0], at[1]] = torch.cat((o, f, i, g), dim=-1)
    return h[:, 1:, 1:-1].contiguous(), c[:, 1:, 1:-1].contiguous(), activations


def image_lstm_backward_reference(
    grad_h: Tensor,
    grad_c: Tensor | None,
    grad_activations: Tensor | None,
    h: Tensor,
    c: Tensor,
    activations: Tensor,
    weight: Tensor,
    hidden: Tensor,
    cell: Tensor,
    scan: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward through the steps, out of place, so that it can be differentiated."""
    N, H, W, width = grad_h.shape
    taps, (row, column) = TAPS[scan], TAPS[scan][1]
    previous = around(c, cell, scan)[:, 1 + row : 1 + row + H, 1 + column : 1 + column + W]
    zeros = grad_h.new_zeros(N, width)
    grads: dict[tuple[int, int], Tensor] = {}  # of the sums, at (r, c)
    carried: dict[tuple[int, int], Tensor] = {}  # what a cell sends to the c that it has read
    grad_cell = zeros
    for rows, columns in reversed(list(steps(scan, H, W))):
        for at in zip(rows, columns, strict=True):
            r, k = at
            dh = grad_h[:, r, k]
            for (down, across), tap in zip(taps, weight.unbind(2), strict=True):
                if (r - down, k - across) in grads:
                    dh = dh + grads[r - down, k - across] @ tap
            o, f, i, g = activations[:, r, k].chunk(4, dim=-1)
            t = torch.tanh(c[:, r, k])
            dc = carried.get((r - row, k - column), zeros) + dh * o * (1 - t * t)
            dc = dc if grad_c is None else dc + grad_c[:, r, k]
            da = torch.cat((dh * t, dc * previous[:, r, k], dc * g, dc * i), dim=-1)
            da = da if grad_activations is None else da + grad_activations[:, r, k]
            slope = torch.cat((o * (1 - o), f * (1 - f), i * (1 - i), 1 - g * g), dim=-1)
            grads[at], carried[at] = da * slope, dc * f
            if not (0 <= r + row < H and 0 <= k + column < W):
                grad_cell = grad_cell + carried[at]
    if not grads:
        return torch.zeros_like(activations), torch.zeros_like(weight), zeros
    rows_of_grads = [torch.stack([grads[r, k] for k in range(W)], dim=1) for r in range(H)]
    grad_gates = torch.stack(rows_of_grads, dim=1)
    return grad_gates, weight_gradient(grad_gates, h, hidden, scan), grad_cell


def _fake(gates, _weight, _hidden, _cell, _scan):  # type: ignore[no-untyped-def]
    N, H, W, channels = gates.shape
    return (*(gates.new_empty((N, H, W, channels // 4)) for _ in range(2)), gates.new_empty(gates.shape))


def _fake_backward(grad_h, _grad_c, _grad_activations, _h, _c, activations, weight, *_rest):  # type: ignore[no-untyped-def]
    N, _, _, width = grad_h.shape
    return activations.new_empty(activations.shape), weight.new_empty(weight.shape), grad_h.new_empty((N, width))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _gates, weight, hidden, cell, ctx.scan = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(weight, hidden, cell, *output)


def _backward(
    ctx: Any, grad_h: Tensor | None, grad_c: Tensor | None, grad_activations: Tensor | None
) -> tuple[Tensor | None, ...]:
    """``grad_c``, ``grad_activations``: where a gradient that was taken before is differentiated, which read them."""
    weight, hidden, cell, h, c, activations = ctx.saved_tensors
    if grad_h is None:
        if grad_c is None and grad_activations is None:
            return None, None, None, None, None
        grad_h = torch.zeros_like(h)
    backward = torch.ops.fastgen.image_lstm_backward.default
    read = h, c, activations, weight, hidden, cell, ctx.scan
    grads, grad_weight, grad_cell = call(backward, grad_h, grad_c, grad_activations, *read)
    need_weight, need_hidden, need_cell = ctx.needs_input_grad[1:4]
    return (
        grads,
        grad_weight if need_weight else None,
        grad_hidden(grads, weight, ctx.scan) if need_hidden else None,
        grad_cell.sum(dim=0) if need_cell else None,
        None,
    )


def weight_gradient(grads: Tensor, h: Tensor, hidden: Tensor, scan: str) -> Tensor:
    """Every cell's gradient times every state that it has read."""
    _, H, W, channels = grads.shape
    states, flat = around(h, hidden, scan), grads.reshape(-1, channels).t()
    corners = [(1 + row, 1 + column) for row, column in TAPS[scan]]
    read = [states[:, r : r + H, c : c + W].reshape(-1, h.shape[3]) for r, c in corners]
    return (flat @ torch.cat(read, dim=1)).unflatten(1, (len(read), -1)).transpose(1, 2).contiguous()


def grad_hidden(grads: Tensor, weight: Tensor, scan: str) -> Tensor:
    """Of the initial state: the gradients of the cells that read it along each tap, times the tap."""
    above = grads[:, :1].sum(dim=(0, 1))  # (W, 4h)
    if scan == "row":  # beside a row are zeros
        read = [above[1:].sum(dim=0), above.sum(dim=0), above[:-1].sum(dim=0)]
    else:
        beside = grads[:, :, :1] if scan == "diagonal" else grads[:, :, -1:]
        read = [above.sum(dim=0), beside.sum(dim=(0, 1, 2))]
    return (torch.stack(read, dim=1)[:, None] * weight).sum(dim=(0, 2))


define_op(
    "image_lstm(Tensor gates, Tensor weight, Tensor hidden, Tensor cell, str scan) -> "
    "(Tensor h, Tensor c, Tensor activations)",
    kernels=KERNELS,
    reference=image_lstm_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
define_op(
    "image_lstm_backward(Tensor grad_h, Tensor? grad_c, Tensor? grad_activations, Tensor h, Tensor c, "
    "Tensor activations, Tensor weight, Tensor hidden, Tensor cell, str scan) -> (Tensor, Tensor, Tensor)",
    kernels=KERNELS,
    reference=image_lstm_backward_reference,
    fake=_fake_backward,
    backward=None,
    composite=True,
)


def image_lstm(
    gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, scan: Literal["row", "diagonal", "mirrored"] = "row"
) -> Tensor:
    """Run an LSTM over an image: every pixel's cell reads the states of neighbours that were there before it.

    [o, f, i, g] = gates(r, c) + Σ_taps weight[..., t] · h(r + row_t, c + column_t)
    c(r, c) = σ(f) · c' + σ(i) · tanh(g),   h(r, c) = σ(o) · tanh(c(r, c))

    "row", the Row LSTM: taps (−1, −1), (−1, 0), (−1, 1), a convolution along the row above, padded with zeros; c' is
    c(r − 1, c); above the image are ``hidden`` and ``cell``. "diagonal", one direction of the Diagonal BiLSTM: taps
    (−1, 0) and (0, −1); c' is c(r, c − 1); everywhere outside of the image are ``hidden`` and ``cell``. "mirrored", the
    other one: taps (−1, 0) and (0, 1), c' is c(r, c + 1). It is "diagonal" of the mirrored image, mirrored.

    Equivalent, for "row", to::

        h, c = hidden[:, None], cell[:, None]
        for r in range(H):
            o, f, i, g = (gates[:, :, r] + F.conv1d(h.expand(N, -1, W), weight, padding=1)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()          # (N, h, W): row r of the result

    Args:
        gates: (N, 4·h, H, W), what the cells owe to the input; float32, float64, float16 or bfloat16. Half types are
            computed in float32.
        weight: (4·h, h, T), from states to gates; T is 3 for "row", else 2.
        hidden: (h,), the initial state, and
        cell: (h,), the c of it.
        scan: "row", "diagonal" or "mirrored".

    Returns:
        (N, h, H, W), channels_last in memory, whatever ``gates`` is: cells lie where they are computed.

    Raises:
        ValueError: a shape or ``scan`` does not fit; says which, expected and got.
        TypeError: dtypes differ or are others. Under autocast all are cast, as nn.Conv2d casts them.

    Gradients: first and second order, to gates, weight, hidden and cell.

    Source: van den Oord et al. 2016, arXiv:1601.06759, sections 3.1 and 3.2, eq. 3. Cells of the skewed map that are
    outside of the image are not computed; the state outside is the learned one.
    """
    dtype = autocast_dtype(check_dense("gates", gates))
    if dtype is not None:
        gates, weight, hidden, cell = (check_dense("weight", t).to(dtype) for t in (gates, weight, hidden, cell))
    check_floating("gates", gates)
    check_option("scan", scan, SCANS)
    if gates.dim() != 4 or gates.shape[1] % 4 or not gates.shape[1]:
        raise ValueError(f"gates: expected shape (N, 4·h, H, W), got {tuple(gates.shape)}")
    width = gates.shape[1] // 4
    shapes = {"weight": (4 * width, width, len(TAPS[scan])), "hidden": (width,), "cell": (width,)}
    for (name, shape), tensor in zip(shapes.items(), (weight, hidden, cell), strict=True):
        check_same(name, check_dense(name, tensor), "gates", gates)
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    wide = torch.promote_types(gates.dtype, torch.float32)
    tensors = (gates.permute(0, 2, 3, 1).contiguous(), weight, hidden, cell)
    h, _, _ = call(torch.ops.fastgen.image_lstm.default, *(t.to(wide) for t in tensors), scan)
    return h.to(gates.dtype).permute(0, 3, 1, 2)
