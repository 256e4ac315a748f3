"""Held-out likelihood: nats and bits per dimension, with standard errors over images."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Dataset

Nats = Callable[[nn.Module, Tensor, Tensor | None], Tensor]
"""(model, values int64 (N, C, H, W), labels (N,) or None) → (N,) nats per example, summed over dimensions."""


@dataclass(frozen=True)
class Likelihood:
    """Mean negative log-likelihood of ``images`` images of ``dims`` dimensions, in nats per image."""

    nats: float
    nats_error: float
    images: int
    dims: int

    @property
    def bits_per_dim(self) -> float:
        return self.nats / (self.dims * math.log(2))

    @property
    def bits_per_dim_error(self) -> float:
        return self.nats_error / (self.dims * math.log(2))

    def __str__(self) -> str:
        nats = f"{self.nats:.2f} ± {self.nats_error:.2f} nats"
        return f"{nats} = {self.bits_per_dim:.4f} ± {self.bits_per_dim_error:.4f} bits/dim"


def nats_per_image(model: Any, values: Tensor, labels: Tensor | None) -> Tensor:
    """−``model.log_prob``, of labels too where the model has classes: the objective of every exact likelihood."""
    return -model.log_prob(values, labels if model.classes is not None else None)


@torch.no_grad()
def evaluate(model: nn.Module, nats: Nats, dataset: Dataset, batch_size: int = 128) -> Likelihood:
    """Mean of ``nats`` over all images of ``dataset``, in eval mode, with the standard error of that mean."""
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        parts = [nats(model, values, labels).double().cpu() for values, labels in dataset.batches(batch_size, device)]
    finally:
        for module, training in modes.items():
            module.training = training
    every = torch.cat(parts)
    error = every.std().item() / math.sqrt(len(every)) if len(every) > 1 else math.nan
    return Likelihood(every.mean().item(), error, len(every), dataset.dims)
