"""Whether what is exported computes what the model does, and how far off rounding lets it be."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .parts import Part

BATCHES = (1, 2, 7)
"""Sizes of the batches that an export is held against the model on."""
ROUNDINGS = 2
"""How many times what rounding does to eager torch an export may be off."""
SEEDS = 3

Run = Callable[..., Tensor]


class Agreement(NamedTuple):
    """The largest difference from the model in float64, and how large it may be."""

    off: float
    allowed: float


class Reference:
    """A part of a model, in float64, and what rounding does to it in the dtype of its parameters.

    Attributes:
        own, exact: copies of the model in eval mode, in its dtype and in float64.
        examples: inputs, a batch of each of ``BATCHES``.
    """

    def __init__(self, model: Any, part: Part) -> None:
        dtype = next(model.parameters()).dtype
        self.part = part
        self.own = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        self.exact = copy.deepcopy(self.own).double()
        self.examples = [part.example(self.own, n, seed=n) for n in BATCHES]
        with torch.no_grad():
            self._results = [part.of(self.exact)(*wide(given)) for given in self.examples]
        self._largest = max(result.abs().max().item() for result in self._results)
        if not all(bool(result.isfinite().all()) for result in self._results):
            raise ValueError(f"model: expected finite numbers from its {part.name}, got inf or nan")
        eps = torch.finfo(dtype).eps
        rounded = [self._off(part.of(_moved(self.exact, eps, seed)), in_float64=True) for seed in range(SEEDS)]
        rounded.append(self._off(part.of(self.own)))
        self.allowed = ROUNDINGS * max(rounded) + eps * self._largest

    def check(self, run: Run) -> None:
        """Raise ValueError unless ``run`` computes in float64 what the model does: no rounding hides mistakes there."""
        off, allowed = self._off(run, in_float64=True), 2.0**20 * torch.finfo(torch.float64).eps * self._largest
        if not off <= allowed:
            raise ValueError(
                f"model: expected a {self.part.name} that torch's own ops compute; in float64 they are off by"
                f" {off:.2g}, allowed {allowed:.2g}; nothing was written"
            )

    def hold(self, run: Run, name: str) -> Agreement:
        """Raise ValueError if ``run`` is further off than it may be on one of the batches; ``name``: of its file."""
        found = Agreement(self._off(run), self.allowed)
        if not found.off <= found.allowed:
            raise ValueError(
                f"to: expected {name} to compute what the model does; its {self.part.output[0]} is off by"
                f" {found.off:.2g}, allowed {found.allowed:.2g}; nothing was written"
            )
        return found

    def _off(self, run: Run, in_float64: bool = False) -> float:
        """How far it is from the model in float64, at most; NaN is infinitely far."""
        worst = 0.0
        for given, exact in zip(self.examples, self._results, strict=True):
            with torch.no_grad():
                result = run(*(wide(given) if in_float64 else given)).double()
            if result.shape != exact.shape:
                raise ValueError(f"to: expected a result of {tuple(exact.shape)}, got {tuple(result.shape)}")
            worst = max(worst, (result - exact).abs().nan_to_num(nan=float("inf")).max().item())
        return worst


def wide(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs with their floating-point numbers in float64."""
    return tuple(each.double() if each.is_floating_point() else each for each in given)


def _moved(model: nn.Module, eps: float, seed: int) -> nn.Module:
    """A copy with every weight off by one rounding, up or down."""
    moved, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for weight in moved.parameters():
        up = torch.randint(2, weight.shape, generator=generator) * 2 - 1
        weight.mul_(1 + eps * up)
    return moved
