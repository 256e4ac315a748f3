"""Batch norms of every kind, and how the statistics that they keep are made anew, for averaged weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .._shadow import modes_kept, uncast
from ._records import alone
from .sync_batch_norm import SyncBatchNorm

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, SyncBatchNorm)


@contextmanager
def settling(module: nn.Module) -> Iterator[bool]:
    """Inside, batch norms forget their statistics, and then keep the mean of those of all batches, in training mode.

    Yields:
        Whether there are any: of those that ``module.train()`` puts into training mode, and that keep statistics.
    """
    with modes_kept(module):
        module.train()
        layers = [
            each
            for each in module.modules()
            if isinstance(each, BATCH_NORMS) and each.training and each.track_running_stats
        ]
        kept = [each.momentum for each in layers]
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None
            with torch.no_grad(), uncast(), alone():
                yield bool(layers)
        finally:
            for layer, momentum in zip(layers, kept, strict=True):
                layer.momentum = momentum
