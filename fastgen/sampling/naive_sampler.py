"""Naive sampling: one full forward per pixel and colour. Slow, and right for every causal model: the oracle."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .._shadow import evaluated, shadow
from ..conditions import Labels
from .inputs import dtype_and_device_of
from .sampler import Engine, Sampler


class NaiveSampler(Sampler):
    """Runs the whole model for every value it draws: C·H·W forwards per batch. Takes any causal model.

    See ``Sampler`` for arguments and methods.
    """

    def forward(self, values: Tensor, labels: Labels | None = None) -> Tensor:
        """One full forward: parameters (N, P, H, W) for ``values``, int64 (N, C, H, W)."""
        dtype, device = dtype_and_device_of(self.model)
        x = self.to_input(values.to(device)).to(dtype)
        _, labels = self._batch(None, labels, values=values)
        with evaluated(self.model) as model:
            return model(x) if labels is None else model(x, labels)

    def _engine(self, n: int, labels: Tensor | None) -> Engine:
        dtype, device = dtype_and_device_of(self.model)
        x = torch.zeros((n, self.in_channels, *self.shape[1:]), dtype=dtype, device=device)
        return _FullForward(shadow(self.model), x, 1 if self.couples_colors else self.shape[0], labels)


class _FullForward:
    def __init__(self, model: nn.Module, x: Tensor, parts: int, labels: Tensor | None) -> None:
        self.model = model
        self.x = x
        self.parts = parts
        self.labels = () if labels is None else (labels,)
        self.at = (0, 0)

    def pixels(self) -> Iterator[tuple[int, int]]:
        for at in itertools.product(range(self.x.shape[2]), range(self.x.shape[3])):
            self.at = at
            yield at

    def params(self, k: int) -> Tensor:
        r, c = self.at
        return self.model(self.x, *self.labels)[:, :, r, c].chunk(self.parts, dim=1)[k % self.parts]

    def reveal(self, x: Tensor) -> None:
        r, c = self.at
        self.x[:, :, r, c] = x
