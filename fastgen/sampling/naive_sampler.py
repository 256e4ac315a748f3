"""Naive sampling: one full forward per pixel and colour. Slow, and right for every causal model: the oracle."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .._shadow import evaluated, shadow
from ..conditions import AnyCondition, Condition, Labels, apply, arguments
from .inputs import dtype_and_device_of
from .sampler import Engine, Sampler


class NaiveSampler(Sampler):
    """Runs the whole model for every value it draws: C·H·W forwards per batch. Takes any causal model.

    See ``Sampler`` for arguments and methods.
    """

    def forward(self, values: Tensor, labels: Labels | None = None, *, condition: AnyCondition | None = None) -> Tensor:
        """One full forward: parameters (N, P, H, W) for ``values``, int64 (N, C, H, W); see ``forced``."""
        values, told = self._told_images(values, labels, condition)
        with evaluated(self.model) as model:
            return model(self.to_input(values).to(dtype_and_device_of(self.model)[0]), *_fresh(told))

    def _engine(self, n: int, condition: Condition | None) -> Engine:
        dtype, device = dtype_and_device_of(self.model)
        x = torch.zeros((n, self.in_channels, *self.shape[1:]), dtype=dtype, device=device)
        colors = self.shape[0]
        return _FullForward(shadow(self.model), x, colors, 1 if self.couples_colors else colors, condition)


class _FullForward:
    def __init__(self, model: nn.Module, x: Tensor, colors: int, parts: int, condition: Condition | None) -> None:
        self.model = model
        self.x = x
        self.parts = parts
        self.condition = condition
        self.colors = colors
        self.at = (0, 0, 0)

    def draws(self) -> Iterator[tuple[int, int, int]]:
        for at in itertools.product(range(self.x.shape[2]), range(self.x.shape[3]), range(self.colors)):
            self.at = at
            yield at

    def params(self) -> Tensor:
        r, c, k = self.at
        params = self.model(self.x.clone(), *_fresh(self.condition))[:, :, r, c]
        return params.chunk(self.parts, dim=1)[k % self.parts]

    def reveal(self, x: Tensor) -> None:
        r, c, _ = self.at
        self.x[:, :, r, c] = x


def _fresh(condition: Condition | None) -> tuple[Condition, ...]:
    """What a forward is given after the image, of its own: what it writes over is there again for the next."""
    return arguments(apply(torch.clone, condition))
