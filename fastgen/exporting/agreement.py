"""Whether what is exported computes what the model does, and how far off rounding lets it be."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .layers import plain
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
        module: the part in torch's own layers, with batch norms folded in float64, in the dtype of the model.
        folded: the layers that took one in.
    """

    def __init__(self, model: Any, part: Part) -> None:
        dtype = next(model.parameters()).dtype
        self.part = part
        own = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        self.examples = [part.example(own, n, seed=n) for n in BATCHES]
        exact = copy.deepcopy(own).double()
        layers = copy.deepcopy(exact)
        self.folded = plain(layers)
        self.exact = [_run(part.of(exact), given) for given in self.examples]
        self.largest = max(result.abs().max().item() for result in self.exact)
        if not all(bool(result.isfinite().all()) for result in self.exact):
            raise ValueError(f"model: expected finite numbers from its {part.name}, got inf or nan")
        off = self._off(lambda *given: _run(part.of(layers), given))
        allowed = 2.0**20 * torch.finfo(torch.float64).eps * self.largest  # far below one rounding in float32
        if not off <= allowed:
            raise ValueError(
                f"model: expected a {part.name} that torch's own layers compute; in float64 they are off by {off:.2g},"
                f" allowed {allowed:.2g}"
            )
        eps = torch.finfo(dtype).eps
        rounded = [self._off(part.of(_moved(layers, eps, seed)), wide=True) for seed in range(SEEDS)]
        self.module = part.of(layers.to(dtype))
        rounded += [self._off(part.of(own)), self._off(self.module)]
        self.allowed = ROUNDINGS * max(rounded) + eps * self.largest

    def hold(self, run: Run, name: str) -> Agreement:
        """Raise ValueError if ``run`` is further off than it may be on one of the batches; ``name``: of its file."""
        found = Agreement(self._off(run), self.allowed)
        if not found.off <= found.allowed:
            raise ValueError(
                f"to: expected {name} to compute what the model does; its {self.part.output[0]} is off by"
                f" {found.off:.2g}, allowed {found.allowed:.2g}; nothing was written"
            )
        return found

    def _off(self, run: Run, wide: bool = False) -> float:
        """How far it is from the model in float64, at most; NaN is infinitely far."""
        worst = 0.0
        for given, exact in zip(self.examples, self.exact, strict=True):
            with torch.no_grad():
                result = run(*(_wide(given) if wide else given)).double()
            if result.shape != exact.shape:
                raise ValueError(f"to: expected a result of {tuple(exact.shape)}, got {tuple(result.shape)}")
            worst = max(worst, (result - exact).abs().nan_to_num(nan=float("inf")).max().item())
        return worst


def _run(module: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return module(*_wide(given))


def _wide(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.double() if each.is_floating_point() else each for each in given)


def _moved(model: nn.Module, eps: float, seed: int) -> nn.Module:
    """A copy with every weight off by one rounding, up or down."""
    moved, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for weight in moved.parameters():
        up = torch.randint(2, weight.shape, generator=generator) * 2 - 1
        weight.mul_(1 + eps * up)
    return moved
