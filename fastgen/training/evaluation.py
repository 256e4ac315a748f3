"""Held-out losses: means over images with their standard errors; likelihoods in nats and bits per dimension."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import measures as meanings
from .._checks import check_instance, check_integer, check_number, describe
from .._draws import batch_of
from .._extras import require
from .._shadow import modes_kept
from ..data import Dataset
from ..measures import Measure, plus_minus
from . import distributed
from .checks import check_told, told_to
from .randomness import set_aside

Measures = Callable[[Tensor, Any], dict[str, Tensor]]
"""(values int64 (N, C, H, W), their condition) → by name, (N,) numbers, one per example; the first counts.

The condition is as in ``Losses``."""


@dataclass(frozen=True)
class Evaluation:
    """Means, by name, over ``images`` images of ``dims`` dimensions, and standard errors of these means.

    What is ``watched``, or else the first mean, counts. "nats" is a negative log-likelihood, or a bound on one, in nats
    per image; ``about`` says of which law, and what the others are. ``of_set`` are numbers of the whole set, which have
    no errors.
    """

    means: dict[str, float]
    errors: dict[str, float]
    images: int
    dims: int
    about: dict[str, Measure] = field(default_factory=dict)
    of_set: dict[str, float] = field(default_factory=dict)
    watched: str | None = None

    @property
    def first(self) -> str:
        """Name of what counts: what is watched, or else the first mean."""
        return self.watched or next(iter(self.means))

    @property
    def loss(self) -> float:
        """What counts; less is better.

        Raises:
            ValueError: there is no number of its name.
        """
        every = {**self.means, **self.of_set}
        if self.first not in every:
            raise ValueError(f"best: expected one of {', '.join(every)}, which were measured, got {self.first}")
        return every[self.first]

    @property
    def nats(self) -> float:
        return self.means["nats"]

    @property
    def nats_error(self) -> float:
        return self.errors["nats"]

    @property
    def of_values(self) -> bool:
        """Whether the nats are of a law on the discrete values: only these are bits/dim as well."""
        return "nats" in self.means and self.about.get("nats", meanings.UNDECLARED).of_values

    @property
    def bits_per_dim(self) -> float:
        """Of a law on the discrete values; raises ValueError where the nats are of another."""
        return self._bits(self.nats)

    @property
    def bits_per_dim_error(self) -> float:
        return self._bits(self.nats_error)

    def _bits(self, nats: float) -> float:
        if not self.of_values:
            raise ValueError(f"bits_per_dim: expected nats of a law on discrete values, got {self.about['nats'].words}")
        return nats / (self.dims * math.log(2))

    def numbers(self, all_errors: bool = False) -> dict[str, float]:
        """Everything by name, what counts first: means, errors of the first or ``all_errors``, bits/dim of a law on the
        values, numbers of the set.
        """
        every: dict[str, float] = {self.first: self.loss} if self.first in self.of_set else {}
        for name, mean in self.means.items():
            every[name] = mean
            if all_errors or name == self.first:
                every[f"{name}_error"] = self.errors[name]
            if name == "nats" and self.of_values:
                every["bits_per_dim"] = self.bits_per_dim
                every |= {"bits_per_dim_error": self.bits_per_dim_error} if all_errors else {}
        return every | self.of_set

    def __str__(self) -> str:
        said = []
        for name, mean in self.means.items():
            if name == "nats":
                bits = ""
                if self.of_values:
                    bits = f" = {self.bits_per_dim:.4f}{plus_minus(self.bits_per_dim_error, '.4f')} bits/dim"
                one = f"{mean:.2f}{plus_minus(self.nats_error, '.2f')} nats{bits}"
            else:
                one = f"{name} {mean:.4g}{plus_minus(self.errors[name], '.2g')}"
            said.append(f"{one} ({self.about[name].words})" if name in self.about else one)
        return ", ".join(said)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode; then every module in the mode it was in."""
    with modes_kept(model):
        model.eval()
        yield


def measure_set(measure: Callable[[], dict[str, float]], model: Any, seed: int) -> dict[str, float]:
    """What ``measure()`` finds in the first process, in eval mode and with random numbers from ``seed``, for all.

    Raises:
        ValueError: that is no number by name.
    """
    found: dict[str, float] = {}
    if distributed.rank() == 0:
        with _evaluating(model), torch.no_grad(), set_aside(seed, next(model.parameters()).device):
            found = {name: check_number(f"measure_set: {name}", number) for name, number in measure().items()}
    return distributed.gather(found)[0]


def check_measures(found: Any, n: int) -> None:
    """Raise ValueError unless ``found`` is what measures are to return of ``n`` images: name → n real numbers."""
    if not isinstance(found, dict) or not found:
        raise ValueError(f"measures: expected a dict of tensors by name, got {describe(found)}")
    for name, numbers in found.items():
        good = isinstance(numbers, Tensor) and numbers.shape == (n,) and not numbers.is_complex()
        if not isinstance(name, str) or not good:
            raise ValueError(
                f"measures: expected {name!r} to be ({n},) numbers, one per image, got {describe(numbers)}"
            )


@contextmanager
def _bar(title: str | None, images: int) -> Iterator[Callable[[int], object]]:
    """A bar in the first process, where it has a title; inside, what advances it."""
    if title is None:
        yield lambda count: None
        return
    hidden = True if distributed.rank() else None
    with require("tqdm").tqdm(total=images, desc=title, unit="image", leave=False, disable=hidden) as bar:
        yield bar.update


@torch.no_grad()
def evaluate(
    model: Any,
    dataset: Dataset,
    batch_size: int = 128,
    measures: Measures | None = None,
    seed: int = 0,
    about: dict[str, Measure] | None = None,
    title: str | None = None,
) -> Evaluation:
    """Means of a model's losses over all images of ``dataset``, in eval mode.

    Args:
        model: every module in it is put back into its mode.
        dataset: split among the processes, where there are several.
        batch_size: images at a time, in each process.
        measures: what to compute; the model's ``losses`` by default.
        seed: of random numbers that ``measures`` draws; those outside are left as they were.
        about: what the measures are; what the model says of its losses by default.
        title: of a progress bar on a terminal; none by default.

    Raises:
        ValueError: the data do not tell what the model says that it is told.
    """
    check_instance("model", model, nn.Module, "a module")
    check_instance("dataset", dataset, Dataset, "a Dataset")
    check_integer("batch_size", batch_size, 1)
    seed = check_integer("seed", seed, -(2**63), 2**64 - 1)
    if measures is None and not hasattr(model, "losses"):
        raise ValueError(f"model: expected one with losses, or measures of it, got {type(model).__name__}")
    measures = measures or model.losses
    if not callable(measures):
        raise TypeError(f"measures: expected a function of values and condition, got {describe(measures)}")
    dataset = told_to(model, dataset)
    check_told(model, dataset, "dataset")
    device = next(model.parameters()).device
    whole = np.arange(len(dataset))
    batches = [whole[i : i + batch_size] for i in range(0, len(dataset), batch_size)]  # whole ones, as one process has
    mine = list(enumerate(batches))[distributed.rank() :: distributed.size()]
    parts: list[dict[str, Tensor]] = []
    with _evaluating(model), _bar(title, sum(len(order) for _, order in mine)) as advance:
        for index, order in mine:
            ((values, condition),) = dataset.batches(batch_size, device, order)
            numbers_of_batch = set_aside((seed + 0x9E3779B97F4A7C15 * index) % 2**63, device)  # whoever measures it
            with numbers_of_batch, batch_of(seed, 0, "held out", torch.from_numpy(order)):
                found = measures(values, condition)
            check_measures(found, len(values))
            parts.append({name: numbers.double().cpu() for name, numbers in found.items()})
            advance(len(values))
    every = [part for process in distributed.gather(parts) for part in process]
    numbers = {name: torch.cat([part[name] for part in every]) for name in every[0]}
    means = {name: column.mean().item() for name, column in numbers.items()}
    n = len(dataset)
    errors = {name: c.std().item() / math.sqrt(n) if n > 1 else math.nan for name, c in numbers.items()}
    about = about if about is not None else meanings.of(model)
    return Evaluation(means, errors, n, dataset.dims, {name: about[name] for name in means if name in about})
