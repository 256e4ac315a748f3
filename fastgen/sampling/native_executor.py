"""Plans executed by compiled code (``fastgen.ops.sample``): the bridge between samplers and the op."""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributions import Bernoulli, Categorical, DiscretizedLogisticMixture
from ..ops.sample import DrawnElsewhere, PackedPlan, Walk, available, plan_format
from ..ops.sample_cuda import MOST_GIVEN, TILE, DevicePlan, Work
from .plan import FORMAT, Plan
from .precision import beyond

#: Distributions that compiled code draws.
DRAWN = (Bernoulli, Categorical, DiscretizedLogisticMixture)

#: Seconds. A call that takes less than this asks for twice as many rows the next time, for a call costs as well.
MOMENT = 0.01

_CPU = torch.device("cpu")


def usable(plan: Plan, distribution: Any, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether compiled code draws this distribution from this plan there.

    It does for float32 on the CPU or a GPU, and for exactly fastgen's own distributions. Others, subclasses included,
    draw in torch, and on the CPU compiled code computes what lies between two draws: ``NativeWalk``.
    """
    if not available(device, dtype) or type(distribution) not in DRAWN:
        return False
    if device.type == "cuda" and sum(buffer.kind == "given" for buffer in plan.buffers) > MOST_GIVEN:
        return False
    C = plan.shape[0]
    parts = 1 if distribution.couples_colors else C
    return {ref.channels for ref in plan.params} == {distribution.param_channels(C) // parts}


def work_of(plan: Plan) -> Work:
    """What one pixel asks of a GPU, as if every instruction had to wait."""
    _, H, W = plan.shape
    weights = products = due = units = keys = 0.0
    for i in plan.instructions:
        if i.clock == "row":
            continue
        share = min(1.0, i.rows.count * i.columns.count / (H * W))
        size = 0 if i.weight is None else i.weight.numel()
        weights += share * size * (4 if plan.precision == "float32" else 2)
        products += share * size
        due += share
        if i.attend is not None:
            keys += 4 * (i.attend.keys.channels + i.attend.values.channels) * i.attend.pattern.pairs / (H * W)
        units = max(units, -(-i.out.channels // TILE))
    front = 1 if not plan.slope else min(H, -(-W // plan.slope))
    steps = H * W if plan.slope is None else plan.left + W + plan.tail + plan.slope * (plan.top + H - 1)
    return Work(int(weights), int(products), int(due), int(due), max(1, int(units)), steps, front, int(keys))


class NativePlan:
    """A plan, packed for compiled code. It keeps the weights that the plan had.

    Args:
        plan: what to execute.
        components: of the mixture of logistics that is drawn from, which couples colours; 0 for other laws.
        device: where it draws.

    Raises:
        RuntimeError: the compiled library is of other sources than this package.
    """

    def __init__(self, plan: Plan, components: int = 0, device: torch.device = _CPU) -> None:
        if plan_format() != FORMAT:
            raise RuntimeError(
                f"fastgen/_core.so: expected a library that reads plans of format {FORMAT}, got one that reads "
                f"{plan_format() or 'older ones'}; it was built from other sources: install fastgen again, or run "
                "python setup.py build_ext --inplace"
            )
        self.plan = plan
        self._components = components
        codes, constants = plan.encode()
        self._packed: PackedPlan | DevicePlan
        if device.type == "cuda":
            self._packed = DevicePlan(codes, constants, work_of(plan), device)
        else:
            self._packed = PackedPlan(codes, constants)

    @property
    def walks(self) -> bool:
        """Whether it computes what lies between draws that torch makes."""
        return isinstance(self._packed, PackedPlan) and self.plan.slope is None

    @property
    def instruction_set(self) -> str:
        """What its products run on: "portable", "avx2", "avx512", "avx512bf16"; "sm_90" and so on."""
        return self._packed.instruction_set

    def rows(
        self,
        uniforms: Tensor,
        table: Tensor,
        given: Sequence[Tensor],
        temperature: float = 1.0,
        known: tuple[Tensor, Tensor] | None = None,
        by_row: bool = True,
    ) -> Iterator[Tensor]:
        """Draw, and yield after each row of the images, or without ``by_row`` after several of them.

        Args:
            uniforms: (N, C·m, H, W) in [0, 1).
            table: float32 (C, levels, k), what the model reads for a value.
            given: the plan's given buffers, (N, rows, columns, channels) each.
            temperature: divides the logits.
            known: values int64 and which of them are kept, bool; (N, C, H, W) both.
            by_row: whether each row is asked for; else as many at once as take a moment, after which Ctrl-C is heard.

        Yields:
            int64 (N, C, H, W), always the same tensor; H times, if ``by_row``.

        Raises:
            ValueError: the model's parameters are not finite.
        """
        values, keep = known if known is not None else (None, None)
        components = self._components
        walk = Walk(self._packed, uniforms, table, given, temperature, values, keep, components=components)
        return self._finished_rows(walk, by_row)

    def see(self, values: Tensor, table: Tensor, given: Sequence[Tensor]) -> Tensor:
        """The parameters (N, P, H, W) along the way when ``values``, int64 (N, C, H, W), are drawn."""
        N, C, H, W = values.shape
        everything, components = torch.ones(values.shape, dtype=torch.bool), self._components
        uniforms = torch.zeros(N, 2 * C if components else C, H, W)
        P = sum(ref.channels for ref in self.plan.params) // (C if components else 1)
        walk = Walk(
            self._packed, uniforms, table, given, known=values, keep=everything, params=P, components=components
        )
        for _ in self._finished_rows(walk, by_row=False):
            pass
        return walk.params

    def _finished_rows(self, walk: Walk, by_row: bool) -> Iterator[Tensor]:
        _, H, W = self.plan.shape
        slope, left, top = self.plan.slope, self.plan.left, self.plan.top  # each looks through the plan
        done, rows = 0, 1
        while done < H:
            began = time.perf_counter()
            done = min(done + rows, H)
            last = top + done - 1
            bad_row = walk.advance((last + 1 if slope is None else left + W + slope * last) - walk.done)
            if bad_row is not None:
                hint = beyond(self.plan.precision)
                raise ValueError(f"model: expected finite parameters, got inf or nan in row {bad_row}{hint}")
            if not by_row and time.perf_counter() - began < MOMENT:
                rows *= 2
            yield walk.values

    def walk(self, n: int, given: Sequence[Tensor]) -> "NativeWalk":
        """Of a plan in raster order on the CPU: where parameters are asked for, and values drawn by whoever asks."""
        assert isinstance(self._packed, PackedPlan)
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
