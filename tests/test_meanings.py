"""Every op that a plan can express means there what it means in torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures import randomise
from fastgen.distributions import Bernoulli
from fastgen.nn import MaskedConv2d
from samplers import assert_same_as_naive


class Around(nn.Module):
    """Causal features h (N, 6, H, W), a function of them, and parameters from what it answers with."""

    def __init__(self, function: object, channels: int, layer: nn.Module | None) -> None:
        super().__init__()
        self.first = MaskedConv2d(1, 6, 3, "A")
        self.layer = layer
        self.function = function
        self.output = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.function(self, self.first(x)))  # type: ignore[operator]


def spread(h: Tensor) -> Tensor:
    """Away from where a logarithm or a root ends."""
    return h * h + 0.5


def assigned_channels(h: Tensor) -> Tensor:
    y = h.clone()
    y[:, 1:3] = h[:, :2] * 2
    return y


def assigned_row(h: Tensor) -> Tensor:
    y = h * 2
    y[:, :, 0] = h[:, :, 0] + 1
    return y


FUNCTIONS = {
    # pointwise
    "exp": (lambda m, h: torch.exp(h), 6),
    "log": (lambda m, h: torch.log(spread(h)), 6),
    "sqrt, rsqrt, reciprocal": (lambda m, h: spread(h).sqrt() + spread(h).rsqrt() + spread(h).reciprocal(), 6),
    "sin, cos": (lambda m, h: torch.cat((h.sin(), h.cos()), 1), 12),
    "abs, neg": (lambda m, h: -h.abs(), 6),
    "selu, celu": (lambda m, h: F.selu(h) + F.elu(h, alpha=0.5), 6),
    "leaky relu": (lambda m, h: F.leaky_relu(h, 0.2, inplace=True), 6),
    "gelu with tanh": (lambda m, h: F.gelu(h, approximate="tanh"), 6),
    "prelu": (lambda m, h: m.layer(h), 6, nn.PReLU(6)),
    "softplus, mish": (lambda m, h: F.softplus(h, 2, 1) + F.mish(h), 6),
    "hardtanh, relu6, clamp": (lambda m, h: F.hardtanh(h) + F.relu6(h) + h.clamp(max=0.3) + h.clamp_min(-0.2), 6),
    "hardswish, hardsigmoid": (lambda m, h: F.hardswish(h) + F.hardsigmoid(h), 6),
    "softsign": (lambda m, h: h / (1 + h.abs()), 6),
    "glu": (lambda m, h: F.glu(h, dim=1), 3),
    "gate written either way": (lambda m, h: torch.sigmoid(h[:, :3]) * torch.tanh(h[:, 3:]), 3),
    "powers": (lambda m, h: h**2 + h.pow(3) + h.square(), 6),
    "scalars": (lambda m, h: 2 - h * 3 + 1 / spread(h) - 0.5, 6),
    "sums with a factor": (lambda m, h: torch.add(h, h.abs(), alpha=-0.5) - torch.sub(h, h.sin(), alpha=2), 6),
    "maximum, minimum": (lambda m, h: torch.maximum(h, -h) + torch.minimum(h, h.sin()), 6),
    "addcmul": (lambda m, h: torch.addcmul(h, h, h.sin(), value=0.3), 6),
    "a constant map": (lambda m, h: h * torch.arange(h.shape[3]).view(1, 1, 1, -1) + 1, 6),
    # views and pieces
    "channels by number": (lambda m, h: h[:, [3, 0, 0, 5]], 4),
    "every second channel": (lambda m, h: h[:, ::2], 3),
    "channels reversed by unbinding": (lambda m, h: torch.stack(h.unbind(1)[::-1], 1), 6),
    "channels in groups": (lambda m, h: h.view(h.shape[0], 2, 3, *h.shape[2:]).transpose(1, 2).flatten(1, 2), 6),
    "channel shuffle": (lambda m, h: F.channel_shuffle(h, 3), 6),
    "one channel, repeated": (lambda m, h: h[:, 1:2].expand(-1, 4, -1, -1) + h[:, :1].repeat(1, 4, 1, 1), 4),
    "narrow and squeeze": (lambda m, h: torch.cat([h.narrow(1, 2, 2), h.select(1, 0).unsqueeze(1)], 1), 3),
    "padding with a number": (lambda m, h: F.pad(h, (1, 0, 0, 0), value=1.5)[..., :-1], 6),
    "assignment of channels": (lambda m, h: assigned_channels(h), 6),
    "assignment of a row": (lambda m, h: assigned_row(h), 6),
    "rows from two places": (lambda m, h: torch.cat((h[:, :, :1] * 2, h[:, :, :-1]), 2), 6),
    "a crop that a kernel looks beyond": (
        lambda m, h: F.relu(m.layer(F.pad(h[..., :-1], (1, 0)))), 2, MaskedConv2d(6, 2, 3),
    ),
    # linear
    "einsum over channels": (lambda m, h: torch.einsum("oc,nchw->nohw", m.layer.weight, h), 4, nn.Linear(6, 4)),
    "linear on channels last": (lambda m, h: m.layer(h.movedim(1, -1)).movedim(-1, 1), 4, nn.Linear(6, 4)),
    "linear on positions in a row": (
        lambda m, h: m.layer(h.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, h.shape[2:]), 4,
        nn.Linear(6, 4),
    ),
    "depthwise": (lambda m, h: m.layer(F.pad(h, (2, 0, 1, 0))), 12, nn.Conv2d(6, 12, (2, 3), groups=6)),
    "two resolutions": (
        lambda m, h: h + m.layer[1](m.layer[0](F.pad(h, (1, 0, 1, 0))))[:, :, : h.shape[2], : h.shape[3]], 6,
        nn.Sequential(nn.Conv2d(6, 4, 2, stride=2), nn.ConvTranspose2d(4, 6, 3, stride=2)),
    ),
    "transposed in groups": (
        lambda m, h: m.layer[1](m.layer[0](F.pad(h, (2, 0, 1, 0))))[:, :, : h.shape[2], : h.shape[3]], 6,
        nn.Sequential(nn.Conv2d(6, 4, (2, 3), stride=(1, 2)), nn.ConvTranspose2d(4, 6, (1, 2), (1, 2), groups=2)),
    ),
    "nearest neighbours": (
        lambda m, h: F.interpolate(m.layer(F.pad(h, (1, 0, 1, 0))), scale_factor=2)[:, :, : h.shape[2], : h.shape[3]],
        4,
        nn.Conv2d(6, 4, 2, stride=2),
    ),
    "pixel shuffle": (
        lambda m, h: F.pixel_shuffle(m.layer(F.pad(h, (1, 0, 1, 0))), 2)[:, :, : h.shape[2], : h.shape[3]], 2,
        nn.Conv2d(6, 8, 2, stride=2),
    ),
    "every second position": (
        lambda m, h: F.interpolate(h[:, :, ::2, ::2], scale_factor=2)[:, :, : h.shape[2], : h.shape[3]], 6,
    ),
    # norms and sums over channels
    "mean and sum": (lambda m, h: h.mean(1, keepdim=True) * h + h.sum(1).unsqueeze(1), 6),
    "variance": (lambda m, h: (h - h.mean(1, True)) / (h.var(1, keepdim=True, unbiased=False) + 1).sqrt(), 6),
    "layer norm without weights": (lambda m, h: F.layer_norm(h.movedim(1, -1), (6,)).movedim(-1, 1), 6),
    "layer norm in groups": (
        lambda m, h: m.layer(h.movedim(1, -1).unflatten(-1, (2, 3))).flatten(-2).movedim(-1, 1), 6, nn.LayerNorm(3),
    ),
    "root mean square": (lambda m, h: h * torch.rsqrt(h.pow(2).mean(1, keepdim=True) + 1e-3), 6),
    "batch norm without weights": (lambda m, h: m.layer(h), 6, nn.BatchNorm2d(6, affine=False)),
}  # fmt: skip


@pytest.mark.parametrize("what", FUNCTIONS)
def test_meaning(what):
    function, channels, *layer = FUNCTIONS[what]
    model = randomise(Around(function, channels, layer[0] if layer else None))
    assert_same_as_naive(model, (1, 6, 8), Bernoulli())
