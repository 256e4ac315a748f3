"""A Row LSTM (arXiv:1601.06759, section 3.1) as people write it: a Python loop over the rows of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RowLSTM(nn.Module):
    """States row by row: from the row above by a convolution along it, and from the input by a masked one.

    [o, f, i, g] of row r = K_ss * h of row r − 1 + K_is * x of row r;  c ← σ(f) c + σ(i) tanh(g);  h = σ(o) tanh(c)
    """

    def __init__(self, inputs: int, hidden: int, mask: str, style: str) -> None:
        super().__init__()
        self.hidden, self.style = hidden, style
        self.input_to_state = nn.Conv2d(inputs, 4 * hidden, (1, 3), padding=(0, 1))
        keep = torch.ones_like(self.input_to_state.weight)
        keep[..., 2 if mask == "B" else 1 :] = 0
        self.register_buffer("mask", keep)
        wide = style == "cat"
        convolution, size, padding = (nn.Conv2d, (1, 3), (0, 1)) if wide else (nn.Conv1d, 3, 1)
        self.state_to_state = convolution(hidden, 4 * hidden, size, padding=padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        N, _, H, W = x.shape
        weight, bias = self.input_to_state.weight * self.mask, self.input_to_state.bias
        gates = F.conv2d(x, weight, bias, padding=(0, 1))  # (N, 4h, H, W)
        h = x.new_zeros(N, self.hidden, 1, W) if self.style == "cat" else x.new_zeros(N, self.hidden, W)
        c, rows, states = h, [], x.new_zeros(N, self.hidden, H, W)
        for r, here in enumerate(gates.split(1, dim=2) if self.style == "cat" else gates.unbind(dim=2)):
            o, f, i, g = torch.chunk(here + self.state_to_state(h), 4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            rows.append(h)
            if self.style == "assign":
                states[:, :, r] = h
        return {"stack": torch.stack, "cat": torch.cat}[self.style](rows, dim=2) if self.style != "assign" else states


class RowPixelRNN(nn.Module):
    """Two Row LSTMs with residual connections, and 1×1 convolutions to the parameters."""

    def __init__(self, style: str, hidden: int = 4) -> None:
        super().__init__()
        self.rows = nn.ModuleList(RowLSTM(1 if k == 0 else hidden, hidden, "AB"[k > 0], style) for k in range(2))
        self.output = nn.Sequential(nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.rows[0](x)
        for layer in self.rows[1:]:
            h = h + layer(h)
        return self.output(h)
