"""The moving average of a model's weights."""

import copy
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """A copy of a model whose parameters follow the model's, and whose buffers are the model's.

    Equivalent to:
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)), with another decay at each update; the lists of
        tensors are made once, and not by a walk through all modules at each step.
    """

    def __init__(self, model: Any) -> None:
        self.module = copy.deepcopy(model)
        self.updates = 0
        self._parameters = [p.detach() for p in self.module.parameters()], [p.detach() for p in model.parameters()]
        self._buffers = list(self.module.buffers()), list(model.buffers())

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move towards the model, by 1 − ``decay`` of the way; all of it the first time."""
        ours, theirs = self._parameters
        if self.updates == 0:
            torch._foreach_copy_(ours, theirs)
        else:
            get_ema_multi_avg_fn(decay)(ours, theirs, self.updates)
        for mine, buffer in zip(*self._buffers, strict=True):
            mine.copy_(buffer)
        self.updates += 1
