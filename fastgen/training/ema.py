"""An average of a model's weights: the moving one, or their mean."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """A copy of a model whose parameters follow the model's, and whose buffers are the model's.

    So are parameters of what the model names in ``unaveraged``: submodules that only training needs.

    Equivalent to:
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)), with another decay at each update; the lists of
        tensors are made once, and not by a walk through all modules at each step.
    """

    def __init__(self, model: Any) -> None:
        self.module = copy.deepcopy(model)
        self.updates = 0
        outside = tuple(f"{name}." for name in getattr(model, "unaveraged", ()))
        averaged: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []
        for (name, mine), theirs in zip(self.module.named_parameters(), model.parameters(), strict=True):
            (copied if name.startswith(outside) else averaged).append((mine.detach(), theirs.detach()))
        copied += zip(self.module.buffers(), model.buffers(), strict=True)
        self._parameters = [mine for mine, _ in averaged], [theirs for _, theirs in averaged]
        self._copied = copied

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move towards the model, by 1 − ``decay`` of the way; all of it the first time.

        With (k − 1) / k as the k-th decay it is the arithmetic mean.
        """
        ours, theirs = self._parameters
        if self.updates == 0:
            torch._foreach_copy_(ours, theirs)
        else:
            get_ema_multi_avg_fn(decay)(ours, theirs, self.updates)
        for mine, own in self._copied:
            mine.copy_(own)
        self.updates += 1
