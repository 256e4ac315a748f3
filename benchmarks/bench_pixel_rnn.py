"""Whole training and eval steps of PixelRNN, against the loops that are written in plain torch, one thread and more.

    python benchmarks/bench_pixel_rnn.py [--device cuda] [--threads 1] [--quick] [--output FILE.json]

The loops are written as well as they can be: all gates in one convolution, a row or a skewed column at a time, the map
skewed by padding and a view, both directions of the Diagonal BiLSTM in one batched product, the sigmoids of three gates
in one call. The initial state is zero and not learned, on both sides: then cells outside of the image stay zero, too.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench_models import Task
from fastgen.models import DiagonalBiLSTM, RowLSTM
from fastgen.models.autoregressive import AutoregressiveModel
from fastgen.nn import DiagonalLSTM
from fastgen.nn import RowLSTM as RowLSTMLayer
from harness import Contests, alone
from plain import plain


class LoopedRows(RowLSTMLayer):
    """A convolution of the row above and a cell, H times."""

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        weight = self.state_to_state[0]
        h = c = x.new_zeros(x.shape[0], self.channels, x.shape[3])
        rows = []
        for gates in self.input_to_state(x).unbind(dim=2):
            total = gates + F.conv1d(h, weight, padding=1)
            o, f, i = torch.sigmoid(total[:, : 3 * self.channels]).chunk(3, dim=1)
            c = f * c + i * torch.tanh(total[:, 3 * self.channels :])
            h = o * torch.tanh(c)
            rows.append(h)
        return self.up(torch.stack(rows, dim=2), residual=x)


def skewed(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, C, H, W + H − 1), row r moved right by r; a view of a padded copy."""
    N, C, H, W = x.shape
    return F.pad(x, (0, H)).flatten(2)[..., : H * (W + H - 1)].view(N, C, H, W + H - 1)


def unskewed(x: Tensor, W: int) -> Tensor:
    N, C, H, _ = x.shape
    return F.pad(x.flatten(2), (0, H)).view(N, C, H, -1)[..., :W]


class LoopedDiagonals(DiagonalLSTM):
    """A product for the states above and beside of both directions, and a cell, H + W − 1 times."""

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        (N, _, H, W), width = x.shape, self.channels
        left, right = self.input_to_state(x).chunk(2, dim=1)
        columns = skewed(torch.cat((left, right.flip(3)))).permute(3, 0, 2, 1)  # (steps, 2N, H, 4h)
        weight = torch.stack([w.permute(2, 1, 0).flatten(0, 1) for w in self.state_to_state])  # (2, 2h, 4h)
        h = c = x.new_zeros(2 * N, H, width)
        states = []
        for gates in columns.contiguous():
            read = torch.cat((F.pad(h, (0, 0, 1, -1)), h), dim=2)
            total = gates + torch.bmm(read.view(2, N * H, 2 * width), weight).view(2 * N, H, 4 * width)
            o, f, i = torch.sigmoid(total[..., : 3 * width]).chunk(3, dim=2)
            c = f * c + i * torch.tanh(total[..., 3 * width :])
            h = o * torch.tanh(c)
            states.append(h)
        found = unskewed(torch.stack(states, dim=3).transpose(1, 2), W)
        return self.up(found[:N] + F.pad(found[N:].flip(3), (0, 0, 1, -1)), residual=x)


LOOPS = {RowLSTMLayer: LoopedRows, DiagonalLSTM: LoopedDiagonals}


def pair(model: AutoregressiveModel) -> tuple[nn.Module, nn.Module]:
    """The model, and its copy in plain torch, with loops."""
    for layer in model.stack:
        for name in ("hidden", "cell"):
            state = getattr(layer, name).detach()
            delattr(layer, name)
            layer.register_buffer(name, state)
    looped = plain(copy.deepcopy(model))
    for layer in looped.stack:
        layer.__class__ = LOOPS[type(layer)]
    return model, looped


def task(name: str, model: type[AutoregressiveModel], N: int, size: int, **config: int) -> Task:
    def batch() -> tuple[Tensor, Tensor]:
        values = torch.randint(2, (N, 1, size, size)).float()
        return 2 * values - 1, values

    models, loss = lambda: pair(model(**config)), F.binary_cross_entropy_with_logits
    return Task(name, (N, 1, size, size), models, batch, loss, compiled=False)


def tasks(device: str, quick: bool) -> list[Task]:
    N = 64 if device == "cuda" else 16
    if quick:
        small = {"channels": 4, "layers": 1}
        return [task("Row LSTM", RowLSTM, 2, 5, **small), task("Diagonal BiLSTM", DiagonalBiLSTM, 2, 5, **small)]
    return [
        task("Row LSTM, 7 layers, h 16", RowLSTM, N, 28),
        task("Diagonal BiLSTM, 7 layers, h 16", DiagonalBiLSTM, N, 28),
        task("Row LSTM, 2 layers, h 64", RowLSTM, N, 28, channels=64, layers=2),
        task("Diagonal BiLSTM, 2 layers, h 64", DiagonalBiLSTM, N, 28, channels=64, layers=2),
    ]


def cases(device: str, quick: bool = False) -> list[Contests]:
    return [Contests(f"{each.name}, {each.shape[0]} at a time", each.contests) for each in tasks(device, quick)]


if __name__ == "__main__":
    alone(__doc__, "pixel_rnn", cases)
