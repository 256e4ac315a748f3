"""Sampling plans on the host machine of simt/: the kernel of csrc/sample_cuda.cuh, without a GPU."""

from typing import Any

import torch
from torch import Tensor

from fastgen.ops.sample import Walk
from fastgen.ops.sample_cuda import DeviceChunks, DevicePlan, Teams
from fastgen.sampling.compiled_sampler import CompiledSampler
from fastgen.sampling.native_executor import work_of
from fastgen.sampling.plan import PRECISIONS, Plan
from parity import assert_parity
from plans import evaluate, run, run_packed, table_of
from simt.shim import Shim

CPU = torch.device("cpu")


class ShimPlan(DevicePlan):
    """A plan whose launches run on the shim: everything else is what draws on a GPU.

    Args:
        teams: who draws; by default whoever would, on a GPU of four blocks.
        schedule: of the shim.
    """

    def __init__(self, plan: Plan, shim: Shim, teams: Teams | None = None, schedule: int = 0) -> None:
        super().__init__(*plan.encode(), work_of(plan), CPU)
        self.launches = 0
        self._shim, self._teams, self._schedule = shim, teams, schedule

    def blocks(self) -> int:
        return 4

    def begin(self, n: int, front: int, threads: int | None) -> DeviceChunks:
        return super().begin(n, front, threads) if self._teams is None else DeviceChunks(self, n, self._teams)

    def run(self, words: Tensor, program: Tensor, *rest: Any) -> None:
        state, _, bad_rows, given, uniforms, table, known, keep, temperature, components, values, params = rest[:12]
        blocks, first, last = rest[12:]
        self.launches += 1
        chunk = next(chunk for chunk, (own, _) in self._programs.items() if own is words)
        sizes = [len(values), chunk, blocks, table.shape[1], components, first, last, len(state), len(bad_rows)]
        sizes += [values.numel(), params.numel(), int(keep.numel() > 0), len(given)]
        inputs = [program, self._on_device, self._weights, state, bad_rows, values, params]
        inputs += [torch.tensor([temperature], dtype=torch.float64), uniforms, table, known, keep, *given]
        written = [state, bad_rows, values, params]
        results = self._shim.call(
            "sample",
            getattr(torch, PRECISIONS[self.codes[7]]),
            sizes,
            [tensor.contiguous() for tensor in inputs],
            [tensor.to("meta") for tensor in written],
            schedule=self._schedule,
        )
        for tensor, result in zip(written, results, strict=True):
            tensor.copy_(result)


def run_on_shim(
    shim: Shim, plan: Plan, uniforms: Tensor, teams: Teams | None = None, schedule: int = 0, **options: Any
) -> Walk:
    """A whole batch, with its parameters; ``plans.run`` on the shim."""
    return run_packed(ShimPlan(plan, shim, teams, schedule), plan, uniforms, **options)


def check_on_shim(shim: Shim, plan: Plan, n: int = 3, given: tuple[Tensor, ...] = (), blocks: int = 1) -> None:
    """The parameters are the oracle's and the values drawn from them, as on the CPU."""
    uniforms = torch.rand(n, *plan.shape)
    walk = run_on_shim(shim, plan, uniforms, Teams(max(1, n - 1), blocks), given=given)
    _, distribution = table_of(plan)
    inputs = distribution.to_input(walk.values)
    assert_parity(walk.params, evaluate(plan, inputs, given), evaluate(plan, inputs.double(), given))
    assert torch.equal(walk.values, distribution.draw(walk.params, uniforms))
    assert torch.equal(walk.values, run(plan, uniforms, given=given).values)


def on_shim(sampler: CompiledSampler, shim: Shim, teams: Teams | None = None) -> ShimPlan:
    """Let a sampler draw on the shim, on which its model's plan then is."""
    plan = ShimPlan(sampler.plan, shim, teams)
    for program in sampler._programs.values():
        assert program.native is not None
        assert program.draws
        program.native._packed = plan
    return plan
