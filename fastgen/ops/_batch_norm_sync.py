"""Statistics of a batch that several processes share: one gather forward, one reduction backward, of 2C + 1 numbers."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ._batch_norm_statistics import combine


class Synchronize(torch.autograd.Function):
    """Count, mean and M2 of the whole batch from those of every process's part; parts may differ in size, or be empty.

    With n, m, q of a part and N, m', q' of the whole: ∂m'/∂m = n/N, ∂q'/∂q = 1, ∂q'/∂m = 2n(m − m').
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, m2: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
        C = mean.shape[0]
        part = torch.cat((mean.new_tensor([count]), mean, m2))
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, part, group=group)
        gathered = torch.stack(parts)
        total, whole_mean, whole_m2 = combine(gathered[:, 0], gathered[:, 1 : C + 1], gathered[:, C + 1 :])
        ctx.count, ctx.group = count, group
        ctx.save_for_backward(mean, whole_mean, total)
        ctx.mark_non_differentiable(total)
        return whole_mean, whole_m2, total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_m2: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        mean, whole_mean, total = ctx.saved_tensors
        grads = torch.cat((grad_mean, grad_m2))
        dist.all_reduce(grads, group=ctx.group)
        grad_mean, grad_m2 = grads.chunk(2)
        return ctx.count * (grad_mean / total + 2 * grad_m2 * (mean - whole_mean)), grad_m2, None, None


def synchronize(mean: Tensor, m2: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, int | Tensor]:
    """Mean, M2 and count of the batch that the processes of ``group`` share; of none or of one, they are its own."""
    return Synchronize.apply(mean, m2, count, group) if is_shared(group) else (mean, m2, count)


def is_shared(group: Any) -> bool:
    """Whether ``group`` is a process group of more than one process."""
    return group is not None and dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1
