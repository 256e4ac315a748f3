"""Plans executed by compiled code (``fastgen.ops.sample``): the bridge between samplers and the op."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributions import Bernoulli, Categorical
from ..ops.sample import DrawnElsewhere, PackedPlan, Walk, available, plan_format
from .plan import FORMAT, Plan

#: Distributions that compiled code draws.
DRAWN = (Bernoulli, Categorical)


def usable(plan: Plan, distribution: Any, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether compiled code draws this distribution from this plan there.

    It does for float32 on the CPU and for exactly ``Bernoulli`` and ``Categorical``. Others, subclasses
    included, draw in torch, and compiled code computes what lies between two draws: ``NativeWalk``.
    """
    if not available(device, dtype):
        return False
    per_color = {ref.channels for ref in plan.params}
    return (type(distribution) is Bernoulli and per_color == {1}) or (
        type(distribution) is Categorical and per_color == {distribution.levels}
    )


class NativePlan:
    """A plan, packed for compiled code. It keeps the weights that the plan had.

    Raises:
        RuntimeError: the compiled library is of other sources than this package.
    """

    def __init__(self, plan: Plan) -> None:
        if plan_format() != FORMAT:
            raise RuntimeError(
                f"fastgen/_core.so: expected a library that reads plans of format {FORMAT}, got one that reads "
                f"{plan_format() or 'older ones'}; it was built from other sources: install fastgen again, or run "
                "python setup.py build_ext --inplace"
            )
        self.plan = plan
        self._packed = PackedPlan(*plan.encode())

    def rows(
        self,
        uniforms: Tensor,
        table: Tensor,
        given: Sequence[Tensor],
        temperature: float = 1.0,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Draw, and yield after each row of the images.

        Args:
            uniforms: (N, C, H, W) in [0, 1).
            table: float32 (C, levels, k), what the model reads for a value.
            given: the plan's given buffers, (N, rows, columns, channels) each.
            temperature: divides the logits.
            known: values int64 and which of them are kept, bool; (N, C, H, W) both.

        Yields:
            int64 (N, C, H, W), H times the same tensor.

        Raises:
            ValueError: the model's parameters are not finite.
        """
        values, keep = known if known is not None else (None, None)
        return self._finished_rows(Walk(self._packed, uniforms, table, given, temperature, values, keep))

    def see(self, values: Tensor, table: Tensor, given: Sequence[Tensor]) -> Tensor:
        """The parameters (N, P, H, W) along the way when ``values``, int64 (N, C, H, W), are drawn."""
        P = sum(ref.channels for ref in self.plan.params)
        everything = torch.ones(values.shape, dtype=torch.bool)
        walk = Walk(self._packed, torch.zeros(values.shape), table, given, known=values, keep=everything, params=P)
        for _ in self._finished_rows(walk):
            pass
        return walk.params

    def _finished_rows(self, walk: Walk) -> Iterator[Tensor]:
        _, H, W = self.plan.shape
        for r in range(self.plan.top, self.plan.top + H):
            end = r + 1 if self.plan.slope is None else self.plan.left + W + self.plan.slope * r
            bad_row = walk.advance(end - walk.done)
            if bad_row is not None:
                raise ValueError(f"model: expected finite parameters, got inf or nan in row {bad_row}")
            yield walk.values

    def walk(self, n: int, given: Sequence[Tensor]) -> "NativeWalk":
        """Of a plan in raster order: where parameters are asked for, and values drawn by whoever asks."""
        return NativeWalk(self.plan, DrawnElsewhere(self._packed, n, given), n)


class NativeWalk:
    """Walks one batch for a distribution that draws in torch; an ``Engine``."""

    def __init__(self, plan: Plan, walk: DrawnElsewhere, n: int) -> None:
        self.plan = plan
        self._walk = walk
        self._input = torch.zeros(n, plan.buffers[0].channels)
        self._color = 0

    def draws(self) -> Iterator[tuple[int, int, int]]:
        C, H, W = self.plan.shape
        for r, c, self._color in itertools.product(range(H), range(W), range(C)):
            yield r, c, self._color

    def params(self) -> Tensor:
        return self._walk.params(self._input, self.plan.params[self._color].channels)

    def reveal(self, x: Tensor) -> None:
        self._input = x.to(torch.float32)
