"""Sampling plans on a GPU."""

from typing import Any

import torch
from torch import Tensor

from fastgen.ops.sample import Walk
from fastgen.ops.sample_cuda import DeviceChunks, DevicePlan, Teams
from fastgen.sampling.native_executor import work_of
from fastgen.sampling.plan import Plan
from plans import run_packed


class TeamsPlan(DevicePlan):
    """A plan that is drawn by teams of the caller's."""

    def __init__(self, plan: Plan, teams: Teams, device: torch.device) -> None:
        super().__init__(*plan.encode(), work_of(plan), device)
        self._teams = teams

    def begin(self, n: int, front: int, threads: int | None) -> DeviceChunks:
        return DeviceChunks(self, n, self._teams)


def run_on_gpu(plan: Plan, uniforms: Tensor, teams: Teams, device: torch.device, **options: Any) -> Walk:
    """A whole batch, with its parameters; ``plans.run`` on a GPU."""
    return run_packed(TeamsPlan(plan, teams, device), plan, uniforms, **options)
