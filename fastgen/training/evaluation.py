"""Held-out losses: means over images with their standard errors; likelihoods in nats and bits per dimension."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset
from . import distributed
from .randomness import set_aside

Measures = Callable[[Tensor, Tensor | None], dict[str, Tensor]]
"""(values int64 (N, C, H, W), labels (N,) or None) → by name, (N,) numbers, one per example; the first counts."""


@dataclass(frozen=True)
class Evaluation:
    """Means, by name, over ``images`` images of ``dims`` dimensions, and standard errors of these means.

    The first is what counts. "nats" is a negative log-likelihood, or a bound on one, in nats per image.
    """

    means: dict[str, float]
    errors: dict[str, float]
    images: int
    dims: int

    @property
    def first(self) -> str:
        """Name of what counts."""
        return next(iter(self.means))

    @property
    def nats(self) -> float:
        return self.means["nats"]

    @property
    def nats_error(self) -> float:
        return self.errors["nats"]

    @property
    def bits_per_dim(self) -> float:
        return self.nats / (self.dims * math.log(2))

    @property
    def bits_per_dim_error(self) -> float:
        return self.nats_error / (self.dims * math.log(2))

    def numbers(self, all_errors: bool = False) -> dict[str, float]:
        """Everything by name: means, the error of the first or ``all_errors``, bits/dim where there are nats."""
        every: dict[str, float] = {}
        for name, mean in self.means.items():
            every[name] = mean
            if all_errors or name == self.first:
                every[f"{name}_error"] = self.errors[name]
            if name == "nats":
                every["bits_per_dim"] = self.bits_per_dim
                every |= {"bits_per_dim_error": self.bits_per_dim_error} if all_errors else {}
        return every

    def __str__(self) -> str:
        said = []
        for name, mean in self.means.items():
            if name == "nats":
                said.append(
                    f"{mean:.2f} ± {self.nats_error:.2f} nats"
                    f" = {self.bits_per_dim:.4f} ± {self.bits_per_dim_error:.4f} bits/dim"
                )
            else:
                said.append(f"{name} {mean:.4g} ± {self.errors[name]:.2g}")
        return ", ".join(said)


@torch.no_grad()
def evaluate(
    model: Any, dataset: Dataset, batch_size: int = 128, measures: Measures | None = None, seed: int = 0
) -> Evaluation:
    """Means of a model's losses over all images of ``dataset``, in eval mode.

    Args:
        model: every module in it is put back into its mode.
        dataset: split among the processes, where there are several.
        batch_size: images at a time, in each process.
        measures: what to compute; the model's ``losses`` by default.
        seed: of random numbers that ``measures`` draws; those outside are left as they were.
    """
    measures = measures or model.losses
    device = next(model.parameters()).device
    order = np.arange(len(dataset))[distributed.rank() :: distributed.size()]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    parts: list[dict[str, Tensor]] = []
    try:
        with set_aside(distributed.seed_of(seed), device):
            for values, labels in dataset.batches(batch_size, device, order):
                found = measures(values, labels)
                parts.append({name: numbers.double().cpu() for name, numbers in found.items()})
    finally:
        for module, training in modes.items():
            module.training = training
    every = [part for process in distributed.gather(parts) for part in process]
    numbers = {name: torch.cat([part[name] for part in every]) for name in every[0]}
    means = {name: column.mean().item() for name, column in numbers.items()}
    n = len(dataset)
    errors = {name: c.std().item() / math.sqrt(n) if n > 1 else math.nan for name, c in numbers.items()}
    return Evaluation(means, errors, n, dataset.dims)
