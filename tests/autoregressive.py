"""What the autoregressive models are held to: small models of every kind, and the properties they share."""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import models, sampling
from fastgen.distributions import Categorical
from fastgen.models import AutoregressiveModel
from fastgen.nn import MaskedConv2d
from ops import assert_runs
from parity import assert_parity

CONFIGS = {
    "pixelcnn": {"channels": 4, "layers": 2},
    "pixelcnn-levels": {"levels": 5, "channels": 4, "layers": 1},
    "pixelcnn-rgb": {"in_channels": 3, "levels": 4, "channels": 6, "layers": 2},
    "gated-pixelcnn": {"channels": 4, "layers": 2},
    "gated-pixelcnn-wide": {"channels": 4, "layers": 2, "kernel_size": 5},
    "gated-pixelcnn-classes": {"channels": 4, "layers": 1, "classes": 3},
    "gated-pixelcnn-rgb": {"in_channels": 3, "levels": 4, "channels": 6, "layers": 2},
    "gated-pixelcnn-rgb-binary": {"in_channels": 3, "channels": 3, "layers": 1, "kernel_size": 5, "classes": 2},
    "row-lstm": {"channels": 4, "layers": 2},
    "row-lstm-rgb": {"in_channels": 3, "levels": 4, "channels": 6, "layers": 1, "skip": True},
    "diagonal-bilstm": {"channels": 4, "layers": 2, "skip": True, "residual": False},
    "diagonal-bilstm-rgb": {"in_channels": 3, "channels": 3, "layers": 1, "classes": 2},
}


def build(kind: str, **changes: object) -> AutoregressiveModel:
    """A small model with weights large enough that every feature shows in its samples."""
    name = next(name for name in models.NAMES if f"{kind}-".startswith(f"{name}-"))
    model = models.build(name, **(CONFIGS[kind] | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model


def labels_for(model: AutoregressiveModel, n: int) -> Tensor | None:
    return None if model.classes is None else torch.arange(n) % model.classes


def random_values(model: AutoregressiveModel, n: int, H: int, W: int) -> Tensor:
    return torch.randint(model.levels, (n, model.in_channels, H, W))


def influence(model: AutoregressiveModel, H: int, W: int, tries: int = 8, levels: int | None = None) -> Tensor:
    """Which value shows in whose parameters: bool (H·W·C, H·W·C), [i, j] true if value j changes the parameters of i.

    Values are numbered in the order they are drawn in: by row, column, colour. "Changes" means to the last bit, in any
    of several random images, of integers below ``levels`` for a model that reads them. The model should be wide: where
    every ReLU of a pixel is shut, nothing shows.
    """
    model = model.double().eval()
    C, size = model.in_channels, model.in_channels * H * W
    shape = (tries, 1, C, H, W)
    x = torch.randn(shape, dtype=torch.float64) if levels is None else torch.randint(levels, shape).double()
    x = x.repeat(1, size, 1, 1, 1)
    disturbed = x.clone()
    for j, (r, c, k) in enumerate(itertools.product(range(H), range(W), range(C))):
        disturbed[:, j, k, r, c] += 1
        if levels is not None:
            disturbed[:, j, k, r, c] %= levels
    labels = None if model.classes is None else torch.zeros(tries * size, dtype=torch.int64)
    with torch.no_grad():
        changed = model(disturbed.flatten(0, 1), labels) != model(x.flatten(0, 1), labels)
    changed = changed.view(tries, size, C, -1, H, W).any(dim=3).any(dim=0)  # [j, colour, row, column of i]
    return changed.permute(2, 3, 1, 0).reshape(size, size)


def before(size: int) -> Tensor:
    """[i, j] true where value j is drawn before value i."""
    return torch.ones(size, size, dtype=torch.bool).tril(-1)


def assert_normalised(model: AutoregressiveModel, H: int, W: int) -> None:
    """The probabilities of all images of one size add up to one, to float32 rounding, when computed in float64."""
    shape = (model.in_channels, H, W)
    every = torch.tensor(list(itertools.product(range(model.levels), repeat=model.in_channels * H * W)))
    every = every.view(-1, *shape)
    labels = labels_for(model, 1)
    labels = labels if labels is None else labels.expand(len(every))
    total = model.double().log_prob(every, labels).exp().sum().float()
    one = torch.ones(())
    assert_parity(total, eager=one, exact=one.double())


def assert_gradients(model: AutoregressiveModel, H: int, W: int) -> None:
    """The gradient of log_prob to every parameter agrees with finite differences in float64."""
    model = model.double()
    names, parameters = zip(*model.named_parameters(), strict=True)
    values, labels = random_values(model, 2, H, W), labels_for(model, 2)

    def log_prob(*parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(
            _LogProb(model), {f"model.{k}": v for k, v in state.items()}, (values, labels)
        )

    assert torch.autograd.gradcheck(log_prob, parameters)


class _LogProb(nn.Module):
    def __init__(self, model: AutoregressiveModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, values: Tensor, labels: Tensor | None) -> Tensor:
        return self.model.log_prob(values, labels)


class PlainTorch(nn.Module):
    """A causal model in somebody else's style, with a distribution it does not name and noise while training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2 * 3, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("mask", torch.zeros(6, 2, 3, 3))
        self.mask[:, :, 0] = 1
        self.mask[:, :, 1, 0] = 1
        self.mask[3:, :1, 1, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(F.conv2d(x, self.conv.weight * self.mask, self.conv.bias, padding=1))


class TwoBranches(nn.Module):
    """What fastgen's models do not need: kernels of different sizes on one feature, a convolution straight on a
    convolution in the vertical stack, layers without a bias, a gate inside a layer.
    """

    in_channels, distribution = 2, Categorical(3)

    def __init__(self) -> None:
        super().__init__()
        self.above = nn.ModuleList(nn.Conv2d(2, 2, (2, k), padding=(0, k // 2), bias=k == 3) for k in (3, 5))
        self.wide = MaskedConv2d(2, 8, 5, "A", activation="gated")
        self.narrow = MaskedConv2d(2, 4, 3, "A", bias=False, activation="relu")
        self.residual = MaskedConv2d(4, 4, 3, "B", bias=False)
        self.output = MaskedConv2d(4, 6, 1, "B")

    def forward(self, x: Tensor) -> Tensor:
        h = self.residual(self.narrow(x), residual=self.wide(x))
        v = F.pad(x, (0, 0, 1, -1))
        for conv in self.above:
            v = conv(F.pad(v, (0, 0, 1, 0)))
        return self.output(h + torch.cat((v, v), dim=1))


def assert_same_without(op: Any, model: AutoregressiveModel, atol: float = 1e-4) -> None:
    """Likelihoods and gradients by ``op`` are those of float64, which has none, and samples are naive sampling's."""
    x, labels = torch.randint(0, 2, (5, model.in_channels, 6, 6)), labels_for(model, 5)
    with assert_runs(op):
        loss = -model.log_prob(x, labels).mean()
        loss.backward()
    grads = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])  # type: ignore[union-attr]
    exact = -model.double().log_prob(x, labels).mean()
    truth = torch.cat([grad.flatten() for grad in torch.autograd.grad(exact, list(model.parameters()))])
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grads.double(), truth, rtol=1e-4, atol=atol)
    condition = {} if model.condition_kind is None else {"condition": model.condition_kind}
    sampler = sampling.compile(model.float().eval(), (model.in_channels, 6, 6), **condition)
    assert sampling.verify(sampler, 2).differing == 0
